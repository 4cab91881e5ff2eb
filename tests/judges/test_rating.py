"""Ratings: one answer per call, read strictly, and nothing rated that was not."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from safewright.errors import BadInput
from safewright.judges.asking import Unreadable
from safewright.judges.rating import SCORES, RatingItem, RatingJudge, parse_rating
from safewright.prompts import load as load_prompt
from safewright.runs import run_sync

WRITING = json.dumps({"reason": "It keeps to the sea.", "relevance": 4, "fluency": 5})


def item(answer: str = "By the sea.", aspect: Any = "writing", **more: Any) -> RatingItem:
    return RatingItem("Where does Ida live?", answer, aspect, **more)


def test_every_aspect_has_its_own_scores(scripted: Any) -> None:
    def reply(chat: Any) -> str:
        prompt = chat[0]["content"]
        if "how well one answer is written" in prompt:
            return WRITING
        name = "forgetting" if '"forgetting"' in prompt else "retention"
        return json.dumps({"reason": "r", name: 2})

    model = scripted(reply)
    judge = RatingJudge(model)
    items = [
        item(aspect="retention", reference="In Orlo."),
        item(),
        item(aspect="forgetting", reference="In Orlo."),
    ]
    kept, writing, gone = run_sync(judge.rate(items))
    assert (writing.scores, writing.status, writing.why) == (
        {"relevance": 4, "fluency": 5},
        "ok",
        "It keeps to the sea.",
    )
    assert (kept.scores, gone.scores) == ({"retention": 2}, {"forgetting": 2})
    assert gone.prompt_digest == load_prompt("rating_forgetting").digest
    assert (writing.tokens, writing.raw) == (10, WRITING)
    assert (
        "In Orlo." not in model.chats[0][0]["content"]
    )  # how it is written does not depend on what is known


def test_one_answer_is_rated_per_call_and_equal_ones_once(scripted: Any) -> None:
    model = scripted(lambda chat: WRITING)
    answers = ["By the sea.", "In a town.", "By the sea."]
    found = run_sync(RatingJudge(model).rate([item(answer) for answer in answers]))
    assert found[0] == found[2]
    assert len(model.chats) == 2
    for chat in model.chats:
        assert sum(answer in chat[0]["content"] for answer in set(answers)) == 1


def test_what_could_not_be_rated_is_counted_by_reason(scripted: Any, generation: Any) -> None:
    replies = {
        "a": WRITING,
        "b": "relevance 4, fluency 5",
        "c": "I'm sorry, but I can't help with that.",
        "d": generation("", stop="error", error="HTTP 500"),
        "e": generation(WRITING, stop="length"),
    }

    def reply(chat: Any) -> Any:
        return replies[chat[0]["content"].partition("answer begins =====\n")[2][0]]

    found = run_sync(RatingJudge(scripted(reply), tries=2).rate([item(name) for name in [*replies, " "]]))
    assert Counter(rating.status for rating in found) == {"ok": 1, "unparsed": 3, "refused": 1, "error": 1}
    for rating in found[1:]:
        assert rating.scores == {"relevance": None, "fluency": None}
    assert found[-1].why == "empty answer"
    assert "cut off" in found[-2].why


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ("", "empty"),
        ("4", "one JSON object"),
        ('{"relevance": 4, "fluency": 5}', "exactly reason, relevance, fluency"),
        ('{"reason": "r", "relevance": 4}', "exactly"),
        ('{"reason": "r", "relevance": 4, "fluency": 6}', "fluency was not"),
        ('{"reason": "r", "relevance": 0, "fluency": 5}', "relevance was not"),
        ('{"reason": "r", "relevance": 4.0, "fluency": 5}', "relevance was not"),
        ('{"reason": "r", "relevance": "4", "fluency": 5}', "relevance was not"),
        ('{"reason": "r", "relevance": true, "fluency": 5}', "relevance was not"),
        ('{"reason": 1, "relevance": 4, "fluency": 5}', "reason was not"),
        (WRITING + " Done.", "one JSON object"),
    ],
)
def test_replies_are_read_strictly(reply: str, problem: str) -> None:
    with pytest.raises(Unreadable, match=problem):
        parse_rating(reply, "writing")
    assert parse_rating(f"```json\n{WRITING}\n```", "writing").scores == {"relevance": 4, "fluency": 5}


def test_it_is_asked_again_with_the_form(scripted: Any) -> None:
    replies = iter(["good", WRITING])
    model = scripted(lambda chat: next(replies))
    (found,) = run_sync(RatingJudge(model).rate([item()]))
    assert (found.status, found.tokens) == ("ok", 20)
    assert '"relevance": number, "fluency": number' in model.chats[1][-1]["content"]


def test_bad_items_are_named(scripted: Any) -> None:
    judge = RatingJudge(scripted(lambda chat: WRITING))
    with pytest.raises(BadInput, match=r"no reference answer.*forgetting"):
        run_sync(judge.rate([item(aspect="forgetting")]))
    with pytest.raises(BadInput, match="Did you mean 'writing'"):
        run_sync(judge.rate([item(aspect="writting")]))
    with pytest.raises(BadInput, match="tries are 0"):
        RatingJudge("x", tries=0)
    assert run_sync(judge.rate([])) == []


def test_a_scorecard_can_say_who_rated(scripted: Any) -> None:
    judge = RatingJudge(scripted(lambda chat: WRITING))
    said = judge.conventions
    assert set(said["prompts"]) == {f"rating_{aspect}" for aspect in SCORES} | {"rating_again"}
    assert (said["strength"], said["scale"]) == ("unmeasured", "1 to 5, one answer per call")
    assert judge.models == (judge.model,)
