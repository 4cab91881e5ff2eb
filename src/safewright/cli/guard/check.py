"""``safewright guard check``: verdicts on calls, before they are made."""

from __future__ import annotations

import json as jsonlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safewright.cli import options
from safewright.cli.guard import opening

if TYPE_CHECKING:
    from safewright.guard import Action, Verdict


def check(
    file: Annotated[
        str | None,
        typer.Argument(
            help="Calls as JSON, one a line (tool, arguments, request, principal, …); - is stdin."
        ),
    ] = None,
    tool: Annotated[str | None, typer.Option("--tool", help="One call: its tool, e.g. bash.")] = None,
    argument: Annotated[
        list[str], typer.Option("--arg", metavar="NAME=VALUE", help="One call: an argument. May be repeated.")
    ] = [],  # noqa: B006 - typer copies it
    request: Annotated[str | None, typer.Option("--request", help="What the user asked for.")] = None,
    user: Annotated[str | None, typer.Option("--user", metavar="[ROLE:]ID", help="On whose behalf.")] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Look at this machine's files (read-only) to decide.")
    ] = False,
    policy: opening.PolicyFile = None,
    memory: opening.MemoryFile = None,
    audit: opening.AuditFile = None,
    backend: opening.Backend = "rules",
    model: opening.Model = None,
    preset: opening.Preset = "hardened",
    deadline: opening.Deadline = 8.0,
    on_unknown: opening.OnUnknown = None,
    freeze: opening.Freeze = False,
    namespace: opening.Namespace = "default",
    json: options.JsonOut = False,
) -> int:
    """Say whether calls may be made, and why. Exit code 0 if all may, 10 if one may not.

    For example: safewright guard check --tool bash --arg cmd='rm -rf /etc' --user user:ann
    """
    actions = _actions(file, tool, argument, request, user, local)
    code = 0
    with opening.opened(
        policy,
        memory,
        audit,
        backend=backend,
        model=model,
        preset=preset,
        deadline=deadline,
        on_unknown=on_unknown,
        freeze=freeze,
        namespace=namespace,
    ) as guard:
        for action in actions:
            verdict = guard.check(action)
            print(jsonlib.dumps(verdict.as_json(), ensure_ascii=False) if json else _told(action, verdict))
            if not verdict.allowed:
                code = opening.NOT_ALLOWED
    return code


def _actions(
    file: str | None,
    tool: str | None,
    arguments: list[str],
    request: str | None,
    user: str | None,
    local: bool,
) -> list[Action]:
    """The calls to judge.

    Raises:
        BadInput: None is given, or both a file and a call are; or one cannot be read.
    """
    from safewright.errors import BadInput
    from safewright.guard.nouns import Action, Environment, read_action, validate

    environment: Environment | None = None
    if local:
        from safewright.guard.environments import LocalEnvironment

        environment = LocalEnvironment()
    if (file is None) == (tool is None):
        raise BadInput(
            "Give either a file of calls or one call.",
            fix="safewright guard check --tool bash --arg cmd='ls -l', or: safewright guard check calls.jsonl",
        )
    if file is not None:
        found = []
        for number, row in opening.rows(file):
            try:
                found.append(read_action(row, environment=environment))
            except BadInput as error:
                raise BadInput(
                    f"{file}, call {number}: {error.what}", why=error.why, fix=error.fix
                ) from error
        if not found:
            raise BadInput(
                f"{file} holds no call.", fix='For example: {"tool": "bash", "arguments": {"cmd": "ls"}}'
            )
        return found
    action = Action(tool or "", _named(arguments), request, _principal(user), environment=environment)
    validate(action)
    return [action]


def _named(arguments: list[str]) -> dict[str, Any]:
    from safewright.errors import BadInput

    given: dict[str, Any] = {}
    for each in arguments:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise BadInput(f"--arg {each!r} is not NAME=VALUE.", fix="--arg cmd='ls -l'")
        given[name] = value
    return given


def _principal(user: str | None) -> Any:
    from safewright.guard.nouns import named_principal

    return None if user is None else named_principal(user)


def _told(action: Action, verdict: Verdict) -> str:
    lines = [f"{verdict.found:9}{action.tool} {jsonlib.dumps(dict(action.arguments), ensure_ascii=False)}"]
    if verdict.failure:
        lines.append(f"  failure: {verdict.failure} ({verdict.detail})")
    for each in verdict.checks:
        if each.status != "pass":
            lines.append(f"  {each.status:8}{each.id}: {each.evidence or each.statement}")
            if each.advice:
                lines.append(f"          {each.advice}")
    if verdict.modified is not None:
        lines.append(f"  call instead: {jsonlib.dumps(dict(verdict.modified), ensure_ascii=False)}")
    return "\n".join(lines)
