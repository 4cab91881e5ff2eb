"""Comparisons against tables worked out by hand, and folders that are not what they should be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from safewright.compose.compare import Comparison, compare
from safewright.compose.folders import load_cards, load_records
from safewright.errors import BadInput
from safewright.runs import to_json
from safewright.types import Interval, ModelRef, Reading, Record, Scorecard

Values = Mapping[str, float | None]


def record(row: str, score: str, value: float | None, **more: Any) -> Record:
    return Record(
        **{
            "id": row,
            "input": ({"role": "user", "content": f"Question {row}?"},),
            "output": "An answer.",
            "scores": {score: value},
            "status": {score: "ok" if value is not None else "unparsed"},
            **more,
        }
    )


def card(measure: str = "harmful_rate", score: str = "harmful", model: str = "a", **more: Any) -> Scorecard:
    reading = Reading(score, 0.5, 1, 0, Interval(0.0, 1.0), better="lower")
    return Scorecard(
        **{
            "measure": measure,
            "version": "1",
            "models": {"target": ModelRef("hf", model, f"sha256:{model * 64}"[:71])},
            "readings": (reading,),
            "records": "records.jsonl",
            "conventions": {"judge": {"name": "keyword"}, "data": {"digest": "sha256:1"}},
            **more,
        }
    )


def write(folder: Path, found: Scorecard, records: Sequence[Record]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text('{"safewright": "run/1"}', "utf-8")
    (folder / "scorecard.json").write_text(json.dumps(to_json(found), ensure_ascii=False), "utf-8")
    lines = [json.dumps(to_json(record), ensure_ascii=False) + "\n" for record in records]
    (folder / "records.jsonl").write_text("".join(lines), "utf-8")
    return folder


def run(folder: Path, values: Values, score: str = "harmful", **more: Any) -> Path:
    return write(folder, card(score=score, **more), [record(row, score, v) for row, v in values.items()])


def table(both: int, only_a: int, only_b: int, neither: int) -> tuple[Values, Values]:
    """The scores of two runs whose two-by-two table has these counts."""
    pairs = [(1.0, 1.0)] * both + [(1.0, 0.0)] * only_a + [(0.0, 1.0)] * only_b + [(0.0, 0.0)] * neither
    return ({f"r{i}": x for i, (x, _) in enumerate(pairs)}, {f"r{i}": y for i, (_, y) in enumerate(pairs)})


def pair(folder: Path, a: Values, b: Values, **more: Any) -> Comparison:
    return compare(run(folder / "a", a, model="a", **more), run(folder / "b", b, model="b", **more))


def test_binary_scores_give_the_published_interval_and_the_exact_test(tmp_path: Path) -> None:
    # Newcombe 1998, table III: 36, 12, 2, 0 gives 0.0569 to 0.3404 by method 10 for the rate of the first
    # minus that of the second; here the second minus the first.
    (delta,) = pair(tmp_path, *table(36, 12, 2, 0))
    assert (delta.n, delta.gained, delta.lost) == (50, 2, 12)
    assert delta.difference == pytest.approx(-0.2)
    assert (delta.a, delta.b) == (pytest.approx(0.96), pytest.approx(0.76))
    assert delta.interval.low == pytest.approx(-0.3404, abs=5e-5)
    assert delta.interval.high == pytest.approx(-0.0569, abs=5e-5)
    # 2 (1 + 14 + 91) / 2^14
    assert delta.p == pytest.approx(2 * 106 / 2**14)
    assert delta.p_holm == delta.p
    assert delta.better == "lower"
    assert delta.method == "newcombe_paired, mcnemar_exact"


def test_a_run_against_itself_shows_no_difference(tmp_path: Path) -> None:
    values, _ = table(3, 2, 0, 5)
    folder = run(tmp_path / "a", values)
    found = compare(folder, folder)
    (delta,) = found
    assert (delta.difference, delta.p, delta.p_holm, delta.gained, delta.lost) == (0.0, 1.0, 1.0, 0, 0)
    assert delta.interval.low < 0 < delta.interval.high
    assert found.differences == ()
    assert found.warnings == ("Both runs read the same weights: differences come from something else.",)


def test_swapping_the_runs_mirrors_everything(tmp_path: Path) -> None:
    a, b = table(5, 1, 6, 8)
    (there,), (back,) = pair(tmp_path / "x", a, b), pair(tmp_path / "y", b, a)
    assert back.difference == pytest.approx(-there.difference)
    assert back.interval.low == pytest.approx(-there.interval.high)
    assert back.p == there.p
    assert (back.gained, back.lost) == (there.lost, there.gained)


def test_missing_and_unscored_records_are_counted_and_left_out(tmp_path: Path) -> None:
    a: Values = {"1": 1.0, "2": 0.0, "3": None, "4": None, "5": 1.0, "only-a": 1.0}
    b: Values = {"1": 0.0, "2": 0.0, "3": 1.0, "4": None, "5": None, "only-b": 1.0, "more-b": 0.0}
    found = pair(tmp_path, a, b)
    (delta,) = found
    assert (delta.n, delta.a, delta.b) == (2, 0.5, 0.0)
    assert found.unmatched_a == {"harmful_rate": 1}
    assert found.unmatched_b == {"harmful_rate": 2}
    assert found.unscored_pairs == {"harmful_rate/harmful": 3}


def test_records_that_were_never_asked_for_a_score_are_not_unscored_pairs(tmp_path: Path) -> None:
    own = [record(f"r{i}", "harmful", float(i % 2)) for i in range(3)]
    others = [record(f"s{i}", "other", None if i == 0 else 0.5) for i in range(4)]
    for name in ("a", "b"):
        write(tmp_path / name, card(), [*own, *others])
    found = compare(tmp_path / "a", tmp_path / "b")
    assert found.unscored_pairs == {"harmful_rate/harmful": 0, "harmful_rate/other": 1}


def test_a_value_under_a_failed_status_is_no_score(tmp_path: Path) -> None:
    rows = [record("1", "harmful", 1.0), record("2", "harmful", 0.0, status={"harmful": "error"})]
    found = compare(write(tmp_path / "a", card(), rows), write(tmp_path / "b", card(model="b"), rows))
    assert found.deltas[0].n == 1
    assert found.unscored_pairs == {"harmful_rate/harmful": 1}


def test_no_scored_pair_gives_no_delta_but_a_warning(tmp_path: Path) -> None:
    found = pair(tmp_path, {"1": None, "2": 1.0}, {"1": 0.0, "2": None})
    assert found.deltas == ()
    assert found.unscored_pairs == {"harmful_rate/harmful": 2}
    assert any("no record carries a score in both runs" in line for line in found.warnings)


def test_samples_of_one_prompt_are_one_cluster(tmp_path: Path) -> None:
    def rows(flip: float) -> list[Record]:
        # Six prompts of four draws each; with flip every draw of the first five prompts changes.
        return [
            record(f"p{p}", "harmful", flip if p < 5 else 0.0, sample=s) for p in range(6) for s in range(4)
        ]

    (delta,) = compare(
        write(tmp_path / "a", card(), rows(0.0)), write(tmp_path / "b", card(model="b"), rows(1.0))
    )
    assert delta.n == 24
    assert delta.difference == pytest.approx(20 / 24)
    # Five prompts all moved one way: 2 of 2^5 sign patterns. Twenty records would give 2 / 2^20.
    assert delta.p == pytest.approx(2 / 2**5)
    assert delta.method == "bounded_bootstrap, sign_flip_exact over 6 clusters"
    assert delta.interval.low < delta.difference <= delta.interval.high


def test_named_clusters_bind_records_of_different_ids(tmp_path: Path) -> None:
    def rows(value: float) -> list[Record]:
        return [record(f"r{i}", "harmful", value, cluster=f"c{i // 2}") for i in range(8)]

    (delta,) = compare(
        write(tmp_path / "a", card(), rows(0.0)), write(tmp_path / "b", card(model="b"), rows(1.0))
    )
    assert delta.p == pytest.approx(2 / 2**4)


def test_scores_between_zero_and_one_are_tested_by_sign_flips(tmp_path: Path) -> None:
    a = {f"r{i}": 0.1 * i for i in range(8)}
    b = {row: value + 0.2 for row, value in a.items()}
    (delta,) = pair(tmp_path, a, b, score="rougeL")
    assert delta.difference == pytest.approx(0.2)
    assert delta.p == pytest.approx(2 / 2**8)
    assert (delta.gained, delta.lost) == (8, 0)


def test_unbounded_scores_use_the_plain_bootstrap(tmp_path: Path) -> None:
    readings = (Reading("nll", 5.0, 4, 0, Interval(1, 9, method="cluster_bootstrap"), "nats", "lower"),)
    a = {f"r{i}": 3.0 + i for i in range(6)}
    b = {row: value + (0.5 if i % 2 else 1.5) for i, (row, value) in enumerate(a.items())}
    found = pair(tmp_path, a, b, score="nll", readings=readings)
    assert found.deltas[0].interval.method == "cluster_bootstrap"
    assert found.units == {"harmful_rate/nll": "nats"}
    assert 0.5 <= found.deltas[0].interval.low <= 1.0 <= found.deltas[0].interval.high <= 1.5
    same = pair(
        tmp_path / "same", a, {row: value + 1.0 for row, value in a.items()}, score="nll", readings=readings
    )
    assert any("the interval has no width" in line for line in same.warnings)


def test_the_seed_decides_the_bootstrap(tmp_path: Path) -> None:
    a = {f"r{i}": (i * 37 % 11) / 11 for i in range(20)}
    b = {f"r{i}": (i * 53 % 13) / 13 for i in range(20)}
    first, second = run(tmp_path / "a", a, score="rougeL"), run(tmp_path / "b", b, score="rougeL", model="b")
    assert compare(first, second, seed=3) == compare(first, second, seed=3)
    assert (
        compare(first, second, seed=3).deltas[0].interval != compare(first, second, seed=4).deltas[0].interval
    )


def test_holm_runs_over_all_measures_together(tmp_path: Path) -> None:
    for side, model in (("a", "a"), ("b", "b")):
        for measure, lost in (("harmful_rate", 8), ("over_refusal", 6)):
            values = table(0, lost, 0, 10)[0 if side == "a" else 1]
            rows = [record(row, "s", value) for row, value in values.items()]
            write(tmp_path / side / measure, card(measure, "s", model), rows)
    found = compare(tmp_path / "a", tmp_path / "b")
    by_measure = {delta.measure: delta for delta in found.deltas}
    assert by_measure["harmful_rate"].p == pytest.approx(2 / 2**8)
    assert by_measure["harmful_rate"].p_holm == pytest.approx(2 * 2 / 2**8)
    assert by_measure["over_refusal"].p_holm == by_measure["over_refusal"].p == pytest.approx(2 / 2**6)


def test_measures_of_one_run_alone_are_named(tmp_path: Path) -> None:
    values, _ = table(1, 1, 1, 1)
    run(tmp_path / "a" / "one", values)
    run(tmp_path / "a" / "two", values, measure="utility")
    run(tmp_path / "b", values)
    found = compare(tmp_path / "a", tmp_path / "b")
    assert (found.only_a, found.only_b) == (("utility",), ())
    with pytest.raises(BadInput, match="share no measure"):
        compare(tmp_path / "a" / "two", tmp_path / "b")


def test_differing_conventions_are_listed_and_the_deciding_ones_warned_of(tmp_path: Path) -> None:
    values, _ = table(1, 1, 1, 1)
    base = {
        "judge": {"name": "keyword", "version": "1"},
        "data": {"digest": "sha256:1", "source": "x.jsonl"},
        "decoding": {"target": {"temperature": 0.0}},
        "versions": {"torch": "2.13.0"},
    }
    other = {
        "judge": {"name": "keyword", "version": "2"},
        "data": {"digest": "sha256:2", "source": "y.jsonl"},
        "decoding": {"target": {"temperature": 0.7}},
        "versions": {"torch": "2.14.0"},
    }
    found = compare(
        run(tmp_path / "a", values, conventions=base),
        run(tmp_path / "b", values, model="b", conventions=other),
    )
    assert {(d.key, d.warning) for d in found.differences} == {
        ("judge.version", True),
        ("data.digest", True),
        ("decoding.target.temperature", True),
        ("versions.torch", False),
    }
    assert len(found.warnings) == 3
    assert any("differ in judge (version)" in line for line in found.warnings)
    assert any("differ in data (digest)" in line for line in found.warnings)


def test_different_judges_are_named_with_the_first_difference(tmp_path: Path) -> None:
    values, _ = table(1, 1, 1, 1)
    one = {"judge": {"name": "keyword", "version": "1"}, "config": {str(i): i for i in range(9)}}
    agents = {"name": "agents", "version": "3", "prompts": {f"p{i}": str(i) for i in range(60)}}
    other = {"judge": agents, "config": {}}
    found = compare(
        run(tmp_path / "a", values, conventions=one, measure="made_up"),
        run(tmp_path / "b", values, model="b", conventions=other, measure="made_up"),
    )
    told = next(line for line in found.warnings if "judge" in line)
    assert told == (
        "made_up: the two runs were judged by keyword and by agents (they differ first in version, and in "
        "60 more): part of the difference may be the judge's."
    )
    assert any("differ in config (0, 1, 2, 3 and 5 more)" in line for line in found.warnings)
    assert len(found.differences) > 60  # all of them stay on the page and in --json


def test_same_id_with_another_question_is_warned_of(tmp_path: Path) -> None:
    rows = [record(str(i), "harmful", 0.0) for i in range(3)]
    other = [*rows[:2], replace(rows[2], input=({"role": "user", "content": "Something else?"},))]
    found = compare(write(tmp_path / "a", card(), rows), write(tmp_path / "b", card(model="b"), other))
    assert any("1 of 3 paired records have the same id but another question" in w for w in found.warnings)


def test_another_version_of_the_measure_is_refused(tmp_path: Path) -> None:
    values, _ = table(1, 1, 1, 1)
    a, b = run(tmp_path / "a", values), run(tmp_path / "b", values, version="2")
    with pytest.raises(BadInput, match="version 1 and in version 2"):
        compare(a, b)


def test_ambiguous_or_disjoint_runs_are_refused(tmp_path: Path) -> None:
    values, _ = table(1, 1, 1, 1)
    once = run(tmp_path / "once", values)
    run(tmp_path / "twice" / "x", values)
    run(tmp_path / "twice" / "y", values)
    with pytest.raises(BadInput, match="holds harmful_rate twice"):
        compare(tmp_path / "twice", once)
    with pytest.raises(BadInput, match="share no record"):
        compare(once, run(tmp_path / "other", {"z": 1.0}))
    double = write(tmp_path / "double", card(), [record("1", "harmful", 1.0)] * 2)
    with pytest.raises(BadInput, match=r"record '1' .* twice"):
        compare(double, once)
    with pytest.raises(BadInput, match="level is 95"):
        compare(once, once, level=95)


def test_cards_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [
        record("1", "harmful", 1.0, output="第一行\u2028第二行\r\n", lang="zh"),
        record("2", "harmful", None),
    ]
    write(tmp_path / "run" / "harmful_rate", card(), rows)
    write(tmp_path / "run" / ".draft" / "x", card(measure="half"), [])
    ((found, records),) = load_cards(tmp_path / "run")
    assert found == card()
    assert records == rows
    assert load_records(tmp_path / "run" / "harmful_rate") == rows


def test_a_measure_without_records_has_none(tmp_path: Path) -> None:
    folder = write(tmp_path, card(records=""), [])
    (folder / "records.jsonl").unlink()
    assert load_cards(folder)[0][1] == []


def test_what_is_not_a_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        load_cards(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x", "utf-8")
    with pytest.raises(BadInput, match="is a file"):
        load_cards(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="is not a run"):
        load_cards(tmp_path / "empty")
    folder = run(tmp_path / "audit" / "harmful_rate", {"1": 1.0})
    (folder.parent / "utility").mkdir()
    (folder.parent / "utility" / "plan.json").write_text('{"safewright": "run/1"}', "utf-8")
    with pytest.raises(BadInput, match="utility is unfinished"):
        load_cards(tmp_path / "audit")


def test_an_audit_that_lacks_its_last_file_is_unfinished(tmp_path: Path) -> None:
    run(tmp_path / "harmful_rate", {"1": 1.0})
    (tmp_path / "plan.json").write_text('{"safewright": "run/1", "audit": {}}', "utf-8")
    with pytest.raises(BadInput, match=r"unfinished: it has no audit\.json"):
        load_cards(tmp_path)
    (tmp_path / "audit.json").write_text("{}", "utf-8")
    assert len(load_cards(tmp_path)) == 1


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("records.jsonl", b'{"id": "1"', r"records\.jsonl line 1 .*damaged"),
        ("records.jsonl", b"\n", r"records\.jsonl line 1 .*damaged"),
        (
            "records.jsonl",
            b'{"id": "1", "input": [], "output": "\xff"}\n',
            r"records\.jsonl line 1 is not UTF-8",
        ),
        (
            "records.jsonl",
            b'{"id": "1", "input": [], "output": null, "x": 1}\n',
            "line 1: .*unknown field 'x'",
        ),
        ("records.jsonl", b'{"id": "1", "input": []}\n', "line 1: .*lacks the field 'output'"),
        (
            "records.jsonl",
            b'{"id": "1", "input": [], "output": null, "scores": {"a": NaN}}\n',
            "NaN is not JSON",
        ),
        ("records.jsonl", b"[" * 100_000, "line 1 is damaged"),
        ("scorecard.json", b'{\n "measure": "x",\n', r"scorecard\.json line 3 is damaged"),
        ("scorecard.json", b"[]", "Scorecard is a list"),
    ],
)
def test_damaged_files_are_named_with_their_line(
    tmp_path: Path, file: str, content: bytes, message: str
) -> None:
    folder = run(tmp_path, {"1": 1.0})
    (folder / file).write_bytes(content)
    with pytest.raises(BadInput, match=message):
        load_cards(folder)


def test_records_are_read_beside_the_scorecard_only(tmp_path: Path) -> None:
    (tmp_path / "secret.jsonl").write_text("", "utf-8")
    folder = run(tmp_path / "run", {"1": 1.0}, records="../secret.jsonl")
    with pytest.raises(BadInput, match="not a file beside it"):
        load_cards(folder)
    gone = run(tmp_path / "gone", {"1": 1.0})
    (gone / "records.jsonl").unlink()
    with pytest.raises(BadInput, match="is missing"):
        load_cards(gone)
