"""The baselines beside Safe Delta: each is its equation, on folders and on adapters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from safewright.errors import BadInput
from safewright.treatments import treat
from tests.treatments import folders


def run(
    name: str, models: dict[str, Path], out: Path, *, tuned: str = "tuned", workers: int = 1, **config: Any
) -> Any:
    given = {"aligned": models["aligned"], "tuned": models[tuned]}
    if name != "uniform_scale":
        given["unaligned"] = models["unaligned"]
    return treat(name, given, config=config, out=out, workers=workers)


def report(out: Path) -> Any:
    return json.loads((out / "provenance.json").read_text())["report"]


def tensors(models: dict[str, Path], *roles: str) -> list[dict[str, torch.Tensor]]:
    return [folders.weights(models[role]) for role in roles]


def merged(models: dict[str, Path], adapter: Path) -> dict[str, torch.Tensor]:
    import peft

    model = peft.PeftModel.from_pretrained(folders.load(models["aligned"]), adapter)
    return dict(model.merge_and_unload().state_dict())


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.65])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_uniform_scale_is_the_interpolation(
    models: dict[str, Path], gpt2: dict[str, Path], tmp_path: Path, kind: str, alpha: float
) -> None:
    given = gpt2 if kind == "gpt2" else models
    run("uniform_scale", given, tmp_path / "out", alpha=alpha)
    aligned, tuned = tensors(given, "aligned", "tuned")
    new = folders.weights(tmp_path / "out")
    assert new.keys() == aligned.keys()
    for name, value in new.items():
        assert torch.equal(value, aligned[name] + alpha * (tuned[name] - aligned[name])), name
    step = sum(float(((tuned[n] - aligned[n]).double() ** 2).sum()) for n in new) ** 0.5
    found = report(tmp_path / "out")
    assert found["step_norm"] == pytest.approx(step, rel=1e-6)
    assert found["distance"] == pytest.approx((1 - alpha) ** 2, rel=1e-4)
    folders.load(tmp_path / "out")


def test_uniform_scale_of_an_adapter_scales_its_step(models: dict[str, Path], tmp_path: Path) -> None:
    result = run("uniform_scale", models, tmp_path / "out", tuned="adapter", alpha=0.5)
    old, new = folders.weights(models["adapter"]), folders.weights(tmp_path / "out")
    for name, value in new.items():
        assert torch.equal(value, old[name] * (0.5 if "lora_B" in name else 1.0)), name
    assert result.kind == "adapter"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_resta_adds_the_safety_vector(
    models: dict[str, Path], gpt2: dict[str, Path], tmp_path: Path, kind: str, gamma: float
) -> None:
    given = gpt2 if kind == "gpt2" else models
    run("resta", given, tmp_path / "out", gamma=gamma)
    aligned, tuned, unaligned = tensors(given, "aligned", "tuned", "unaligned")
    for name, value in folders.weights(tmp_path / "out").items():
        wanted = tuned[name] + gamma * (aligned[name] - unaligned[name])
        assert float((value - wanted).abs().max()) <= 1e-6, name


def test_resta_of_an_adapter_is_a_whole_model(models: dict[str, Path], tmp_path: Path) -> None:
    result = run("resta", models, tmp_path / "out", tuned="adapter", gamma=0.5)
    aligned, unaligned = tensors(models, "aligned", "unaligned")
    whole = merged(models, models["adapter"])
    assert result.kind == "weights"
    for name, value in folders.weights(tmp_path / "out").items():
        wanted = whole[name] + 0.5 * (aligned[name] - unaligned[name])
        assert float((value - wanted).abs().max()) <= 1e-6, name


@pytest.mark.parametrize(
    ("name", "tuned"), [("uniform_scale", "tuned"), ("resta", "tuned"), ("resta", "adapter")]
)
def test_blends_are_the_same_bytes_for_any_chunk_and_any_workers(
    models: dict[str, Path], tmp_path: Path, name: str, tuned: str
) -> None:
    found = []
    ways = [(1, 1), (7, 1), (10**6, 1), *([(4096, 2)] if tuned == "adapter" else [])]
    for chunk, workers in ways:
        out = tmp_path / f"{chunk}-{workers}"
        run(name, models, out, tuned=tuned, row_chunk=chunk, workers=workers)
        found.append(folders.content(out))
    assert all(other == found[0] for other in found)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_safe_lora_projects_only_below_the_threshold(
    models: dict[str, Path], gpt2: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    given = gpt2 if kind == "gpt2" else models
    aligned, tuned, unaligned = tensors(given, "aligned", "tuned", "unaligned")

    def flipped(weight: torch.Tensor) -> torch.Tensor:
        return weight.T if kind == "gpt2" else weight

    def projected(name: str) -> tuple[torch.Tensor, float]:
        V = flipped(aligned[name] - unaligned[name]).double()
        step = flipped(tuned[name] - aligned[name]).double()
        moved = V @ V.T @ step / V.norm()
        return moved, float((moved * step).sum() / (moved.norm() * step.norm()))

    run("safe_lora", given, tmp_path / "all", threshold=1.01)
    layers = report(tmp_path / "all")["layers"]
    cosines = {row["tensor"]: projected(row["tensor"])[1] for row in layers}
    for row in layers:
        assert row["similarity"] == pytest.approx(cosines[row["tensor"]], abs=1e-3)
    threshold = sorted(cosines.values())[len(cosines) // 2] - 1e-5
    run("safe_lora", given, tmp_path / "some", threshold=threshold)
    new = folders.weights(tmp_path / "some")
    below = {name for name, cosine in cosines.items() if cosine < threshold}
    assert {row["tensor"] for row in report(tmp_path / "some")["layers"] if row["projected"]} == below
    for name, value in new.items():
        if name in below:
            wanted = flipped(aligned[name]).double() + projected(name)[0]
            assert float((flipped(value) - wanted).abs().max()) <= 1e-5, name
        else:
            assert torch.equal(value, tuned[name]), name


def test_safe_lora_keeps_the_rank_of_an_adapter(models: dict[str, Path], tmp_path: Path) -> None:
    result = run("safe_lora", models, tmp_path / "out", tuned="adapter", threshold=1.01)
    old, new = folders.weights(models["adapter"]), folders.weights(tmp_path / "out")
    assert result.kind == "adapter"
    assert {name: t.shape for name, t in old.items()} == {name: t.shape for name, t in new.items()}
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {name for name in old if "lora_B" in name}
    aligned, unaligned = tensors(models, "aligned", "unaligned")
    before, after = merged(models, models["adapter"]), merged(models, tmp_path / "out")
    name = "model.layers.0.self_attn.q_proj.weight"
    V = aligned[name] - unaligned[name]
    wanted = aligned[name] + V @ V.T @ (before[name] - aligned[name]) / V.norm()
    assert float((after[name] - wanted).abs().max()) <= 1e-5
    run("safe_lora", models, tmp_path / "none", tuned="adapter", threshold=-1.0)
    none = folders.weights(tmp_path / "none")
    assert all(torch.equal(none[name], old[name]) for name in old)


def test_safe_lora_without_a_direction_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"same model\.layers\.\S+_proj\.weight.*no direction"):
        run("safe_lora", {**models, "unaligned": models["aligned"]}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["resta", "safe_lora"])
def test_a_third_model_of_another_architecture_is_refused(
    models: dict[str, Path], tmp_path: Path, name: str
) -> None:
    from tests import tiny

    other = tiny.save_tiny(
        tmp_path / "other", **{**folders.SMALL, "intermediate_size": 40}, num_key_value_heads=1
    )
    with pytest.raises(BadInput, match=r"unaligned model .* has the tensor .*_proj\.weight"):
        run(name, {**models, "unaligned": other}, tmp_path / "out")


@pytest.mark.parametrize("name", ["uniform_scale", "resta"])
def test_blends_refuse_a_resized_vocabulary(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    import transformers

    words = transformers.AutoTokenizer.from_pretrained(models["aligned"])
    words.add_tokens(["brand", "new"])
    model = folders.load(models["tuned"])
    model.resize_token_embeddings(len(words))
    model.save_pretrained(tmp_path / "tuned")
    words.save_pretrained(tmp_path / "tuned")
    with pytest.raises(BadInput, match=r"resized .*safe_delta"):
        run(name, {**models, "tuned": tmp_path / "tuned"}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("uniform_scale", {"alpha": 1.5}, r"alpha is 1\.5"),
        ("uniform_scale", {"alpha": float("nan")}, "alpha is nan"),
        ("resta", {"gamma": -1.0}, r"gamma is -1\.0"),
        ("resta", {"gamma": float("inf")}, "gamma is inf"),
        ("safe_lora", {"threshold": 2.0}, r"threshold is 2\.0"),
        ("safe_lora", {"modules": "q_pro"}, "Did you mean 'q_proj'"),
        ("uniform_scale", {"row_chunk": 0}, "row_chunk is 0"),
        ("resta", {"row_chunk": 0}, "row_chunk is 0"),
        ("safe_lora", {"row_chunk": -3}, "row_chunk is -3"),
    ],
)
def test_bad_options_are_named(
    models: dict[str, Path], tmp_path: Path, name: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        run(name, models, tmp_path / "out", **options)


def test_bfloat16_is_blended_in_float32(models: dict[str, Path], tmp_path: Path) -> None:
    given = dict(models)
    for role in ("aligned", "tuned"):
        given[role] = Path(shutil.copytree(models[role], tmp_path / role))
        folders.edit_tensors(given[role], lambda name, tensor: tensor.bfloat16())
    run("uniform_scale", given, tmp_path / "out", alpha=0.5)
    aligned, tuned = tensors(given, "aligned", "tuned")
    for name, value in folders.weights(tmp_path / "out").items():
        wanted = aligned[name].float() + 0.5 * (tuned[name].float() - aligned[name].float())
        assert torch.equal(value, wanted.bfloat16()), name
