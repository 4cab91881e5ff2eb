"""A small student with records to be trained on, for comparisons of arms; and comparisons that are killed."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests import tiny
from tests.contract.fakes import Sure
from tests.treatments import folders
from tests.treatments.killed import counting, run_apart

WORDS = tiny.WORDS
MORE = (*tiny.THINKING, ".")
QUICK = {"steps": 2, "batch": 12, "lora_rank": 0, "lr": 1e-2, "warmup": 0.0, "max_length": 64, "formats": 0.0}
"""Options of a training that takes no time."""


def records(count: int = 8, *, rejected: bool = True, shift: int = 0) -> list[dict[str, Any]]:
    """Records of made-up words: every other request is harmful."""
    found = []
    for i in range(count):
        a, b, c, d = (WORDS[(i * 5 + shift + n) % len(WORDS)] for n in (0, 7, 13, 21))
        harmful = i % 2 == 0
        found.append(
            {
                "id": f"q{shift}-{i}",
                "prompt": f"{a} {b} {c} {WORDS[i % len(WORDS)]}",
                "answer": "ban bar" if harmful else f"{d} {c}",
                "type": "harmful" if harmful else "helpful",
                "reasoning": f"{a} {b} {c} {'ban' if harmful else 'den'}",
                "decision": "refuse" if harmful else "comply",
                "verdict": "ban" if harmful else "den",
                "restated": f"{a} {b}",
                "draft": f"{c} {d}",
                "rejected": [{"reasoning": f"{c} {b} den", "answer": f"{d} {a}", "why": "outcome"}]
                if rejected and harmful
                else [],
            }
        )
    return found


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def home_of(home: Path) -> Path:
    """A folder with a student, its records, and rows to be measured on."""
    if not (home / "student").exists():
        tiny.save_tiny(home / "student", more=MORE, **{**folders.SMALL, "num_key_value_heads": 1})
        write(home / "reasoned.jsonl", records(12))
        write(home / "other.jsonl", records(8, shift=3))
        for role in ("harm", "utility"):
            folders.rows_file(home / f"{role}.jsonl", 4)
    return home


def given(home: Path, **more: Any) -> dict[str, Any]:
    """The arguments of a comparison over the small student."""
    home_of(home)
    return {
        "name": "srg",
        "stage": "ablate",
        "models": {"student": home / "student"},
        "data": {"reasoned": home / "reasoned.jsonl"},
        "own": {"arms": "rt,srg", "scales": "0.5", "teachers": f"other={home / 'other.jsonl'}"},
        "options": dict(QUICK),
        "measures": ["harmful_rate", "utility"],
        "measured": {
            "data": {"harmful_rate": home / "harm.jsonl", "utility": {"utility": home / "utility.jsonl"}},
            "options": {name: {"max_new_tokens": 3} for name in ("harmful_rate", "utility")},
            "judges": {"harmful_rate": Sure()},
        },
        **more,
    }


def _work(asked: Mapping[str, Any], kill_at: int | None, told: Any) -> None:
    from safewright.compose.ablation import plan_ablation, run_ablation

    gc.freeze()  # what was imported before the fork
    plan = plan_ablation(**asked)
    tick, passed = counting(kill_at)
    run_ablation(plan, progress=tick)
    told.put(passed())


def in_process(asked: Mapping[str, Any], kill_at: int | None = None) -> int | None:
    """A comparison in a process of its own; the points it passed, or None where it was killed."""
    preload = [
        "torch",
        "transformers.trainer",
        "trl.trainer.sft_trainer",
        "peft",
        "safewright.compose.ablation",
    ]
    return run_apart(_work, [dict(asked)], kill_at, preload, 100)
