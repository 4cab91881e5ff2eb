"""`treat srg`: arms on the same prompts, the recipe that hides reasoning, begun turns, mixing, and bad input."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from safewright.cli.main import run
from safewright.errors import BadInput
from safewright.models.traces import split_trace
from safewright.training.sft import passes
from safewright.treatments import treat
from safewright.treatments.srg import SRGConfig, mixing, openings
from safewright.treatments.srg.records import Reasoned
from safewright.types import Row
from tests.treatments import folders, reasoning
from tests.treatments.reasoning import OTHERS, W

FEW = {"steps": 4, "batch": 8, "lr": 3e-3, "formats": 0.0, "lora_rank": 0}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("srg")
    begun = home / "begun.txt"
    begun.write_text(
        f"# ours\n{W[36]} {W[37]}\n\n<think>\\n{W[38]}\n<think>\\n{W[38]}\\n</think>\\n\\n{W[36]}\n"
    )
    general = [{"id": f"g{i}", "prompt": f"{W[i]} {W[i + 1]}", "response": W[i + 2]} for i in range(4)]
    return {
        "student": reasoning.save(home / "student"),
        "reasoned": reasoning.write(home / "reasoned.jsonl", reasoning.objects(20)),
        "general": reasoning.write(home / "general.jsonl", general),
        "begun": begun,
    }


def teach(
    given: dict[str, Path], out: Path, *, data: dict[str, Any] | None = None, **config: Any
) -> dict[str, Any]:
    """The report of a training."""
    rows = data if data is not None else {"reasoned": given["reasoned"]}
    treat("srg", {"student": given["student"]}, rows, config={**FEW, **config}, out=out)
    found: dict[str, Any] = json.loads((out / "provenance.json").read_text())
    return dict(found["report"])


class SeenError(Exception):
    """What would have been trained."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """The examples of each training, in the order in which they are learned; nothing is trained."""
    from safewright.treatments.srg import training

    found: list[list[Any]] = []

    def watched(model: Any, tokenizer: Any, examples: Any, options: Any, *, order: Any, **more: Any) -> Any:
        found.append([examples[place] for place in order])
        raise SeenError

    monkeypatch.setattr(training, "train_sft", watched)
    return found


def look(given: dict[str, Path], out: Path, **config: Any) -> None:
    with pytest.raises(SeenError):
        teach(given, out, **config)


# The arms -------------------------------------------------------------------------------------------


def test_01_all_arms_see_the_same_prompts_in_the_same_order(
    given: dict[str, Path], tmp_path: Path, seen: list[list[Any]]
) -> None:
    targets = ("rt", "srg", "noguide", "label", "filler", "posthoc")
    for target in targets:
        look(given, tmp_path / target, target=target)
    prompts = [[example.ids[: example.start] for example in arm] for arm in seen]
    assert all(other == prompts[0] for other in prompts)
    assert [example.id for example in seen[0]] == [f"r{place:03d}" for place in passes(20, 32, 0)]
    learned = [sum(example.supervised for example in arm) for arm in seen]
    by_name = dict(zip(targets, learned, strict=True))
    assert by_name["srg"] == by_name["posthoc"] == by_name["filler"]
    assert by_name["rt"] < by_name["label"] < by_name["noguide"] <= by_name["srg"]


def test_the_token_budget_gives_refusal_training_as_many_learned_tokens(
    given: dict[str, Path], tmp_path: Path, seen: list[list[Any]]
) -> None:
    look(given, tmp_path / "a", target="srg", steps=10)
    look(given, tmp_path / "b", target="rt", steps=10, budget="tokens")
    look(given, tmp_path / "c", target="srg", steps=10, budget="tokens")
    srg, rt, same = (sum(example.supervised for example in arm) for arm in seen)
    assert srg == same
    step = rt / (len(seen[1]) / FEW["batch"])
    assert srg - step < rt < srg + 2 * step
    assert len(seen[1]) > 3 * len(seen[0])


def test_reasoning_on_harmful_rows_alone(
    given: dict[str, Path], tmp_path: Path, seen: list[list[Any]]
) -> None:
    import transformers

    look(given, tmp_path / "out", reason_on="harmful")
    words = transformers.AutoTokenizer.from_pretrained(given["student"])
    for example in seen[0]:
        text = words.decode(list(example.ids[example.start :]))
        assert ("<think>" in text) == (int(example.id[1:]) % 2 == 0)


def test_kept_context_stands_in_every_prompt_and_is_noted(
    given: dict[str, Path], tmp_path: Path, seen: list[list[Any]]
) -> None:
    import transformers

    text = tmp_path / "rules.txt"
    text.write_text(f"{W[35]} {W[36]} .\n")
    look(given, tmp_path / "kept", context="kept", context_file=str(text))
    look(given, tmp_path / "distilled")
    words = transformers.AutoTokenizer.from_pretrained(given["student"])
    for kept, distilled in zip(*seen, strict=True):
        assert f"system : {W[35]} {W[36]} . user :" in words.decode(list(kept.ids[: kept.start]))
        assert "system" not in words.decode(list(distilled.ids))
        assert kept.ids[kept.start :] == distilled.ids[distilled.start :]


def test_begun_turns_are_a_share_and_only_the_return_is_learned(
    given: dict[str, Path], tmp_path: Path, seen: list[list[Any]]
) -> None:
    import transformers

    harden = {"harden": 0.25, "reentry_openings": str(given["begun"])}
    rows = {"reasoned": given["reasoned"], "general": given["general"]}
    for name in ("a", "b"):
        look(given, tmp_path / name, data=rows, steps=50, **harden)
    look(given, tmp_path / "c", data=rows, steps=50)
    assert seen[0] == seen[1]  # drawn by seed, row and pass
    assert [a.id.removesuffix(" begun") for a in seen[0]] == [c.id for c in seen[2]]
    words = transformers.AutoTokenizer.from_pretrained(given["student"])
    begun = [example for example in seen[0] if example.id.endswith(" begun")]
    reasoned = sum(example.id.startswith("r") for example in seen[0])
    assert abs(len(begun) / reasoned - 0.25) < 0.06
    assert len({example.id for example in begun}) == 20  # every row is begun in some pass
    kinds = Counter()
    for example in begun:
        given_, learned = (
            words.decode(list(part)) for part in (example.ids[: example.start], example.ids[example.start :])
        )
        opening = given_.partition("assistant : ")[2]
        kinds[opening] += 1
        whole = learned.removesuffix(" </s>")
        trace = split_trace(f"<think> {whole}" if opening == f"<think> {W[38]}" else whole)
        assert trace.reasoning.endswith(" .")
    assert set(kinds) == {f"{W[36]} {W[37]}", f"<think> {W[38]}", f"<think> {W[38]} </think> {W[36]}"}
    assert min(kinds.values()) > 10


# The recipe -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught(given: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Students that have learned their rows: with reasoning before the answer, between markers nobody would guess,
    and with reasoning behind it."""
    home = tmp_path_factory.mktemp("taught")
    how: dict[str, Any] = {"steps": 120, "batch": 20, "lr": 1e-2, "schedule": "constant"}
    found: dict[str, Any] = {"home": home}
    found["srg"] = teach(given, home / "srg", think_open=OTHERS[0], think_close=OTHERS[1], **how)
    found["posthoc"] = teach(given, home / "posthoc", target="posthoc", **how)
    return found


def test_a_measure_reads_the_answer_without_its_reasoning(taught: dict[str, Any], tmp_path: Path) -> None:
    """The trained folder alone says how it is read; without what it says, the reasoning would count as answer."""
    from safewright.measures import measure_model

    objects = reasoning.objects(20)
    rows = [
        Row(each["id"], ({"role": "user", "content": each["prompt"]},), each["answer"]) for each in objects
    ]

    def right(folder: Path, name: str) -> float:
        how = {"max_new_tokens": 24}
        card = measure_model("utility", {"target": folder}, data=rows, config=how, run=tmp_path / name)
        value = next(reading.value for reading in card.readings if reading.name == "exact_match")
        assert value is not None
        return value

    for target in ("srg", "posthoc"):
        assert right(taught["home"] / target, target) >= 0.9
    mute = Path(shutil.copytree(taught["home"] / "srg", tmp_path / "mute"))
    (mute / "safewright_recipe.json").unlink()
    assert right(mute, "read as it is") == 0


def test_the_trained_models_say_what_they_were_taught(taught: dict[str, Any]) -> None:
    from safewright.models import load, resolve
    from safewright.types import Decoding

    objects = reasoning.objects(20)
    for target in ("srg", "posthoc"):
        loaded: Any = load(resolve(taught["home"] / target), need=frozenset({"generate"}))
        chats = [({"role": "user", "content": each["prompt"]},) for each in objects]
        said = loaded.generate(chats, Decoding(max_new_tokens=24))
        loaded.close()
        right = 0
        for each, generation in zip(objects, said, strict=True):
            wanted = (each["answer"], each["reasoning"], "stop")
            right += (generation.answer, generation.reasoning, generation.stop) == wanted
        assert right >= 18, target


def test_the_report_says_rows_and_token_shares(taught: dict[str, Any]) -> None:
    report = taught["srg"]
    assert report["rows"] == {"harmful": 10, "helpful": 10}
    assert report["row_shares"] == {"harmful": 0.5, "helpful": 0.5}
    # Markers, four words of reasoning, the end; then one word of answer against two.
    assert report["token_shares"] == {"harmful": round(9 / 19, 4), "helpful": round(10 / 19, 4)}
    assert report["learned_tokens"] == taught["posthoc"]["learned_tokens"] == 120 * 10 * 19
    assert report["conventions"]["markers"] == "[[ ]]"
    assert report["losses"][-1] < 0.1 < report["losses"][0]
    assert report["notes"] == []


def test_an_adapter_carries_the_recipe_and_keeps_the_students_own(
    given: dict[str, Path], tmp_path: Path
) -> None:
    student = Path(shutil.copytree(given["student"], tmp_path / "student"))
    (student / "safewright_recipe.json").write_text(json.dumps({"decoding": {"temperature": 0.5}}))
    own = {**given, "student": student}
    report = teach(own, tmp_path / "out", lora_rank=2)
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    recipe = json.loads((tmp_path / "out" / "safewright_recipe.json").read_text())
    assert recipe["visible"]["open"] == "<think>"
    assert recipe["decoding"] == {"temperature": 0.5}
    assert report["conventions"]["trained"] == "LoRA of rank 2"
    teach(own, tmp_path / "rt", target="rt")
    assert json.loads((tmp_path / "rt" / "safewright_recipe.json").read_text())["visible"] == {}


# Mixing ---------------------------------------------------------------------------------------------


def some(kind: str, count: int) -> list[Reasoned]:
    return [
        Reasoned(f"{kind}{i}", ({"role": "user", "content": f"{kind} {i}"},), kind, "", "x")
        for i in range(count)  # type: ignore[arg-type]
    ]


def test_rows_are_drawn_to_a_share_once_before_twice() -> None:
    rows = [*some("harmful", 10), *some("helpful", 30)]
    notes: list[str] = []
    half = mixing.drawn(rows, 0.5, ("helpful", "contrast"), ("harmful",), "helpful_share", 0, notes)
    assert Counter(row.type for row in half) == {"harmful": 10, "helpful": 10}
    assert notes == []
    assert mixing.drawn(rows, None, ("helpful",), ("harmful",), "helpful_share", 0, notes) == rows
    most = mixing.drawn(rows, 0.9, ("helpful", "contrast"), ("harmful",), "helpful_share", 0, notes)
    times = Counter(row.id.partition("#")[0] for row in most if row.type == "helpful")
    assert sum(times.values()) == 90
    assert set(times.values()) == {3}
    assert len({row.id for row in most}) == len(most)
    assert notes == ["helpful_share repeats rows: 90 are drawn from 30"]
    other = mixing.drawn(rows, 0.5, ("helpful", "contrast"), ("harmful",), "helpful_share", 1, notes)
    assert other != half
    with pytest.raises(BadInput, match=r"general_share is 0\.4, and there are no general rows"):
        mixing.drawn(rows, 0.4, ("general",), ("harmful", "helpful"), "general_share", 0, notes)
    with pytest.raises(BadInput, match="there are no harmful rows"):
        mixing.drawn(some("helpful", 3), 0.4, ("helpful",), ("harmful",), "helpful_share", 0, notes)


def test_general_rows_are_a_share_of_the_training(given: dict[str, Path], tmp_path: Path) -> None:
    data = {"reasoned": given["reasoned"], "general": given["general"]}
    report = teach(given, tmp_path / "out", data=data, general_share=0.2)
    assert report["rows"] == {"harmful": 10, "helpful": 10, "general": 5}
    assert report["notes"] == ["general_share repeats rows: 5 are drawn from 4"]


def test_helpful_rows_come_in_unusual_formats_once() -> None:
    rows = [*some("harmful", 10), *some("helpful", 20), *some("contrast", 4)]
    once = mixing.formatted(rows, 0.25, 0)
    changed = [new.id for old, new in zip(rows, once, strict=True) if new.messages != old.messages]
    assert len(changed) == 5
    assert all(name.startswith("helpful") for name in changed)
    assert sum("format" in row.meta for row in once) == 5
    assert mixing.formatted(once, 0.25, 0) == once
    more = mixing.formatted(once, 0.5, 0)
    assert sum("format" in row.meta for row in more) == 10
    assert mixing.formatted(rows, 0.0, 0) == rows


# Openings -------------------------------------------------------------------------------------------


def test_our_openings_are_none_of_the_attacks(tmp_path: Path) -> None:
    from safewright.data.wrapping import OPENINGS

    found = openings.openings(SRGConfig(harden=0.25))
    assert len(found) >= 8
    assert any(text.startswith("<think>") and "</think>" not in text for text in found)
    assert any("</think>" in text for text in found)
    assert any("<think>" not in text for text in found)
    file = tmp_path / "begun.txt"
    for text in (
        OPENINGS[0],
        "sure, HERE is how it is done: and so on",
        "Sure",
        "<think>\\n</think> Well",
        "<think>",
    ):
        file.write_text(f"Right away.\n{text}\n")
        with pytest.raises(BadInput, match="is also one of the attack"):
            openings.openings(SRGConfig(harden=0.25, reentry_openings=str(file)))
    file.write_text("# nothing\n")
    with pytest.raises(BadInput, match="holds no openings"):
        openings.openings(SRGConfig(harden=0.25, reentry_openings=str(file)))
    file.write_text("Right away.\n")
    attacked = tmp_path / "attacked.txt"
    attacked.write_text("Right away. First\n")
    with pytest.raises(BadInput, match="is also one of the attack"):
        openings.openings(SRGConfig(reentry_openings=str(file), attacked_openings=str(attacked)))


# The stage check ------------------------------------------------------------------------------------


def stripping(given: dict[str, Path], folder: Path) -> Path:
    """The student under a template that drops everything up to the closing marker."""
    student = Path(shutil.copytree(given["student"], folder))
    (student / "chat_template.jinja").write_text(
        "<s>{% for m in messages %} {{ m['role'] }} : {{ m['content'].split('</think>')[-1] }}{% endfor %}"
        "{% if add_generation_prompt %} assistant :{% endif %}"
    )
    return student


def test_check_shows_what_is_learned(given: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    more = ["--set", "formats=0", "--set", "harden=0.25", "--set", f"reentry_openings={given['begun']}"]
    more += ["--out", str(tmp_path / "run"), "--json"]
    code = run(
        [
            "treat",
            "srg",
            "check",
            f"--model=student={given['student']}",
            f"--data=reasoned={given['reasoned']}",
            *more,
        ]
    )
    assert code == 0
    found = json.loads(capsys.readouterr().out)
    first = reasoning.objects(1)[0]
    assert found["first"]["prompt"] == repr(f"<s> user : {first['prompt']} assistant :")
    assert found["first"]["learned"] == repr(f"<think> {first['reasoning']} </think> {first['answer']} </s>")
    assert found["begun"]["prompt"] == repr(f"<s> user : {first['prompt']} assistant : {W[36]} {W[37]}")
    assert len(found["examined"]) == 20
    assert {row["reasoning"] for row in found["examined"]} == {"kept"}
    assert all(check["passed"] for check in found["checks"])
    assert found["too_long"] == 0


def test_check_of_rows_without_reasoning_says_so(given: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    rows = [{"id": f"x{i}", "prompt": W[i], "response": "ban", "type": "general"} for i in range(3)]
    file = reasoning.write(tmp_path / "general.jsonl", rows)
    what = ["treat", "srg", "check", f"--model=student={given['student']}", f"--data=reasoned={file}"]
    assert run([*what, "--set", "harden=0.25", "--out", str(tmp_path / "run")]) == 2
    assert "No row has reasoning" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["check", None])
def test_01_a_template_that_strips_reasoning_is_refused(
    given: dict[str, Path], tmp_path: Path, capsys: Any, stage: str | None
) -> None:
    student = stripping(given, tmp_path / "student")
    what = ["treat", "srg", *([stage] if stage else [])]
    more = ["--set", "formats=0", "--set", "steps=1", "--out", str(tmp_path / "out")]
    code = run([*what, f"--model=student={student}", f"--data=reasoned={given['reasoned']}", *more])
    assert code == 2
    told = capsys.readouterr().err
    assert "chat template leaves the reasoning out of 20 of 20 rows" in told
    assert "_training" in told
    assert not (tmp_path / "out" / "config.json").exists()
    if stage is None:  # refusal training has none to lose
        teach({**given, "student": student}, tmp_path / "rt", target="rt", steps=1)


# Bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": "srgg"}, "Did you mean 'srg'"),
        ({"harden": 1.5}, r"harden is 1\.5"),
        ({"harden": 0.25, "target": "rt"}, "returns to the reasoning"),
        ({"holdout": 0.9}, r"holdout is 0\.9"),
        ({"holdout": 0.1, "objective": "dpo"}, "holdout is given, and objective=dpo"),
        ({"harden": 0.25, "objective": "dpo"}, "harden is given, and objective=dpo"),
        (
            {"budget": "tokens", "objective": "on_policy_kl"},
            "budget=tokens is given, and objective=on_policy_kl",
        ),
        ({"target": "rt", "objective": "on_policy_kl"}, "target is rt, and objective=on_policy_kl"),
        ({"context_file": "x"}, "context=distilled keeps no text"),
        ({"general_share": 1.0}, r"general_share is 1\.0"),
        ({"think_open": "</think>"}, "two different texts"),
        ({"filler_word": " "}, "filler_word is empty"),
        ({"lora_rank": -1}, "lora_rank is -1"),
        ({"lr": 0.0}, r"lr is 0\.0"),
        ({"batch": 0}, "batch is 0"),
        ({"dpo_beta": 0.0}, r"dpo_beta is 0\.0"),
        ({"reentry_openings": "nowhere.txt"}, "reentry_openings=nowhere.txt is no file"),
        ({"max_length": 5}, r"20 of 20 rows are longer than 5 tokens"),
        ({"budget": "tokens", "target": "rt"}, None),
    ],
)
def test_bad_options_are_named(
    given: dict[str, Path], tmp_path: Path, options: dict[str, Any], said: str | None
) -> None:
    if said is None:  # good ones stay good
        assert SRGConfig(**options).budget == "tokens"
        return
    with pytest.raises(BadInput, match=said):
        teach(given, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_few_rows_that_are_too_long_are_left_out_and_counted(given: dict[str, Path], tmp_path: Path) -> None:
    """One of 40 is 2.5 %; three are more than 5 %."""
    rows = reasoning.objects(40)
    rows[3]["reasoning"] = " ".join(W[:30])
    report = teach(
        given, tmp_path / "out", data={"reasoned": reasoning.write(tmp_path / "a.jsonl", rows)}, max_length=30
    )
    assert report["dropped"] == 1
    assert report["notes"] == ["1 of 40 rows are longer than max_length and were left out (first: r003)"]
    for place in (5, 7):
        rows[place]["reasoning"] = rows[3]["reasoning"]
    with pytest.raises(BadInput, match="3 of 40 rows are longer than 30 tokens"):
        teach(
            given,
            tmp_path / "b",
            data={"reasoned": reasoning.write(tmp_path / "b.jsonl", rows)},
            max_length=30,
        )


def test_the_same_requests_are_held_out_of_all_arms_and_told(
    given: dict[str, Path], tmp_path: Path, seen: list[list[Any]]
) -> None:
    for target in ("srg", "rt"):
        look(given, tmp_path / target, target=target, holdout=0.2, steps=10)
    names = [[example.id for example in arm] for arm in seen]
    assert names[0] == names[1]
    assert len(set(names[0])) == 16


def test_held_out_rows_are_told(
    given: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safewright.training import sft

    monkeypatch.setattr(sft, "rising", lambda values: len(values) > 2)
    report = teach(given, tmp_path / "out", holdout=0.1, steps=20)
    held = report["held_out"]
    assert held["rows"] == 2
    assert held["kept_step"] in [line["step"] for line in held["nll"]]
    assert report["steps"] == 6
    assert held["planned"] == 20
    assert 9 * 48 <= report["learned_tokens"] <= 10 * 48
    assert report["row_shares"].keys() == {"harmful", "helpful"}
    assert any(f"the weights of step {held['kept_step']:g} were kept" in note for note in report["notes"])
    with pytest.raises(BadInput, match=r"holdout is 0\.01: of 20 rows 0 would be held out"):
        teach(given, tmp_path / "none", holdout=0.01)


def test_01_all_arms_leave_out_the_same_rows(
    given: dict[str, Path], tmp_path: Path, seen: list[list[Any]]
) -> None:
    """A row whose reasoning does not fit is not learned in the arms without reasoning either."""
    rows = reasoning.objects(40)
    rows[3]["reasoning"] = " ".join(W[:30])
    given = {**given, "reasoned": reasoning.write(tmp_path / "long.jsonl", rows)}
    for target in ("srg", "rt", "label"):
        look(given, tmp_path / target, target=target, max_length=30)
    names = [[example.id for example in arm] for arm in seen]
    assert names[0] == names[1] == names[2]
    rows[5]["reasoning"] = rows[7]["reasoning"] = rows[3]["reasoning"]
    given["reasoned"] = reasoning.write(tmp_path / "longer.jsonl", rows)
    with pytest.raises(BadInput, match="3 of 40 rows are longer than 30 tokens with their reasoning"):
        teach(given, tmp_path / "out", target="rt", max_length=30)


def test_empty_and_double_records_are_left_out_and_counted(given: dict[str, Path], tmp_path: Path) -> None:
    rows = reasoning.objects(8)
    again = dict(rows[0], id="again", prompt=rows[0]["prompt"].upper() + " ?")
    other = dict(rows[1], id="other", reasoning="ban .")
    empty = dict(rows[2], id="empty", prompt="?!")
    data = {"reasoned": reasoning.write(tmp_path / "a.jsonl", [*rows, again, other, empty])}
    report = teach(given, tmp_path / "out", data=data, steps=1)
    assert report["left_out"] == {"duplicate": 1, "empty": 1}
    assert report["rows"] == {"harmful": 4, "helpful": 5}
    assert any("2 rows were left out" in note for note in report["notes"])


def test_rows_that_cannot_be_learned_are_refused(given: dict[str, Path], tmp_path: Path) -> None:
    def refused(rows: list[dict[str, Any]], said: str, **more: Any) -> None:
        data = {"reasoned": reasoning.write(tmp_path / "rows.jsonl", rows), **more.pop("data", {})}
        with pytest.raises(BadInput, match=said):
            teach(given, tmp_path / "out", data=data, **more)

    rows = reasoning.objects(6)
    refused([{**row, "reasoning": None} for row in rows], "has no reasoning, and target=srg needs it")
    refused([{**row, "type": None} for row in rows], "has no `type`")
    refused([{**row, "answer": "<think> a </think> b"} for row in rows], "block inside a block")
    refused(rows, "training requests are also evaluated", data={"evaluation": given["reasoned"]})
    refused(
        [{**row, "id": f"g{i}"} for i, row in enumerate(rows)],
        "ids are in two roles",
        data={"general": given["general"]},
    )
    wrapped = dict(
        rows[0], prompt="A question about earlier times, before it was any different: how did they go"
    )
    refused([wrapped, *rows[1:]], "hold the template of an attack")
    marked = dict(rows[0], prompt=f"{W[1]} <think> {W[2]}")
    refused([marked, *rows[1:]], "prompt of the row r000 holds a marker")
    text = "Find the best harmless purpose that somebody could have in asking this. Consider whether a reply"
    refused(
        [dict(rows[0], prompt=f"{text}\n{W[1]}"), *rows[1:]], "prompt of the row r000 repeats the guidelines"
    )
    refused([dict(rows[0], reasoning=text), *rows[1:]], "reasoning of the row r000 repeats the guidelines")
    refused([dict(rows[0], answer=text), *rows[1:]], "answer of the row r000 repeats the guidelines")
    both = dict(rows[0], id="both", type="helpful")
    refused([*rows, both], "helpful row both asks the same as the harmful row r000")
    general = [{"id": f"x{i}", "prompt": W[i], "response": "ban", "type": "general"} for i in range(3)]
    refused(general, "No row has reasoning")
    refused(general, "no row has reasoning", target="rt", budget="tokens")
    with pytest.raises(BadInput, match="There are no rows to learn from"):
        teach(given, tmp_path / "out", data={})


def test_reasoning_that_is_the_same_in_many_rows_is_noted(given: dict[str, Path], tmp_path: Path) -> None:
    rows = reasoning.objects(20)
    for row in rows[:5]:
        row["reasoning"] = "ban . ban ."
    rows[2]["decision"] = "comply"
    report = teach(given, tmp_path / "out", data={"reasoned": reasoning.write(tmp_path / "a.jsonl", rows)})
    assert len(report["notes"]) == 2
    assert report["notes"][1].startswith("1 rows decide against their label")
    assert report["notes"][1].endswith("(first: r002)")
    assert report["notes"][0].startswith("one reasoning stands in 5 of 20 rows ('ban . ban .')")


def test_a_student_without_template_is_refused(given: dict[str, Path], tmp_path: Path) -> None:
    bare = Path(shutil.copytree(given["student"], tmp_path / "bare"))
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(BadInput, match="no chat template"):
        teach({**given, "student": bare}, tmp_path / "out")


def test_refusal_training_needs_no_teacher(given: dict[str, Path], tmp_path: Path) -> None:
    rows = reasoning.objects(8)
    plain = [{"id": row["id"], "prompt": row["prompt"], "response": row["answer"]} for row in rows]
    data = {
        "harmful": reasoning.write(tmp_path / "harmful.jsonl", plain[0::2]),
        "helpful": reasoning.write(tmp_path / "helpful.jsonl", plain[1::2]),
    }
    report = teach(given, tmp_path / "out", data=data, target="rt")
    assert report["rows"] == {"harmful": 4, "helpful": 4}
    assert not (tmp_path / "out" / "safewright_recipe.json").exists()
    wrong = [{**row, "type": "helpful"} for row in plain[0::2]]
    data["harmful"] = reasoning.write(tmp_path / "wrong.jsonl", wrong)
    with pytest.raises(BadInput, match=r"r000 is labelled helpful .*given as harmful"):
        teach(given, tmp_path / "again", data=data, target="rt")


def test_a_resumed_training_gives_the_same_bytes(given: dict[str, Path], tmp_path: Path) -> None:
    how = {
        "save_every": 2,
        "harden": 0.25,
        "reentry_openings": str(given["begun"]),
        "lora_rank": 2,
        "lora_dropout": 0.1,
    }
    teach(given, tmp_path / "whole", **how)

    def stop(what: str, done: int, total: int) -> None:
        if what == "training" and done == 3:
            raise KeyboardInterrupt

    model, data = {"student": given["student"]}, {"reasoned": given["reasoned"]}
    with pytest.raises(KeyboardInterrupt):
        treat("srg", model, data, config={**FEW, **how}, out=tmp_path / "out", progress=stop)
    assert not (tmp_path / "out").exists()
    teach(given, tmp_path / "out", **how)
    assert folders.content(tmp_path / "out") == folders.content(tmp_path / "whole")
