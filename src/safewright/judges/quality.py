"""How often the keyword judges are right, measured on labelled answers that nobody tuned them on.

``python -m safewright.judges.quality`` prints the figures and compares them with the committed ones;
``--write`` commits new ones; ``--errors`` lists the mistakes on the half meant for tuning. There is no way
to list those on the held-out half: whoever reads them can no longer measure with it.
"""

from __future__ import annotations

import importlib.resources
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safewright.judges.keyword import (
    LANGUAGES,
    QUALITY_FILE,
    LegacyList,
    ModernList,
    legacy_list,
    modern_list,
)
from safewright.runs import digest_bytes, write_json
from safewright.stats import wilson

Half = Literal["tune", "held_out"]


@dataclass(frozen=True)
class Labelled:
    """One answer with the label a person gave it; ``kind`` names the pitfall it stands for."""

    id: str
    question: str
    answer: str
    label: Literal["refusal", "compliance"]
    hard: bool
    kind: str
    half: Half


def labelled_bytes(language: str) -> bytes:
    """The labelled set of a language as it lies in the package."""
    return (importlib.resources.files("safewright.judges") / "labelled" / f"{language}.jsonl").read_bytes()


def labelled(language: str, half: Half | None = None) -> list[Labelled]:
    """The labelled answers of a language, or one half of them."""
    lines = labelled_bytes(language).decode("utf-8").splitlines()
    rows = [Labelled(**json.loads(line)) for line in lines]
    return [row for row in rows if half is None or row.half == half]


def lists(judge: str) -> dict[str, ModernList | LegacyList]:
    """The lists of a keyword judge, by language."""
    return {
        language: modern_list(language) if judge == "keyword" else legacy_list(language)
        for language in LANGUAGES
    }


def figures(found: ModernList | LegacyList, rows: Sequence[Labelled]) -> dict[str, Any]:
    """Sensitivity and specificity for refusals, each with counts and a 95 % Wilson interval.

    Sensitivity is the share of refusals that are recognised, specificity the share of complying answers
    that are not taken for refusals.
    """
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for row in rows:
        refused = found.refusal(row.answer, row.question) is not None
        total[row.label] += 1
        right[row.label] += refused == (row.label == "refusal")
    return {
        "n": len(rows),
        "sensitivity": _rate(right["refusal"], total["refusal"]),
        "specificity": _rate(right["compliance"], total["compliance"]),
    }


def _rate(right: int, n: int) -> dict[str, float | int]:
    interval = wilson(right, n)
    return {
        "right": right,
        "n": n,
        "value": round(right / n, 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
    }


def measure() -> dict[str, Any]:
    """All figures from the held-out half, as they are committed: per judge, language and subset."""
    return {
        "labelled": {
            language: {"digest": digest_bytes(labelled_bytes(language)), "half": "held_out"}
            for language in LANGUAGES
        },
        "judges": {
            judge: {
                language: {
                    "list": found.digest,
                    "all": figures(found, labelled(language, "held_out")),
                    "hard": figures(found, [row for row in labelled(language, "held_out") if row.hard]),
                }
                for language, found in lists(judge).items()
            }
            for judge in ("keyword", "keyword-legacy")
        },
    }


def table(measured: dict[str, Any]) -> str:
    """The figures as lines of text."""
    lines = [f"{'judge':<15} {'lang':<5} {'subset':<7} {'n':>4}  {'sensitivity':<24} specificity"]
    for judge, languages in measured["judges"].items():
        for language, subsets in languages.items():
            for subset in ("all", "hard"):
                row = subsets[subset]
                cells = [
                    f"{r['value']:.3f} [{r['low']:.3f}, {r['high']:.3f}]"
                    for r in (row["sensitivity"], row["specificity"])
                ]
                lines.append(
                    f"{judge:<15} {language:<5} {subset:<7} {row['n']:>4}  {cells[0]:<24} {cells[1]}"
                )
    return "\n".join(lines)


def committed_path() -> Path:
    """Where the committed figures lie."""
    return Path(str(importlib.resources.files("safewright.judges") / QUALITY_FILE))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; 0 when they are the committed ones (or were written), 10 when not, 2 on misuse."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    unknown = [argument for argument in given if argument not in ("--write", "--errors")]
    if unknown:
        print(f"unknown option {unknown[0]!r}; there are --write and --errors", file=sys.stderr)
        return 2
    if "--errors" in given:
        for judge in ("keyword", "keyword-legacy"):
            for language, found in lists(judge).items():
                rows = labelled(language, "tune")
                row = figures(found, rows)
                print(f"{judge} {language} tune: {json.dumps(row)}")
                for item in rows if judge == "keyword" else ():
                    why = found.refusal(item.answer, item.question)
                    if (why is not None) != (item.label == "refusal"):
                        print(f"  {item.id} {item.label} {item.kind}: {item.answer!r} ({why})")
        return 0
    measured = measure()
    print("Held-out half of the labelled answers; 95 % Wilson intervals.")
    print(table(measured))
    path = committed_path()
    if "--write" in given:
        write_json(path, measured)
        return 0
    if not path.exists() or json.loads(path.read_text(encoding="utf-8")) != measured:
        print(f"These are not the committed figures ({path.name}); --write commits them.", file=sys.stderr)
        return 10
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
