"""Acceptance check 10: whole folders, streamed matrix by matrix, the same bytes however it is done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from safewright.errors import BadInput, NumericalFailure
from safewright.models.checkpoint import read_file
from safewright.treatments import plan_treatment, run_stage, treat
from safewright.treatments.safe_delta.core import edit_matrix
from safewright.treatments.safe_delta.prepared import Prepared
from tests import tiny
from tests.treatments import folders, killed

MODES: dict[str, dict[str, Any]] = {
    "soft": {"mode": "soft"},
    "soft with a budget": {"mode": "soft", "rms_tol": 2e-3},
    "exact": {"mode": "exact"},
    "paper": {"mode": "paper", "s": 2000.0},
    "official": {"mode": "official", "s": 3000.0, "nonlinear": "finetuned", "save_dtype": "float32"},
    "official without compensation": {"mode": "official", "s": 3000.0, "compensation": False},
}


def apply(models: dict[str, Path], out: Path, prep: Path, workers: int = 1, **config: Any) -> Any:
    given = {role: models[role] for role in ("aligned", "tuned")}
    return treat("safe_delta", given, config={"prep": str(prep), **config}, out=out, workers=workers)


def report(out: Path) -> Any:
    return json.loads((out / "provenance.json").read_text())["report"]


@pytest.fixture(scope="module")
def tall(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Matrices of more rows than a tile, none a multiple of it, in several shards."""
    home = tmp_path_factory.mktemp("tall")
    shape = {**folders.SMALL, "intermediate_size": 150, "num_hidden_layers": 2}
    aligned = tiny.save_tiny(home / "aligned", shard="20KB", **shape)
    rows = folders.rows_file(home / "rows.jsonl")
    return {
        "aligned": aligned,
        "tuned": folders.tuned(aligned, home / "tuned"),
        "adapter": folders.adapter(aligned, home / "adapter", target_modules=["gate_proj", "q_proj"]),
        "prep": folders.prepared(aligned, rows, home / "hess"),
    }


@pytest.mark.parametrize("mode", MODES)
def test_10_streaming_gives_the_same_bytes_for_any_chunk_and_any_workers(
    tall: dict[str, Path], tmp_path: Path, mode: str
) -> None:
    ways = {"one": (1, 1), "seven": (7, 1), "all": (10**6, 1)}
    if mode == "soft":
        ways["two workers"] = (4096, 2)
    found = {}
    for way, (chunk, workers) in ways.items():
        apply(tall, tmp_path / way, tall["prep"], workers, row_chunk=chunk, **MODES[mode])
        found[way] = folders.shards(tmp_path / way)
    first = found.pop("one")
    assert len(first) > 2
    for way, shards in found.items():
        assert shards == first, way
    assert first != folders.shards(tall["tuned"])


def test_10_streaming_an_adapter_into_a_model_gives_the_same_bytes(
    tall: dict[str, Path], tmp_path: Path
) -> None:
    models = {**tall, "tuned": tall["adapter"]}
    for chunk in (1, 7, 10**6):
        apply(models, tmp_path / str(chunk), tall["prep"], row_chunk=chunk, output="model")
    first, *others = (folders.shards(tmp_path / str(chunk)) for chunk in (1, 7, 10**6))
    assert all(other == first for other in others)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_10_streaming_equals_the_edit_of_every_matrix(
    models: dict[str, Path], prep: Path, gpt2: dict[str, Path], tmp_path: Path, kind: str, mode: str
) -> None:
    given, hess = (gpt2, gpt2["prep"]) if kind == "gpt2" else (models, prep)
    config = MODES[mode]
    apply(given, tmp_path / "out", hess, **config)
    aligned, tuned, new = (folders.weights(f) for f in (given["aligned"], given["tuned"], tmp_path / "out"))
    layers, held = report(tmp_path / "out")["layers"], Prepared(hess)
    assert len(layers) == (8 if kind == "gpt2" else 14)
    budget = {k: v for k, v in config.items() if k in ("mode", "mu", "rms_tol", "s", "compensation")}
    for row in layers:
        name, flip = row["tensor"], kind == "gpt2"
        group = held.group(row["module"])
        H = read_file(hess / group.file, ["H"])["H"]
        before, after = (t[name].T if flip else t[name] for t in (aligned, tuned))
        wanted, info = edit_matrix(before.contiguous(), after.contiguous(), H, **budget)
        got = new[name].T if flip else new[name]
        bound = 2e-3 if got.dtype == torch.float16 else 2e-6
        assert float((got.float() - wanted).abs().max()) <= bound, name
        if got.dtype == torch.float32:
            assert row["loss"] == pytest.approx(info["loss"], rel=1e-2, abs=1e-6 * row["loss_full"])
            assert row["loss_full"] == pytest.approx(info["loss_full"], rel=1e-3)
            assert row["distance"] == pytest.approx(info["distance"], rel=1e-2, abs=1e-6)
    edited = {row["tensor"] for row in layers}
    source = aligned if mode == "official without compensation" else tuned
    for name in new.keys() - edited:
        assert torch.equal(new[name], source[name].to(new[name].dtype)), name


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float64"])
def test_10_streaming_other_dtypes(models: dict[str, Path], tmp_path: Path, kind: str) -> None:
    dtype = getattr(torch, kind)
    given = {"rows": models["rows"]}
    for role in ("aligned", "tuned"):
        given[role] = Path(shutil.copytree(models[role], tmp_path / role))
        folders.edit_tensors(given[role], lambda name, tensor: tensor.to(dtype))
        config = json.loads((given[role] / "config.json").read_text())
        (given[role] / "config.json").write_text(json.dumps({**config, "dtype": kind}))
    hess = folders.prepared(given["aligned"], models["rows"], tmp_path / "hess")
    apply(given, tmp_path / "out", hess)
    new = folders.weights(tmp_path / "out")
    assert {tensor.dtype for tensor in new.values()} == {dtype}
    assert folders.load(tmp_path / "out").dtype == dtype
    apply(given, tmp_path / "wide", hess, save_dtype="float32")
    wide = folders.weights(tmp_path / "wide")
    assert {tensor.dtype for tensor in wide.values()} == {torch.float32}
    assert json.loads((tmp_path / "wide" / "config.json").read_text())["dtype"] == "float32"
    for name, tensor in new.items():
        assert torch.equal(tensor, wide[name].to(dtype)) or kind == "float64", name
    assert report(tmp_path / "out")["loss"] < report(tmp_path / "out")["loss_full"]


def test_10_a_dtype_too_small_for_a_weight_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    """The release saves in float16 whatever the model was; a bfloat16 weight may not fit."""
    given = dict(models)
    for role in ("aligned", "tuned"):
        given[role] = Path(shutil.copytree(models[role], tmp_path / role))
        folders.edit_tensors(
            given[role], lambda name, t: t * 1e6 if name.endswith("0.mlp.up_proj.weight") else t
        )
    hess = folders.prepared(given["aligned"], models["rows"], tmp_path / "hess")
    with pytest.raises(NumericalFailure, match=r"layers\.0\.mlp\.up_proj\.weight are not finite in float16"):
        apply(given, tmp_path / "out", hess, mode="official")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("nonlinear", ["finetuned", "aligned"])
def test_10_whose_norms_and_embeddings(
    models: dict[str, Path], prep: Path, tmp_path: Path, nonlinear: str
) -> None:
    apply(models, tmp_path / "out", prep, nonlinear=nonlinear)
    source = folders.weights(models["tuned" if nonlinear == "finetuned" else "aligned"])
    other = folders.weights(models["aligned" if nonlinear == "finetuned" else "tuned"])
    found, new = report(tmp_path / "out"), folders.weights(tmp_path / "out")
    edited = {row["tensor"] for row in found["layers"]}
    kept = new.keys() - edited
    assert "model.norm.weight" in kept
    assert "model.embed_tokens.weight" in kept
    assert all(torch.equal(new[name], source[name]) for name in kept)
    moved = sum(float(((source[name] - other[name]).double() ** 2).sum()) for name in kept) ** 0.5
    assert found["moved_elsewhere_norm"] == pytest.approx(moved, rel=1e-6)
    assert found["step_norm"] > 0


def test_10_only_the_named_modules(models: dict[str, Path], prep: Path, tmp_path: Path) -> None:
    apply(models, tmp_path / "out", prep, modules="q_proj, down_proj")
    new, tuned = folders.weights(tmp_path / "out"), folders.weights(models["tuned"])
    changed = {name for name in new if not torch.equal(new[name], tuned[name])}
    assert changed == {name for name in new if "q_proj" in name or "down_proj" in name}
    kinds = report(tmp_path / "out")["matrices"]
    assert kinds == {"edited": 4, "exempt": 10, "refused": 0, "in blocks": 14, "tensors": len(new)}
    with pytest.raises(BadInput, match=r"called 'q_pro'\. Did you mean 'q_proj'"):
        apply(models, tmp_path / "no", prep, modules="q_pro")
    narrow = folders.prepared(models["aligned"], models["rows"], tmp_path / "narrow", modules="q_proj")
    with pytest.raises(BadInput, match=r"no H for .*k_proj"):
        apply(models, tmp_path / "lacks", narrow)


def test_10_a_resized_vocabulary_stays_the_fine_tuned_one(
    models: dict[str, Path], prep: Path, tmp_path: Path
) -> None:
    import transformers

    words = transformers.AutoTokenizer.from_pretrained(models["aligned"])
    words.add_tokens(["brand", "new"])
    model = folders.load(models["tuned"])
    model.resize_token_embeddings(len(words))
    model.save_pretrained(tmp_path / "tuned")
    words.save_pretrained(tmp_path / "tuned")
    given = {**models, "tuned": tmp_path / "tuned"}
    apply(given, tmp_path / "out", prep)
    new, tuned = folders.weights(tmp_path / "out"), folders.weights(tmp_path / "tuned")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(new[name], tuned[name])
    loaded = folders.load(tmp_path / "out")
    assert loaded.get_input_embeddings().num_embeddings == len(words)
    assert len(transformers.AutoTokenizer.from_pretrained(tmp_path / "out")) == len(words)
    with pytest.raises(BadInput, match=r"resized .*(embed_tokens|lm_head).*aligned model's embeddings"):
        apply(given, tmp_path / "no", prep, mode="official")


def test_10_tied_embeddings_are_untouched(tmp_path: Path) -> None:
    aligned = tiny.save_tiny(tmp_path / "aligned", **folders.SMALL, tie_word_embeddings=True)
    given = {"aligned": aligned, "tuned": folders.tuned(aligned, tmp_path / "tuned")}
    hess = folders.prepared(aligned, folders.rows_file(tmp_path / "rows.jsonl"), tmp_path / "hess")
    apply(given, tmp_path / "out", hess)
    new, tuned = folders.weights(tmp_path / "out"), folders.weights(given["tuned"])
    assert new.keys() == tuned.keys()
    assert "lm_head.weight" not in new
    assert torch.equal(new["model.embed_tokens.weight"], tuned["model.embed_tokens.weight"])
    model = folders.load(tmp_path / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_10_the_task_metric_keeps_what_the_task_reads(models: dict[str, Path], tmp_path: Path) -> None:
    task = folders.rows_file(tmp_path / "task.jsonl", 20, shift=30)
    given = {role: models[role] for role in ("aligned", "tuned")}
    result = treat(
        "safe_delta",
        given,
        {"calibration": models["rows"], "finetune": task},
        config={"utility": "task"},
        out=tmp_path / "out",
    )
    assert all(check.passed for check in result.checks)
    hess = tmp_path / "out.run" / "prep"
    row, held = report(tmp_path / "out")["layers"][0], Prepared(hess)
    found = read_file(hess / held.group(row["module"]).file, ["H", "G"])
    aligned, tuned, new = (folders.weights(f) for f in (*given.values(), tmp_path / "out"))
    wanted, _ = edit_matrix(aligned[row["tensor"]], tuned[row["tensor"]], found["H"], G=found["G"])
    assert float((new[row["tensor"]] - wanted).abs().max()) <= 2e-6
    plain, _ = edit_matrix(aligned[row["tensor"]], tuned[row["tensor"]], found["H"])
    assert float((plain - wanted).abs().max()) > 1e-4


def test_10_verify_reproduces_the_report(models: dict[str, Path], prep: Path, tmp_path: Path) -> None:
    for name, tuned in (("full", models["tuned"]), ("low", models["adapter"])):
        result = apply({**models, "tuned": tuned}, tmp_path / name, prep)
        assert any("reported safety losses" in check.name and check.passed for check in result.checks)
        found = run_stage(
            plan_treatment("safe_delta", {}, stage="verify", out=tmp_path / name), run=tmp_path / f"{name}.v"
        )
        assert [check["passed"] for check in found["checks"]] == [True, True]


@pytest.mark.parametrize("where", ["an edited matrix", "an embedding", "the tokenizer", "a lost file"])
def test_10_verify_fails_after_one_byte_was_changed(
    models: dict[str, Path], prep: Path, tmp_path: Path, where: str
) -> None:
    from safewright.models.checkpoint import Checkpoint

    out = tmp_path / "out"
    apply(models, out, prep)
    if where == "a lost file":
        (out / "generation_config.json").unlink()
    elif where == "the tokenizer":
        file = out / "tokenizer.json"
        file.write_bytes(file.read_bytes().replace(b"ban", b"bam", 1))
    else:
        name = "model.embed_tokens.weight" if "embedding" in where else "model.layers.1.mlp.up_proj.weight"
        found = Checkpoint(out)[name]
        with open(out / found.file, "r+b") as handle:
            handle.seek(found.start)
            first = handle.read(1)[0]
            handle.seek(found.start)
            handle.write(bytes([first ^ 1]))
    with pytest.raises(NumericalFailure, match="files are those that were written") as refused:
        run_stage(plan_treatment("safe_delta", {}, stage="verify", out=out), run=tmp_path / "v")
    assert refused.value.exit_code == 3


def test_10_verify_fails_where_the_losses_are_not_those_reported(
    models: dict[str, Path], prep: Path, tmp_path: Path
) -> None:
    """Somebody who also rewrites the provenance does not get past the losses, not even with NaN."""
    from safewright.runs import digest_file

    out = tmp_path / "out"
    apply(models, out, prep)
    for value in (0.5, float("nan")):

        def spoil(name: str, tensor: torch.Tensor, value: float = value) -> torch.Tensor:
            if name == "model.layers.0.self_attn.q_proj.weight":
                tensor[0, 0] = value
            return tensor

        folders.edit_tensors(out, spoil)
        found = json.loads((out / "provenance.json").read_text())
        found["files"] = {name: digest_file(out / name) for name in found["files"]}
        (out / "provenance.json").write_text(json.dumps(found))
        with pytest.raises(NumericalFailure, match=r"q_proj\.weight loss: reported"):
            run_stage(plan_treatment("safe_delta", {}, stage="verify", out=out), run=tmp_path / "v")


def test_10_a_changed_prepared_file_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    hess = folders.prepared(models["aligned"], models["rows"], tmp_path / "hess")
    file = hess / Prepared(hess).groups[0].file
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(BadInput, match="its digest differs"):
        apply(models, tmp_path / "out", hess)


def test_10_prepared_again_in_one_process_is_read_again(models: dict[str, Path], tmp_path: Path) -> None:
    hess = folders.prepared(models["aligned"], models["rows"], tmp_path / "hess")
    apply(models, tmp_path / "first", hess)
    shutil.rmtree(hess)
    shutil.rmtree(tmp_path / "hess.run")
    folders.prepared(models["aligned"], folders.rows_file(tmp_path / "others.jsonl", 12, shift=9), hess)
    apply(models, tmp_path / "second", hess)
    shutil.copytree(hess, tmp_path / "elsewhere")
    apply(models, tmp_path / "third", tmp_path / "elsewhere")
    first, second, third = (folders.shards(tmp_path / name) for name in ("first", "second", "third"))
    assert first != second
    assert second == third


def test_10_killed_with_two_workers_and_resumed_with_one(tall: dict[str, Path], tmp_path: Path) -> None:
    """Workers of a killed process stop by themselves, and the number of them is no part of the plan."""
    given: dict[str, Any] = {
        "name": "safe_delta",
        "models": {role: tall[role] for role in ("aligned", "tuned")},
        "config": {"prep": str(tall["prep"])},
    }
    treat(**given, out=tmp_path / "whole")
    total = killed.in_process({**given, "workers": 2, "out": tmp_path / "count"})
    assert total is not None
    out = tmp_path / "out"
    assert killed.in_process({**given, "workers": 2, "out": out}, int(0.6 * total)) is None
    treat(**given, out=out)
    assert folders.content(out) == folders.content(tmp_path / "whole")
