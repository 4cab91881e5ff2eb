"""`harm_direction`: states at the prompt's end and before the verdict, before and after, and its pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from safewright.errors import BadInput
from safewright.measures import measure_model
from safewright.measures.harm_direction import clusters
from safewright.measures.harm_direction.verdict import before_verdict
from safewright.models import load
from safewright.stats import auc
from safewright.stats.direction import harm_direction
from safewright.types import Chat, Decoding, Generation, Row
from tests import tiny

W = tiny.WORDS
MORE = ("<think>", "</think>", "so", ".", "refuse", "answer")


def rows(role: str, seed: int, count: int = 8) -> list[Row]:
    """Requests of made-up words; wrapped ones by two attacks, and a word in common that tells harm."""
    found = []
    for i in range(count):
        goal = " ".join([W[(seed + 3 * i + j) % 20] for j in range(2)] + [W[30 if "harmful" in role else 35]])
        wrapped = role.startswith("wrapped")
        meta = {"attack": ("cipher", "nested")[i % 2], "goal": goal} if wrapped else {}
        text = f"{W[20 + i % 2]} {goal} {W[22]}" if wrapped else goal
        found.append(Row(f"r{i}", ({"role": "user", "content": text},), None, "en", meta))
    return found


DATA = {
    "harmful": rows("harmful", 0),
    "benign": rows("benign", 5),
    "wrapped_harmful": rows("wrapped_harmful", 0),
    "wrapped_benign": rows("wrapped_benign", 5),
}


class Reasoning:
    """A tiny model whose answers are put into its mouth; its states are its own."""

    def __init__(self, inner: Any, says: Any) -> None:
        self.inner, self.says, self.asked = inner, says, 0
        self.ref, self.able, self.conventions = inner.ref, inner.able, inner.conventions

    def stream(
        self, chats: Sequence[Chat], how: Decoding, *, done: frozenset[int] = frozenset()
    ) -> Iterator[list[tuple[int, Generation]]]:
        assert how.temperature == 0
        for i, chat in enumerate(chats):
            if i not in done:
                self.asked += 1
                yield [(i, self.says(chat[-1]["content"]))]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def reasons(text: str) -> Generation:
    verdict = "refuse" if W[30] in text.split() else "answer"
    thought = f"{text.split()[1]} . so {verdict}"
    return Generation(f"<think> {thought} </think> {W[1]}", thought, W[1], True, "stop", 9)


def silent(text: str) -> Generation:
    """Every fourth answer has no block of reasoning."""
    if sum(map(ord, text)) % 4 == 0:
        return Generation(W[1], "", W[1], True, "stop", 1)
    return reasons(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_tiny(tmp_path_factory.mktemp("model") / "model", more=MORE)


@pytest.fixture(scope="module")
def before_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_tiny(tmp_path_factory.mktemp("before") / "model", seed=7, more=MORE)


@pytest.fixture(scope="module")
def run_dir(folder: Path, before_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs") / "both"
    models = {"target": Reasoning(load(folder), reasons), "before": before_folder}
    measure_model("harm_direction", models, data=DATA, config={"max_new_tokens": 4}, run=place)
    return place


def card_of(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "scorecard.json").read_text())
    return found


def records_of(place: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (place / "records.jsonl").read_text().splitlines()]


def states(folder: Path, texts: Sequence[str]) -> np.ndarray[Any, Any]:
    """The states of every layer at the last token, (text, layer, dimension), one text at a time."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)
    found = []
    for text in texts:
        ids = torch.tensor([words(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            own = model(input_ids=ids, output_hidden_states=True).hidden_states[1:]
        found.append(torch.stack([layer[0, -1] for layer in own]).numpy())
    return np.array(found)


@pytest.mark.parametrize("position", ["prompt_end", "decision"])
def test_06_projections_are_those_of_the_states_at_the_token(
    run_dir: Path, folder: Path, position: str
) -> None:
    texts, sets = {}, {}
    for role, own in DATA.items():
        for row in own:
            asked = row.prompt[0]["content"]
            prompt = f"<s> user : {asked} assistant :"
            thought = f" <think> {asked.split()[1]} . so"
            texts[f"{role}/{row.id}"] = prompt + (thought if position == "decision" else "")
            sets[f"{role}/{row.id}"] = role
    ids = list(texts)
    all_ = states(folder, [texts[i] for i in ids]).astype(np.float64)
    by_id = {record["id"]: record for record in records_of(run_dir)}
    pick = {role: [k for k, i in enumerate(ids) if sets[i] == role] for role in DATA}
    last = {}
    for layer in range(3):
        values = all_[:, layer]
        s = harm_direction(values[pick["harmful"]], values[pick["benign"]]).project(values)
        for k, i in enumerate(ids):
            found = by_id[i]["meta"]["harm"]["target"][position]
            assert found["s"][layer] == pytest.approx(s[k], abs=1e-4)
            last[i] = s[k]
    for i, record in by_id.items():
        assert record["scores"][f"projection_{sets[i]}_{position}"] == pytest.approx(last[i], abs=1e-4)
        assert record["meta"]["harm"]["target"][position]["last"][0] == pytest.approx(last[i], abs=1e-4)
    for role, mean in (("harmful", 1.0), ("benign", -1.0)):
        own = [
            r["scores"][f"projection_{role}_{position}"] for r in by_id.values() if r["meta"]["set"] == role
        ]
        assert np.mean(own) == pytest.approx(mean, abs=1e-9)
    readings = {reading["name"]: reading for reading in card_of(run_dir)["readings"]}
    low, high = ([last[ids[k]] for k in pick[f"wrapped_{role}"]] for role in ("benign", "harmful"))
    area = readings[f"transfer_auc_{position}"]
    assert (area["value"], area["n"]) == (pytest.approx(auc(low, high)), 16)
    mean = readings[f"projection_wrapped_harmful_{position}"]
    assert mean["value"] == pytest.approx(np.mean(high), abs=1e-4)
    assert mean["interval"]["low"] <= mean["value"] <= mean["interval"]["high"]
    curve = next(
        c for c in card_of(run_dir)["curves"] if c["name"] == f"transfer_auc by layer, {position}/after"
    )
    assert curve["x"] == [1, 2, 3]
    assert curve["y"][-1] == area["value"]


def test_the_model_before_and_the_attacks_have_readings_of_their_own(run_dir: Path) -> None:
    card = card_of(run_dir)
    names = [reading["name"] for reading in card["readings"]]
    assert names[0] == "cv_auc_prompt_end"
    for name in ("cv_auc", "transfer_auc", "a_distance", "projection_wrapped_benign"):
        assert f"{name}_decision" in names
        assert f"{name}_prompt_end/layer/middle" in names
        assert f"{name}_prompt_end/model/before" in names
        assert f"{name}_decision/model/before" not in names  # it never reasons
    assert "transfer_auc_decision/attack/cipher" in names
    assert "projection_wrapped_harmful_prompt_end/attack/nested, middle, before" in names
    rates = {r["name"]: r for r in card["readings"] if r["name"].startswith("no_trace")}
    assert (rates["no_trace"]["value"], rates["no_trace"]["n"]) == (0.0, 32)
    assert rates["no_trace/model/before"]["value"] == 1.0
    assert card["unscored"] == {}
    method = card["conventions"]["method"]
    assert method["notes"] == ["before never reasons before it answers: it has no decision token"]
    assert method["layers"]["target"] == {"middle": 2, "last": 3}
    assert method["goals_in_both"] == 16
    assert method["cut"]["target"] == {"verdict": 32, "sentence": 0}
    record = records_of(run_dir)[0]
    assert record["meta"]["before_verdict"]["target"]["text"].endswith(". so")


def test_rows_without_a_trace_are_unscored_and_counted(folder: Path, tmp_path: Path) -> None:
    model = Reasoning(load(folder), silent)
    card = measure_model("harm_direction", model, data=DATA, run=tmp_path / "a")
    records = records_of(tmp_path / "a")
    lost = [r for r in records if "no_answer" in r["status"].values()]
    assert 0 < len(lost) < 16
    assert card.unscored == {"no_answer": len(lost)}
    for record in lost:
        own = record["meta"]["set"]
        assert record["scores"][f"projection_{own}_decision"] is None
        assert record["scores"][f"projection_{own}_prompt_end"] is not None
        assert record["why"] == "there is no reasoning"
    readings = {reading.name: reading for reading in card.readings}
    assert readings["no_trace"].value == len(lost) / 32
    wrapped = [r for r in records if r["meta"]["set"] == "wrapped_harmful"]
    reading = readings["projection_wrapped_harmful_decision"]
    assert reading.n + reading.unscored == len(wrapped)
    assert reading.unscored == sum(r in lost for r in wrapped)
    assert any("answers have no verdict" in note for note in card.conventions["method"]["notes"])


def test_answers_that_could_not_be_had_are_failures_and_no_silence(folder: Path, tmp_path: Path) -> None:
    said: list[Generation] = []

    def fails(text: str) -> Generation:
        failed = Generation("", "", "", True, "overlong", 0, "no room")
        said.append(failed if len(said) % 8 == 0 else silent(text))
        return said[-1]

    card = measure_model("harm_direction", Reasoning(load(folder), fails), data=DATA, run=tmp_path / "a")
    none = sum(one.stop != "overlong" and not one.reasoning for one in said)
    assert none > 0
    assert card.unscored == {"overlong": 4, "no_answer": none}
    (rate,) = [reading for reading in card.readings if reading.name == "no_trace"]
    assert (rate.value, rate.n, rate.unscored) == (none / 28, 28, 4)
    assert "target: 4 of 32 answers could not be had" in card.conventions["method"]["notes"]


def test_wrappings_of_one_request_are_one_cluster() -> None:
    def row(name: str, text: str, **meta: str) -> Row:
        return Row(name, ({"role": "user", "content": text},), None, "en", meta)

    own = [row("a", "x"), row("b", "told x", goal="x"), row("c", "x backwards", goal="x"), row("d", "y")]
    assert clusters(own) == {"a": "a", "b": "a", "c": "a", "d": "d"}


def test_a_killed_run_asks_for_the_rest_and_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    measure_model("harm_direction", Reasoning(load(folder), reasons), data=DATA, run=whole)
    asked = []

    def dies(text: str) -> Generation:
        asked.append(text)
        if len(asked) == 20:
            raise KeyboardInterrupt
        return reasons(text)

    with pytest.raises(KeyboardInterrupt):
        measure_model("harm_direction", Reasoning(load(folder), dies), data=DATA, run=broken)
    again = Reasoning(load(folder), reasons)
    measure_model("harm_direction", again, data=DATA, run=broken)
    assert again.asked == 32 - 19
    assert (broken / "records.jsonl").read_bytes() == (whole / "records.jsonl").read_bytes()
    finished = Reasoning(load(folder), reasons)
    measure_model("harm_direction", finished, data=DATA, run=broken)
    assert finished.asked == 0
    assert {file.name for file in broken.iterdir()} == {file.name for file in whole.iterdir()}


def test_options_and_rows_that_cannot_be_used_are_named(folder: Path, tmp_path: Path) -> None:
    for positions, named in (("decison", "decison"), ("", "positions")):
        with pytest.raises(BadInput, match=named):
            measure_model("harm_direction", folder, data=DATA, config={"positions": positions})
    with pytest.raises(BadInput, match="1 rows in the role benign"):
        measure_model(
            "harm_direction", folder, data=DATA | {"benign": DATA["benign"][:1]}, run=tmp_path / "a"
        )
    same = measure_model(
        "harm_direction",
        folder,
        data={"harmful": DATA["harmful"], "benign": DATA["harmful"]},
        config={"positions": "prompt_end"},
        run=tmp_path / "b",
    )
    assert same.unscored == {"error": 16}
    assert "are the same" in same.conventions["method"]["notes"][0]


@pytest.mark.parametrize(
    ("thought", "text", "cut"),
    [
        (" it is bad . so refuse ", "<think> it is bad . so", "verdict"),
        (
            "\nIt asks how to fold a boat.\nDecision: comply\n",
            "<think>\nIt asks how to fold a boat.\nDecision:",
            "verdict",
        ),
        ("Harmful? No. I will not answer this.", "<think>Harmful? No. I will", "verdict"),
        ("A boat. Nothing else.", "<think>A boat.", "sentence"),
        ("这是纸船。因此我可以回答。", "<think>这是纸船。因此我可以", "verdict"),
        ("so refuse", "<think>so", "verdict"),
    ],
)
def test_the_verdict_begins_at_its_first_word_in_the_last_sentence(thought: str, text: str, cut: str) -> None:
    said = Generation(f"<think>{thought}</think> Sure.", thought.strip(), "Sure.", True, "stop", 9)
    found = before_verdict(said, "<think>", "</think>")
    assert (found.text, found.cut) == (text, cut)
    # A template that opens the block itself leaves the marker out of what the model wrote.
    opened = Generation(f"{thought}</think> Sure.", thought.strip(), "Sure.", True, "stop", 9)
    assert before_verdict(opened, "<think>", "</think>").text == text.removeprefix("<think>")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (Generation("Sure.", "", "Sure.", True, "stop", 1), "there is no reasoning"),
        (Generation("<think>a", "a", "", False, "length", 1), "never closed"),
        (Generation("", "", "", True, "error", 0, "HTTP 500"), "HTTP 500"),
        (
            Generation("No. <think>so refuse</think>", "so refuse", "No.", True, "stop", 1),
            "the answer came before",
        ),
        (Generation("<think></think><think>b</think> c", "b", "c", True, "stop", 1), "first block"),
    ],
)
def test_answers_without_a_verdict_say_why(said: Generation, why: str) -> None:
    found = before_verdict(said, "<think>", "</think>")
    assert found.text is None
    assert why in found.why
