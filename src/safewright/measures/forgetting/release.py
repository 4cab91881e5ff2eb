"""The aggregate figures under the names of the authors' result file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safewright.measures.forgetting.asking import FORGET, RETAIN
from safewright.types import Findings, ModelRef

FILE = "release.json"
KEYS: Mapping[str, str] = {
    "RougeL_recall": "rougeL_recall",
    "PPL": "ppl",
    "TTR": "rttr",
    "BI": "bi",
    "HS": "hs",
    "Harmonic": "harmonic",
    "Mean": "mean",
    "Harmonic_AS": "ls",
    "Arithmetic_AS": "ls_arithmetic",
}
"""Their names, without the ending of the set, and ours. ``Harmonic_AS`` is LS; their TTR is V / sqrt(N)."""
ENDINGS: Mapping[str, str] = {"F": FORGET, "R": RETAIN}


def release_keys(findings: Findings, models: Mapping[str, ModelRef]) -> dict[str, Any]:
    """``RougeL_recall_F`` and so on; null where a figure was not taken."""
    values = {reading.name: reading.value for reading in findings.readings}
    found: dict[str, Any] = {"KFR": values.get("kfr"), "KRR": values.get("krr")}
    for theirs, ours in KEYS.items():
        for ending, role in ENDINGS.items():
            found[f"{theirs}_{ending}"] = values.get(f"{ours}_{role}")
    return {**found, "Model": models["target"].where if "target" in models else ""}
