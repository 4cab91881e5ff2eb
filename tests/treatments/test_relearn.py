"""The treatment `relearn` as a whole: every method makes a model, and every mistake has its error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from safewright.errors import BadInput, GateFailed, NumericalFailure
from safewright.treatments import plan_treatment, treat
from safewright.treatments.relearn.methods import METHODS, NAMES, OWN_OPTIONS
from tests import tiny
from tests.treatments import folders, unlearning

FEW = {"steps": 2, "batch": 4, "lr": 1e-2, "warmup": 0.0}


@pytest.fixture(scope="module", autouse=True)
def _settled() -> Iterator[None]:
    """The libraries' own objects are not looked through at each collection: half of a short training's time."""
    import gc

    import peft
    import transformers

    assert peft.LoraConfig is not None
    assert transformers.Trainer is not None
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("relearn")


@pytest.fixture(scope="module")
def tuned(home: Path) -> Path:
    return tiny.save_tiny(home / "tuned", **{**folders.SMALL, "num_key_value_heads": 1})


@pytest.fixture(scope="module")
def rows(home: Path) -> dict[str, Path]:
    return unlearning.data(home)


def options(method: str, **more: Any) -> dict[str, Any]:
    return {"method": method, **FEW, **({"pdu_epsilon": 1.0} if method == "pdu" else {}), **more}


def given(method: str, rows: dict[str, Path]) -> dict[str, Path]:
    """The rows a method reads."""
    roles = ["forget", "retain"]
    roles += ["augmented"] if METHODS[method].learns else []
    roles += ["alternatives"] if METHODS[method].beside == "alternatives" else []
    return {role: rows[role] for role in roles}


def run(tuned: Path, rows: dict[str, Path], out: Path, method: str = "ga_gdr", **more: Any) -> Any:
    data = more.pop("data", given(method, rows))
    models = {"tuned": tuned, **more.pop("models", {})}
    return treat("relearn", models, data, config=options(method, **more), out=out)


def report(out: Path) -> Any:
    return json.loads((out / "provenance.json").read_text())["report"]


@pytest.mark.parametrize("method", NAMES)
def test_every_method_makes_a_model(method: str, tuned: Path, rows: dict[str, Path], tmp_path: Path) -> None:
    """Loss finite, weights moved, loads in plain transformers or PEFT, adapter disabled equals base."""
    import peft

    out = tmp_path / "out"
    result = run(tuned, rows, out, method)
    said = report(out)
    assert said["steps"] == 2
    assert set(said["losses"]) >= {"loss", "forget"}
    assert all(torch.isfinite(torch.tensor(values)).all() for values in said["losses"].values())
    assert all(len(values) == 2 for values in said["losses"].values())
    ids = torch.tensor([[1, 9, 10, 11]])
    before = folders.load(tuned)(ids).logits
    if result.kind == "adapter":
        model = peft.PeftModel.from_pretrained(folders.load(tuned), out)
        with model.disable_adapter():
            assert torch.equal(model(ids).logits, before)
    else:
        assert method == "rmu"
        model = folders.load(out)
        old, new = folders.weights(tuned), folders.weights(out)
        moved = {name for name in old if not torch.equal(old[name], new[name])}
        assert moved == {f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1)}
    after = model(ids).logits
    assert bool(torch.isfinite(after).all())
    assert not torch.equal(after, before)
    assert {check.name for check in result.checks} >= {"the forget loss fell", "the model's answers moved"}
    checks = {check.name: check.passed for check in result.checks}
    assert checks["the model's answers moved"]
    assert checks.get("adapter disabled equals base", True)
    assert said["conventions"]["versions"]["torch"]
    assert ("beta" in said["conventions"]) == (METHODS[method].loss in OWN_OPTIONS["beta"])
    assert any("dual variable never moved" in note for note in said["notes"]) == (method == "pdu")


def test_all_weights_are_trained_at_rank_zero(tuned: Path, rows: dict[str, Path], tmp_path: Path) -> None:
    """And its reference is a frozen copy; cached, it says the same to rounding."""
    import transformers

    ends = {}
    for reference in ("model", "cached"):
        out = tmp_path / reference
        # Not Adam: it would make whole steps of gradients that are nothing but rounding.
        result = run(tuned, rows, out, "npo_klr", lora_rank=0, reference=reference, optimiser="sgd")
        assert result.kind == "weights"
        transformers.AutoTokenizer.from_pretrained(out)
        ends[reference] = folders.weights(out)
        assert report(out)["conventions"]["reference"] == reference
    old = folders.weights(tuned)
    assert all(not torch.equal(old[name], ends["model"][name]) for name in old if old[name].ndim == 2)
    for name, tensor in ends["model"].items():
        assert torch.allclose(tensor, ends["cached"][name], atol=1e-5)
    assert report(tmp_path / "cached")["conventions"]["kl"]["exact"]
    config = json.loads((tuned / "generation_config.json").read_text())
    assert json.loads((tmp_path / "model" / "generation_config.json").read_text()) == config


def test_a_reference_that_is_given_is_compared_with(
    tuned: Path, rows: dict[str, Path], tmp_path: Path
) -> None:
    other = folders.tuned(tuned, tmp_path / "other", size=0.2)
    run(tuned, rows, tmp_path / "a", "npo_klr", models={"reference": other}, steps=1)
    run(tuned, rows, tmp_path / "b", "npo_klr", steps=1)
    assert report(tmp_path / "a")["conventions"]["reference"] == "model"
    # At the first step the model is its own adapter-off reference, and not the other model's.
    assert abs(report(tmp_path / "b")["losses"]["kl"][0]) < 1e-6
    assert report(tmp_path / "a")["losses"]["kl"][0] > 1e-3
    bigger = tiny.save_tiny(tmp_path / "bigger", more=("wide",), **folders.SMALL, num_key_value_heads=1)
    with pytest.raises(BadInput, match="The reference model has 49 tokens, the tuned model 48"):
        run(tuned, rows, tmp_path / "c", "npo_klr", models={"reference": bigger})
    with pytest.raises(BadInput, match="reference is adapter_off, and a reference model was given"):
        run(tuned, rows, tmp_path / "c", "npo_klr", models={"reference": other}, reference="adapter_off")


def test_an_adapter_is_merged_first(tuned: Path, rows: dict[str, Path], tmp_path: Path) -> None:
    adapter = folders.adapter(tuned, tmp_path / "adapter")
    result = run(adapter, rows, tmp_path / "out", "ga_gdr")
    assert result.kind == "weights"
    assert folders.load(tmp_path / "out") is not None
    assert any("merged" in note for note in report(tmp_path / "out")["notes"])


@pytest.mark.parametrize("reference", ["model", "cached"])
def test_a_reference_has_the_arithmetic_of_training(
    reference: str, tuned: Path, rows: dict[str, Path], tmp_path: Path
) -> None:
    """In mixed arithmetic, too, nothing is between a model and itself."""
    run(tuned, rows, tmp_path / "out", "npo_klr", precision="bf16", reference=reference, steps=1)
    first = report(tmp_path / "out")["losses"]
    assert abs(first["kl"][0]) < 2e-5
    assert first["forget"][0] == pytest.approx(13.862944, abs=2e-3)


def test_weights_of_few_digits_keep_them_and_are_told(
    tuned: Path, rows: dict[str, Path], tmp_path: Path
) -> None:
    import transformers

    half = tmp_path / "half"
    folders.load(tuned).to(torch.bfloat16).save_pretrained(half)
    transformers.AutoTokenizer.from_pretrained(tuned).save_pretrained(half)
    run(half, rows, tmp_path / "out", "ga_gdr", lora_rank=0, steps=1)
    assert {tensor.dtype for tensor in folders.weights(tmp_path / "out").values()} == {torch.bfloat16}
    assert any("weights of bfloat16 are trained as they are" in n for n in report(tmp_path / "out")["notes"])


def test_models_and_rows_without_effect_are_told(tuned: Path, rows: dict[str, Path], tmp_path: Path) -> None:
    """A reference that nothing is compared with is a mistake; rows and an augmenter that are not needed a note."""
    with pytest.raises(BadInput, match=r"reference model was given, and ga_gdr compares with none.*_klr"):
        run(tuned, rows, tmp_path / "out", "ga_gdr", models={"reference": tuned})
    data = {**given("ga_gdr", rows), "alternatives": rows["alternatives"]}
    run(tuned, rows, tmp_path / "out", "ga_gdr", models={"augmenter": tuned}, data=data, steps=1)
    notes = report(tmp_path / "out")["notes"]
    assert "no rows were made: the augmenter was not asked" in notes
    assert "ga_gdr compares with no other answers: alternatives rows unused" in notes


@pytest.mark.parametrize("modifier", ["sure", "memflex"])
def test_modifiers_are_told(modifier: str, tuned: Path, rows: dict[str, Path], tmp_path: Path) -> None:
    more = {"memflex_magnitude": 0.0} if modifier == "memflex" else {}
    result = run(tuned, rows, tmp_path / "out", "relearn_klr_gdr", modifier=modifier, lora_rank=0, **more)
    said = report(tmp_path / "out")
    assert said["conventions"]["modifier"] == modifier
    assert any("one by one" in note for note in said["notes"])
    assert result.kind == "weights"
    if modifier == "sure":
        assert 0.01 <= said["rows_moved_in_the_last_step"] < 0.03


def test_the_release_preset_keeps_its_conventions(tuned: Path, rows: dict[str, Path], tmp_path: Path) -> None:
    more = {"preset": "release", "pad_to": 20, "lora_rank": 2, "modifier": "sure", "sure_alpha": 1.0}
    run(tuned, rows, tmp_path / "out", "relearn_klr_gdr", **more)
    said = report(tmp_path / "out")
    kept = said["conventions"]
    assert kept["kl"] == {"direction": "forward", "positions": "all_positions"}
    assert kept["normaliser"] == "of each micro-batch"
    assert (kept["pairing"], kept["accumulation"], kept["padding"]) == ("cycle", 4, "left, to 20")
    assert kept["lora"] == {"alpha": 32, "dropout": 0.05}
    assert "sure_alpha=1 has no effect, as in the release, which never uses it" in said["notes"]


# Bad input ------------------------------------------------------------------------------------------------


def test_no_forget_rows(tuned: Path, rows: dict[str, Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(BadInput):
        run(tuned, rows, tmp_path / "out", data={"forget": empty, "retain": rows["retain"]})
    with pytest.raises(BadInput, match=r"relearn needs rows for 'forget'.*--data forget="):
        run(tuned, rows, tmp_path / "out", data={"retain": rows["retain"]})
    assert not (tmp_path / "out.run").exists()


@pytest.mark.parametrize(
    ("method", "kept"), [("relearn_klr_gdr", "nll.kl"), ("npo_gdr", "nll"), ("ga_klr", "kl"), ("wga", "nll")]
)
def test_no_retain_rows_where_they_are_needed(
    method: str, kept: str, tuned: Path, rows: dict[str, Path], tmp_path: Path
) -> None:
    data = {role: file for role, file in given(method, rows).items() if role != "retain"}
    with pytest.raises(BadInput, match=rf"{method} keeps {kept} on retain rows.*--data retain=.*retain_loss"):
        run(tuned, rows, tmp_path / "out", method, data=data)
    if method == "wga":
        run(tuned, rows, tmp_path / "out", method, data=data, retain_loss="none")


def test_rows_of_both_sets_are_listed(tuned: Path, rows: dict[str, Path], tmp_path: Path) -> None:
    lines = [json.loads(line) for line in rows["forget"].read_text().splitlines()]
    twice = [{**lines[3], "id": "again", "prompt": lines[3]["prompt"].upper()}, {**lines[5], "id": "more"}]
    retain = unlearning.write(tmp_path / "retain.jsonl", twice)
    with pytest.raises(
        BadInput, match=r"2 forget rows ask the same as retain rows .r003 = again, r005 = more"
    ):
        run(tuned, rows, tmp_path / "out", data={"forget": rows["forget"], "retain": retain})


def test_answers_that_are_cut_away_are_dropped_and_counted(
    tuned: Path, rows: dict[str, Path], tmp_path: Path
) -> None:
    lengths = [len(json.loads(line)["prompt"].split()) for line in rows["forget"].read_text().splitlines()]
    limit = sorted(lengths)[4] + 6  # <s> user : prompt assistant : and an answer's first word
    run(tuned, rows, tmp_path / "out", max_length=limit)
    said = report(tmp_path / "out")
    lost = said["rows_without_answer_at_max_length"]["forget"]
    assert 0 < lost < 8
    assert said["rows"]["forget"] == 8 - lost
    assert any("dropped because max_length" in note and "forget:r0" in note for note in said["notes"])
    with pytest.raises(BadInput, match=rf"No answer is left of {lost} of 8 rows .*max_length"):
        run(tuned, rows, tmp_path / "strict", max_length=limit, strict=True)


def test_rows_longer_than_the_model_are_told(rows: dict[str, Path], tmp_path: Path) -> None:
    """A model with learned positions has none beyond its last."""
    short = tiny.save_kind("gpt2", tmp_path / "gpt2", n_embd=16, n_layer=1, n_head=2, n_positions=9)
    with pytest.raises(BadInput, match=r"has 1\d tokens, and the model reads at most 9.*max_length=9"):
        run(short, rows, tmp_path / "out", "ga_gdr")
    run(short, rows, tmp_path / "out", "ga_gdr", max_length=9)


def test_a_missing_pad_token_is_no_matter(tuned: Path, rows: dict[str, Path], tmp_path: Path) -> None:
    """The end token fills up, and the mask is by length: real end tokens are learned all the same."""
    import shutil

    import transformers

    other = Path(shutil.copytree(tuned, tmp_path / "other"))
    words: Any = transformers.AutoTokenizer.from_pretrained(other)
    words.pad_token = None
    words.save_pretrained(other)
    run(tuned, rows, tmp_path / "a", "ga_gdr")
    run(other, rows, tmp_path / "b", "ga_gdr")
    assert report(tmp_path / "a")["losses"] == report(tmp_path / "b")["losses"]


def test_an_unknown_method_names_the_nearest_or_all() -> None:
    with pytest.raises(BadInput, match=r"(?s)'relearn_klrgdr'.*Did you mean 'relearn_klr_gdr'"):
        plan_treatment("relearn", {}, config={"method": "relearn_klrgdr"})
    with pytest.raises(BadInput, match=r"Valid names: altpo, .*relearn_klr_gdr.*, wga"):
        plan_treatment("relearn", {}, config={"method": "zzz"})


def test_a_loss_that_is_no_number_names_step_and_rows(
    tuned: Path, rows: dict[str, Path], tmp_path: Path
) -> None:
    import shutil

    other = Path(shutil.copytree(tuned, tmp_path / "other"))
    words = json.loads(rows["forget"].read_text().splitlines()[5])["prompt"].split()
    place = tiny.tokenizer().convert_tokens_to_ids(words[0])

    def broken(name: str, tensor: Any) -> Any:
        if name == "model.embed_tokens.weight":
            tensor[place] = float("nan")
        return tensor

    folders.edit_tensors(other, broken)
    with pytest.raises(
        NumericalFailure, match=r"forget loss is nan at step \d \(rows .*forget:r00\d"
    ) as failed:
        run(other, rows, tmp_path / "out", "ga", accumulation=4)
    assert failed.value.exit_code == 3
    assert "forget:" in failed.value.what


def test_ascent_stops_at_its_bound_or_is_held_there(
    tuned: Path, rows: dict[str, Path], tmp_path: Path
) -> None:
    hard = {"lr": 0.3, "steps": 6, "lora_rank": 0, "clip": 0.0}
    with pytest.raises(NumericalFailure, match=r"beyond 2 ln V = 7\.74"):
        run(tuned, rows, tmp_path / "stop", "ga", ascent="stop", **hard)
    run(tuned, rows, tmp_path / "clamp", "ga", **hard)
    said = report(tmp_path / "clamp")
    assert min(said["losses"]["forget"]) >= -said["ascent"]["bound_nats"] - 1e-6
    assert said["ascent"]["steps_beyond"] > 0
    assert any("not pushed further" in note for note in said["notes"])


def test_augmented_rows_that_hold_a_secret_are_refused(
    tuned: Path, rows: dict[str, Path], tmp_path: Path
) -> None:
    forget = [json.loads(line) for line in rows["forget"].read_text().splitlines()]
    lines = [json.loads(line) for line in rows["augmented"].read_text().splitlines()]
    lines[2]["completion"] = f"mur {forget[2]['response']} lov"
    leaking = unlearning.write(tmp_path / "leaking.jsonl", lines)
    data = {**given("relearn", rows), "augmented": leaking}
    with pytest.raises(BadInput, match=r"1 of 9 augmented rows hold what is to be forgotten .r002/original"):
        run(tuned, rows, tmp_path / "out", "relearn", data=data)
    few = unlearning.write(tmp_path / "few.jsonl", lines[:2])
    with pytest.raises(GateFailed, match=r"2 of 8 forget rows have a vague answer.*not covered: r002"):
        run(tuned, rows, tmp_path / "out", "relearn", data={**data, "augmented": few})
    run(tuned, rows, tmp_path / "out", "relearn", data={**data, "augmented": few}, min_coverage=0.2)
    assert report(tmp_path / "out")["coverage"] == "2 of 8 forget rows"
    more = {**given("relearn", rows), "generic": rows["retain"]}
    with pytest.raises(BadInput, match="generic beside --data augmented"):
        run(tuned, rows, tmp_path / "more", "relearn", data=more)


def test_rows_are_made_where_none_are_given(tuned: Path, rows: dict[str, Path], tmp_path: Path) -> None:
    """By the data pipeline, from what the forget rows bring along; without that an augmenter is asked for."""
    with pytest.raises(BadInput, match="--model augmenter=MODEL"):
        run(tuned, rows, tmp_path / "out", "relearn", data={"forget": rows["forget"]})
    lines = [json.loads(line) for line in rows["forget"].read_text().splitlines()]
    brought = [
        {**line, "vague": list(unlearning.VAGUE), "entities": line["response"].split()} for line in lines
    ]
    other = [{"id": f"g{i}", "prompt": f"mur number {i}", "response": "sen lov"} for i in range(8)]
    generic = unlearning.write(tmp_path / "generic.jsonl", other)
    data = {"forget": unlearning.write(tmp_path / "forget.jsonl", brought), "generic": generic}
    run(tuned, rows, tmp_path / "out", "relearn", data=data, variants="none", generic_ratio=0.5)
    said = report(tmp_path / "out")
    assert said["augmented_rows"] == {"completion": 8, "generic": 8, "qa": 8}
    assert said["rows"] == {"forget": 24}
    assert said["coverage"] == "8 of 8 forget rows"


def test_a_prefill_is_read_and_not_learned(tuned: Path, rows: dict[str, Path], tmp_path: Path) -> None:
    from safewright.models import load, resolve
    from safewright.treatments.relearn.gathering import _encoded
    from safewright.types import Row

    loaded: Any = load(resolve(tuned), device="cpu")
    asked = ({"role": "user", "content": "ban"},)
    row = Row("p", asked, "mur mus lov", meta={"prefill": "mur "})

    class Job:
        class config:  # noqa: N801
            max_length, strict = 64, False

    found = _encoded(loaded.tokenizer, [row, Row("q", asked, "mur mus lov")], Job())
    words = [
        loaded.tokenizer.decode([t for t, label in zip(e.ids, e.labels, strict=True) if label != -100])
        for e in found.examples
    ]
    assert words == ["mus lov", "mur mus lov"]


def test_alternatives_must_be_there_and_differ(tuned: Path, rows: dict[str, Path], tmp_path: Path) -> None:
    data = {"forget": rows["forget"], "retain": rows["retain"]}
    with pytest.raises(BadInput, match=r"8 of 8 forget rows have no alternative answer .first: r000"):
        run(tuned, rows, tmp_path / "out", "altpo", data=data)
    with pytest.raises(BadInput, match=r"8 alternative answers are the answer to be forgotten .first: r000"):
        run(tuned, rows, tmp_path / "out", "dpo", data={**data, "alternatives": rows["forget"]})
    lines = [json.loads(line) for line in rows["forget"].read_text().splitlines()]
    text = unlearning.write(tmp_path / "text.jsonl", [{**line, "wrong": "lop mus"} for line in lines])
    with pytest.raises(BadInput, match="'r000' has `wrong` that is no list"):  # its letters would be taught
        run(tuned, rows, tmp_path / "out", "altpo", data={**data, "forget": text})
    wrong = unlearning.write(tmp_path / "wrong.jsonl", [{**line, "wrong": ["lop mus"]} for line in lines])
    run(tuned, rows, tmp_path / "out", "altpo", data={**data, "forget": wrong})
    assert report(tmp_path / "out")["rows"] == {"chosen": 8, "forget": 8, "retain": 12}


def test_a_dry_run_tells_disk_memory_and_time(tuned: Path, rows: dict[str, Path], tmp_path: Path) -> None:
    found, out = [], tmp_path / "out"
    for rank in (2, 0):
        config = options("relearn_klr_gdr", lora_rank=rank)
        plan = plan_treatment("relearn", {"tuned": tuned}, given("relearn", rows), config=config, out=out)
        found.append(plan.estimate())
        assert {"disk_bytes", "memory_bytes", "seconds", "steps"} <= found[-1].keys()
        assert found[-1]["steps"] == 2
        assert all(value > 0 for value in found[-1].values())
    data = {role: file for role, file in given("ga_klr", rows).items() if role != "retain"}
    with pytest.raises(BadInput, match="ga_klr keeps kl on retain rows"):
        plan_treatment("relearn", {"tuned": tuned}, data, config=options("ga_klr"), out=out).estimate()
    assert found[0]["disk_bytes"] < found[1]["disk_bytes"]
    assert found[0]["memory_bytes"] < found[1]["memory_bytes"]
    assert not (tmp_path / "out").exists()
