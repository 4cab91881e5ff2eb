"""An audit from Python: plan it, see what it costs, run it, write the page.

python examples/audit_in_python.py MODEL harm.jsonl benign.jsonl tasks.jsonl OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

from safewright import plan_audit, render_page, run_audit


def main(model: str, harm: str, benign: str, utility: str, out: str) -> None:
    """Audit a model on rows of one's own."""
    plan = plan_audit(model, data={"harm": harm, "benign": benign, "utility": utility}, quick=True)
    for name, cost in plan.estimates().items():
        print(f"{name}: {cost.calls} calls, about {cost.memory_bytes / 2**30:.1f} GiB")
    audit = run_audit(plan, out=Path(out))
    for role, card in audit.cards.items():
        reading = card.readings[0]
        value = "nothing scored" if reading.value is None else f"{reading.value:.1%}"
        print(f"{role}: {reading.name} {value} (n={reading.n}, unscored={reading.unscored})")
    page = render_page(
        f"Audit of {model}", [(card, audit.records[role]) for role, card in audit.cards.items()]
    )
    (Path(out) / "report.html").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
