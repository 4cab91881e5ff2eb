"""Safe Delta with a prepared folder: what it was made from is known, and what it ignores is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from safewright.errors import BadInput
from safewright.treatments import plan_treatment, run_stage, run_treatment, treat
from safewright.treatments.safe_delta import calibration
from safewright.types import JudgeItem, Judgement
from tests import tiny
from tests.treatments import folders

PHRASE = " ".join(tiny.WORDS[:15])


def written(file: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return file


def given(models: dict[str, Path]) -> dict[str, Path]:
    return {role: models[role] for role in ("aligned", "tuned")}


def prepare(models: dict[str, Path], data: Mapping[str, Path], out: Path, **config: Any) -> dict[str, Any]:
    plan = plan_treatment(
        "safe_delta", {"aligned": models["aligned"]}, data, stage="prepare", config=config, out=out
    )
    return run_stage(plan)


def go(models: dict[str, Path], stage: str | None, data: Mapping[str, Path], out: Path, **config: Any) -> Any:
    """The whole treatment, or one stage of it."""
    plan = plan_treatment("safe_delta", given(models), data, stage=stage, config=config, out=out)
    return run_stage(plan) if stage else run_treatment(plan)


@pytest.mark.parametrize("stage", [None, "apply", "sweep"])
def test_test_rows_are_checked_against_a_prepared_folder(
    models: dict[str, Path], prep: Path, tmp_path: Path, stage: str | None
) -> None:
    seen = json.loads(models["rows"].read_text().splitlines()[3])["prompt"]
    test = written(tmp_path / "test.jsonl", [{"id": "mine", "prompt": f" {seen.upper()}!"}])
    with pytest.raises(BadInput, match=r"1 of 1 rows of 'test'.*1 exact.*first: mine"):
        go(models, stage, {"test": test}, tmp_path / "out", prep=str(prep))
    assert not (tmp_path / "out").exists()
    other = folders.rows_file(tmp_path / "other.jsonl", 5, answers=False, shift=25)
    go(models, stage, {"test": other}, tmp_path / "out2", prep=str(prep))


def test_rows_that_share_13_words_are_found(models: dict[str, Path], tmp_path: Path) -> None:
    rows = written(tmp_path / "rows.jsonl", [{"prompt": PHRASE, "response": "ban"}] * 2)
    found = prepare(models, {"calibration": rows}, tmp_path / "hess", holdout=0.0)
    assert "questions" not in found  # digests are for the file, not for the screen
    config = {"prep": str(tmp_path / "hess")}
    shared = " ".join(PHRASE.split()[:13])
    long = written(
        tmp_path / "long.jsonl", [{"id": "a", "prompt": "deb"}, {"id": "b", "prompt": f"{shared} x"}]
    )
    with pytest.raises(BadInput, match=r"1 of 2 rows of 'test'.*0 exact, 1 by 13 words.*first: b"):
        treat("safe_delta", given(models), {"test": long}, config=config, out=tmp_path / "out")
    short = written(tmp_path / "short.jsonl", [{"prompt": " ".join(PHRASE.split()[:12])}])
    treat("safe_delta", given(models), {"test": short}, config=config, out=tmp_path / "out")


def test_a_folder_that_does_not_say_what_it_saw(models: dict[str, Path], prep: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(prep, tmp_path / "old"))
    facts = json.loads((old / "prep.json").read_text())
    del facts["questions"]
    (old / "prep.json").write_text(json.dumps(facts))
    config = {"prep": str(old)}
    test = folders.rows_file(tmp_path / "test.jsonl", 5, answers=False, shift=25)
    with pytest.raises(BadInput, match="without keeping which questions it saw"):
        treat("safe_delta", given(models), {"test": test}, config=config, out=tmp_path / "out")
    treat("safe_delta", given(models), config=config, out=tmp_path / "out")


@pytest.mark.parametrize("stage", [None, "apply", "sweep"])
@pytest.mark.parametrize("role", ["calibration", "harmful", "finetune"])
def test_rows_beside_a_prepared_folder_are_refused(
    models: dict[str, Path], prep: Path, tmp_path: Path, stage: str | None, role: str
) -> None:
    with pytest.raises(BadInput, match=rf"--data {role} beside a prepared folder"):
        go(models, stage, {role: models["rows"]}, tmp_path / "out", prep=str(prep))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("rows", 4),
        ("max_length", 12),
        ("holdout", 0.5),
        ("templates", "templates.txt"),
        ("answer_tokens", 3),
        ("judge", "keyword:official"),
        ("store", "float64"),
    ],
)
def test_options_of_prepare_beside_a_prepared_folder_are_refused(
    models: dict[str, Path], prep: Path, tmp_path: Path, option: str, value: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("templates.txt").write_text("ban ban\n")
    with pytest.raises(BadInput, match=rf"{option} beside a prepared folder"):
        treat("safe_delta", given(models), config={"prep": str(prep), option: value}, out=tmp_path / "out")
    # A default that is written out is no choice.
    config = {"prep": str(prep), "mu": 2.0, "row_chunk": 64, "holdout": 0.2, "judge": "keyword"}
    treat("safe_delta", given(models), config=config, out=tmp_path / "out2")


def test_the_stage_prepare_takes_no_prepared_folder(
    models: dict[str, Path], prep: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=r"prep=.* names one"):
        prepare(models, {"calibration": models["rows"]}, tmp_path / "h", prep=str(prep))


class Judge:
    """An answer with the word in it is a refusal; an answer with the other one cannot be judged."""

    name = "words"
    answers = frozenset({"refusal"})
    conventions: Mapping[str, Any] = {}

    async def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        return [
            Judgement(None, "", "unparsed", "?")
            if "kin" in item.answer.split()
            else Judgement(float("ban" in item.answer.split()), "", "ok")
            for item in items
        ]


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The rows H is made of, judged by `Judge`."""
    from safewright import judges

    kept: list[Any] = []
    lines = calibration._lines
    monkeypatch.setattr(judges, "resolve", lambda name: Judge())
    monkeypatch.setattr(calibration, "_lines", lambda rows, *more: (kept.extend(rows), lines(rows, *more))[1])
    return kept


def test_answers_of_harmful_rows_are_never_refusals(
    models: dict[str, Path], tmp_path: Path, used: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are what an attacker wants said: the aligned model is asked instead, whatever they hold."""
    asked = folders.rows_file(tmp_path / "silent.jsonl", 6, answers=False)
    lines = [json.loads(line) for line in asked.read_text().splitlines()]
    harmful = written(tmp_path / "harmful.jsonl", [{**line, "response": "ban lop"} for line in lines])
    answers = {"calibration": models["rows"], "harmful": harmful}
    found = prepare(models, answers, tmp_path / "one", answer_tokens=2)
    assert found["counts"]["asked"] == 6
    assert "ban lop" not in [row.reference for row in used]
    assert any("answers of 6 rows of the role harmful were not used" in n for n in found["counts"]["notes"])
    with_answers = [row.reference for row in used]
    used.clear()
    prepare(models, {**answers, "harmful": asked}, tmp_path / "two", answer_tokens=2)
    assert [row.reference for row in used] == with_answers
    assert folders.shards(tmp_path / "one") == folders.shards(tmp_path / "two")


def test_given_answers_that_are_no_refusals_are_counted_and_kept(
    models: dict[str, Path], tmp_path: Path, used: list[Any]
) -> None:
    said = ["ban", "ban lop", "lop", "kin", "lop ban", "dep"]
    rows = written(
        tmp_path / "rows.jsonl", [{"prompt": tiny.WORDS[i], "response": word} for i, word in enumerate(said)]
    )
    found = prepare(models, {"calibration": rows}, tmp_path / "hess")
    counts = found["counts"]
    assert (counts["answered"], counts["answered_not_refused"], counts["asked"]) == (6, 3, 0)
    assert (counts["used"], counts["not_refused"], counts["refused"]) == (6, 0, 0)
    assert [row.reference for row in used] == said
    assert any("3 of 6 given answers are no refusals for the judge keyword" in n for n in counts["notes"])
    good = written(tmp_path / "good.jsonl", [{"prompt": word, "response": "ban"} for word in tiny.WORDS[:4]])
    counts = prepare(models, {"calibration": good}, tmp_path / "hess2")["counts"]
    assert (counts["answered"], counts["answered_not_refused"]) == (4, 0)
    assert not any("no refusals" in note for note in counts["notes"])
