"""Acceptance check 9: adapter in, adapter of the same rank out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from safewright.errors import BadInput, NumericalFailure
from safewright.models.checkpoint import read_file
from safewright.treatments import treat
from safewright.treatments.safe_delta.prepared import Prepared
from tests.treatments import folders

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "alpha": {"lora_alpha": 32},
    "rslora": {"use_rslora": True, "lora_alpha": 16},
    "rank_pattern": {"rank_pattern": {"q_proj": 2}},
    "alpha_pattern": {"alpha_pattern": {r".*layers\.0\..*v_proj": 3}},
    "both patterns, rslora": {
        "use_rslora": True,
        "rank_pattern": {"v_proj": 3},
        "alpha_pattern": {"q_proj": 5},
    },
    "some layers": {"layers_to_transform": [1]},
    "gaussian": {"init_lora_weights": "gaussian"},
}


def apply(models: dict[str, Path], tuned: Path, prep: Path, out: Path, **config: Any) -> Any:
    given = {"aligned": models["aligned"], "tuned": tuned}
    return treat("safe_delta", given, config={"prep": str(prep), **config}, out=out)


def merged(aligned: Path, adapter: Path) -> dict[str, torch.Tensor]:
    model = peft.PeftModel.from_pretrained(folders.load(aligned), adapter)
    return dict(model.merge_and_unload().state_dict())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mode", ["soft", "exact"])
def test_09_adapter_out_merged_is_merged_in_edited(
    models: dict[str, Path], prep: Path, tmp_path: Path, variant: str, mode: str
) -> None:
    adapter = folders.adapter(models["aligned"], tmp_path / "in", **VARIANTS[variant])
    budget = {"mode": mode, "rms_tol": 5e-3} if mode == "exact" else {"mode": mode, "mu": 0.5}
    result = apply(models, adapter, prep, tmp_path / "out", **budget)
    apply(models, adapter, prep, tmp_path / "whole", output="model", **budget)
    assert result.kind == "adapter"
    assert result.model.kind == "adapter"
    new, whole = merged(models["aligned"], tmp_path / "out"), folders.weights(tmp_path / "whole")
    old, base = merged(models["aligned"], adapter), folders.weights(models["aligned"])
    moved = [name for name in base if not torch.equal(old[name], base[name])]
    assert moved
    for name, value in new.items():
        assert float((value - whole[name]).abs().max()) <= 1e-6, name
    assert all(not torch.equal(new[name], old[name]) for name in moved)
    assert all(torch.equal(new[name], base[name]) for name in base if name not in moved)
    before, after = folders.weights(adapter), folders.weights(tmp_path / "out")
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}
    assert all(torch.equal(before[name], after[name]) for name in before if "lora_B" in name)
    configs = [json.loads((f / "adapter_config.json").read_text()) for f in (adapter, tmp_path / "out")]
    assert configs[0] == configs[1]


def test_09_the_edit_is_that_of_its_equation(models: dict[str, Path], prep: Path, tmp_path: Path) -> None:
    """E (I + mu H) = D, with D read by PEFT itself."""
    adapter = folders.adapter(models["aligned"], tmp_path / "in", **VARIANTS["both patterns, rslora"])
    apply(models, adapter, prep, tmp_path / "out", mu=0.7)
    old, new = merged(models["aligned"], adapter), merged(models["aligned"], tmp_path / "out")
    base = folders.weights(models["aligned"])
    held = Prepared(prep)
    name = "model.layers.1.self_attn.v_proj"
    group = held.group(name)
    H = read_file(prep / group.file, ["H"])["H"].double()
    E = (new[f"{name}.weight"] - base[f"{name}.weight"]).double()
    D = (old[f"{name}.weight"] - base[f"{name}.weight"]).double()
    mu = 0.7 / float(H.diagonal()[H.diagonal() > 0].mean())
    rebuilt = E @ (torch.eye(len(H), dtype=torch.float64) + mu * H)
    assert float((rebuilt - D).norm() / D.norm()) <= 1e-4


def test_09_an_adapter_on_transposed_weights(gpt2: dict[str, Path], tmp_path: Path) -> None:
    apply(gpt2, gpt2["adapter"], gpt2["prep"], tmp_path / "out")
    apply(gpt2, gpt2["adapter"], gpt2["prep"], tmp_path / "whole", output="model")
    new, whole = merged(gpt2["aligned"], tmp_path / "out"), folders.load(tmp_path / "whole").state_dict()
    assert not torch.equal(
        new["transformer.h.0.attn.c_attn.weight"],
        folders.load(gpt2["aligned"]).state_dict()["transformer.h.0.attn.c_attn.weight"],
    )
    for name, value in whole.items():
        assert float((value - new[name]).abs().max()) <= 1e-6, name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_09_factors_keep_their_dtype(models: dict[str, Path], prep: Path, tmp_path: Path, dtype: str) -> None:
    adapter = folders.adapter(models["aligned"], tmp_path / "in", dtype=dtype)
    apply(models, adapter, prep, tmp_path / "out")
    assert {str(t.dtype) for t in folders.weights(tmp_path / "out").values()} == {f"torch.{dtype}"}


def test_09_modules_left_out_keep_their_factors(models: dict[str, Path], prep: Path, tmp_path: Path) -> None:
    apply(models, models["adapter"], prep, tmp_path / "out", modules="q_proj")
    before, after = folders.weights(models["adapter"]), folders.weights(tmp_path / "out")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "q_proj.lora_A" in name}
    apply(models, models["adapter"], prep, tmp_path / "none", modules="q_proj", nonlinear="aligned")
    left = folders.weights(tmp_path / "none")
    zero = {name for name in left if not bool(left[name].any())}
    assert zero == {name for name in left if "lora_B" in name and "q_proj" not in name}


def test_09_the_release_gives_a_whole_model(models: dict[str, Path], prep: Path, tmp_path: Path) -> None:
    result = apply(models, models["adapter"], prep, tmp_path / "out", mode="official", s=3000.0)
    assert (result.kind, result.model.kind) == ("weights", "hf")
    assert {str(t.dtype) for t in folders.weights(tmp_path / "out").values()} == {"torch.float16"}
    with pytest.raises(BadInput, match=r"official.*raises the rank"):
        apply(models, models["adapter"], prep, tmp_path / "no", mode="official", output="adapter")
    with pytest.raises(BadInput, match="whole folder"):
        apply(models, models["tuned"], prep, tmp_path / "no", output="adapter")


def test_09_an_adapters_own_tokenizer_and_base_stay(
    models: dict[str, Path], prep: Path, tmp_path: Path
) -> None:
    """A base named relative to the adapter's folder is found from the new one, too."""
    home = tmp_path / "home"
    shutil.copytree(models["aligned"], home / "in" / "base")
    adapter = folders.adapter(models["aligned"], home / "in" / "adapter")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(models["aligned"] / name, adapter / name)
    (adapter / "chat_template.jinja").write_text(
        "{{ 'own' }}{% for m in messages %} {{ m['content'] }}{% endfor %}"
    )
    apply(models, adapter, prep, tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text().startswith("{{ 'own' }}")
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    apply(models, adapter, prep, tmp_path / "whole", output="model")
    assert (tmp_path / "whole" / "chat_template.jinja").read_text().startswith("{{ 'own' }}")
    peft.PeftModel.from_pretrained(folders.load(models["aligned"]), tmp_path / "out")
    assert not list((tmp_path / "out").glob(".*"))


def test_11_an_adapter_on_another_base_is_refused(
    models: dict[str, Path], prep: Path, tmp_path: Path
) -> None:
    adapter = folders.adapter(models["unaligned"], tmp_path / "in")
    with pytest.raises(BadInput, match="bytes differ from the aligned") as refused:
        apply(models, adapter, prep, tmp_path / "out")
    assert str(models["unaligned"]) in refused.value.fix
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
@pytest.mark.parametrize("output", ["auto", "model"])
def test_11_a_nan_in_a_factor_is_named(
    models: dict[str, Path], prep: Path, tmp_path: Path, factor: str, output: str
) -> None:
    adapter = Path(shutil.copytree(models["adapter"], tmp_path / "in"))
    hurt = f"layers.1.self_attn.v_proj.{factor}"

    def spoil(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if hurt in name:
            tensor.view(-1)[3] = float("nan")
        return tensor

    folders.edit_tensors(adapter, spoil)
    with pytest.raises(NumericalFailure, match=rf"{hurt}.*holds 1 non-finite"):
        apply(models, adapter, prep, tmp_path / "out", output=output)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("head", [False, True])
def test_09_steps_that_nobody_edits_are_said_and_merged(
    models: dict[str, Path], prep: Path, tmp_path: Path, head: bool
) -> None:
    """With modules=q_proj, what the adapter does elsewhere stays: in the adapter and in a merged model."""
    more = {"target_modules": ["q_proj", "lm_head"]} if head else {}
    adapter = folders.adapter(models["aligned"], tmp_path / "in", **more)
    apply(models, adapter, prep, tmp_path / "whole", output="model", modules="q_proj")
    apply(models, adapter, prep, tmp_path / "adapter", modules="q_proj")
    whole, tuned = folders.weights(tmp_path / "whole"), merged(models["aligned"], adapter)
    kept = merged(models["aligned"], tmp_path / "adapter")
    base = folders.weights(models["aligned"])
    others = [n for n in base if not torch.equal(tuned[n], base[n]) and "q_proj" not in n]
    assert others
    assert not head or others == ["lm_head.weight"]
    step = sum(float(((tuned[name] - base[name]).double() ** 2).sum()) for name in others) ** 0.5
    for name in others:
        assert torch.allclose(whole[name], tuned[name], atol=1e-6), name
    assert all(torch.allclose(whole[name], kept[name], atol=1e-6) for name in base)
    for out in ("whole", "adapter"):
        report = json.loads((tmp_path / out / "provenance.json").read_text())["report"]
        assert report["moved_elsewhere_norm"] == pytest.approx(step, rel=1e-4)
        assert any("are not edited" in note for note in report["notes"])
        assert report["matrices"]["edited"] == len(report["layers"])
