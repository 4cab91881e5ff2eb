"""Forgetting through Inspect: the same records as the driver's, under the attacks that ask in another way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safewright.compose.cases import gather, read_given
from safewright.compose.folders import load_records
from safewright.compose.inspect_log import scorecard_of
from safewright.data import write_rows
from safewright.errors import BadInput
from safewright.measures import measure_model
from tests.inspect_plugin.conftest import inspect_ai, metrics
from tests.inspect_plugin.test_tasks import pinned
from tests.measures.forgetting_rows import tiny_data
from tests.models.fault_server import FaultServer, said

CONFIG = {"attacks": "prefix,paraphrase,roleplay,sampling", "max_new_tokens": 5, "draws": 2}


@pytest.fixture
def given(tmp_path: Path) -> dict[str, str]:
    files = {}
    for role, rows in tiny_data(4, 2).items():
        files[role] = str(tmp_path / f"{role}.jsonl")
        write_rows(files[role], rows)
    return files


def evaluate(model: str, data: Any, logs: Path, config: Any, **more: Any) -> Any:
    (log,) = inspect_ai.eval(
        "safewright/forgetting",
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
    config = {**CONFIG, "attacks": "prefix,paraphrase,roleplay"}
    card = measure_model("forgetting", tiny_folder, data=given, config=config, run=tmp_path / "run")
    log = evaluate(pinned(tiny_folder), given, tmp_path / "logs", config)
    assert log.status == "success", log.error
    found, logged = scorecard_of(log.location)
    assert logged == load_records(tmp_path / "run")
    assert (found.readings, found.tests) == (card.readings, card.tests)
    assert found.conventions["models"]["prefix"]["opening"] == card.conventions["models"]["prefix"]["opening"]
    assert found.conventions["method"] == card.conventions["method"]
    assert found.conventions["judge"] == card.conventions["judge"]
    assert found.conventions["data"] == card.conventions["data"]
    assert metrics(log)["kfr[prefix]"] == {r.name: r.value for r in card.readings}["kfr[prefix]"]
    assert len(log.samples) == 6
    assert set(log.samples[0].scores["forgetting"].value) >= {"kfr", "kfr[prefix]", "rougeL_recall_forget"}


def test_a_served_model_gets_openings_in_its_question(
    server: FaultServer, given: dict[str, str], tmp_path: Path
) -> None:
    server.behave = lambda request, number: said("something else")
    log = evaluate(f"safewright/{server.base}#toy", given, tmp_path / "logs", {**CONFIG, "preset": "release"})
    assert log.status == "success", log.error
    card, records = scorecard_of(log.location)
    assert card.conventions["judge"]["rule"] == "release"
    assert "end of the question" in card.conventions["models"]["prefix"]["opening"]
    assert card.conventions["decoding"]["target"]["temperature"] == 0.7
    assert card.conventions["decoding"]["sampling"]["temperature"] == 1.0
    roles = [request["messages"][-1]["role"] for request in server.requests if "messages" in request]
    assert set(roles) == {"user"}
    assert sum(record.role == "sampling" for record in records) == 8


@pytest.mark.parametrize(
    ("config", "roles", "named"),
    [
        ({"attacks": "prefix,int4,relearn"}, {}, "int4, relearn"),
        ({}, {"fluency": "mockllm/model"}, "fluency"),
    ],
)
def test_what_needs_weights_is_refused_at_once(
    config: dict[str, Any], roles: dict[str, str], named: str, given: dict[str, str], tmp_path: Path
) -> None:
    try:
        log = evaluate("mockllm/model", given, tmp_path / "logs", config, model_roles=roles)
    except Exception as error:  # noqa: BLE001 - while the task is made, Inspect shows it as its own kind
        message = str(error)
    else:
        assert log.status == "error"
        message = str(log.error.message)
    assert named in message
    assert "safewright measure forgetting MODEL" in message


def test_data_by_role_in_one_argument(given: dict[str, str]) -> None:
    from safewright import catalog

    entry = catalog.find("forgetting")
    text = ",".join(f"{role}={file}" for role, file in given.items())
    assert read_given(entry, text) == read_given(entry, text.split(",")) == given
    assert read_given(entry, "forget=a,b.jsonl,retain=c.jsonl") == {
        "forget": "a,b.jsonl",
        "retain": "c.jsonl",
    }
    assert gather("forgetting", None, text).data.digest == gather("forgetting", None, given).data.digest
    with pytest.raises(BadInput, match="forget=FILE,retain=FILE"):
        read_given(entry, "rows.jsonl")
    with pytest.raises(BadInput, match="twice"):
        read_given(entry, "forget=a,forget=b")
    assert read_given(catalog.find("utility"), "a=b.jsonl") == "a=b.jsonl"
