"""Safewright measures what a language model does wrong, and repairs it.

The names below are loaded when they are first used; importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safewright.catalog import measure, treatment
    from safewright.compose.audit import plan_audit, run_audit
    from safewright.compose.compare import compare
    from safewright.compose.matrix import matrix
    from safewright.data import load_data, load_rows
    from safewright.errors import SafewrightError
    from safewright.judges import resolve as resolve_judge
    from safewright.measures import Behaviour, measure_model
    from safewright.models import load, resolve
    from safewright.report import render_page
    from safewright.runs import open_run
    from safewright.treatments import treat
    from safewright.types import (
        Decoding,
        Generation,
        Judgement,
        ModelRef,
        Reading,
        Recipe,
        Record,
        Row,
        Scorecard,
    )

_HOMES = {
    "safewright.catalog": ("measure", "treatment"),
    "safewright.compose.audit": ("plan_audit", "run_audit"),
    "safewright.compose.compare": ("compare",),
    "safewright.compose.matrix": ("matrix",),
    "safewright.data": ("load_data", "load_rows"),
    "safewright.errors": ("SafewrightError",),
    "safewright.measures": ("Behaviour", "measure_model"),
    "safewright.models": ("load", "resolve"),
    "safewright.report": ("render_page",),
    "safewright.runs": ("open_run",),
    "safewright.treatments": ("treat",),
    "safewright.types": (
        "Decoding",
        "Generation",
        "Judgement",
        "ModelRef",
        "Reading",
        "Recipe",
        "Record",
        "Row",
        "Scorecard",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Behaviour",
    "Decoding",
    "Generation",
    "Judgement",
    "ModelRef",
    "Reading",
    "Recipe",
    "Record",
    "Row",
    "SafewrightError",
    "Scorecard",
    "compare",
    "load",
    "load_data",
    "load_rows",
    "matrix",
    "measure",
    "measure_model",
    "open_run",
    "plan_audit",
    "render_page",
    "resolve",
    "resolve_judge",
    "run_audit",
    "treat",
    "treatment",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name == "resolve_judge":
        return importlib.import_module("safewright.judges").resolve
    if name not in _HOME_OF:
        raise AttributeError(f"module 'safewright' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
