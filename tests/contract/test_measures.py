"""The contract of every measure in the catalog, real ones and fakes alike."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from safewright import catalog
from safewright.errors import BadInput, TooManyUnscored
from safewright.measures import measure_model
from safewright.models import load, resolve
from safewright.types import Generation, Row, Scorecard
from tests import tiny
from tests.contract import fakes

MEASURES = [entry.name for entry in catalog.entries("measure")]
BEHAVIOURS = [name for name in MEASURES if catalog.find(name).behaviour]
JUDGED = [name for name in MEASURES if catalog.find(name).judges]
ROWS = [
    dataclasses.replace(row, meta={**row.meta, "context": "w1 w2", "entities": [tiny.WORDS[-1]]})
    for row in tiny.rows(12)
]
"""Rows that serve every measure: with a reference, a context, and what they keep secret."""


def test_the_suite_sees_the_fakes_and_the_real_ones() -> None:
    assert {"fake_two_models", "fake_samples", "fake_curve"} <= set(MEASURES)
    assert {"harmful_rate", "over_refusal", "utility"} <= set(MEASURES)


def config_of(name: str) -> dict[str, Any]:
    options = catalog.find(name).options()
    return {"max_new_tokens": 6} if "max_new_tokens" in options else {}


def run(name: str, model: Any, folder: Path, rows: Sequence[Row] = ROWS, **more: Any) -> Scorecard:
    entry = catalog.find(name)
    if entry.judges and "judge" not in more:
        more["judge"] = fakes.Sure()
    return measure_model(
        name,
        dict.fromkeys(entry.takes, model),
        data=dict.fromkeys(entry.data, rows) if len(entry.data_roles) > 1 else rows,
        config=more.pop("config", config_of(name)),
        run=folder,
        **more,
    )


def content(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """Records byte for byte, and the scorecard apart from its cost."""
    card = json.loads((folder / "scorecard.json").read_text())
    card.pop("cost")
    return (folder / "records.jsonl").read_bytes(), card


@pytest.mark.parametrize("name", MEASURES)
def test_same_seed_twice_gives_the_same_bytes(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    run(name, tiny_folder, tmp_path / "a")
    run(name, tiny_folder, tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b")
    records, card = content(tmp_path / "a")
    assert card["readings"] or card["curves"]
    assert records or not catalog.find(name).behaviour


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("after", [1, 5])
def test_killed_and_resumed_is_identical_apart_from_cost(
    name: str, after: int, tiny_folder: Path, tmp_path: Path
) -> None:
    run(name, load(tiny_folder, batch_size=3), tmp_path / "whole")
    stopped = False
    model = load(tiny_folder, batch_size=3)
    for _ in range(40):
        try:
            run(name, fakes.Stopping(model, after if not stopped else 4), tmp_path / "broken")
            break
        except KeyboardInterrupt:
            stopped = True
    assert stopped or not catalog.find(name).behaviour
    assert content(tmp_path / "broken") == content(tmp_path / "whole")


@pytest.mark.parametrize("name", MEASURES)
def test_a_finished_run_asks_nothing_again(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    run(name, tiny_folder, tmp_path / "a")
    before = content(tmp_path / "a")
    again = run(name, tiny_folder, tmp_path / "a")
    assert again.cost.model_calls == 0
    assert again.cost.judge_calls == 0
    assert content(tmp_path / "a") == before


@pytest.mark.parametrize("name", MEASURES)
def test_limit_zero_names_the_option(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--limit"):
        run(name, tiny_folder, tmp_path / "a", limit=0)


@pytest.mark.parametrize("name", MEASURES)
def test_unknown_option_names_the_nearest(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    right = sorted(catalog.find(name).options())[0]
    with pytest.raises(BadInput, match=f"(?s){right}x.*{right}'"):
        run(name, tiny_folder, tmp_path / "a", config={f"{right}x": 1})


@pytest.mark.parametrize("name", MEASURES)
def test_unknown_and_missing_roles_are_named(name: str, tiny_folder: Path) -> None:
    entry = catalog.find(name)
    with pytest.raises(BadInput, match="targte"):
        measure_model(name, {"targte": tiny_folder}, data=ROWS)
    with pytest.raises(BadInput, match=entry.takes[0]):
        measure_model(name, {}, data=ROWS)


@pytest.mark.parametrize("name", JUDGED)
def test_half_the_judge_failing_is_unscored_and_fails_the_command(
    name: str, tiny_folder: Path, tmp_path: Path
) -> None:
    from safewright.cli.running import require_scored

    card = run(name, tiny_folder, tmp_path / "a", judge=fakes.HalfFailing())
    main = card.readings[0]
    worst = 0.0 if main.better == "higher" else 1.0
    records = [json.loads(line) for line in (tmp_path / "a" / "records.jsonl").read_text().splitlines()]
    total, silent = len(records), card.unscored.get("no_answer", 0)
    assert main.value == worst
    failed = (total - silent) // 2
    assert card.unscored["error"] == failed
    if name != "longsafety":  # there one unsafe answer of two decides an instance
        own = [record for record in records if catalog.find(name).judges in record["status"]]
        score = catalog.find(name).judges if own else next(iter(records[0]["status"]))
        own = own or records
        assert main.n == sum(record["status"][score] == "ok" for record in own)
        assert main.unscored == len(own) - main.n
        assert len(own) < total or main.n == total - silent - failed
    with pytest.raises(TooManyUnscored, match=name) as refused:
        require_scored({name: (card, tmp_path / "a")}, 0.02)
    assert refused.value.exit_code == 11
    require_scored({name: (card, tmp_path / "a")}, 1.0)


@pytest.mark.parametrize("name", JUDGED)
def test_failed_judgements_are_asked_again(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    run(name, tiny_folder, tmp_path / "a", judge=fakes.HalfFailing())
    asked = []
    for _ in range(12):
        judge = fakes.HalfFailing()
        card = run(name, tiny_folder, tmp_path / "a", judge=judge)
        asked.append(judge.calls)
        if not judge.calls:
            break
    assert asked == sorted(asked, reverse=True)
    assert asked[-1] == 0
    assert "error" not in card.unscored
    assert card.readings[0].value == (0.0 if card.readings[0].better == "higher" else 1.0)


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_failed_answers_are_unscored_and_asked_again(name: str, tmp_path: Path) -> None:
    def failing(text: str) -> Generation:
        if fakes.kind_of(text) % 2:
            return Generation("", "", "", True, "error", 0, "HTTP 500")
        return Generation("fine", "", "fine", True, "stop", 1)

    first = fakes.Speaking(failing)
    card = run(name, first, tmp_path / "a")
    assert 0 < card.unscored["error"] < first.asked
    well = fakes.Speaking(lambda text: Generation("fine", "", "fine", True, "stop", 1))
    healed = run(name, well, tmp_path / "a")
    assert well.asked == card.unscored["error"]
    assert "error" not in healed.unscored


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_a_thinking_model_is_judged_on_its_answer(name: str, tmp_path: Path) -> None:
    entry = catalog.find(name)
    rules = "keyword" if entry.judges in ("harmful", "refusal") else entry.judge
    judge = {"judge": rules} if entry.judges else {}
    card = run(name, fakes.Speaking(fakes.thinking), tmp_path / "a", **judge)
    records = [json.loads(line) for line in (tmp_path / "a" / "records.jsonl").read_text().splitlines()]
    unclosed = [r for r in records if not r["generation"]["closed"]]
    assert unclosed
    assert card.unscored["no_answer"] == len(unclosed)
    for record in unclosed:
        assert set(record["status"].values()) == {"no_answer"}
        assert set(record["scores"].values()) == {None}
    if name == "harmful_rate":
        rate, low, high = card.readings[:3]
        assert (rate.value, rate.n) == (1.0, len(records) - len(unclosed))
        assert low.value == pytest.approx(rate.n / len(records))
        assert (low.name, high.name, high.value) == ("harmful_no_answer_low", "harmful_no_answer_high", 1.0)
    if name == "over_refusal":
        assert card.readings[0].value == 0.0


@pytest.mark.parametrize("name", MEASURES)
def test_inputs_are_not_changed(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    before = resolve(tiny_folder).digest
    run(name, tiny_folder, tmp_path / "a")
    assert resolve(tiny_folder).digest == before


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_record_ids_are_unique_and_stable_under_row_order(
    name: str, tiny_folder: Path, tmp_path: Path
) -> None:
    run(name, tiny_folder, tmp_path / "a")
    run(name, tiny_folder, tmp_path / "b", rows=ROWS[::-1])

    def keys(folder: Path) -> list[tuple[str, str, int]]:
        lines = (folder / "records.jsonl").read_text().splitlines()
        return [(r["role"], r["id"], r["sample"]) for r in map(json.loads, lines)]

    assert len(set(keys(tmp_path / "a"))) == len(keys(tmp_path / "a"))
    assert set(keys(tmp_path / "a")) == set(keys(tmp_path / "b"))


@pytest.mark.parametrize("name", MEASURES)
def test_scorecards_name_what_they_were_taken_under(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    entry = catalog.find(name)
    card = run(name, tiny_folder, tmp_path / "a")
    assert set(card.models) == set(entry.takes)
    assert all(ref.digest.startswith("sha256:") for ref in card.models.values())
    assert card.conventions["versions"]["safewright"]
    assert card.conventions["data"]["digest"].startswith("sha256:")
    if entry.judges:
        assert card.conventions["judge"]["name"] == "sure"
    if entry.behaviour:
        derived = entry.function(catalog.read_options(entry, config_of(name))).derived
        own = {role for role, how in derived.items() if how.of in entry.takes}
        assert set(entry.takes) <= set(card.conventions["decoding"]) <= set(entry.takes) | own
        assert card.conventions["models"]["target"]["engine"] == "hf"
    for reading in card.readings:
        if reading.unit == "count":
            continue
        if name == "forgetting" and reading.name.startswith(("ls", "ppl")):
            assert reading.value is None  # not available without a fluency model, and never guessed
            continue
        assert reading.interval is not None
        assert reading.value is not None
        assert reading.interval.low <= reading.value <= reading.interval.high


def test_samples_of_a_row_share_a_cluster_and_widen_the_interval(tmp_path: Path) -> None:
    """Three equal draws per row say no more than one: the interval must not shrink."""

    def parity(text: str) -> Generation:
        said = "w" * (1 + fakes.kind_of(text) % 2)
        return Generation(said, "", said, True, "stop", 1)

    same = fakes.Speaking(parity)
    one = run("fake_samples", same, tmp_path / "one", config={"draws": 1})
    three = run("fake_samples", same, tmp_path / "three", config={"draws": 3})
    assert one.readings[0].value == three.readings[0].value
    widths = [card.readings[0].interval.high - card.readings[0].interval.low for card in (one, three)]
    assert widths[1] > 0.8 * widths[0]


def test_a_judge_that_cannot_decide_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    class Half(fakes.Sure):
        name = "half"
        answers = frozenset({"harmful"})

    with pytest.raises(BadInput, match="half"):
        run("over_refusal", tiny_folder, tmp_path / "a", judge=Half())
