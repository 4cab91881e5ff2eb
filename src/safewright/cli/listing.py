"""``safewright list`` and ``safewright show``: what there is, and what one method takes."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from safewright import catalog
from safewright.cli import console
from safewright.cli.launch import choices
from safewright.cli.options import JsonOut
from safewright.errors import BadInput, nearest


def list_methods(json: JsonOut = False) -> None:
    """List measures, treatments, judges and data presets."""
    from safewright.data import PRESETS
    from safewright.judges import JUDGES

    replicated = _replications()
    methods: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "kind": entry.kind,
            "version": entry.version,
            "paper": entry.paper,
            "summary": entry.summary,
            "replication": entry.name in replicated,
        }
        for entry in catalog.entries()
    ]
    judges: list[dict[str, Any]] = [
        {
            "name": name,
            "kind": "judge",
            "version": judge.strength,
            "paper": "",
            "summary": judge.summary,
            "answers": sorted(judge.answers),
        }
        for name, judge in JUDGES.items()
    ]
    presets: list[dict[str, Any]] = [
        {
            "name": name,
            "kind": "preset",
            "version": preset.revision or "unpinned",
            "paper": "",
            "summary": f"{preset.repo} ({preset.role})",
        }
        for name, preset in PRESETS.items()
    ]
    if json:
        console.result([*methods, *judges, *presets])
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("name", "kind", "version", "what it is"):
        table.add_column(column, overflow="fold")
    for row in [*methods, *judges, *presets]:
        table.add_row(row["name"], row["kind"], str(row["version"])[:12], row["summary"])
    console.show(table)


def show(
    name: Annotated[str, typer.Argument(help="A measure, treatment, judge or preset.")], json: JsonOut = False
) -> None:
    """Show what a method does, which models and data it takes, and its options."""
    from safewright.data import PRESETS
    from safewright.judges import JUDGES

    methods = {entry.name: entry for entry in catalog.entries()}
    if name in methods:
        facts = _method(methods[name])
    elif name in JUDGES:
        facts = {"name": name, "kind": "judge", **_plain(JUDGES[name])}
    elif name in PRESETS:
        facts = {"kind": "preset", **_plain(PRESETS[name])}
    else:
        raise BadInput(f"There is nothing called {name!r}.", fix=nearest(name, [*methods, *JUDGES, *PRESETS]))
    if json:
        console.result(facts)
        return
    for key, value in facts.items():
        if key == "options" or key.startswith("options of "):
            print(f"{key} (--set KEY=VALUE):")
            for option in value:
                print(f"  {option['name']} = {option['default']}\n      {option['help']}")
        elif key == "description":
            print(f"\n{value}\n")
        elif key == "stages" and value:
            print("stages (after the name):", *value, sep="\n  ")
        elif value not in (None, "", [], ()):
            print(f"{key}: {', '.join(map(str, value)) if isinstance(value, (list, tuple)) else value}")


def _replications() -> list[str]:
    """What can be replicated, without importing it: a list costs nothing."""
    spec = importlib.util.find_spec("safewright.replications")
    places = spec.submodule_search_locations if spec is not None else None
    return sorted(module.name for module in pkgutil.iter_modules(places))


def _method(entry: catalog.Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "kind": entry.kind,
        "version": entry.version,
        "paper": entry.paper,
        "description": inspect.getdoc(entry.function),
        "models": [*entry.takes, *(f"{role} (optional)" for role in entry.optional)],
        "data": [*entry.data, *(f"{role} (optional)" for role in entry.optional_data)],
        "judge decides": entry.judges,
        "needs": sorted(entry.needs) if entry.kind == "measure" else [],
        "gives": list(entry.gives),
        "stages": [f"{name}: {stage.summary}" for name, stage in entry.stages.items()],
        "several processes": [f"--launch {choice}" for choice in choices(entry.launches)],
        "replication": f"safewright replicate {entry.name}" if entry.name in _replications() else None,
        "options": _options(entry.options()),
        **{
            f"options of {name}": _options(stage.options())
            for name, stage in entry.stages.items()
            if stage.options()
        },
    }


def _options(fields: Mapping[str, dataclasses.Field[Any]]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "default": None if field.default is dataclasses.MISSING else field.default,
            "help": field.metadata.get("help", ""),
        }
        for name, field in fields.items()
    ]


def _plain(item: Any) -> dict[str, Any]:
    """The fields of a dataclass that have a JSON form."""
    values = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    return {
        key: sorted(value) if isinstance(value, frozenset) else value
        for key, value in values.items()
        if not callable(value)
    }
