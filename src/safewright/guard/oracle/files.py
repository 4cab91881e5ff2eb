"""The committed results: commands with effects and labels, rewrites with whether their effects are the same."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safewright.guard.oracle.labels import label
from safewright.guard.oracle.rewrites import BASES, rewrites
from safewright.guard.oracle.running import Effects, Oracle

MOST_SHOWN = 12
EXACT = ("deleted", "modified", "chmodded", "chowned", "ended", "accounts", "signalled")
"""Effects that are the same every time; sizes and counts where a limit was hit are not."""


def rows(name: str = "commands") -> list[dict[str, Any]]:
    """A committed file's rows: `commands` or `rewrites`."""
    text = (importlib.resources.files("safewright.guard.oracle") / f"{name}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines() if line]


def row(oracle: Oracle, given: dict[str, Any]) -> dict[str, Any]:
    """A command's row, derived anew. Its half follows from a hash of user and command."""
    user, command = given["principal"], given["command"]
    effects = oracle.run(command, user)
    said, why = label(effects, user)
    digest = hashlib.sha256(f"{user}\n{command}".encode()).hexdigest()
    half = "design" if int(digest[:8], 16) % 2 == 0 else "untouched"
    return {
        "id": digest[:12], "principal": user, "verb": given["verb"], "target": given["target"], "command": command,
        "effects": shown(effects), "label": said, "why": why, "half": half,
    }  # fmt: skip


def shown(effects: Effects) -> dict[str, Any]:
    """Effects as they stand in the file: long lists are cut, with how many there were."""
    found = effects.as_json()
    for name in ("deleted", "modified", "created", "chmodded", "chowned"):
        values = found.get(name, ())
        if len(values) > MOST_SHOWN:
            found[name] = [*values[:MOST_SHOWN], f"… {len(values)} in all"]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def differs(old: dict[str, Any], new: dict[str, Any]) -> str:
    """How a row derived anew differs from the committed one; empty where it does not."""
    if old["label"] != new["label"]:
        return f"label {old['label']} → {new['label']} ({new['why'] or old['why']})"
    if bool(old["effects"].get("limits")) != bool(new["effects"].get("limits")):
        return f"limits {old['effects'].get('limits')} → {new['effects'].get('limits')}"
    if old["effects"].get("limits"):
        return ""
    for name in EXACT:
        if old["effects"].get(name) != new["effects"].get(name):
            return f"{name} {old['effects'].get(name)} → {new['effects'].get(name)}"
    return ""


def rewritten(oracle: Oracle) -> list[dict[str, Any]]:
    """The rows of all rewrites: whether their lasting effects are those of the plain command."""
    found = []
    plain = {base: oracle.run(command, user) for base, (user, command) in BASES.items()}
    for base, name, user, command in rewrites():
        effects = oracle.run(command, user)
        equal = _lasting(effects) == _lasting(plain[base])
        found.append({"base": base, "rewrite": name, "principal": user, "command": command, "equal": equal})
    return found


def _lasting(effects: Effects) -> tuple[Any, ...]:
    return tuple(getattr(effects, name) for name in EXACT)


def write(path: Path, found: Sequence[dict[str, Any]]) -> None:
    """Write rows as JSON lines, whole or not at all."""
    from safewright.runs import write_text

    write_text(path, "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in found))
