"""Measures as Inspect tasks: the same records and readings as the driver's, and errors before the first call."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import inspect_ai
import pytest
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.log import read_eval_log
from inspect_ai.model import GenerateConfig, ModelOutput, ModelUsage, get_model

from safewright import catalog
from safewright.compose.folders import load_records
from safewright.compose.inspect_log import scorecard_of
from safewright.judges import resolve as resolve_judge
from safewright.measures import measure_model
from safewright.models import resolve
from safewright.models.inspect_model import InspectModel
from safewright.types import Record, Scorecard
from tests import tiny
from tests.inspect_plugin.conftest import errors, metrics, run, write_rows
from tests.models.fault_server import FaultServer, complains, said

THREE = ("utility", "harmful_rate", "over_refusal")


def pinned(folder: Path) -> str:
    return f"safewright/{folder}@{resolve(folder).digest.removeprefix('sha256:')[:12]}"


def same(log: Any, card: Scorecard, records: list[Record]) -> None:
    """The log says exactly what the run's folder says."""
    assert log.status == "success", errors(log)
    found, logged = scorecard_of(log.location)
    assert logged == records
    assert found.records_digest == card.records_digest
    assert (found.readings, found.curves, found.tests) == (card.readings, card.curves, card.tests)
    assert found.unscored == card.unscored
    assert found.models == card.models
    for conventions in (found.conventions["models"], card.conventions["models"]):
        conventions["target"].pop("concurrency", None)  # Inspect's own limit decides
    for name in ("config", "decoding", "models", "judge", "sees", "data", "seed", "max_unscored"):
        assert found.conventions[name] == card.conventions[name], name
    expected = {r.name: r.value for r in card.readings if r.value is not None}
    counts = {f"unscored/{why}": float(count) for why, count in card.unscored.items()}
    assert metrics(log) == {**expected, "unscored": float(sum(card.unscored.values())), **counts}


@pytest.mark.parametrize("name", THREE)
def test_the_same_records_and_readings_on_both_paths(
    name: str, tiny_folder: Path, data: Path, tmp_path: Path
) -> None:
    config = {"max_new_tokens": 10, "system": "ban der"}
    card = measure_model(name, tiny_folder, data=data, config=config, run=tmp_path / "run")
    log = run(name, pinned(tiny_folder), data, tmp_path / "logs", config=config)
    same(log, card, load_records(tmp_path / "run"))


def test_rouge_readings_and_their_intervals_are_the_same(
    tiny_folder: Path, data: Path, tmp_path: Path
) -> None:
    config = {"metric": "rouge", "max_new_tokens": 10}
    card = measure_model("utility", tiny_folder, data=data, config=config, run=tmp_path / "run")
    assert any(reading.interval for reading in card.readings)
    log = run(
        "utility", pinned(tiny_folder), data, tmp_path / "logs", config="metric=rouge,max_new_tokens=10"
    )
    same(log, card, load_records(tmp_path / "run"))


def test_a_thinking_model_is_judged_on_its_answer(data: Path, tmp_path: Path) -> None:
    template = tiny.TEMPLATE.replace(" assistant :{%", " assistant : <think>{%")
    folder = tiny.save_tiny(tmp_path / "m", template=template, more=tiny.THINKING)
    config = {"max_new_tokens": 40}
    card = measure_model("harmful_rate", folder, data=data, config=config, run=tmp_path / "run")
    assert card.unscored["no_answer"] > 0
    assert {"harmful_no_answer_low", "harmful_no_answer_high"} <= {reading.name for reading in card.readings}
    log = run("harmful_rate", pinned(folder), data, tmp_path / "logs", config=config)
    same(log, card, load_records(tmp_path / "run"))
    (sample, *_) = [s for s in log.samples if s.scores["harmful_rate"].reason == "unscored"]
    assert all(math.isnan(value) for value in sample.scores["harmful_rate"].value.values())


def test_overlong_prompts_are_counted_on_both_paths(tmp_path: Path) -> None:
    folder = tiny.save_tiny(tmp_path / "m", max_position_embeddings=15)
    data = write_rows(tmp_path / "long.jsonl", 10, length=8)
    config = {"max_new_tokens": 6}
    card = measure_model("utility", folder, data=data, config=config, run=tmp_path / "run")
    assert 0 < card.unscored["overlong"] < 10
    log = run("utility", pinned(folder), data, tmp_path / "logs", config=config)
    same(log, card, load_records(tmp_path / "run"))


def test_long_prompts_stay_out_of_the_log_and_come_back(tmp_path: Path) -> None:
    folder = tiny.save_tiny(tmp_path / "m", max_position_embeddings=4096)
    data = write_rows(tmp_path / "long.jsonl", 3, length=1200)
    config = {"max_new_tokens": 4}
    card = measure_model("utility", folder, data=data, config=config, run=tmp_path / "run")
    log = run("utility", pinned(folder), data, tmp_path / "logs", config=config)
    same(log, card, load_records(tmp_path / "run"))
    prompt = json.loads(data.read_text().splitlines()[0])["prompt"]
    sample = read_eval_log(log.location).samples[0]
    own = [sample.input, sample.metadata, sample.store, sample.scores["utility"].metadata]
    assert prompt not in json.dumps([own[0], *own[1:]], default=str)
    data.write_text(data.read_text().replace("ban", "der"))
    with pytest.raises(Exception, match="not what the data says now"):
        scorecard_of(log.location)


def test_repeated_draws_and_epochs_are_different_questions(
    tiny_folder: Path, data: Path, tmp_path: Path
) -> None:
    config = {"max_new_tokens": 8, "temperature": 1.0, "samples": 3}
    log = run("utility", pinned(tiny_folder), data, tmp_path / "logs", config=config, epochs=2)
    _, records = scorecard_of(log.location)
    assert len(records) == 12 * 3 * 2
    assert sorted({record.sample for record in records}) == list(range(6))
    assert len({(record.id, record.sample) for record in records}) == len(records)
    said_ = {}
    for record in records:
        said_.setdefault(record.id, set()).add(record.output)
    assert sum(len(outputs) > 1 for outputs in said_.values()) > 6, "draws of one row differ"


def test_options_of_inspect_count_where_the_measure_leaves_them_open(
    tiny_folder: Path, data: Path, tmp_path: Path
) -> None:
    log = run("utility", pinned(tiny_folder), data, tmp_path / "logs", max_tokens=5)
    card, records = scorecard_of(log.location)
    assert card.conventions["decoding"]["target"]["max_new_tokens"] == 5
    assert all(record.generation and record.generation.tokens <= 5 for record in records)
    config = {"max_new_tokens": 3}
    log = run("utility", pinned(tiny_folder), data, tmp_path / "logs2", max_tokens=5, config=config)
    assert scorecard_of(log.location)[0].conventions["decoding"]["target"]["max_new_tokens"] == 3


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"config": {"max_new_tokenz": 3}}, "Did you mean 'max_new_tokens'"),
        ({"config": "max_new_tokenz=3"}, "Did you mean 'max_new_tokens'"),
        ({"config": '{"max_new_tokens": "many"}'}, "whole number"),
        ({"config": "nonsense"}, "key=value"),
        ({"config": "nowhere.toml"}, "cannot be read"),
        ({"judge": "keywort"}, "Did you mean 'keyword'"),
        ({"seed": -1}, "seed"),
    ],
)
def test_wrong_arguments_are_errors_before_anything_runs(
    args: dict[str, Any], words: str, tiny_folder: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(PrerequisiteError, match=words):
        run("harmful_rate", pinned(tiny_folder), data, tmp_path / "logs", **args)


def test_a_config_comes_in_every_form(tmp_path: Path) -> None:
    from safewright.compose.cases import read_config

    entry = catalog.find("utility")
    file = tmp_path / "c.toml"
    file.write_text('max_new_tokens = 3\nmetric = "rouge"\n')
    wanted = {"max_new_tokens": "3", "metric": "rouge"}
    forms = ["max_new_tokens=3,metric=rouge", ["max_new_tokens=3", "metric=rouge"], str(file)]
    forms += ['{"max_new_tokens": 3, "metric": "rouge"}', {"max_new_tokens": 3, "metric": "rouge"}]
    for form in forms:
        assert {k: str(v) for k, v in read_config(entry, form).items()} == wanted
    assert read_config(entry, ["system=a", "b", "metric=rouge"]) == {"system": "a,b", "metric": "rouge"}


def test_a_bare_path_is_refused_under_an_eval_set(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError) as caught:
        inspect_ai.eval_set(
            "safewright/utility",
            log_dir=str(tmp_path / "set"),
            model=f"safewright/{tiny_folder}",
            task_args={"data": str(data)},
            display="none",
        )
    assert f"Write {pinned(tiny_folder)}" in str(caught.value)
    # A model that was made before the set began is found when it is asked.
    model = get_model(f"safewright/{tiny_folder}", memoize=False)
    ok, logs = inspect_ai.eval_set(
        "safewright/utility",
        log_dir=str(tmp_path / "set2"),
        model=model,
        task_args={"data": str(data)},
        retry_attempts=0,
        display="none",
    )
    assert not ok
    log = read_eval_log(logs[0].location)
    assert all(pinned(tiny_folder) in message for message in errors(log))
    assert not [event for sample in log.samples for event in sample.events if event.event == "model"]


def test_a_role_nobody_has_is_an_error_before_the_first_call(
    server: FaultServer, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(PrerequisiteError, match="--model-role judge="):
        run("harmful_rate", f"safewright/{server.base}#toy", data, tmp_path / "logs", judge="rubric")
    assert server.requests == []


def judging(request: dict[str, Any], number: int) -> Any:
    """A server with a target that echoes and a judge that grades by the words it sees."""
    text = request["messages"][0]["content"]
    if request["model"] == "toy":
        return said(f"ban {text}")
    return said(f"<reason>ban</reason><score>{5 if 'kip' in text else 1}</score>")


def test_a_judge_in_a_role_gives_what_the_same_judge_gives_directly(
    server: FaultServer, data: Path, tmp_path: Path
) -> None:
    server.behave = judging
    judge = resolve_judge(f"rubric:{server.base}#judge")
    card = measure_model("harmful_rate", f"{server.base}#toy", data=data, judge=judge, run=tmp_path / "run")
    roles = {"judge": f"safewright/{server.base}#judge"}
    log = run("harmful_rate", f"safewright/{server.base}#toy", data, tmp_path / "logs", roles=roles)
    found, records = scorecard_of(log.location)
    assert found.readings == card.readings
    assert 0 < found.readings[0].value < 1
    assert records == load_records(tmp_path / "run")
    assert found.conventions["judge"] == card.conventions["judge"]


def test_any_inspect_model_may_judge(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    usage = ModelUsage(input_tokens=3, output_tokens=2, total_tokens=5)

    def reply(input: Any, *_: Any) -> ModelOutput:
        output = ModelOutput.from_content("mockllm", "<reason>ban</reason><score>5</score>")
        output.usage = usage
        return output

    judge = get_model("mockllm/model", custom_outputs=reply)
    log = run("harmful_rate", pinned(tiny_folder), data, tmp_path / "logs", roles={"judge": judge})
    assert metrics(log)["harmful"] == 1.0
    card, _ = scorecard_of(log.location)
    assert card.conventions["judge"]["model_kind"] == "inspect"
    assert card.conventions["judge"]["model"].startswith("declared:sha256:")


def test_replies_no_judge_can_be_held_to_are_counted(server: FaultServer, data: Path, tmp_path: Path) -> None:
    def behave(request: dict[str, Any], number: int) -> Any:
        text = request["messages"][0]["content"]
        if request["model"] == "toy":
            return said(f"ban {text}")
        return said("maybe" if "kip" in text else "<reason>ban</reason><score>1</score>")

    server.behave = behave
    card = measure_model(
        "harmful_rate",
        f"{server.base}#toy",
        data=data,
        judge=f"rubric:{server.base}#judge",
        run=tmp_path / "r",
    )
    assert 0 < card.unscored["unparsed"] < 12
    roles = {"judge": f"safewright/{server.base}#judge"}
    log = run("harmful_rate", f"safewright/{server.base}#toy", data, tmp_path / "logs", roles=roles)
    assert log.status == "success"
    same(log, card, load_records(tmp_path / "r"))


def test_a_judge_that_cannot_be_reached_leaves_the_log_in_error(
    server: FaultServer, data: Path, tmp_path: Path
) -> None:
    def behave(request: dict[str, Any], number: int) -> Any:
        if request["model"] == "toy" or "kip" not in request["messages"][0]["content"]:
            return judging(request, number)
        return complains(422, "not today")

    server.behave = behave
    roles = {"judge": f"safewright/{server.base}#judge"}
    log = run("harmful_rate", f"safewright/{server.base}#toy", data, tmp_path / "logs", roles=roles)
    assert log.status == "error"
    assert 0 < len(errors(log)) < 12
    assert all("not today" in message for message in errors(log))
    card, records = scorecard_of(log.location)
    assert len(records) == 12 - len(errors(log))
    assert card.conventions["inspect"]["status"] == "error"


def test_a_judge_that_is_the_judged_is_told_apart(tiny_folder: Path) -> None:
    own = InspectModel(get_model(f"safewright/{tiny_folder}", memoize=False, config=GenerateConfig()))
    assert own.ref.digest == resolve(tiny_folder).digest


def test_stored_answers_can_be_scored_later(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    (log,) = inspect_ai.eval(
        "safewright/over_refusal",
        model=pinned(tiny_folder),
        task_args={"data": str(data), "config": {"max_new_tokens": 8}},
        log_dir=str(tmp_path / "logs"),
        model_args={"process": False},
        score=False,
        display="none",
    )
    from inspect_ai._util.registry import registry_create

    scorer = registry_create(
        "scorer", "safewright/over_refusal", data=str(data), config={"max_new_tokens": 8}
    )
    scored = inspect_ai.score(read_eval_log(log.location), scorer, display="none")
    direct = measure_model(
        "over_refusal", tiny_folder, data=data, config={"max_new_tokens": 8}, run=tmp_path / "run"
    )
    found, records = scorecard_of(scored)
    assert (found.readings, records) == (direct.readings, load_records(tmp_path / "run"))
