"""Check 12's mechanism on synthetic rows: stored records under both rules, with their own labels beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safewright.errors import BadInput
from safewright.measures.rescoring import rescore
from safewright.stats.lexical import lexical
from safewright.stats.rouge import rouge_recall
from safewright.types import Scorecard

TEXTS = ("The mill stands by the river Elm.", "Nobody knows where it stands, nobody at all.")


def record(
    score: float | None, *, gt: int = 2, label: Any = True, relation: Any = "neutral", **more: Any
) -> dict:
    """A record as the authors' evaluation stores it; figures are those of its text."""
    pred, truth = TEXTS
    found = lexical(pred)
    recall = rouge_recall(truth, pred)
    return {
        "query": "Where does the mill stand?",
        "pred": pred,
        "gt": truth,
        "r1r": recall["rouge1"],
        "rLr": recall["rougeL"],
        "ppl": 12.5,
        "ttr": found.rttr,
        "BI": found.bi,
        "HS": found.hs,
        "ent_label": relation,
        "ent_score": 0.7,
        "entity_score": score,
        "entity_gt": [f"e{i}" for i in range(gt)],
        "entity_pred": ["e0"],
        "forget_label": label,
        **more,
    }


def retained(score: float, label: Any, **more: Any) -> dict:
    plain = record(score, **more)
    del plain["forget_label"]
    return {**plain, "retention_label": label}


def run(records: Any, folder: Path, name: str = "stored.json") -> tuple[Scorecard, list[dict]]:
    file = folder / name
    if name.endswith(".jsonl"):
        file.write_text("".join(f"{json.dumps(one)}\n" for one in records))
    else:
        file.write_text(json.dumps(records))
    card, out = rescore("forgetting", file, run=folder / "run")
    return card, [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]


def test_12_both_rules_and_the_stored_labels_stand_side_by_side(tmp_path: Path) -> None:
    forget = [
        record(0.0),  # forgotten by every rule
        record(0.4),  # at most three entities: the release forgets up to .5
        record(0.5, label=False),  # an older, strict label: the final rule says forgotten
        record(0.4, gt=5, label=False),
        record(0.3, gt=5),  # the release forgets at .3, the paper below
        record(1.5, label=False),  # pairs are counted there: a score may exceed 1
        record(0.9, relation="contradiction"),
    ]
    kept = [
        retained(0.3, True),
        retained(0.9, True),
        retained(0.2, False),
        retained(0.9, False, relation="contradiction"),
    ]
    card, records = run([*forget, *kept], tmp_path)
    found = {reading.name: reading for reading in card.readings}
    assert found["kfr[paper]"].value == pytest.approx(2 / 7)
    assert found["kfr[release]"].value == pytest.approx(5 / 7)
    assert found["kfr[stored]"].value == pytest.approx(4 / 7)
    assert found["krr[paper]"].value == pytest.approx(1 / 4)
    assert found["krr[release]"].value == found["krr[stored]"].value == pytest.approx(2 / 4)
    assert found["count/kfr_release_differs_from_stored"].value == 1
    assert found["count/kfr_paper_differs_from_stored"].value == 2
    assert found["count/krr_release_differs_from_stored"].value == 0
    for figure in ("bi", "hs", "rttr", "rouge1", "rougeL"):
        assert found[f"count/{figure}_forget_as_stored"].value == 7
    assert all(reading.interval for name, reading in found.items() if name.startswith(("kfr[", "krr[")))
    assert records[2]["scores"]["stored"] == 0.0
    assert records[2]["scores"]["release"] == 1.0
    assert card.models == {}
    assert card.unscored == {}


def test_12_what_the_judge_did_not_say_is_no_forgetting(tmp_path: Path) -> None:
    records = [
        record(None),
        record(0.0, relation=None),
        record(0.0, relation="maybe"),
        {**record(0.0), "entity_gt": None},
        record(0.0, gt=0),  # nothing to forget: undecided by the paper, forgotten by the release
        record(0.9, label=None),
    ]
    card, _ = run(records, tmp_path)
    found = {reading.name: reading for reading in card.readings}
    assert (found["kfr[paper]"].n, found["kfr[paper]"].unscored, found["kfr[paper]"].value) == (1, 5, 0.0)
    assert (found["kfr[release]"].n, found["kfr[release]"].value) == (2, 0.5)
    assert found["kfr[stored]"].n == 5
    assert sum(card.unscored.values()) == 6


def test_12_a_changed_text_shows_in_its_figures(tmp_path: Path) -> None:
    card, _ = run([record(0.0), record(0.0, BI=9.0, HS=None)], tmp_path)
    found = {reading.name: reading for reading in card.readings}
    assert (found["count/bi_forget_as_stored"].value, found["count/bi_forget_as_stored"].n) == (1, 2)
    assert (found["count/hs_forget_as_stored"].value, found["count/hs_forget_as_stored"].n) == (1, 1)


@pytest.mark.parametrize("shape", ["list", "lines", "named lists"])
def test_12_files_of_three_shapes(shape: str, tmp_path: Path) -> None:
    forget, kept = [record(0.0), record(0.9, label=False)], [retained(0.9, 1)]
    if shape == "named lists":
        card, _ = run({"forget": forget, "retain": kept, "model": "name"}, tmp_path)
    else:
        card, _ = run([*forget, *kept], tmp_path, "s.jsonl" if shape == "lines" else "s.json")
    found = {reading.name: reading.value for reading in card.readings}
    assert (found["kfr[paper]"], found["krr[paper]"]) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"query": "q", "pred": "p", "gt": "g"}], "item 1.*forget_label or retention_label"),
        ([record(0.0), {**record(0.0), "pred": 3}], "item 2.*`pred` is absent"),
        ([record(0.0, label="perhaps")], "forget_label.*perhaps"),
        (["text"], "item 1.*no object"),
        ([], "holds no records"),
        ({"aggregate": 1}, "holds no records"),
    ],
)
def test_12_other_files_are_refused_by_name(records: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        run(records, tmp_path)


def test_12_a_file_that_is_not_there_or_not_json(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        rescore("forgetting", tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(BadInput, match="line 1"):
        rescore("forgetting", tmp_path / "bad.json")
    with pytest.raises(BadInput, match="utility reads no stored records"):
        rescore("utility", tmp_path / "bad.json")
