"""The deterministic key of a call: what kind of action it is, without its files, users, amounts."""

from __future__ import annotations

from safewright.guard.parts import Key
from safewright.guard.views import View
from safewright.runs import digest_json


def key_of(view: View) -> Key:
    """The key of a call: tool, verbs, object classes, privilege, side effect and the sorted types of its arguments."""
    effect = view.spec.effect if view.spec is not None else "execute"
    text = f"{view.action.tool}|{effect}|{view.privilege}|{','.join(sorted(view.action.arguments))}"
    return Key(text, text, effect, view.privilege, digest_json(dict(view.policy.criteria)))
