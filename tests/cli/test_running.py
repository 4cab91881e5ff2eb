"""What the verbs say before and after a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safewright.cli.main import run
from safewright.cli.running import require_scored
from safewright.errors import TooManyUnscored
from safewright.types import Record, Scorecard
from tests import tiny


def test_a_white_box_measure_has_no_estimate_and_no_judge_to_change(
    tiny_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    lines = [{"prompt": tiny.WORDS[0], "response": answer} for answer in (tiny.WORDS[1], " ")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    asked = ["measure", "lens", str(tiny_folder), "--data", f"forget={tmp_path / 'rows.jsonl'}"]
    assert run([*asked, "--out", str(tmp_path / "out")]) == 11
    said = capsys.readouterr().err
    assert "time:" not in said
    assert "1 of 2 records unscored" in said
    assert "--judge" not in said
    assert "mend the rows" in said


def test_another_judge_is_advised_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safewright.cli.running.load_records", lambda folder: [Record("a", (), None)])
    card = Scorecard("m", "1", {}, (), unscored={"unparsed": 1}, conventions={"judge": {"name": "keyword"}})
    with pytest.raises(TooManyUnscored) as told:
        require_scored({"m": (card, tmp_path)}, 0.1)
    assert told.value.fix.startswith("Try another judge (--judge), look at")
