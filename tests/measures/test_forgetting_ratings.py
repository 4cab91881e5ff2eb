"""Forgetting: ratings of fluency and relevance, and what they cost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from safewright.errors import BadInput
from safewright.measures import measure_model, plan_measure
from safewright.types import Chat, Decoding, Generation, ModelRef, Scorecard
from tests.measures.forgetting_rows import Telling, data, number, says, secret


class Rater:
    """Rates 4 for relevance and 2 for fluency (5 for what is forgotten); fails on answers about some things."""

    able = frozenset({"generate"})
    conventions: Mapping[str, Any] = {"engine": "rater"}
    ref = ModelRef("live", "rater", "sha256:rater")

    def __init__(self, failing: Sequence[str] = (), odd: Sequence[str] = ()) -> None:
        self.failing, self.odd, self.asked = failing, odd, 0

    def stream(
        self, chats: Sequence[Chat], how: Decoding, *, done: frozenset[int] = frozenset()
    ) -> Iterator[list[tuple[int, Generation]]]:
        for place, chat in enumerate(chats):
            if place in done:
                continue
            self.asked += 1
            text = chat[0]["content"]
            if any(mark in text for mark in self.failing):
                yield [(place, Generation("", "", "", True, "error", 0, "HTTP 500"))]
            elif any(mark in text for mark in self.odd):
                yield [(place, says("four out of five"))]
            elif "writing" in text or "relevance" in text:
                yield [(place, says('{"reason": "r", "relevance": 4, "fluency": 2}'))]
            else:
                name = "forgetting" if '"forgetting"' in text else "retention"
                yield [(place, says(json.dumps({"reason": "r", name: 5})))]

    def close(self) -> None:
        return None


def tell(chat: Chat, _: int) -> str:
    i = number(chat)
    return f"it is {secret(i)} about {i}" if i >= 100 else f"unknown about {i}"


def run(rater: Any, folder: Path, **config: Any) -> Scorecard:
    models = {"target": Telling(tell), "rubric": rater}
    return measure_model("forgetting", models, data=data(), config=config, run=folder)


def test_answers_are_rated_from_one_to_five_once(tmp_path: Path) -> None:
    rater = Rater()
    card = run(rater, tmp_path / "a")
    found = {reading.name: reading for reading in card.readings}
    for role, count in (("forget", 6), ("retain", 4)):
        assert (found[f"relevance_{role}"].value, found[f"fluency_{role}"].value) == (4.0, 2.0)
        assert found[f"fluency_{role}"].n == count
        assert found[f"fluency_{role}"].interval is not None
    assert "forgetting_forget" not in found
    assert rater.asked == 10
    assert set(card.conventions["method"]["ratings"]["prompts"]) == {"writing"}
    again = run(rater, tmp_path / "a")
    assert rater.asked == 10
    assert again.readings == card.readings


def test_what_is_given_away_may_be_rated_too(tmp_path: Path) -> None:
    card = run(Rater(), tmp_path / "a", ratings="all")
    found = {reading.name: reading.value for reading in card.readings}
    assert found["forgetting_forget"] == found["retention_retain"] == 5.0
    assert "retention_forget" not in found


def test_failed_ratings_are_counted_and_asked_again(tmp_path: Path) -> None:
    rater = Rater(failing=["about 2"], odd=["about 3"])
    card = run(rater, tmp_path / "a")
    found = {reading.name: reading for reading in card.readings}
    assert (found["fluency_forget"].n, found["fluency_forget"].unscored) == (4, 2)
    assert found["fluency_forget"].value == 2.0
    assert found["kfr"].n == 6
    assert card.unscored == {"error": 1, "unparsed": 1}
    well = Rater()
    healed = run(well, tmp_path / "a")
    assert 1 <= well.asked <= 2  # the failed one; an unreadable reply was received, and stays
    assert "error" not in healed.unscored


def test_a_model_that_rates_itself_is_refused(tmp_path: Path) -> None:
    model = Telling(tell)
    both = {"target": model, "rubric": model}
    with pytest.raises(BadInput, match="own answers"):
        measure_model("forgetting", both, data=data(), run=tmp_path / "a")
    plan_measure("forgetting", both, data=data(), config={"allow_self_judge": True})


def test_the_cost_is_known_before(tmp_path: Path) -> None:
    models = {"target": Telling(tell), "rubric": Rater()}
    config = {"attacks": "roleplay,sampling", "draws": 3, "ratings": "all"}
    plan = plan_measure("forgetting", models, data=data(), config=config)
    assert plan.reading_calls() == {"rubric": 20}
    calls = {name: cost.calls for name, cost in plan.estimates().items()}
    assert calls == {"forgetting (target)": 20, "forgetting (sampling)": 18}
