"""The page of all methods, from the catalog: ``python docs/generate.py`` writes docs/methods.md."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safewright import catalog
from safewright.data import PRESETS
from safewright.judges import JUDGES


def methods_page() -> str:
    """Markdown with every measure, treatment, judge and preset of this checkout."""
    lines = ["# Methods", "", "Made from the catalog by `python docs/generate.py`; do not edit by hand.", ""]
    for kind, title in (("measure", "Measures"), ("treatment", "Treatments")):
        own = [e for e in catalog.entries(kind) if e.function.__module__.startswith("safewright.")]
        if not own:
            continue
        lines += [f"## {title}", ""]
        for entry in own:
            lines += [f"### `{entry.name}`", "", inspect.getdoc(entry.function) or "", ""]
            data = [*entry.data, *(f"{role} (optional)" for role in entry.optional_data)]
            lines += [f"Models: {', '.join(entry.roles)}. Data: {', '.join(data) or 'none'}."]
            if entry.gives:
                lines += [f"Gives: {' or '.join(entry.gives)}."]
            if entry.stages:
                lines += ["", "Stages:", ""]
                lines += [f"* `{name}`: {stage.summary}" for name, stage in entry.stages.items()]
            if entry.judges:
                lines += [f"The judge decides whether an answer is a {entry.judges} one."]
            lines += _options(entry.options())
            for name, stage in entry.stages.items():
                if stage.options():
                    lines += [f"The stage `{name}` has besides:", *_options(stage.options())]
    lines += ["## Judges", "", "| judge | decides | strength | what it is |", "|---|---|---|---|"]
    for name, judge in JUDGES.items():
        lines.append(f"| `{name}` | {', '.join(judge.answers)} | {judge.strength} | {judge.summary} |")
    lines += [
        "",
        "## Data presets",
        "",
        "| preset | role | set | revision | licence |",
        "|---|---|---|---|---|",
    ]
    for name, preset in PRESETS.items():
        revision = f"`{preset.revision[:12]}` ({preset.revision_source})" if preset.revision else "unpinned"
        licence = preset.licence_line or "not recorded; see the data set's card"
        lines.append(f"| `{name}` | {preset.role} | {preset.repo} | {revision} | {licence} |")
    return "\n".join(lines) + "\n"


def _options(fields: Mapping[str, dataclasses.Field[Any]]) -> list[str]:
    """A table of options."""
    lines = ["", "| option | default | what it does |", "|---|---|---|"]
    for name, option in fields.items():
        default = "" if option.default is dataclasses.MISSING else repr(option.default)
        lines.append(f"| `{name}` | `{default}` | {option.metadata.get('help', '')} |")
    return [*lines, ""]


if __name__ == "__main__":
    Path(__file__).with_name("methods.md").write_text(methods_page(), encoding="utf-8")
