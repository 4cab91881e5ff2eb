"""The Python door: ``@guard.protect`` around a function, ``guard.acting`` around what belongs together."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from safewright.errors import ExitCode, SafewrightError
from safewright.guard.nouns import Action, Environment, Principal, Turn, Verdict

if TYPE_CHECKING:
    from safewright.guard.engine import Guard

P = ParamSpec("P")
R = TypeVar("R")
Approve = Callable[[Action, Verdict], bool]
Named = Callable[..., Mapping[str, Any]]


class Denied(SafewrightError):  # noqa: N818 - read as a noun, like the other errors
    """A protected function was not called; ``verdict`` says why. The text may be shown to the agent."""

    exit_code = ExitCode.GATE

    def __init__(self, action: Action, verdict: Verdict) -> None:
        self.action, self.verdict = action, verdict
        super().__init__(
            f"The call of {action.tool} was {'denied' if verdict.decision == 'deny' else 'not approved'}.",
            why=" ".join(verdict.reasons),
        )


@dataclass
class Acting:
    """For whom and for what calls are made, and what has been called so far."""

    request: str | None = None
    principal: Principal | None = None
    session: str = ""
    agent: str = ""
    environment: Environment | None = None
    turns: list[Turn] = field(default_factory=list)

    def action(self, tool: str, arguments: Mapping[str, Any]) -> Action:
        """A call, with what went before it."""
        return Action(
            tool=tool,
            arguments=arguments,
            request=self.request,
            principal=self.principal,
            agent=self.agent,
            session=self.session,
            history=tuple(self.turns),
            environment=self.environment,
        )

    def called(self, action: Action, arguments: Mapping[str, Any], result: Any) -> None:
        """Remember a call and what came of it: later calls are judged by it."""
        number = str(len(self.turns))
        self.turns.append(Turn("call", tool=action.tool, arguments=dict(arguments), id=number))
        self.turns.append(Turn("result", _text(result), action.tool, id=number))


_ACTING: ContextVar[Acting | None] = ContextVar("safewright_acting", default=None)


@contextmanager
def acting(
    *,
    request: str | None = None,
    principal: Principal | None = None,
    session: str = "",
    agent: str = "",
    environment: Environment | None = None,
    history: Sequence[Turn] = (),
) -> Iterator[Acting]:
    """Say for whom, and on which request, the protected functions inside are called.

    The results of protected functions are remembered inside, so that a value an attacker put into one of them is
    recognised where it turns up in a later call. For tools that are not protected use ``turns.append``. Nothing is
    forgotten, since forgetting loosens: beyond `nouns.MOST_TURNS` calls are denied until a new one is begun.
    """
    found = Acting(request, principal, session, agent, environment, list(history))
    token = _ACTING.set(found)
    try:
        yield found
    finally:
        _ACTING.reset(token)


def protect(
    guard: Guard,
    function: Callable[P, R],
    *,
    tool: str | None = None,
    arguments: Named | None = None,
    approve: Approve | None = None,
) -> Callable[P, R]:
    """A function that asks the guard before it runs; coroutine functions stay coroutine functions.

    Args:
        guard: Who decides.
        function: What is to be called.
        tool: Its name in the policy; the function's own where None.
        arguments: Makes JSON values of the function's arguments, where they are none.
        approve: Decides escalated calls: ``approve(action, verdict)``. Without it they are denied.

    Raises:
        Denied: (by the protected function) the call may not be made.
    """
    name: str = tool or getattr(function, "__name__", "") or "tool"
    signature = inspect.signature(function)

    def asked(*args: Any, **kwargs: Any) -> tuple[Acting, Action, inspect.BoundArguments]:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        context = _ACTING.get() or Acting()
        given = arguments(*args, **kwargs) if arguments is not None else _named(bound, signature)
        return context, context.action(name, given), bound

    def ruled(action: Action, verdict: Verdict, bound: inspect.BoundArguments) -> None:
        if verdict.decision == "escalate" and approve is not None and approve(action, verdict) is True:
            return
        if not verdict.allowed:
            raise Denied(action, verdict)
        if verdict.modified is not None:
            _narrow(bound, signature, verdict.modified, arguments is None, action, verdict)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def waiting(*args: P.args, **kwargs: P.kwargs) -> Any:
            context, action, bound = asked(*args, **kwargs)
            ruled(action, await guard.acheck(action), bound)
            result = await function(*bound.args, **bound.kwargs)
            context.called(action, _named(bound, signature), result)
            return result

        return cast("Callable[P, R]", waiting)

    @functools.wraps(function)
    def calling(*args: P.args, **kwargs: P.kwargs) -> R:
        context, action, bound = asked(*args, **kwargs)
        ruled(action, guard.check(action), bound)
        result = function(*bound.args, **bound.kwargs)
        context.called(action, _named(bound, signature), result)
        return result

    return calling


def _named(bound: inspect.BoundArguments, signature: inspect.Signature) -> dict[str, Any]:
    """Arguments by name; what was gathered by ``**`` stands beside the others, what was gathered by ``*`` is a list."""
    found: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            found.update(value)
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            found[name] = list(value)
        elif name not in ("self", "cls"):
            found[name] = value
    return found


def _narrow(
    bound: inspect.BoundArguments,
    signature: inspect.Signature,
    modified: Mapping[str, Any],
    plain: bool,
    action: Action,
    verdict: Verdict,
) -> None:
    """Put narrowed arguments where the guard's stood; a call that cannot be narrowed is not made."""
    for name, value in modified.items():
        parameter = signature.parameters.get(name)
        if parameter is not None and parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            bound.arguments[name] = tuple(value)
        elif parameter is not None and plain:
            bound.arguments[name] = value
        elif plain and (gathered := _gathered(signature)) is not None:
            bound.arguments[gathered] = {**bound.arguments.get(gathered, {}), name: value}
        elif value != action.arguments.get(name):
            raise Denied(action, verdict)


def _gathered(signature: inspect.Signature) -> str | None:
    kind = inspect.Parameter.VAR_KEYWORD
    return next((name for name, each in signature.parameters.items() if each.kind is kind), None)


def _text(result: Any) -> str:
    if isinstance(result, str):
        return result
    try:
        return json.dumps(result, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(result)
