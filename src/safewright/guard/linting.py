"""What a policy would do wrong before it does it: findings, and the policy's own cases."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass

from safewright.errors import BadInput
from safewright.guard.engine import Guard
from safewright.guard.nouns import read_action
from safewright.guard.policy import Example, Policy
from safewright.guard.rules import families

OUTCOMES = ("allow", "modify", "escalate", "deny")


@dataclass(frozen=True)
class Finding:
    """Something about a policy that its writer should know: where in the file, and what."""

    where: str
    what: str


@dataclass(frozen=True)
class Outcome:
    """How one of a policy's own cases came out; ``why`` names the checks that decided."""

    name: str
    expect: tuple[str, ...]
    got: str
    why: str

    @property
    def right(self) -> bool:
        """Whether it came out as expected."""
        return self.got in self.expect


def lint(policy: Policy) -> list[Finding]:
    """What in a policy can never apply, is looser than it looks, or is missing."""
    return [*_tools(policy), *_roles(policy), *_families(policy), *_tests(policy)]


def _tools(policy: Policy) -> Iterator[Finding]:
    if not policy.tools:
        yield Finding("[tools]", "no tool is declared: every call will be unknown")
    for index, spec in enumerate(policy.tools):
        where = f"[tools.{spec.pattern!r}]"
        if spec.pattern.strip("*?") == "":
            yield Finding(where, "fits every tool: one that nobody thought of counts as known")
        if any(character in spec.pattern for character in "*?["):
            for earlier in policy.tools[:index]:
                if earlier.pattern != spec.pattern and fnmatch.fnmatchcase(spec.pattern, earlier.pattern):
                    yield Finding(
                        where, f"never applies: {earlier.pattern!r}, above it, fits whatever it fits"
                    )
                    break
        named = {*(spec.identities or ()), *spec.amounts, *spec.content}
        double = sorted(
            name for name in named if _times(name, spec.identities, spec.amounts, spec.content) > 1
        )
        if double:
            yield Finding(where, f"{', '.join(double)} stands under two kinds of arguments")
        if spec.kind == "generic" and spec.argument:
            yield Finding(where, "argument is read for shell and sql tools only")
        if spec.kind in ("shell", "sql") and spec.effect not in ("execute", "read"):
            yield Finding(where, f"effect is {spec.effect}, but follows from the text of {spec.kind} tools")
        if spec.effect in ("send", "pay") and spec.identities == ():
            yield Finding(
                where, "sends or pays, but no argument names whom it reaches: provenance is blind to it"
            )


def _times(name: str, *lists: tuple[str, ...] | None) -> int:
    return sum(name in (each or ()) for each in lists)


def _roles(policy: Policy) -> Iterator[Finding]:
    if not policy.roles:
        yield Finding("[roles]", "no role is declared: every principal has the least privilege")
    for role in policy.roles.values():
        if role.privileged and "*" in role.denied_tools:
            yield Finding(f"[roles.{role.name}]", "is privileged and may call nothing")
        for pattern in role.denied_tools:
            known = any(
                spec.pattern == pattern or fnmatch.fnmatchcase(spec.pattern, pattern) for spec in policy.tools
            )
            if not known:
                yield Finding(f"[roles.{role.name}]", f"denied_tools names {pattern!r}, which no tool fits")


def _families(policy: Policy) -> Iterator[Finding]:
    for name, family in families().items():
        if not getattr(policy.settings[name], "enabled", True):
            yield Finding(f"[{name}]", f"is off: {family.title.lower()} is not checked")


def _tests(policy: Policy) -> Iterator[Finding]:
    if not policy.tests:
        yield Finding(
            "[[test]]", "the policy has no case of its own: safewright guard policy test has nothing to run"
        )
    names: set[str] = set()
    for example in policy.tests:
        where = f"[[test]] {example.name!r}"
        if example.name in names:
            yield Finding(where, "the name stands twice")
        names.add(example.name)
        if not set(example.expect) <= set(OUTCOMES):
            yield Finding(where, f"expect is {', '.join(example.expect)}; outcomes are {', '.join(OUTCOMES)}")
        tool = example.action.get("tool")
        if isinstance(tool, str) and policy.spec(tool) is None and "allow" in example.expect:
            yield Finding(where, f"expects allow of {tool!r}, which no tool of the policy fits")


def run_tests(policy: Policy) -> list[Outcome]:
    """Every case of a policy's own, decided by the rules under it.

    Raises:
        BadInput: A case's action or environment cannot be read.
    """
    with Guard(policy) as guard:
        return [_outcome(guard, example) for example in policy.tests]


def _outcome(guard: Guard, example: Example) -> Outcome:
    environment = None
    if example.environment is not None:
        from safewright.guard.environments import MemoryEnvironment

        environment = MemoryEnvironment.read(example.environment)
    try:
        action = read_action(example.action, environment=environment)
    except BadInput as error:
        raise BadInput(f"[[test]] {example.name!r}: {error.what}", why=error.why, fix=error.fix) from error
    verdict = guard.check(action)
    deciding = [check.id for check in verdict.checks if check.status in ("fail", "unknown")]
    return Outcome(
        example.name, example.expect, verdict.found, verdict.failure or ", ".join(deciding) or "all pass"
    )
