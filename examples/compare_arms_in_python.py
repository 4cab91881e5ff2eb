"""Which part of safety reasoning helps one's own model: arms trained on the same records, and their table.

    python examples/compare_arms_in_python.py STUDENT reasoned.jsonl harm.jsonl OUT [KEY=VALUE …]

``reasoned.jsonl`` is what ``safewright treat srg synthesize`` writes: requests with reasoning and answers. What
follows OUT are options that every arm is trained with, such as ``steps=200``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from safewright.compose.ablation import plan_ablation, run_ablation
from safewright.report import ablation_markdown, render_ablation


def main(student: str, reasoned: str, harm: str, out: str, *options: str) -> None:
    """Refusal training, reasoning before the answer, and the same reasoning after it, under attack."""
    plan = plan_ablation(
        "srg",
        "ablate",
        {"student": student},
        {"reasoned": reasoned},
        out=out,
        own={"arms": "rt,srg,posthoc"},
        options=dict(option.split("=", 1) for option in options),
        measures=["attack_success"],
        measured={
            "data": {"attack_success": {"harm": harm}},
            "options": {"attack_success": {"attack": "none,answer_prefill", "max_new_tokens": 256}},
        },
    )
    costs = plan.estimates().arms
    print(f"{costs.arms} models are measured; training takes about {costs.seconds:.0f} s")
    found = run_ablation(plan)  # the same call goes on after a kill
    table = ablation_markdown(found)
    Path(out, "table.md").write_text(table, encoding="utf-8")
    Path(out, "report.html").write_text(render_ablation(found), encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
