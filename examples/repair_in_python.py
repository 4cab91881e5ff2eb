"""A repair from Python: Safe Delta on a fine-tuned model, and what it cost and kept.

python examples/repair_in_python.py ALIGNED TUNED refusals.jsonl OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safewright import treat


def main(aligned: str, tuned: str, calibration: str, out: str) -> None:
    """Give TUNED (a folder or an adapter on ALIGNED) its safety back."""
    result = treat("safe_delta", {"aligned": aligned, "tuned": tuned}, {"calibration": calibration}, out=out)
    for check in result.checks:
        print(f"{'ok' if check.passed else 'FAILED'}: {check.name} ({check.detail})")
    report = json.loads(Path(result.history).read_text("utf-8"))["report"]
    print(f"{result.kind} in {out}: {report['kept']:.0%} of the fine-tuning step's energy kept")
    print(
        f"safety loss on rows the edit never saw: {report['held_loss']:.4g} of {report['held_loss_full']:.4g}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
