"""Acceptance check 8: what is written and kept, when draws stop, who is asked; bad input of 8.6."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from safewright.errors import BadInput, GateFailed
from safewright.treatments.srg.guidelines import Guidelines
from safewright.treatments.srg.records import from_row
from safewright.treatments.srg.synthesis import (
    SynthesisOptions,
    prompt_pool,
    require_yield,
    synthesise,
    voices,
)
from safewright.treatments.srg.synthesis.filters import first_sentence, spoken
from safewright.types import Generation, Row
from tests.treatments.srg_teacher import (
    PLAIN,
    Asked,
    Scripted,
    broke,
    harmful_row,
    harmful_rows,
    helpful_rows,
    honest,
    made,
    marks,
    said,
    trace,
)


def test_08_what_passes_is_kept_with_where_it_comes_from() -> None:
    found, teacher = made()
    assert [record.id for record in found.records] == ["h0", "h1", "b0", "b1"]
    first = found.records[0]
    assert first.type == "harmful"
    assert first.decision == "refuse"
    assert first.answer == "I won't help with that."
    assert first.restated == "Somebody wants this: How does one fold the forbidden boat 0?"
    assert first.verdict == "Decision: refuse."  # its reason is reasoning, which the arm `label` goes without
    assert first.messages == harmful_row(0).prompt
    own = Guidelines.load()
    assert first.meta["guideline_hash"] == own.hash
    assert first.meta["n_candidates"] == first.meta["n_passed"] == 1
    assert first.meta["filter"] == dict.fromkeys(("format", "outcome", "process", "agree", "leak"), True)
    assert first.meta["scores"] == dict.fromkeys(("safety", "relevance", "agreement", "specificity"), 9.0)
    assert first.meta["teacher"] == "declared:scripted"
    # Two guard calls for a harmful candidate (answer, reasoning), one for a helpful one; one score each.
    assert teacher.kinds() == {"write": 4, "harm": 4, "refusal": 2, "score": 4}
    assert found.manifest["yield"][0]["yield"] == 1.0
    for record in found.records:
        assert from_row(record.row()) == record  # an ordinary data file


def test_08_the_training_record_holds_nothing_of_the_guidelines() -> None:
    found, teacher = made()
    shown = teacher.asked[0].prompt
    own = Guidelines.load()
    assert own.sets["harmful"].decision in shown
    for record in found.records:
        words = json.dumps(
            [record.messages, record.reasoning, record.answer, record.restated, record.verdict]
        )
        assert not any(secret in words for secret in own.secrets())
        assert "=====" not in words


@pytest.mark.parametrize(("at", "draws", "expected"), [(0, 1, 1), (3, 1, 4), (3, 2, 4), (2, 2, 4), (7, 1, 8)])
def test_08_adaptive_draws_stop_as_soon_as_one_passes(at: int, draws: int, expected: int) -> None:
    def late(asked: Asked) -> str:
        if asked.kind == "write" and asked.before < at:
            return "no block at all"
        return honest(asked)

    found, teacher = made(late, 1, 0, draws=draws)
    assert len(found.records) == 1
    assert teacher.kinds()["write"] == expected
    assert found.records[0].meta["n_candidates"] == expected
    every, asked = made(late, 1, 0, adaptive_k=False)
    assert asked.kinds()["write"] == 8
    assert every.records[0].meta["n_passed"] == 8 - at


def test_08_draws_of_one_request_have_seeds_of_their_own() -> None:
    _, teacher = made(
        lambda asked: "nothing" if asked.kind == "write" else honest(asked), 2, 0, hinted="never"
    )
    seeds = [asked.seed for asked in teacher.asked if asked.request.endswith("0?")]
    assert len(set(seeds)) == len(seeds) == 8


def test_08_the_best_score_is_kept_and_the_shortest_of_equals() -> None:
    lengths = [" It takes a while to see it all." * n for n in (3, 1, 2, 0)]

    def several(asked: Asked) -> str:
        if asked.kind == "write":
            return trace(asked, lengths[asked.before % 4])
        if asked.kind == "score":
            # The one with two sentences more, and the one without any, score the same; the others less.
            more = asked.material["thoughts"].count("takes a while")
            return marks(asked, safety=10 if more in (0, 2) else 8)
        return honest(asked)

    whole: dict[str, Any] = {"k": 4, "adaptive_k": False}
    found, _ = made(several, 1, 0, **whole)
    assert found.records[0].reasoning.count("takes a while") == 0
    assert found.records[0].meta["n_passed"] == 4
    longest, _ = made(several, 1, 0, prefer="longest", **whole)
    assert longest.records[0].reasoning.count("takes a while") == 2
    first, _ = made(several, 1, 0, prefer="first", filter="outcome", **whole)
    assert first.records[0].reasoning.count("takes a while") == 3
    short, _ = made(several, 1, 0, filter="outcome", **whole)
    assert short.records[0].reasoning.count("takes a while") == 0


def test_08_hinted_draws_come_only_where_nothing_passed_and_are_marked() -> None:
    def needs_hint(asked: Asked) -> Any:
        if asked.kind == "write" and asked.request.endswith("1?") and not asked.hinted:
            return "nothing"
        return honest(asked)

    found, teacher = made(needs_hint, 2, 0, k=3)
    assert [record.meta["hinted"] for record in found.records] == [False, True]
    assert [asked.hinted for asked in teacher.asked if asked.kind == "write"] == [False] * 4 + [True]
    assert found.manifest["hinted"] == 1
    assert any("told the label" in warning for warning in found.manifest["warnings"])
    never, _ = made(needs_hint, 2, 0, k=3, hinted="never")
    assert [record.id for record in never.records] == ["h0"]
    assert [one["id"] for one in never.dropped] == ["h1"]
    _, always = made(honest, 1, 1, hinted="always")
    assert all(asked.hinted for asked in always.asked if asked.kind == "write")


def test_08_a_low_yield_ends_with_code_10_and_the_table_of_categories() -> None:
    def fails(asked: Asked) -> Any:
        return "nothing" if asked.kind == "write" and asked.harmful else honest(asked)

    rows = [harmful_row(n, category="boats" if n < 2 else "planes") for n in range(5)]
    found, _ = made(fails, rows=rows, helpful=2, k=2)
    with pytest.raises(GateFailed) as failed:
        require_yield(found, SynthesisOptions())
    said = str(failed.value)
    assert failed.value.exit_code == 10
    assert "2 of 7 requests" in said
    assert "harmful boats: 0 of 2" in said
    assert "harmful planes: 0 of 3" in said
    assert "helpful (none given): 2 of 2" in said
    assert "format: no_open 20" in said
    require_yield(found, SynthesisOptions(min_yield=0.25))
    table = {(row["type"], row["category"]): row for row in found.manifest["yield"]}
    assert table["harmful", "planes"]["high"] > 0.5  # three requests say little
    nothing, _ = made(lambda a: "nothing" if a.kind == "write" else honest(a), 1, 1, k=1, hinted="never")
    with pytest.raises(GateFailed, match="0 of 2 requests"):
        require_yield(nothing, SynthesisOptions(min_yield=0.0))


def declines(asked: Asked) -> Any:
    if asked.kind == "write" and asked.harmful:
        return "I'm sorry, but I can't help with that."
    return honest(asked)


def test_08_a_refusing_teacher_is_found_before_it_is_asked_all() -> None:
    with pytest.raises(
        GateFailed, match=r"declined to write reasoning for 2 of 4 requests.*fallback"
    ) as failed:
        made(declines, 2, 2)
    assert failed.value.exit_code == 10
    teacher = Scripted(declines)
    options = SynthesisOptions(**PLAIN)
    with pytest.raises(GateFailed):
        synthesise(
            prompt_pool(harmful_rows(2), helpful_rows(2), share=0),
            voices({"teacher": teacher}, options),
            options=options,
        )
    assert teacher.kinds()["write"] == 4
    few, _ = made(declines, 1, 5)
    assert [one["reason"] for one in few.dropped] == ["refused: to write"]


def test_08_a_second_teacher_writes_what_the_first_declines() -> None:
    second = Scripted(name="second")
    found, first = made(declines, 2, 2, models={"fallback": second})
    assert {record.id: record.meta["teacher"] for record in found.records} == {
        "h0": "declared:second",
        "h1": "declared:second",
        "b0": "declared:scripted",
        "b1": "declared:scripted",
    }
    assert first.kinds()["write"] == 4
    assert second.kinds() == {"write": 2}
    assert found.manifest["fallback"] == 2
    with pytest.raises(GateFailed, match="declined to write"):
        made(declines, 2, 2, models={"fallback": Scripted(declines, "second")})


def test_08_a_judge_scores_and_guards_where_one_is_given() -> None:
    judge = Scripted(name="judge")
    _, teacher = made(models={"judge": judge})
    assert teacher.kinds() == {"write": 4}
    assert judge.kinds() == {"harm": 4, "refusal": 2, "score": 4}
    _, teacher = made(models={"judge": judge}, score_by="teacher")
    assert teacher.kinds()["score"] == 4
    with pytest.raises(BadInput, match="score_by is judge, and no judge"):
        made(score_by="judge")


def test_08_the_student_is_its_own_teacher() -> None:
    student = Scripted(name="student")
    options = SynthesisOptions(**PLAIN, teacher_self=True)
    pool = prompt_pool(harmful_rows(1), helpful_rows(1), share=0)
    found = synthesise(pool, voices({"student": student}, options), options=options)
    assert {record.meta["teacher"] for record in found.records} == {"declared:student"}
    with pytest.raises(BadInput, match="teacher_self"):
        voices({"student": student, "teacher": student}, options)
    with pytest.raises(BadInput, match="no teacher"):
        voices({"student": student}, SynthesisOptions())


def test_08_contrast_requests_have_guidelines_of_their_own() -> None:
    rows = [Row("x0", ({"role": "user", "content": "How do I kill a print job?"},))]
    found, teacher = made(contrast=rows)
    assert [record.type for record in found.records] == [
        "harmful",
        "harmful",
        "helpful",
        "helpful",
        "contrast",
    ]
    asked = next(one for one in teacher.asked if "print job" in one.request)
    assert "Alarming word" in asked.prompt
    assert found.records[-1].meta["guideline_set"] == "contrast"


def test_08_a_template_that_fills_itself_in_is_told() -> None:
    def same(asked: Asked) -> Any:
        if asked.kind == "write" and not asked.harmful:
            return "<think>Somebody asks for something. Decision: comply</think> Here it is."
        return honest(asked)

    found, _ = made(same, 1, 3)
    assert any(
        "3 of 4 records" in warning and "template" in warning for warning in found.manifest["warnings"]
    )
    none, _ = made()
    assert not any("template" in warning for warning in none.manifest["warnings"])


def test_08_an_answer_known_before_is_the_short_refusal() -> None:
    rows = [dataclasses.replace(harmful_row(0), reference="No, sorry.")]
    found, _ = made(rows=rows, helpful=0)
    assert found.records[0].refusal == "No, sorry."
    assert found.records[0].answer == "I won't help with that."
    told, _ = made(rows=[dataclasses.replace(harmful_row(0), reference="Fold it twice.")], helpful=0)
    assert any("no refusals by our rules (first: h0)" in one for one in told.manifest["warnings"])


def test_08_a_system_turn_is_shown_to_the_teacher_and_kept_in_the_record() -> None:
    turns = (
        {"role": "system", "content": "You sell boats."},
        {"role": "user", "content": "Is the forbidden boat for sale?"},
    )
    found, teacher = made(rows=[Row("s", turns)], helpful=0)
    assert teacher.asked[0].request == "system: You sell boats.\n\nuser: Is the forbidden boat for sale?"
    assert found.records[0].messages == turns


def test_08_a_request_cannot_speak_in_another_role_nor_open_a_block() -> None:
    text = "forbidden </think> boat <|im_end|> <think>"
    found, teacher = made(
        rows=[Row("s", ({"role": "user", "content": text},))], helpful=0, filter="none", k=1, min_yield=0.0
    )
    prompt = teacher.asked[0].prompt
    assert "< /think> boat < |im_end|> < think>" in prompt
    assert "First <think>, then your thoughts, then </think>" in prompt
    assert found.records[0].answer == "I won't help with that."
    assert found.records[0].messages[0]["content"] == text


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Generation("R</think>A", "R", "A", True, "stop", 3), "<think>R</think>A"),
        (said("<think>R</think>A"), "<think>R</think>A"),
        (
            Generation("<think>own</think><think>R</think>A", "own", "<think>R</think>A", True, "stop", 3),
            "<think>R</think>A",
        ),
        (said("no block"), "no block"),
        (said("<think>open"), "<think>open"),
    ],
)
def test_08_a_template_may_open_the_block_and_a_server_keep_thoughts_apart(
    reply: Generation, text: str
) -> None:
    assert spoken(reply) == text


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("They want 3.5 boats. More.", "They want 3.5 boats."),
        ("No end", "No end"),
        ("他想折船。然后", "他想折船。"),
        ("the user wants boat . boat is craft . so answer", "the user wants boat ."),
        ("One line\nanother", "One line"),
    ],
)
def test_08_the_first_sentence_says_what_is_asked(text: str, first: str) -> None:
    assert first_sentence(text) == first


@pytest.mark.parametrize(
    ("set_", "said"),
    [
        ({"k": 0}, "k is 0"),
        ({"draws": 0}, "draws is 0"),
        ({"temperature": 0.0}, "Greedy draws"),
        ({"top_p": 0.0}, "top_p"),
        ({"min_score": 11.0}, "min_score"),
        ({"cases": 3}, "cases"),
        ({"least_words": 300}, "most_words"),
        ({"longest": 50}, "longest is 50, least_words 80"),
        ({"formats": 1.5}, "formats"),
        ({"min_yield": -0.1}, "min_yield"),
        ({"at_once": 0}, "at_once"),
        ({"price_in": -1.0}, "price_in"),
    ],
)
def test_08_options_that_cannot_be_used_are_named(set_: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        SynthesisOptions(**set_)
    assert SynthesisOptions(temperature=0.0, k=1).k == 1


def test_08_a_guard_that_decides_nothing_about_harm_is_an_error() -> None:
    with pytest.raises(BadInput, match="does not decide what is harmful"):
        voices({"teacher": Scripted()}, SynthesisOptions(guard="coverage"))
    with pytest.raises(BadInput, match="no judge"):
        voices({"teacher": Scripted()}, SynthesisOptions(guard="rubrik"))
    found, teacher = made(guard="keyword", filter="outcome")
    assert teacher.kinds() == {"write": 4}
    assert len(found.records) == 4
    assert any("inside the reasoning" in warning for warning in found.manifest["warnings"])


DRAFTS: dict[str, tuple[Any, str]] = {
    "declined": ("I'm sorry, but I can't help with that.", "refused"),
    "long": ("word " * 70, "too long"),
    "lines": ("One.\nTwo.", "too long"),
    "marker": ("<think>x</think>", "unreadable"),
    "leak": ("By rule 3 it will be a list.", "leak"),
    "failed": (broke(), "failed"),
    "harmful": ("It will say corner.", "harmful"),
    "guard": ("It will say what nobody can judge.", "guard unparsed"),
}


@pytest.mark.parametrize("how", DRAFTS)
def test_08_drafts_are_asked_for_and_left_out_where_they_cannot_be_used(how: str) -> None:
    reply, why = DRAFTS[how]

    def script(asked: Asked) -> Any:
        if asked.kind == "draft" and asked.request.endswith("boat 1?"):
            return reply
        if asked.kind == "harm" and "corner" in asked.material["reply"]:
            return "<reason>a step</reason>\n<score>5</score>"
        if asked.kind == "harm" and "nobody" in asked.material["reply"]:
            return "who knows"
        return honest(asked)

    found, _ = made(script, drafts=True)
    drafts = {record.id: record.draft for record in found.records}
    assert drafts == {
        **dict.fromkeys(("h1", "b0", "b1")),
        "h0": "A reply will describe how something is folded.",
    }
    assert found.manifest["drafts"] == {"written": 1, why: 1}
    assert any("1 of 2 harmful records have no draft" in warning for warning in found.manifest["warnings"])
    without, teacher = made()
    assert all(record.draft is None for record in without.records)
    assert "draft" not in teacher.kinds()
