"""Safe Delta on models in memory: equal to the folder's result, in place, at the end of a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from safewright.errors import BadInput
from safewright.treatments import plan_treatment, run_stage, treat
from safewright.treatments.safe_delta import SafeDeltaCallback, edit_model
from tests import tiny


def rows_file(folder: Path, count: int = 24) -> Path:
    """Calibration rows: made-up words, and made-up words as their answers."""
    file = folder / "calibration.jsonl"
    lines = [
        json.dumps({"prompt": row.prompt[0]["content"], "response": f"{row.reference} {tiny.WORDS[i % 7]}"})
        for i, row in enumerate(tiny.rows(count))
    ]
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_tiny(tmp_path_factory.mktemp("models") / "aligned")


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rows_file(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def prep(aligned: Path, calibration: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prep") / "hess"
    run_stage(
        plan_treatment(
            "safe_delta", {"aligned": aligned}, {"calibration": calibration}, stage="prepare", out=out
        )
    )
    return out


def loaded(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def tuned(aligned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "tuned"
    model = loaded(aligned)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(out)
    transformers.AutoTokenizer.from_pretrained(aligned).save_pretrained(out)
    return out


def adapter_on(aligned: Path) -> Any:
    torch.manual_seed(2)
    model = peft.get_peft_model(
        loaded(aligned), peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter += 0.05 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("options", [{}, {"mode": "exact"}, {"mode": "official", "save_dtype": "float32"}])
def test_in_memory_equals_the_folder(
    aligned: Path, tuned: Path, prep: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    config = {**options, "prep": str(prep)}
    treat("safe_delta", {"aligned": aligned, "tuned": tuned}, config=config, out=tmp_path / "out")
    model = loaded(tuned)
    report = edit_model(model, aligned, prep, config)
    wanted = loaded(tmp_path / "out").state_dict()
    for name, value in model.state_dict().items():
        assert float((value - wanted[name]).abs().max()) <= 1e-6, name
    assert report["loss"] < report["loss_full"]
    assert len(report["layers"]) == report["matrices"]["edited"] == 21
    assert all(check.passed for check in report["checks"])


def test_in_memory_adapter_equals_the_folder(aligned: Path, prep: Path, tmp_path: Path) -> None:
    model = adapter_on(aligned)
    model.save_pretrained(tmp_path / "adapter")
    treat(
        "safe_delta",
        {"aligned": aligned, "tuned": tmp_path / "adapter"},
        config={"prep": str(prep)},
        out=tmp_path / "out",
    )
    base = {name: value.clone() for name, value in model.get_base_model().state_dict().items()}
    report = edit_model(model, aligned, prep)
    wanted = peft.PeftModel.from_pretrained(loaded(aligned), tmp_path / "out").state_dict()
    changed = [name for name, value in model.state_dict().items() if "lora_A" in name and value.numel()]
    for name, value in model.state_dict().items():
        assert float((value - wanted[name]).abs().max()) <= 1e-6, name
    assert len(changed) == len(report["layers"]) == 6
    assert report["loss"] < report["loss_full"]
    for name, value in model.get_base_model().state_dict().items():
        if "lora_" not in name:
            assert torch.equal(value, base[name]), name


def test_an_altered_base_is_refused(aligned: Path, prep: Path) -> None:
    model = adapter_on(aligned)
    with torch.no_grad():
        model.get_base_model().model.layers[1].self_attn.q_proj.base_layer.weight[0, 0] += 1.0
    with pytest.raises(BadInput, match=r"layers\.1\.self_attn\.q_proj differs from the aligned"):
        edit_model(model, aligned, prep)


def test_two_active_adapters_are_refused(aligned: Path, prep: Path) -> None:
    model = adapter_on(aligned)
    model.add_adapter("second", peft.LoraConfig(r=2, target_modules=["q_proj"]))
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(BadInput, match="2 adapters are active"):
        edit_model(model, aligned, prep)


def test_modes_that_raise_the_rank_are_refused_for_adapters(aligned: Path, prep: Path) -> None:
    with pytest.raises(BadInput, match="raises the rank"):
        edit_model(adapter_on(aligned), aligned, prep, {"mode": "paper"})


def trainer(model: Any, aligned: Path, out: Path, callback: Any, **more: Any) -> transformers.Trainer:
    tokenizer = transformers.AutoTokenizer.from_pretrained(aligned)
    examples = [
        {"input_ids": ids, "labels": ids}
        for ids in (tokenizer(" ".join(tiny.WORDS[i : i + 4]))["input_ids"] for i in range(8))
    ]
    arguments = transformers.TrainingArguments(
        output_dir=str(out),
        max_steps=3,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        **more,
    )
    return transformers.Trainer(model=model, args=arguments, train_dataset=examples, callbacks=[callback])


@pytest.mark.parametrize("kind", ["whole", "adapter"])
def test_the_callback_leaves_the_repaired_model(
    aligned: Path, calibration: Path, tmp_path: Path, kind: str
) -> None:
    def fresh() -> Any:
        return loaded(aligned) if kind == "whole" else adapter_on(aligned)

    class Nothing(transformers.TrainerCallback):
        """Leaves the trained model as it is."""

    plain = trainer(fresh(), aligned, tmp_path / "plain", Nothing())
    plain.train()
    callback = SafeDeltaCallback(aligned, calibration=str(calibration))
    repaired = trainer(fresh(), aligned, tmp_path / "repaired", callback)
    repaired.train()
    assert callback.report is not None
    assert callback.report["loss"] < callback.report["loss_full"]
    edit_model(plain.model, aligned, tmp_path / "repaired" / "safe_delta_prep")
    wanted = plain.model.state_dict()
    for name, value in repaired.model.state_dict().items():
        assert float((value - wanted[name]).abs().max()) <= 1e-6, name
    repaired.save_model(str(tmp_path / "saved"))
    assert any((tmp_path / "saved").glob("*.safetensors"))


def test_the_callback_refuses_split_weights_before_training(
    aligned: Path, prep: Path, tmp_path: Path
) -> None:
    callback = SafeDeltaCallback(aligned, prep=prep)
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
    arguments.deepspeed = "zero3.json"
    with pytest.raises(BadInput, match="FSDP or DeepSpeed"):
        callback.on_train_begin(arguments, None, None)


def test_the_callback_says_what_it_needs(aligned: Path, prep: Path, calibration: Path) -> None:
    with pytest.raises(BadInput, match="needs calibration rows or a prepared folder"):
        SafeDeltaCallback(aligned)
    with pytest.raises(BadInput, match="and not both"):
        SafeDeltaCallback(aligned, prep=prep, calibration=calibration)
