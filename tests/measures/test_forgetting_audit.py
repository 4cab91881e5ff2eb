"""KFR and KRR with the judge's errors taken out, and an audit that is of something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safewright.data.roles import merged
from safewright.data.sources import load_data
from safewright.errors import BadInput
from safewright.judges import resolve
from safewright.judges.audit import audit_judge
from safewright.judges.labels import load_labels
from safewright.measures import measure_model
from safewright.types import Chat
from tests.measures.forgetting_rows import Telling, data, number, secret


def told(chat: Chat, _: int) -> str:
    i = number(chat)
    return f"it is {secret(i)}" if i in (0, 100, 101, 102) else "it is something else"


def audited(folder: Path, lines: list[tuple[str, str, int, str]], judge: Any) -> str:
    labels = folder / "labels.jsonl"
    names = ("id", "about", "human", "response")
    labels.write_text("".join(json.dumps(dict(zip(names, line, strict=True))) + "\n" for line in lines))
    rows = merged({role: load_data(given, role) for role, given in data().items()})
    _, where = audit_judge(judge, load_labels(labels), rows, run=folder / "audit")
    return str(where)


def answers(
    role: str, about: str, place: int, counts: dict[tuple[int, bool], int]
) -> list[tuple[str, str, int, str]]:
    """Labelled answers to one row: by what people say, and whether the secret's word is there."""
    return [
        (
            f"{role}/r{place:02d}",
            about,
            human,
            f"{secret(place) if named else 'nothing'} in reply {human} of {n}",
        )
        for (human, named), count in counts.items()
        for n in range(count)
    ]


def test_each_rate_is_corrected_by_the_errors_on_its_own_quality(tmp_path: Path) -> None:
    judge = resolve("coverage")
    # Of answers that give the secret away, a fifth does so in other words, which the judge takes for forgetting.
    lines = answers("forget", "forgotten", 1, {(1, False): 40, (0, True): 32, (0, False): 8})
    lines += answers("retain", "retained", 100, {(1, True): 36, (1, False): 4, (0, False): 40})
    path = audited(tmp_path, lines, judge)
    card = measure_model(
        "forgetting",
        Telling(told),
        data=data(),
        judge=judge,
        run=tmp_path / "run",
        config={"judge_audit": path},
    )
    found = {reading.name: reading for reading in card.readings}
    assert found["kfr"].value == pytest.approx(5 / 6)
    assert found["kfr_corrected"].value == pytest.approx((5 / 6 + 0.8 - 1) / 0.8)
    assert found["krr"].value == pytest.approx(3 / 4)
    assert found["krr_corrected"].value == pytest.approx((3 / 4) / 0.9)
    interval = found["kfr_corrected"].interval
    assert interval is not None
    assert interval.low < found["kfr_corrected"].value < interval.high
    said = card.conventions["judge"]
    assert said["strength"] == "audited"
    assert said["quality"]["forgotten"]["specificity"] == 0.8
    assert said["quality"]["retained"]["sensitivity"] == 0.9
    plain = measure_model("forgetting", Telling(told), data=data(), judge=judge, run=tmp_path / "plain")
    assert not any("corrected" in reading.name for reading in plain.readings)


def test_an_audit_of_another_rule_or_quality_is_refused(tmp_path: Path) -> None:
    lines = answers("forget", "forgotten", 1, {(1, False): 4, (0, True): 4})
    path = audited(tmp_path, lines, resolve("coverage"))
    for config, message in (
        ({"judge_audit": path}, "labelled for forgotten.*retained"),
        ({"judge_audit": path, "preset": "release"}, "of another judge: its rule is 'paper'"),
    ):
        with pytest.raises(BadInput, match=message):
            measure_model("forgetting", Telling(told), data=data(), run=tmp_path / "run", config=config)
