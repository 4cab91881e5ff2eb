"""Safe Delta on models in memory: all or nothing, and nothing passed over in silence."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from safewright.errors import BadInput, NumericalFailure
from safewright.treatments import treat
from safewright.treatments.safe_delta import SafeDeltaCallback, edit_model, memory
from safewright.types import Check
from tests.treatments import folders

LAST = "model.layers.1.mlp.down_proj"
MODES: list[dict[str, Any]] = [
    {},
    {"mode": "exact", "rms_tol": 1e-3},
    {"mode": "paper"},
    {"mode": "official"},
]


def values(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def untouched(model: Any, before: Mapping[str, torch.Tensor]) -> bool:
    after = model.state_dict()
    return all(torch.equal(after[name].nan_to_num(), value.nan_to_num()) for name, value in before.items())


def with_adapter(models: dict[str, Path]) -> Any:
    return peft.PeftModel.from_pretrained(folders.load(models["aligned"]), models["adapter"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("config", MODES)
@pytest.mark.parametrize("module", [LAST, "model.norm", "lm_head"])
def test_a_weight_that_is_no_number_ends_it_before_anything_is_edited(
    models: dict[str, Path], prep: Path, config: dict[str, Any], module: str, value: float
) -> None:
    model = folders.load(models["tuned"])
    model.get_submodule(module).weight.data.view(-1)[3] = value
    before = values(model)
    with pytest.raises(
        NumericalFailure, match=rf"{module}.* of the fine-tuned model holds 1 non-finite"
    ) as e:
        edit_model(model, models["aligned"], prep, config)
    assert e.value.exit_code == 3
    assert untouched(model, before)


def test_an_aligned_weight_that_is_no_number_ends_it(
    models: dict[str, Path], prep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = memory.Checkpoint.read

    def spoiled(self: Any, name: str) -> torch.Tensor:
        tensor = read(self, name)
        if name == f"{LAST}.weight":
            tensor[0, 0] = float("nan")
        return tensor

    monkeypatch.setattr(memory.Checkpoint, "read", spoiled)
    model = folders.load(models["tuned"])
    before = values(model)
    with pytest.raises(NumericalFailure, match=rf"{LAST}\.weight of .* holds 1 non-finite"):
        edit_model(model, models["aligned"], prep)
    assert untouched(model, before)


def test_an_edit_beyond_float16_ends_it(
    models: dict[str, Path], prep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The aligned weight is a float32 that float16 does not hold, and the edit goes most of the way back."""
    read = memory.Checkpoint.read

    def huge(self: Any, name: str) -> torch.Tensor:
        tensor = read(self, name)
        if name == f"{LAST}.weight":
            tensor[0, 0] = 1e5
        return tensor

    monkeypatch.setattr(memory.Checkpoint, "read", huge)
    model = folders.load(models["tuned"]).half()
    before = values(model)
    with pytest.raises(NumericalFailure, match=rf"The edit of {LAST} holds \d+ numbers .* in float16"):
        edit_model(model, models["aligned"], prep, {"mu": 1e6})
    assert untouched(model, before)


def test_another_shape_ends_it_before_anything_is_edited(models: dict[str, Path], prep: Path) -> None:
    model = folders.load(models["tuned"])
    layer = model.get_submodule(LAST)
    layer.weight = torch.nn.Parameter(layer.weight.detach()[:-1].clone())
    before = values(model)
    with pytest.raises(BadInput, match=rf"{LAST} has the shape"):
        edit_model(model, models["aligned"], prep)
    assert untouched(model, before)


@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
@pytest.mark.parametrize("modules", ["all", "q_proj"])
def test_a_factor_that_is_no_number_ends_it(
    models: dict[str, Path], prep: Path, factor: str, modules: str
) -> None:
    model = with_adapter(models)
    layer = model.get_base_model().get_submodule(LAST)
    getattr(layer, factor)["default"].weight.data[0, 0] = float("nan")
    before = values(model)
    with pytest.raises(NumericalFailure, match=rf"{factor} of {LAST} holds 1 non-finite"):
        edit_model(model, models["aligned"], prep, {"modules": modules})
    assert untouched(model, before)


@pytest.mark.parametrize("modules", ["all", "q_proj"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_what_moved_elsewhere_is_said_as_on_disk(
    models: dict[str, Path], prep: Path, gpt2: dict[str, Path], tmp_path: Path, kind: str, modules: str
) -> None:
    given, prep = (models, prep) if kind == "llama" else (gpt2, gpt2["prep"])
    config = {"prep": str(prep), "modules": modules if kind == "llama" else modules.replace("q_proj", "c_fc")}
    two = {role: given[role] for role in ("aligned", "tuned")}
    made = treat("safe_delta", two, config=config, out=tmp_path / "out")
    report = edit_model(folders.load(given["tuned"]), given["aligned"], prep, config)
    wanted = json.loads(Path(made.history).read_text())["report"]
    assert report["moved_elsewhere_norm"] == pytest.approx(wanted["moved_elsewhere_norm"], rel=1e-9)
    assert report["moved_elsewhere_norm"] > 0
    assert report["notes"] == wanted["notes"]
    assert any("outside the method's reach" in note for note in report["notes"])
    assert report["calibration"] == wanted["calibration"]


def test_nothing_moved_elsewhere_is_zero_and_unknown_is_none(
    models: dict[str, Path], prep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = folders.load(models["aligned"])
    with torch.no_grad():
        only.get_submodule(LAST).weight += 0.01
    report = edit_model(only, models["aligned"], prep)
    assert report["moved_elsewhere_norm"] == 0.0
    assert not any("outside" in note for note in report["notes"])
    model = folders.load(models["tuned"])
    tensors = {row["tensor"] for row in report["layers"]}
    begin = memory.Checkpoint.__init__

    def narrow(self: Any, folder: Path, files: Any = None) -> None:
        begin(self, folder, files)
        if folder == models["aligned"]:
            self.stored = {name: item for name, item in self.stored.items() if name in tensors}

    monkeypatch.setattr(memory.Checkpoint, "__init__", narrow)
    assert edit_model(model, models["aligned"], prep)["moved_elsewhere_norm"] is None


def test_an_adapters_unedited_steps_count_as_moved(models: dict[str, Path], prep: Path) -> None:
    model = with_adapter(models)
    base, merged = folders.load(models["aligned"]), with_adapter(models).merge_and_unload()
    report = edit_model(model, models["aligned"], prep, {"modules": "q_proj"})
    wanted = sum(
        float(((value - base.state_dict()[name]).double() ** 2).sum())
        for name, value in merged.state_dict().items()
        if "q_proj" not in name
    )
    assert report["moved_elsewhere_norm"] == pytest.approx(math.sqrt(wanted), rel=1e-4)
    assert report["matrices"]["edited"] == len(report["layers"]) == 2
    assert all(check.passed for check in report["checks"])
    assert edit_model(with_adapter(models), models["aligned"], prep)["moved_elsewhere_norm"] == 0.0


def test_aligned_elsewhere_zeroes_an_adapters_other_steps_as_on_disk(
    models: dict[str, Path], prep: Path, tmp_path: Path
) -> None:
    config = {"prep": str(prep), "modules": "q_proj", "nonlinear": "aligned"}
    two = {"aligned": models["aligned"], "tuned": models["adapter"]}
    treat("safe_delta", two, config=config, out=tmp_path / "out")
    model = with_adapter(models)
    edit_model(model, models["aligned"], prep, config)
    wanted = peft.PeftModel.from_pretrained(folders.load(models["aligned"]), tmp_path / "out").state_dict()
    zero = set()
    for name, value in model.state_dict().items():
        assert float((value - wanted[name]).abs().max()) <= 1e-6, name
        if "lora_B" in name and not bool(value.any()):
            zero.add(name)
    assert zero == {name for name in wanted if "lora_B" in name and "q_proj" not in name}


def test_aligned_elsewhere_keeps_the_edit(models: dict[str, Path], prep: Path) -> None:
    model = folders.load(models["tuned"])
    edit_model(model, models["aligned"], prep, {"modules": "q_proj", "nonlinear": "aligned"})
    base = folders.load(models["aligned"]).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, base[name]) != ("q_proj" in name), name


def test_an_adapter_on_an_embedding_is_refused(models: dict[str, Path], prep: Path) -> None:
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(folders.load(models["aligned"]), settings)
    with pytest.raises(BadInput, match=r"embed_tokens, which is an embedding.*merge"):
        edit_model(model, models["aligned"], prep)


@pytest.mark.parametrize("how", ["now", "in training"])
def test_an_adapter_inside_a_transformers_model_is_refused(
    models: dict[str, Path], prep: Path, tmp_path: Path, how: str
) -> None:
    model = folders.load(models["aligned"])
    model.load_adapter(str(models["adapter"]))
    callback = SafeDeltaCallback(models["aligned"], prep=prep)
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
    edit = {
        "now": lambda: edit_model(model, models["aligned"], prep),
        "in training": lambda: callback.on_train_begin(arguments, None, None, model=model),
    }
    with pytest.raises(BadInput, match=r"holds its adapter inside \(model\.load_adapter.*Pass a PeftModel"):
        edit[how]()


@pytest.mark.parametrize("passed", [True, False])
def test_the_callback_warns_of_failed_checks(
    models: dict[str, Path], prep: Path, monkeypatch: pytest.MonkeyPatch, passed: bool
) -> None:
    found = Check("safety loss on held-out rows is not raised", passed, "2 of 1")
    monkeypatch.setattr(memory, "checks", lambda *given: (found,))
    callback = SafeDeltaCallback(models["aligned"], prep=prep)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        callback.on_train_end(None, None, None, model=folders.load(models["tuned"]))
    told = [str(one.message) for one in said if "Safe Delta" in str(one.message)]
    assert callback.report is not None
    assert callback.report["checks"] == (found,)
    if passed:
        assert not told
    else:
        assert len(told) == 1
        assert "safety loss on held-out rows is not raised (2 of 1)" in told[0]


def test_the_callback_takes_prep_as_an_option(models: dict[str, Path], prep: Path) -> None:
    made = SafeDeltaCallback(models["aligned"], config={"prep": str(prep)})
    assert made.prep == str(prep)
    with pytest.raises(BadInput, match="and not both"):
        SafeDeltaCallback(models["aligned"], calibration=models["rows"], config={"prep": str(prep)})
    with pytest.raises(BadInput, match=r"rows, holdout beside a prepared folder"):
        SafeDeltaCallback(models["aligned"], prep=prep, config={"rows": 3, "holdout": 0.5})
