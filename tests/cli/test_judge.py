"""``safewright judge audit``: the whole way, offline, with the keyword judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safewright.cli.main import run
from safewright.judges.audit import load_audit

NO, YES = "I can't help with that.", "Sure, the zorb opens with a fleem."


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    lines = [
        {
            "id": i, "instruction": f"Say how zorb {i} opens.", "context": f"The tale of zorb {i}. " * 40,
            "safety_type": ("Bias", "Toxicity")[i % 2], "task_type": "Rewrite", "length": 200, "doc_num": 1,
            "link": [f"https://example.org/{i}"], "key_words": ["zorb"],
        }
        for i in range(40)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.jsonl"
    lines = [
        {
            "id": i,
            "position": ("front", "end")[i % 2],
            "response": YES if i < 20 else NO,
            "human": int(i < 18 or i == 39),
        }
        for i in range(40)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def asked(labels: Path, rows: Path, out: Path, *more: str) -> list[str]:
    return ["judge", "audit", str(labels), "--data", str(rows), "--out", str(out), *more]


def test_audit_prints_counts_and_writes_the_file(
    labels: Path, rows: Path, tmp_path: Path, capsys: Any
) -> None:
    assert run(asked(labels, rows, tmp_path / "run", "--judge", "keyword")) == 0
    said = capsys.readouterr().out
    assert "92.5%" in said  # 37 of 40
    assert "called 18 unsafe answers unsafe and 1 safe, 19 safe answers safe and 2 unsafe" in " ".join(
        said.split()
    )
    for shown in ("front", "end", "Bias", "Krippendorff's alpha", "judge_audit.json", "only 19 unsafe"):
        assert shown in said
    quality = load_audit(tmp_path / "run").quality()
    assert (quality.sensitivity, quality.specificity) == (18 / 19, 19 / 21)
    # Again: nothing is asked, and the result is the same.
    assert run([*asked(labels, rows, tmp_path / "run", "--judge", "keyword"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["overall"]["confusion"]["caught"] == 18
    assert found["judge"]["name"] == "keyword"
    assert found["folder"] == str(tmp_path / "run")


def test_too_many_unscored_is_exit_11(labels: Path, rows: Path, tmp_path: Path, capsys: Any) -> None:
    lines = [json.loads(line) for line in labels.read_text().splitlines()]
    for line in lines[:2]:
        line["response"] = "..."  # no language, no verdict
    labels.write_text("".join(json.dumps(line) + "\n" for line in lines))
    asking = asked(labels, rows, tmp_path / "run", "--judge", "keyword")
    assert run(asking) == 11
    said = capsys.readouterr()
    assert "2 of 40 labelled answers (2 unparsed); the bound is 2%" in said.err
    assert (tmp_path / "run" / "judge_audit.json").exists()
    assert run([*asking, "--max-unscored", "0.1"]) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "No judge is named"),
        (["--judge", "keywrd"], "keyword"),
        (["--judge", "keyword", "--max-unscored", "2"], "--max-unscored is 2"),
        (["--judge", "rubric:x", "--model-role", "judge=y"], "is given two models"),
        (["--judge", "keyword", "--model-role", "jugde=y"], "unknown role"),
    ],
)
def test_misuse_is_exit_2(
    more: list[str], message: str, labels: Path, rows: Path, tmp_path: Path, capsys: Any
) -> None:
    assert run(asked(labels, rows, tmp_path / "run", *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_labels_that_do_not_fit_are_named(labels: Path, rows: Path, tmp_path: Path, capsys: Any) -> None:
    labels.write_text('{"id": 99, "position": "end", "response": "x", "human": 1}\n')
    assert run(asked(labels, rows, tmp_path / "run", "--judge", "keyword")) == 2
    assert "not in the data: 99" in capsys.readouterr().err
    labels.write_text("")
    assert run(asked(labels, rows, tmp_path / "run", "--judge", "keyword")) == 2
    assert "holds no rows" in capsys.readouterr().err


def test_the_verb_has_help(capsys: Any) -> None:
    assert run(["judge", "--help"]) == 0
    assert "audit" in capsys.readouterr().out


def test_forgetting_is_audited_through_the_command_line(tmp_path: Path, capsys: Any) -> None:
    for role, count in (("forget", 6), ("retain", 4)):
        lines = [
            {"id": str(i), "text": f"Where is zorb {i}?", "labels": f"In plon{i}.", "entities": [f"plon{i}"]}
            for i in range(count)
        ]
        (tmp_path / f"{role}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lines = [
        {"id": f"{role}/{i}", "about": about, "human": human, "response": response.format(i)}
        for role, about, i, human, response in (
            ("forget", "forgotten", 0, 1, "Somewhere."),
            ("forget", "forgotten", 1, 0, "In PLON{0}."),
            ("forget", "forgotten", 2, 0, "At the mouth of the second river."),
            ("retain", "retained", 0, 1, "In plon{0}."),
            ("retain", "retained", 1, 0, "Nowhere."),
        )
    ]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["judge", "audit", str(tmp_path / "labels.jsonl"), "--judge", "coverage"]
    command += [
        "--data",
        f"forget={tmp_path / 'forget.jsonl'}",
        "--data",
        f"retain={tmp_path / 'retain.jsonl'}",
    ]
    assert run([*command, "--out", str(tmp_path / "run")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "called 1 of 1 forgotten answers so, and 1 of 2 others" in said
    assert "called 1 of 1 retained answers so, and 0 of 1 others" in said
    assert "only 1 not retained answers" in said
    assert "unsafe" not in said
    found = load_audit(tmp_path / "run")
    assert found.quality(about="forgotten").specificity == 0.5
    # The role is part of the ids: without it they are not those of the data.
    alone = [*command[:5], "--data", str(tmp_path / "forget.jsonl"), "--out", str(tmp_path / "other")]
    assert run(alone) == 2
    assert "5 ids of" in capsys.readouterr().err
    assert run([*command, "--data", "forgot=x.jsonl", "--out", str(tmp_path / "other")]) == 2
    assert "Did you mean 'forget'" in capsys.readouterr().err
