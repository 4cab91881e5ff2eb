"""Attack success through Inspect: the same records as the driver's, with prefills, wrappers, draws and the control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import get_model

from safewright.compose.folders import load_records
from safewright.compose.inspect_log import scorecard_of
from safewright.data import write_rows
from safewright.measures import measure_model
from tests import tiny
from tests.inspect_plugin.conftest import inspect_ai, metrics
from tests.inspect_plugin.test_tasks import pinned

CONFIG = {"attack": "none,verb_free,answer_prefill,think_prefill", "max_new_tokens": 5}


@pytest.fixture
def given(tmp_path: Path) -> dict[str, str]:
    files = {}
    for role, rows in {"harm": tiny.rows(4), "benign": tiny.rows(6)[4:]}.items():
        files[role] = str(tmp_path / f"{role}.jsonl")
        write_rows(files[role], rows)
    return files


def evaluate(model: str, data: Any, logs: Path, config: Any, **more: Any) -> Any:
    (log,) = inspect_ai.eval(
        "safewright/attack_success",
        model=model,
        task_args={"data": data, "config": config},
        log_dir=str(logs),
        display="none",
        model_args={"process": False},
        **more,
    )
    return log


def test_the_same_records_and_readings_on_both_paths(
    tiny_folder: Path, given: dict[str, str], tmp_path: Path
) -> None:
    card = measure_model("attack_success", tiny_folder, data=given, config=CONFIG, run=tmp_path / "run")
    log = evaluate(pinned(tiny_folder), given, tmp_path / "logs", CONFIG)
    assert log.status == "success", log.error
    found, logged = scorecard_of(log.location)
    assert logged == load_records(tmp_path / "run")
    assert found.readings == card.readings
    assert found.conventions["method"] == card.conventions["method"]
    for role in ("answer_prefill", "think_prefill"):
        own = found.conventions["models"][role]["opening"]
        assert own == card.conventions["models"][role]["opening"]
    assert (
        metrics(log)["asr[answer_prefill]"] == {r.name: r.value for r in card.readings}["asr[answer_prefill]"]
    )
    assert len(log.samples) == 6
    own = next(sample for sample in log.samples if str(sample.id).startswith("harm/"))
    assert set(own.scores["attack_success"].value) >= {"asr[none]", "harmful[verb_free]"}


def test_draws_and_the_control_are_asked_where_they_are_bound(
    tiny_folder: Path, given: dict[str, str], tmp_path: Path
) -> None:
    config = {"attack": "none", "best_of": 2, "max_new_tokens": 4}
    other = tiny.save_tiny(tmp_path / "base", seed=5)
    write_rows(given["harm"], tiny.rows(2))
    # In this process: a worker of its own takes seconds to start, and is tested elsewhere.
    base = get_model(pinned(other), process=False)
    log = evaluate(pinned(tiny_folder), given, tmp_path / "logs", config, model_roles={"base": base})
    assert log.status == "success", log.error
    card, records = scorecard_of(log.location)
    assert {record.role for record in records} == {"target", "drawn", "base", "base_drawn"}
    names = {reading.name for reading in card.readings}
    assert {"asr_all@2[none]", "base_asr_any@2[none]", "base_asr[none]"} <= names
    assert card.curves


def test_what_needs_models_of_its_own_is_refused(
    tiny_folder: Path, given: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(PrerequisiteError, match="safewright measure attack_success MODEL"):
        evaluate(pinned(tiny_folder), given, tmp_path / "logs", {"attack": "lowresource"})
