"""Guards that a replay compares: floors, each rule family alone, and the combinations one would deploy."""

from __future__ import annotations

import dataclasses
import importlib.resources
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from safewright.guard.lattice import aggregate
from safewright.guard.nouns import Action
from safewright.guard.policy import Policy
from safewright.guard.rules import families
from safewright.guard.taint import mentions, requested
from safewright.guard.tooling import KNOWN
from safewright.guard.views import View

Decide = Callable[[Action], str]
ALONE = ("provenance", "intent", "exfiltration")
"""Families that say something of calls like these; the others are measured together."""


@dataclass(frozen=True)
class Arm:
    """A guard under test: ``decide(action)`` is allow, escalate or deny."""

    name: str
    about: str
    decide: Decide
    digest: str


def deployed() -> Policy:
    """The policy for the package's tools that ships with the replay."""
    text = (importlib.resources.files("safewright.guard.bench") / "agentdojo.toml").read_text("utf-8")
    return Policy.read(text, "agentdojo.toml")


def arms(policy: Policy | None = None) -> tuple[Arm, ...]:
    """All of them, in the order of the table."""
    policy = policy or deployed()
    others = tuple(name for name in families() if name not in ALONE)
    made = [
        Arm("allow-all", "no guard", lambda action: "allow", "allow"),
        Arm("read-only", "denies whatever is no read or fetch", _read_only(policy), policy.digest),
        *(
            _guarded(f"{name} alone", "the rule family alone", varied(policy, keep=(name,)))
            for name in ALONE
        ),
        _guarded("other families", ", ".join(others), varied(policy, keep=others)),
        _guarded("standard", "all families, as they are", policy),
        _guarded("strict provenance", "asks about values the user did not name", varied(policy, strict=True)),
        _guarded("strict", "strict mode: and about effects that the request does not imply",
                 varied(policy, strict=True, intent=True)),
        Arm(
            "least privilege",
            "only tools, and values of calls, that the request itself implies",
            _least(varied(policy, strict=True, intent=True)),
            policy.digest,
        ),
    ]  # fmt: skip
    return tuple(made)


def varied(
    policy: Policy, *, keep: Iterable[str] | None = None, strict: bool = False, intent: bool = False
) -> Policy:
    """A policy with some families only, strict provenance, or intent that always speaks."""
    settings: dict[str, Any] = dict(policy.settings)
    if keep is not None:
        kept = set(keep)
        for name in set(settings) - kept:
            settings[name] = dataclasses.replace(settings[name], enabled=False)
        if "intent" in kept and "provenance" not in kept:
            settings["intent"] = dataclasses.replace(settings["intent"], when="always")
    if strict:
        settings["provenance"] = dataclasses.replace(settings["provenance"], mode="strict")
        settings["intent"] = dataclasses.replace(settings["intent"], when="tainted")
    if intent:
        settings["intent"] = dataclasses.replace(settings["intent"], when="always")
    told = {name: dataclasses.asdict(each) for name, each in settings.items()}
    from safewright.runs import digest_json

    return dataclasses.replace(policy, settings=settings, digest=digest_json([policy.digest, told]))


def _guarded(name: str, about: str, policy: Policy) -> Arm:
    """The rules of a guard with this policy, without its deadline and threads: a replay asks tens of thousands of
    times. That a `Guard` decides the same is tested."""

    def decide(action: Action) -> str:
        view = View(action, policy)
        checks = [KNOWN.says("pass" if view.spec is not None else "unknown")]
        for each in families().values():
            settings = policy.settings[each.name]
            if getattr(settings, "enabled", True):
                checks += each.check(view, settings)
        decision = aggregate(checks, policy.on_unknown)
        return "allow" if decision in ("allow", "modify") else decision

    return Arm(name, about, decide, policy.digest)


def _read_only(policy: Policy) -> Decide:
    def decide(action: Action) -> str:
        spec = policy.spec(action.tool)
        return "allow" if spec is not None and spec.effect in ("read", "fetch") else "deny"

    return decide


def _least(policy: Policy) -> Decide:
    """Section 0.11 of the method's notes: authorise by what the request implies, detect nothing."""

    def decide(action: Action) -> str:
        view = View(action, policy)
        spec = view.spec
        if spec is None:
            return "escalate"
        if spec.effect == "read":
            return "allow"
        said = requested(action)
        if spec.effect != "fetch":
            settings = dataclasses.replace(policy.settings["intent"], delegates=())
            implied = families()["intent"].check(view, settings)
            if aggregate([*implied], "escalate") != "allow":
                return "escalate"
        named = all(any(mentions(text, value) for text in said) for value in view.values)
        return "allow" if named else "escalate"

    return decide
