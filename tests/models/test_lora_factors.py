"""LoRA adapters read as factors: the scaling is PEFT's own, and nothing else is taken for one."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from safewright.errors import BadInput
from safewright.models.adapters import KNOWN_FIELDS, PLAIN_STARTS, Adapter, check_plain
from safewright.models.blocks import skeleton
from tests import tiny
from tests.treatments import folders


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_tiny(tmp_path_factory.mktemp("base") / "model", num_hidden_layers=2)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True, "r": 4, "lora_alpha": 12},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {r".*\.1\..*v_proj": 5}},
        {"target_modules": "all-linear"},
        {"exclude_modules": ["down_proj"]},
        {"init_lora_weights": "orthogonal", "r": 4},
    ],
)
def test_the_step_is_what_peft_adds(base: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = folders.adapter(base, tmp_path / "adapter", **settings)
    adapter = Adapter(folder, skeleton(base))
    loaded = peft.PeftModel.from_pretrained(folders.load(base), folder)
    layers = {
        name: module
        for name, module in loaded.base_model.model.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    }
    assert adapter.factors.keys() == layers.keys()
    for name, layer in layers.items():
        A, B, scaling = adapter.read(name)
        wanted = layer.get_delta_weight("default")
        assert torch.allclose(scaling * B @ A, wanted, atol=1e-7), name
        assert bool(wanted.any())
    adapter.checkpoint.close()


CHANGED: dict[str, Any] = {
    "use_dora": True,
    "bias": "all",
    "lora_bias": True,
    "modules_to_save": ["lm_head"],
    "target_parameters": ["mlp.experts.gate_up_proj"],
    "trainable_token_indices": [1, 2],
    "layer_replication": [[0, 2], [1, 2]],
    "loftq_config": {"loftq_bits": 4},
}


@pytest.mark.parametrize("name", CHANGED)
def test_other_settings_are_refused_by_name(name: str) -> None:
    config = peft.LoraConfig()
    setattr(config, name, CHANGED[name])
    with pytest.raises(BadInput, match=f"sets {name}=") as refused:
        check_plain(config)
    assert "merge_and_unload" in refused.value.fix


def test_every_setting_peft_knows_is_either_plain_or_refused() -> None:
    """A setting that a later PEFT adds is refused until somebody has read what it does."""
    fields = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert fields | {"auto_mapping", "peft_version"} >= KNOWN_FIELDS
    for name in sorted(fields - KNOWN_FIELDS):
        config = peft.LoraConfig()
        setattr(config, name, "something new")
        with pytest.raises(BadInput, match=name):
            check_plain(config)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga"])
def test_starts_that_change_the_base_are_refused(start: str) -> None:
    config = peft.LoraConfig()
    config.init_lora_weights = start
    with pytest.raises(BadInput, match=f"init_lora_weights='{start}'") as refused:
        check_plain(config)
    assert "path_initial_model_for_weight_conversion" in refused.value.fix


@pytest.mark.parametrize("start", PLAIN_STARTS)
def test_starts_that_leave_the_base_are_taken(start: Any) -> None:
    config = peft.LoraConfig()
    config.init_lora_weights = start
    assert check_plain(config) is None


def test_a_pissa_adapter_is_taken_once_peft_converted_it(base: Path, tmp_path: Path) -> None:
    model = peft.get_peft_model(
        folders.load(base),
        peft.LoraConfig(r=2, init_lora_weights="pissa", target_modules=["q_proj"], task_type="CAUSAL_LM"),
    )
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    model.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter += 0.05
    model.save_pretrained(tmp_path / "raw")
    with pytest.raises(BadInput, match="pissa"):
        Adapter(tmp_path / "raw", skeleton(base))
    model.save_pretrained(tmp_path / "done", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    adapter = Adapter(tmp_path / "done", skeleton(base))
    A, B, scaling = adapter.read("model.layers.0.self_attn.q_proj")
    assert A.shape[0] == 4
    mine = folders.load(base).state_dict()["model.layers.0.self_attn.q_proj.weight"] + scaling * B @ A
    theirs = model.merge_and_unload().state_dict()["model.layers.0.self_attn.q_proj.weight"]
    assert torch.allclose(mine, theirs, atol=1e-5)


def test_other_kinds_of_adapters_are_refused(base: Path, tmp_path: Path) -> None:
    how = peft.LoHaConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    peft.get_peft_model(folders.load(base), how).save_pretrained(tmp_path / "loha")
    with pytest.raises(BadInput, match=r"LOHA.*not LoRA"):
        Adapter(tmp_path / "loha", skeleton(base))


def test_adapted_embeddings_are_refused(base: Path, tmp_path: Path) -> None:
    how = peft.LoraConfig(r=2, target_modules=["embed_tokens"], task_type="CAUSAL_LM")
    peft.get_peft_model(folders.load(base), how).save_pretrained(
        tmp_path / "embed", save_embedding_layers=False
    )
    with pytest.raises(BadInput, match=r"embed_tokens.*embedding"):
        Adapter(tmp_path / "embed", skeleton(base))


def test_tensors_that_lack_or_have_no_place_are_named(base: Path, tmp_path: Path) -> None:
    whole = folders.adapter(base, tmp_path / "whole")
    lacking = Path(shutil.copytree(whole, tmp_path / "lacking"))
    folders.edit_tensors(lacking, lambda name, t: None if "layers.1.self_attn.q_proj.lora_B" in name else t)
    with pytest.raises(BadInput, match=r"lacks the tensor .*layers\.1\.self_attn\.q_proj\.lora_B"):
        Adapter(lacking, skeleton(base))
    narrow = Path(shutil.copytree(whole, tmp_path / "narrow"))
    config = json.loads((narrow / "adapter_config.json").read_text())
    config["target_modules"] = ["q_proj", "v_proj"]
    (narrow / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match=r"4 tensors without a place.*down_proj"):
        Adapter(narrow, skeleton(base))
    wrong = Path(shutil.copytree(whole, tmp_path / "wrong"))
    folders.edit_tensors(
        wrong, lambda name, t: t[:, :-1] if "layers.0.self_attn.q_proj.lora_A" in name else t
    )
    with pytest.raises(BadInput, match=r"factors of model\.layers\.0\.self_attn\.q_proj.*\(4, 31\)"):
        Adapter(wrong, skeleton(base))
