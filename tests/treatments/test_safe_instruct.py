"""SafeInstruct: safety rows mixed in, the loss on answers alone, and training that goes on after a kill."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from safewright.errors import BadInput, NumericalFailure
from safewright.treatments import treat
from safewright.treatments.safe_instruct import mixed
from safewright.types import Row
from tests import tiny
from tests.treatments import folders

FEW = {"steps": 6, "batch": 4, "lr": 3e-3}


def rows(count: int, name: str) -> list[Row]:
    return [
        Row(f"{name}{i}", ({"role": "user", "content": f"{name} {i}"},), reference="ban")
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("count", "safe", "share", "wanted"),
    [(40, 10, 0.1, 4), (41, 10, 0.1, 5), (40, 3, 0.5, 20), (40, 10, 0.0, 0), (20000, 2000, 0.1, 1000)],
)
def test_a_tenth_but_at_most_a_thousand_safety_rows(count: int, safe: int, share: float, wanted: int) -> None:
    tuning, kept = rows(count, "task"), rows(safe, "safe")
    found, number = mixed(tuning, kept, share, seed=0)
    assert number == wanted == len(found) - count
    assert found[:count] == tuning
    added = [row.id for row in found[count:]]
    most = max((added.count(each) for each in set(added)), default=0)
    assert most == -(-wanted // safe)
    assert mixed(tuning, kept, share, seed=0) == (found, number)
    if 1 < wanted < safe:
        assert mixed(tuning, kept, share, seed=1)[0] != found


@pytest.mark.parametrize("role", ["finetune", "safe"])
def test_rows_without_answers_are_refused(role: str) -> None:
    silent = Row("silent", ({"role": "user", "content": "x"},), reference="  ")
    given = {"finetune": rows(5, "task"), "safe": rows(5, "safe")}
    given[role].append(silent)
    with pytest.raises(BadInput, match=f"1 of 6 {role} rows have no answer .first: silent"):
        mixed(given["finetune"], given["safe"], 0.1, 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("instruct")
    return {
        "finetune": folders.rows_file(home / "finetune.jsonl", 12),
        "safe": folders.rows_file(home / "safe.jsonl", 6, shift=20),
    }


def train(models: dict[str, Path], data: dict[str, Path], out: Path, **config: Any) -> Any:
    return treat("safe_instruct", {"aligned": models["aligned"]}, data, config={**FEW, **config}, out=out)


def test_the_loss_is_on_answers_alone(
    models: dict[str, Path], data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers
    import trl

    seen: list[dict[str, Any]] = []
    begin = trl.SFTTrainer.__init__

    def watched(self: Any, *arguments: Any, **more: Any) -> None:
        seen.extend(more["train_dataset"])
        begin(self, *arguments, **more)

    monkeypatch.setattr(trl.SFTTrainer, "__init__", watched)
    result = train(models, data, tmp_path / "out", share=0.25)
    report = json.loads((tmp_path / "out" / "provenance.json").read_text())["report"]
    assert (report["rows"], report["safe_rows"], report["cut"], report["steps"]) == (15, 3, 0, 6)
    assert len(seen) == 15
    words = transformers.AutoTokenizer.from_pretrained(models["aligned"])
    for row in seen:
        answer = [i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
        prompt = row["input_ids"][: len(row["input_ids"]) - len(answer)]
        assert words.decode(prompt).endswith("assistant :")
        assert len(words.decode(answer).split()) == 2
        assert row["labels"][: len(prompt)] == [-100] * len(prompt)
    assert result.checks[0].passed
    base, new = folders.weights(models["aligned"]), folders.weights(tmp_path / "out")
    assert base.keys() == new.keys()
    assert any(not base[name].equal(new[name]) for name in base)


def test_training_goes_on_from_its_checkpoint(
    models: dict[str, Path], data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after 4 of 6 steps, with a torn newest checkpoint: the same bytes as without a stop."""
    train(models, data, tmp_path / "whole", save_every=3)
    out = tmp_path / "out"
    steps: list[int] = []

    def stop(what: str, done: int, total: int) -> None:
        if what == "training" and done == 4 and not steps:
            raise KeyboardInterrupt

    given = {"aligned": models["aligned"]}
    with pytest.raises(KeyboardInterrupt):
        treat("safe_instruct", given, data, config={**FEW, "save_every": 3}, out=out, progress=stop)
    kept = sorted(path.name for path in (tmp_path / "out.run" / "training").glob("checkpoint-*"))
    assert kept == ["checkpoint-3"]
    torn = tmp_path / "out.run" / "training" / "checkpoint-4"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")

    def note(what: str, done: int, total: int) -> None:
        steps.append(done)

    treat("safe_instruct", given, data, config={**FEW, "save_every": 3}, out=out, progress=note)
    assert min(step for step in steps if step) == 4
    assert folders.content(out) == folders.content(tmp_path / "whole")
    assert not torn.exists()


def test_an_adapter_is_the_same_bytes_in_another_process(
    models: dict[str, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    """PEFT keeps sets, and their order differs from process to process."""
    given = ["treat", "safe_instruct", f"--model={models['aligned']}"]
    given += [f"--data={role}={file}" for role, file in data.items()]
    given += ["--set=steps=2", "--set=batch=4", "--set=lora_rank=2"]
    for seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-m", "safewright", *given, "--out", str(tmp_path / seed)],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert found.returncode in (0, 10), found.stderr
    assert folders.content(tmp_path / "1") == folders.content(tmp_path / "2")
    config = json.loads((tmp_path / "1" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"])
    assert len(config["target_modules"]) == 14


def test_a_template_that_rewrites_the_prompt_is_refused(
    models: dict[str, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    odd = Path(shutil.copytree(models["aligned"], tmp_path / "odd"))
    (odd / "chat_template.jinja").write_text(
        "<s>{% if messages[-1]['role'] == 'assistant' %} system{% endif %}"
        "{% for m in messages %} {{ m['role'] }} : {{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %} assistant :{% endif %}"
    )
    with pytest.raises(BadInput, match="in another way once the answer follows"):
        train({"aligned": odd}, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rows_that_are_all_cut_before_their_answers_are_refused(
    models: dict[str, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=r"No answer is left of 14 rows .*4 tokens"):
        train(models, data, tmp_path / "out", max_length=4)


def test_a_loss_that_is_no_number_stops_at_once(
    models: dict[str, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    huge = Path(shutil.copytree(models["aligned"], tmp_path / "huge"))
    folders.edit_tensors(huge, lambda name, t: t * 1e38 if name == "lm_head.weight" else t)
    with pytest.raises(NumericalFailure, match=r"loss is (nan|inf) at step 1"):
        train({"aligned": huge}, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"share": -0.1}, r"share is -0\.1"),
        ({"batch": 0}, "batch is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"lr": 0.0}, r"lr is 0\.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"lora_rank": -1}, "lora_rank is -1"),
        ({"schedule": "cosin"}, "Did you mean 'cosine'"),
    ],
)
def test_bad_options_are_named(
    models: dict[str, Path], data: dict[str, Path], tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        train(models, data, tmp_path / "out", **options)


def test_the_checkpoint_of_a_finished_word_model_still_answers(
    models: dict[str, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    """More steps teach it the rows it was given: the labels stand where the answers are."""
    import torch
    import transformers

    train(models, data, tmp_path / "out", steps=150, lr=1e-2, schedule="constant", save_every=1000)
    model = folders.load(tmp_path / "out")
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    right = 0
    for i, row in enumerate(tiny.rows(12)):
        ids = words.apply_chat_template(
            list(row.prompt), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            said = model.generate(**ids, do_sample=False, max_new_tokens=2)[0, ids["input_ids"].shape[1] :]
        right += words.decode(said) == f"{row.reference} {tiny.WORDS[i % 7]}"
    assert right >= 9
