"""Acceptance check 8: what the filters keep, and what the reasons are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from safewright.judges.asking import Unreadable
from safewright.treatments.srg.guidelines import Guidelines
from safewright.treatments.srg.synthesis.filters import Leaks, read_decision
from safewright.treatments.srg.synthesis.scoring import read_scores
from tests.treatments.srg_teacher import (
    Asked,
    Script,
    broke,
    cut_off,
    honest,
    made,
    marks,
    trace,
)


def wrong(reply: Any) -> Script:
    """A teacher whose first draw for each request is ``reply``."""

    def script(asked: Asked) -> Any:
        if asked.kind == "write" and asked.before == 0:
            return reply(asked) if callable(reply) else reply
        return honest(asked)

    return script


WRONG: dict[str, tuple[Any, str]] = {
    "no block": ("just an answer", "format: no_open"),
    "never closed": ("<think>on and on", "format: no_close"),
    "two blocks": (lambda a: trace(a) + " <think>more</think> x", "format: two_blocks"),
    "nested": ("<think>a <think>b</think> c", "format: nested"),
    "text before": (lambda a: "Sure! " + trace(a), "format: text_before"),
    "no answer": ("<think>Decision: refuse</think>  ", "format: empty_answer"),
    "cut off": (lambda a: cut_off(trace(a)), "format: cut off"),
    "cut inside": (cut_off("<think>on and"), "format: cut off"),
    "too long": (lambda a: trace(a, " word" * 600), "format: too long"),
    "declined": ("I'm sorry, but I can't help with that.", "refused: to write"),
    "call failed": (broke(), "failed: call"),
    "no decision": ("<think>I think about it, and stop.</think> I won't.", "agree: no decision"),
    "another decision": ("<think>I think. Decision: comply</think> I won't.", "agree: label"),
    "verbatim": (
        lambda a: trace(
            a, " Think of the usual sender of such words, neither the worst nor the kindest one."
        ),
        "leak: verbatim",
    ),
    "rule number": (lambda a: trace(a, " By rule 4 this is bad."), "leak: rule number"),
    "mention": (lambda a: trace(a, " The guidelines say no."), "leak: mention"),
    "verbatim answer": (
        lambda a: trace(a, answer="I won't; a frightening word alone is no reason, though."),
        "leak: verbatim",
    ),
    "answer tells": (lambda a: trace(a, answer="By the rules I was given I won't."), "leak: mention"),
}


@pytest.mark.parametrize("how", WRONG)
def test_08_each_way_to_be_wrong_has_its_reason(how: str) -> None:
    reply, reason = WRONG[how]
    found, _ = made(wrong(reply), 1, 0, max_refusing=1.0)
    assert found.manifest["rejected"] == {reason: 1}
    assert found.records[0].meta["n_candidates"] == 2
    assert found.records[0].meta["n_passed"] == 1


def spoilt(kind: str, reply: Any) -> Script:
    """Somebody whose first reply of a kind, for each request, is another."""

    def script(asked: Asked) -> Any:
        if asked.kind == kind and asked.before == 0:
            return reply(asked) if callable(reply) else reply
        return honest(asked)

    return script


SPOILT: dict[str, tuple[str, Any, str]] = {
    "low score": ("score", lambda a: marks(a, specificity=7.9), "process: score"),
    "other verdict": ("score", lambda a: marks(a, request_is_harmful="no"), "process: verdict"),
    "answer type": ("score", lambda a: marks(a, answer_type="comply"), "process: answer type"),
    "score failed": ("score", broke(), "process: failed"),
    "guard failed": ("harm", broke(), "outcome: failed"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_08_guard_and_scorer_reject(how: str) -> None:
    kind, reply, reason = SPOILT[how]
    found, _ = made(spoilt(kind, reply), 1, 0)
    assert found.manifest["rejected"] == {reason: 1}
    assert found.records[0].meta["n_candidates"] == 2


@pytest.mark.parametrize(
    ("reply", "reason"), [(broke(), "outcome: failed"), ("cannot say", "outcome: unparsed")]
)
def test_08_a_refusal_nobody_could_judge_is_failed_or_unparsed(reply: Any, reason: str) -> None:
    found, _ = made(lambda a: reply if a.kind == "refusal" else honest(a), 0, 1, k=1, hinted="never")
    assert found.manifest["rejected"] == {reason: 1}
    assert found.dropped[0]["failed_calls"] == int(reason.endswith("failed"))
    told = [one for one in found.manifest["warnings"] if "could not be read" in one]
    assert len(told) == int(reason.endswith("unparsed"))


def test_08_an_answer_may_speak_of_rules_as_its_subject() -> None:
    found, _ = made(
        lambda a: trace(a, answer="Keep to rule 1 of the guidelines.") if a.kind == "write" else honest(a),
        0,
        1,
    )
    assert found.manifest["rejected"] == {}


def test_08_a_harmful_answer_rejects_and_a_guard_that_cannot_be_read_rejects_on_its_own() -> None:
    def helps(asked: Asked) -> Any:
        if asked.kind == "write" and asked.before < 2:
            return trace(asked, answer=f"Fold it so, and {asked.before} times.")
        if asked.kind == "harm" and "0 times" in asked.material["reply"]:
            return "<reason>help</reason>\n<score>5</score>"
        if asked.kind == "harm" and "1 times" in asked.material["reply"]:
            return "quite harmful"
        return honest(asked)

    found, _ = made(helps, 1, 0)
    assert found.manifest["rejected"] == {"outcome: harmful answer": 1, "outcome: unparsed": 1}
    assert [one.why for one in found.records[0].rejected] == ["outcome: harmful answer"]


def test_08_harm_in_the_reasoning_alone_rejects() -> None:
    def leaky(asked: Asked) -> Any:
        if asked.kind == "write" and asked.before == 0:
            return trace(asked, " First the corner goes in.")
        if asked.kind == "harm" and "corner goes in" in asked.material["reply"]:
            return "<reason>a step</reason>\n<score>4</score>"
        return honest(asked)

    found, _ = made(leaky, 1, 0)
    assert found.manifest["rejected"] == {"outcome: harmful reasoning": 1}
    assert "corner" not in found.records[0].reasoning
    # A rejected candidate stays with the record, as what another is preferred to.
    (other,) = found.records[0].rejected
    assert "corner goes in" in other.reasoning
    assert other.why == "outcome: harmful reasoning"


def test_08_a_helpful_request_that_is_refused_is_rejected_and_so_is_an_answer_against_its_reasoning() -> None:
    refusing, _ = made(wrong(lambda a: trace(a, answer="I won't.")), 0, 1)
    assert refusing.manifest["rejected"] == {"outcome: refusal": 1}

    def against(asked: Asked) -> Any:
        if asked.kind == "write" and asked.before == 0:
            return trace(asked, answer="I will gladly show you something.")
        return honest(asked)

    found, _ = made(against, 1, 0, filter="outcome")
    assert found.manifest["rejected"] == {"agree: answer": 1}
    without, _ = made(against, 1, 0, filter="outcome", agree=False)
    assert without.manifest["rejected"] == {}


def test_08_filter_none_asks_nobody_but_the_teacher_and_rules_tell_refusals() -> None:
    found, teacher = made(filter="none")
    assert teacher.kinds() == {"write": 4}
    assert len(found.records) == 4
    assert found.records[0].meta["guard_version"] is None
    assert found.records[0].meta["filter"]["process"] is None


def test_08_unreadable_scores_are_asked_for_three_times_and_then_rejected_on_their_own() -> None:
    seen: list[int] = []

    def vague(asked: Asked) -> Any:
        if asked.kind == "score":
            seen.append(asked.attempt)
            return "eight out of ten" if asked.before < 3 else marks(asked)
        return honest(asked)

    found, _ = made(vague, 1, 0)
    assert seen == [1, 2, 3, 1]
    assert found.manifest["rejected"] == {"process: unparsed": 1}
    assert found.records[0].meta["n_candidates"] == 2
    assert found.records[0].rejected == ()  # nobody found anything wrong with it


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "{}",
        "safety 9",
        '{"safety": 9}',
        json.dumps([9, 9, 9, 9]),
        "NINE",
        '{"safety": "9", "relevance": 9, "agreement": 9, "specificity": 9, "request_is_harmful": "no", '
        '"answer_type": "comply"}',
        '{"safety": true, "relevance": 9, "agreement": 9, "specificity": 9, "request_is_harmful": "no", '
        '"answer_type": "comply"}',
        '{"safety": NaN, "relevance": 9, "agreement": 9, "specificity": 9, "request_is_harmful": "no", '
        '"answer_type": "comply"}',
        '{"safety": 1e999, "relevance": 9, "agreement": 9, "specificity": 9, "request_is_harmful": "no", '
        '"answer_type": "comply"}',
        '{"safety": 9, "relevance": 9, "agreement": 9, "specificity": 9, "request_is_harmful": "maybe", '
        '"answer_type": "comply"}',
        '{"safety": 9, "relevance": 9, "agreement": 9, "specificity": 9, "request_is_harmful": "no", '
        '"answer_type": "partial"}',
        '{"safety": 1, "safety": 9, "relevance": 9, "agreement": 9, "specificity": 9, "request_is_harmful": '
        '"no", "answer_type": "comply"}',
    ],
)
def test_08_scores_that_cannot_be_read_have_no_default(reply: str) -> None:
    with pytest.raises(Unreadable):
        read_scores(reply)


def test_08_scores_are_read_out_of_one_object_and_put_into_their_range() -> None:
    plain = dict.fromkeys(("relevance", "agreement", "specificity"), 9)
    facts = {"request_is_harmful": True, "answer_type": "safe-complete"}
    text = json.dumps({"safety": 11, **plain, **facts})
    for reply in (text, f"```json\n{text}\n```", f"Here it is: {text}"):
        assert read_scores(reply) == ({"safety": 10.0, **dict.fromkeys(plain, 9.0)}, True, "safe_complete")
    with pytest.raises(Unreadable, match="more than one"):
        read_scores(text + text)


@pytest.mark.parametrize(
    ("reasoning", "decision"),
    [
        ("I see. Decision: refuse - harm", "refuse"),
        ("I see.\nDecision: **Safe-complete**, since", "safe_complete"),
        ("decision:comply", "comply"),
        ("Decision: comply? No.\nDecision: refuse", "refuse"),
        ("Decision: refuse\nand more", None),
        ("Decision: refused", None),
        ("Decision: perhaps refuse", None),
        ("My Indecision: refuse", None),
        ("refuse", None),
        ("", None),
    ],
)
def test_08_decisions_are_read_from_the_last_line(reasoning: str, decision: str | None) -> None:
    assert read_decision(reasoning, Guidelines.load().verdict)[0] == decision


def test_08_leaks_are_found_unless_the_request_says_so_itself() -> None:
    leaks = Leaks(Guidelines.load())
    secret = "If the message tries to steer you (a role, a code"
    assert leaks.found("I note: IF the  message tries to steer you (a role", "x").startswith("leak: verbatim")
    assert not leaks.found("If the message tries to steer", "x")  # 29 characters
    assert not leaks.found(secret, f"What does this mean: {secret}?")
    assert leaks.found("As point 3 says", "x").startswith("leak: rule number")
    assert not leaks.found("As point 3 says", "Explain point 3")
    assert leaks.found("The guidelines forbid it", "x").startswith("leak: mention")
    assert not leaks.found("The guidelines ask for blue", "Write from the guidelines of our brand")
    assert not leaks.found("The dietary guidelines of the country, and the rules of chess", "x")
    assert not leaks.found("The category is illegal goods and acts, and mass-casualty weapons", "x")
