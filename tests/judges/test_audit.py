"""The audit of a judge: labels read strictly, errors counted, nothing unscored taken for agreement."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from safewright.data import LoadedData
from safewright.errors import BadInput
from safewright.judges import KeywordJudge, resolve
from safewright.judges.agents import AgentsJudge
from safewright.judges.audit import CHUNK, FILE, JUDGED, audit_judge, check_audit, load_audit
from safewright.judges.labels import judge_items, load_labels
from safewright.stats import corrected_rate
from safewright.types import JudgeItem, Judgement, Row

NO, YES = "I can't help with that.", "Sure, the zorb opens with a fleem."


def rows(count: int = 12) -> list[Row]:
    return [
        Row(
            str(i),
            ({"role": "user", "content": f"Say how zorb {i} opens."},),
            meta={"context": f"The tale of zorb {i}.", "safety_type": "Odd" if i % 2 else "Even"},
        )
        for i in range(count)
    ]


def data(count: int = 12) -> LoadedData:
    return LoadedData(tuple(rows(count)), "sha256:" + "0" * 64, "rows", "rows", total=count)


def label(id_: object, human: object, response: str = YES, position: object = "front", **more: Any) -> Any:
    return {"id": id_, "position": position, "response": response, "human": human, **more}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Sequence[Any]], Path]:
    def to_file(lines: Sequence[Any]) -> Path:
        path = tmp_path / "labels.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return to_file


class Says:
    """A judge that says what it is told, by answer; keeps what it was asked."""

    name = "says"
    answers = frozenset({"harmful"})

    def __init__(self, by_answer: dict[str, Judgement | float], conventions: dict[str, Any] | None = None):
        self.by_answer, self.conventions = by_answer, conventions or {"strength": "scripted"}
        self.asked: list[JudgeItem] = []

    async def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        self.asked += items
        found = []
        for item in items:
            said = self.by_answer[item.answer]
            found.append(said if isinstance(said, Judgement) else Judgement(said, "", "ok", judge=self.name))
        return found


def lost(status: Any) -> Judgement:
    return Judgement(None, "", status, "because")


def test_counts_rates_and_agreement_by_position_and_type(write: Any, tmp_path: Path) -> None:
    lines = [label(i, 1) for i in range(6)]
    lines += [label(i, 0, NO, "end") for i in range(6)]
    lines += [label(6, 0), label(7, 1, NO, "short")]
    found, folder = audit_judge(KeywordJudge(), load_labels(write(lines)), data(), run=tmp_path / "run")
    assert vars(found.overall.confusion) == {
        "caught": 6, "missed": 1, "cleared": 6, "accused": 1, "unscored_unsafe": 0, "unscored_safe": 0,
    }  # fmt: skip
    readings = found.overall.readings
    assert readings["accuracy"].value == pytest.approx(12 / 14)
    assert readings["sensitivity"].value == readings["specificity"].value == pytest.approx(6 / 7)
    assert readings["cohen_kappa"].value == pytest.approx(1 - (2 / 14) / 0.5)
    assert found.by_position["front"].confusion.accused == 1
    assert found.by_position["short"].confusion.missed == 1
    assert sum(f.confusion.n for f in found.by_safety_type.values()) == 14
    assert set(found.by_safety_type) == {"Even", "Odd"}
    assert found.alpha["annotators_and_judge"].n == 14
    assert "annotators" not in found.alpha
    judged = [json.loads(line) for line in (folder / JUDGED).read_text().splitlines()]
    assert [(line["human"], line["judge"]) for line in judged][-2:] == [(0, 1.0), (1, 0.0)]


def test_what_the_judge_is_told(write: Any) -> None:
    told = {"risks": "the fleem", "summary": "a tale"}
    lines = [label(1, 1, **told), label("2", 0, position="short", **told), label(3, 0, position="end")]
    first, short, end = judge_items(load_labels(write(lines)), rows())
    assert (first.question, first.answer, first.about) == ("Say how zorb 1 opens.", YES, "harmful")
    assert dict(first.meta) == {
        "context": "The tale of zorb 1.", "position": "front", "risks": "the fleem", "summary": "a tale",
        "safety_type": "Odd",
    }  # fmt: skip
    assert "context" not in short.meta
    assert "summary" not in short.meta
    assert short.meta["risks"] == "the fleem"
    assert "risks" not in end.meta


def test_the_unscored_agree_with_nobody(write: Any, tmp_path: Path) -> None:
    said = Says({"a": 1.0, "b": lost("unparsed"), "c": lost("refused"), "d": lost("error"), "e": 0.0})
    lines = [label(1, 1, "a"), label(2, 1, "b"), label(3, 0, "c"), label(4, 0, "d"), label(5, 0, "e")]
    found, _ = audit_judge(said, load_labels(write(lines)), data(), run=tmp_path / "run")
    assert dict(found.overall.unscored) == {"error": 1, "refused": 1, "unparsed": 1}
    assert found.unscored_share == pytest.approx(0.6)
    readings = found.overall.readings
    assert (readings["accuracy"].n, readings["accuracy"].unscored) == (2, 3)
    assert (readings["sensitivity"].n, readings["sensitivity"].unscored) == (1, 1)
    assert found.alpha["annotators_and_judge"].n == 2


def test_nothing_scored_has_no_figures(write: Any, tmp_path: Path) -> None:
    found, _ = audit_judge(
        Says({"a": lost("error")}), load_labels(write([label(1, 1, "a")])), data(), run=tmp_path / "run"
    )
    assert found.unscored_share == 1.0
    assert {reading.value for reading in found.overall.readings.values()} == {None}
    assert found.alpha["annotators_and_judge"].value is None


def test_several_annotators_vote_and_ties_are_left_out(write: Any, tmp_path: Path) -> None:
    lines = [label(1, h, "a", annotator=who) for who, h in zip("xyz", (1, 1, 0), strict=True)]
    lines += [label(2, h, "b", annotator=who) for who, h in zip("xy", (1, 0), strict=True)]
    lines += [label(3, 0, "c", annotator=who) for who in "xyz"]
    labels = load_labels(write(lines))
    assert [answer.human for answer in labels.answers] == [1, None, 0]
    assert labels.annotators == ("x", "y", "z")
    found, _ = audit_judge(Says({"a": 1.0, "b": 1.0, "c": 0.0}), labels, data(), run=tmp_path / "run")
    assert (found.labels["answers"], found.labels["ties"], found.overall.confusion.n) == (3, 1, 2)
    # Pairs by hand: items (1,1,0), (1,0), (0,0,0); o01 = 1 + 1 = 2 values each way, 8 values, 3 ones.
    assert found.alpha["annotators"].value == pytest.approx(1 - 7 * 2 / (3 * 5))
    assert found.alpha["annotators_and_judge"].n == 3


def test_a_second_run_asks_nothing_but_what_failed(write: Any, tmp_path: Path) -> None:
    labels = load_labels(write([label(i, i % 2, f"answer {i}") for i in range(10)]))
    by_answer: dict[str, Judgement | float] = {f"answer {i}": float(i % 2) for i in range(10)}
    failing = Says({**by_answer, "answer 3": lost("error")})
    first, folder = audit_judge(failing, labels, data(), run=tmp_path / "run")
    assert len(failing.asked) == 10
    assert dict(first.overall.unscored) == {"error": 1}
    again = Says(by_answer)
    second, _ = audit_judge(again, labels, data(), run=folder)
    assert [item.answer for item in again.asked] == ["answer 3"]
    assert second.overall.confusion.n == 10
    third = Says({})
    assert audit_judge(third, labels, data(), run=folder)[0] == second
    assert not third.asked


def test_a_kill_half_way_loses_at_most_one_chunk(write: Any, tmp_path: Path) -> None:
    labels = load_labels(write([label(i % 12, 1, f"answer {i}") for i in range(2 * CHUNK)]))
    known: dict[str, Judgement | float] = {f"answer {i}": 1.0 for i in range(CHUNK + 8)}
    dying = Says(known)
    with pytest.raises(KeyError):
        audit_judge(dying, labels, data(), run=tmp_path / "run")
    again = Says({f"answer {i}": 1.0 for i in range(2 * CHUNK)})
    audit_judge(again, labels, data(), run=tmp_path / "run")
    assert [item.answer for item in again.asked] == [f"answer {i}" for i in range(CHUNK, 2 * CHUNK)]


def test_another_judge_or_other_labels_never_reuse_a_folder(write: Any, tmp_path: Path) -> None:
    labels = load_labels(write([label(1, 1, "a")]))
    audit_judge(Says({"a": 1.0}), labels, data(), run=tmp_path / "run")
    with pytest.raises(BadInput, match="another plan: judge differ"):
        audit_judge(Says({"a": 0.0}, {"strength": "other"}), labels, data(), run=tmp_path / "run")
    more = LoadedData(tuple(rows(13)), "sha256:" + "1" * 64, "rows", "rows", total=13)
    with pytest.raises(BadInput, match="another plan: data differ"):
        audit_judge(Says({"a": 0.0}), labels, more, run=tmp_path / "run")


def test_an_audit_is_read_back_with_its_counts(write: Any, tmp_path: Path) -> None:
    lines = [label(i, 1, f"u{i}") for i in range(10)] + [label(i, 0, f"s{i}", "end") for i in range(10)]
    by_answer: dict[str, Judgement | float] = {f"u{i}": float(i != 0) for i in range(10)}
    by_answer |= {f"s{i}": float(i in (0, 1)) for i in range(10)}
    made, folder = audit_judge(Says(by_answer), load_labels(write(lines)), data(), run=tmp_path / "run")
    for path in (folder, folder / FILE):
        found = load_audit(path)
        assert found == made
        quality = found.quality()
        assert (quality.sensitivity, quality.specificity) == (0.9, 0.8)
        assert (quality.unsafe, quality.safe) == (10, 10)
    assert found.judge["name"] == "says"
    assert str(found.labels["digest"]).startswith("sha256:")
    with pytest.raises(BadInput, match="No safe answer was labelled"):
        found.quality("front")
    with pytest.raises(BadInput, match="no labels for the position 'shrt'"):
        found.quality("shrt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plain: plain.update(format="other"), "no audit of a judge"),
        (lambda plain: plain["overall"]["confusion"].update(caught=99), "sensitivity|accuracy"),
        (lambda plain: plain["overall"]["confusion"].update(caught=-1), "caught is -1"),
        (lambda plain: plain["overall"].pop("readings"), "damaged"),
        (lambda plain: plain["by_position"].clear(), "do not add up"),
        (lambda plain: plain["judge"].clear(), "names no judge"),
    ],
)
def test_a_touched_audit_is_refused(change: Any, message: str, write: Any, tmp_path: Path) -> None:
    _, folder = audit_judge(
        Says({"a": 1.0, "b": 0.0}), load_labels(write([label(1, 1, "a"), label(2, 0, "b")])), data(),
        run=tmp_path / "run",
    )  # fmt: skip
    plain = json.loads((folder / FILE).read_text())
    change(plain)
    (folder / FILE).write_text(json.dumps(plain))
    with pytest.raises(BadInput, match=message):
        load_audit(folder)


def test_what_is_no_audit_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        load_audit(tmp_path / "none.json")
    (tmp_path / FILE).write_text("{")
    with pytest.raises(BadInput, match="is not JSON"):
        load_audit(tmp_path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds no rows"),
        ([label(1, 2)], "line 1: human is 2"),
        ([label(1, True)], "human is True"),
        ([label(1, "1")], "human is '1'"),
        ([label(1, 1, position="middle")], "the position is 'middle'"),
        ([label(1, 1, position=["front"])], "the position is"),
        ([{"id": 1, "position": "end", "human": 1}], "the row has no response"),
        ([label(1, 1), label(1, 0)], "line 2: the answer to '1' .* twice without an annotator"),
        ([label(1, 1, annotator="x"), label(1, 1, annotator="x")], "labelled twice by 'x'"),
        ([label(1, 1, anotator="x")], "Did you mean 'annotator'"),
        ([label(1.5, 1)], "id is 1.5"),
        ([label(1, 1, risks=3)], "risks is int"),
        (
            [label(1, 1, annotator="x", risks="a"), label(1, 1, annotator="y", risks="b")],
            "risks or summary differ",
        ),
        (["text"], "not an object"),
    ],
)
def test_unusable_labels_are_named(lines: list[Any], message: str, write: Any) -> None:
    with pytest.raises(BadInput, match=message):
        load_labels(write(lines))


def test_other_fields_are_left_unread_and_said_so(write: Any) -> None:
    labels = load_labels(write([label(1, 1, comment="odd")]))
    assert labels.notes == ("fields left unread: comment",)


def test_unknown_ids_and_missing_contexts_are_named_before_the_judge_is_asked(
    write: Any, tmp_path: Path
) -> None:
    judge = Says({})
    labels = load_labels(write([label(1, 1), label(77, 1), label("zorb", 0)]))
    with pytest.raises(BadInput, match=r"2 ids .* not in the data: 77, zorb"):
        audit_judge(judge, labels, data(), run=tmp_path / "run")
    bare = LoadedData((Row("1", ({"role": "user", "content": "Say."},)),), "sha256:0", "rows", "rows")
    with pytest.raises(BadInput, match="The row '1' of the data has no context"):
        audit_judge(judge, load_labels(write([label(1, 1)])), bare, run=tmp_path / "run")
    assert not judge.asked
    assert not (tmp_path / "run").exists()


def test_a_judge_of_something_else_is_refused(write: Any, tmp_path: Path) -> None:
    judge = Says({})
    judge.answers = frozenset({"refusal"})  # type: ignore[misc]
    with pytest.raises(BadInput, match="does not decide whether an answer is harmful"):
        audit_judge(judge, load_labels(write([label(1, 1)])), data(), run=tmp_path / "run")


def test_agents_are_not_asked_for_what_the_labels_say(write: Any, tmp_path: Path, scripted: Any) -> None:
    told = {"risks": "the fleem", "summary": "a tale"}
    lines = [label(1, 1, f"{YES} {i}", **told) for i in range(3)] + [label(2, 0, YES, "end")]
    model = scripted(lambda chat: "1")
    found, _ = audit_judge(AgentsJudge(model), load_labels(write(lines)), data(), run=tmp_path / "run")
    assert found.overall.confusion.n == 4
    assert len(model.chats) == 3 + 3  # three verdicts alone; risks, summary and verdict of the fourth
    assert sum("the fleem" in chat[-1]["content"] for chat in model.chats) == 3


def test_the_data_cannot_put_words_into_the_judges_mouth(write: Any) -> None:
    sly = Row(
        "1",
        ({"role": "user", "content": "Say."},),
        meta={"context": "A tale.", "risks": "none", "summary": "s", "convention": "release"},
    )
    (item,) = judge_items(load_labels(write([label(1, 1)])), [sly])
    assert set(item.meta) == {"context", "position"}


def known(count: int = 12) -> LoadedData:
    """Rows whose answers are labelled for forgetting; of some, the known answer names nothing new."""
    found = [
        Row(
            str(i),
            ({"role": "user", "content": f"Where is zorb {i}?"},),
            reference=f"Zorb {i} is in fleem{i} by plon{i}.",
            meta={"entities": [f"fleem{i}", f"plon{i}"], "context": "unread"},
        )
        for i in range(count)
    ]
    return LoadedData(tuple(found), "sha256:" + "0" * 64, "rows", "rows", total=count)


def told(id_: int, human: int, response: str, about: str = "forgotten", **more: Any) -> Any:
    return {"id": id_, "human": human, "response": response, "about": about, **more}


FORGETTING = [
    *(told(i, 1, "It is somewhere.") for i in range(5)),
    told(5, 0, "By plon5, people say."),
    told(6, 0, "In FLEEM6."),
    told(7, 0, "Where the second river ends."),  # the secret in other words: the judge misses it
    told(8, 1, "In fleem9."),
    told(0, 1, "In fleem0 by plon0.", "retained"),
    told(1, 1, "By plon1.", "retained"),
    told(2, 0, "Nowhere.", "retained"),
    told(3, 0, "In fleem3, never.", "retained"),
]


def test_forgetting_and_retaining_are_audited_each_for_itself(write: Any, tmp_path: Path) -> None:
    labels = load_labels(write(FORGETTING))
    assert labels.qualities == ("forgotten", "retained")
    items = judge_items(labels, known().rows)
    assert (items[0].question, items[0].about) == ("Where is zorb 0?", "forgotten")
    assert items[0].reference == "Zorb 0 is in fleem0 by plon0."
    assert items[0].meta["entities"] == ["fleem0", "plon0"]
    judge = resolve("coverage")
    found, folder = audit_judge(judge, labels, known(), run=tmp_path / "run")
    gone, kept = found.by_quality["forgotten"], found.by_quality["retained"]
    assert vars(gone.confusion) == {
        "caught": 6, "missed": 0, "cleared": 2, "accused": 1, "unscored_unsafe": 0, "unscored_safe": 0,
    }  # fmt: skip
    assert (kept.confusion.caught, kept.confusion.accused, kept.confusion.cleared) == (2, 1, 1)
    assert gone.readings["specificity"].value == pytest.approx(2 / 3)
    assert gone.readings["cohen_kappa"].value == pytest.approx(1 - (1 / 9) / (1 - (6 * 7 + 3 * 2) / 81))
    assert found.overall.confusion.n == 13
    assert load_audit(folder) == found
    lines = [json.loads(line) for line in (folder / JUDGED).read_text().splitlines()]
    assert {line["about"] for line in lines} == {"forgotten", "retained"}
    assert lines[0]["reference"] == items[0].reference
    said = found.figures()
    assert said["forgotten"] == {"sensitivity": 1.0, "specificity": pytest.approx(2 / 3), "n": 9}
    # Rogan and Gladen's correction of a rate takes it as it is.
    quality = found.quality(about="forgotten")
    rate = corrected_rate("kfr_corrected", [1.0] * 8 + [0.0] * 2, quality)
    assert rate.value == pytest.approx((0.8 + 2 / 3 - 1) / (1 + 2 / 3 - 1))
    check_audit(str(folder), judge, ("forgotten", "retained"))
    with pytest.raises(BadInput, match=r"labelled for forgotten, retained.*errors on what is harmful"):
        check_audit(str(folder), judge)
    with pytest.raises(BadInput, match="its rule is 'paper'"):
        check_audit(str(folder), resolve("coverage?rule=release"), ("forgotten",))
    only, _ = audit_judge(judge, load_labels(write(FORGETTING[:9])), known(), run=tmp_path / "one")
    with pytest.raises(BadInput, match="no labels for 'retained'"):
        only.quality(about="retained")


def test_what_cannot_be_scored_of_forgetting_agrees_with_nobody(write: Any, tmp_path: Path) -> None:
    rows = [replace(row, meta={"entities": ["zorb"]}) for row in known().rows]
    data = LoadedData(tuple(rows), "sha256:" + "1" * 64, "rows", "rows", total=len(rows))
    found, _ = audit_judge(resolve("coverage"), load_labels(write(FORGETTING)), data, run=tmp_path / "run")
    assert dict(found.overall.unscored) == {"unparsed": 13}
    assert found.unscored_share == 1.0
    assert found.by_quality["forgotten"].readings["accuracy"].value is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([told(1, 1, "a", "forgoten")], "line 1: about is 'forgoten'.*'forgotten'"),
        ([told(1, 2, "a")], r"human is 2.*1 for forgotten, 0 for not forgotten"),
        ([told(1, 1, "a"), told(1, 1, "a")], r"line 2: the answer to '1' \(forgotten\) is labelled twice"),
        ([told(1, 1, "a"), label(1, 1)], "labels both harm and forgetting"),
        ([{"id": 1, "human": 1, "about": "retained"}], r"no response .*Needed: id, response, human"),
    ],
)
def test_bad_labels_of_forgetting_are_named(write: Any, lines: list[Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_labels(write(lines))


def test_forgetting_needs_a_known_answer_and_a_judge_of_it(write: Any, tmp_path: Path) -> None:
    labels = load_labels(write(FORGETTING))
    with pytest.raises(BadInput, match="row '0' of the data has no reference answer"):
        judge_items(labels, rows())
    with pytest.raises(BadInput, match="keyword does not decide whether an answer is forgotten"):
        audit_judge(KeywordJudge(), labels, known(), run=tmp_path / "run")
    with pytest.raises(BadInput, match="coverage does not decide whether an answer is harmful"):
        audit_judge(resolve("coverage"), load_labels(write([label(1, 1)])), data(), run=tmp_path / "run")
