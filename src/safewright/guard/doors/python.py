"""The Python door: ``@guard.protect`` around a function, ``guard.acting`` around what belongs together."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from safewright.errors import BadInput, ExitCode, SafewrightError
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
    pending: list[Turn] = field(default_factory=list)
    """Calls that are being judged now: they are each other's siblings, so that none escapes a budget by haste."""

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
            siblings=tuple(self.pending),
            environment=self.environment,
        )

    def called(self, action: Action, arguments: Mapping[str, Any]) -> str:
        """Remember a call that is made now, whatever comes of it: later calls are judged by it. Its number."""
        number = str(len(self.turns))
        self.turns.append(Turn("call", tool=action.tool, arguments=dict(arguments), id=number))
        return number

    def returned(self, action: Action, number: str, result: Any) -> None:
        """Remember what came of a call: what it returned, or the error that the agent is shown."""
        said = _error(result) if isinstance(result, BaseException) else _text(result)
        self.turns.append(Turn("result", said, action.tool, id=number))


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
        BadInput: The function is a generator: what it yields could not be remembered.
        Denied: (by the protected function) the call may not be made.
    """
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise BadInput(
            "A generator function cannot be protected.",
            why="What it yields would not be remembered, and later calls could not be judged by it.",
            fix="Protect a function that returns its result whole.",
        )
    name: str = tool or getattr(function, "__name__", "") or "tool"
    signature = inspect.signature(function)

    @contextmanager
    def asked(*args: Any, **kwargs: Any) -> Iterator[tuple[Acting, Action, inspect.BoundArguments]]:
        """The call, which counts as one of its turn while it is being judged."""
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        context = _ACTING.get() or Acting()
        given = arguments(*args, **kwargs) if arguments is not None else _named(bound, signature)
        action = context.action(name, given)
        turn = Turn("call", tool=name, arguments=given)
        context.pending.append(turn)
        try:
            yield context, action, bound
        finally:
            context.pending[:] = [each for each in context.pending if each is not turn]

    def ruled(context: Acting, action: Action, verdict: Verdict, bound: inspect.BoundArguments) -> str:
        """Narrow the call where it is to be, and remember it; its number."""
        approved = verdict.decision == "escalate" and approve is not None and approve(action, verdict) is True
        if not approved and not verdict.allowed:
            raise Denied(action, verdict)
        if not approved and verdict.modified is not None:
            _narrow(bound, signature, verdict.modified, arguments is None, action, verdict)
        return context.called(action, action.arguments if arguments is not None else _named(bound, signature))

    async def awaited(context: Acting, action: Action, number: str, work: Awaitable[Any]) -> Any:
        try:
            result = await work
        except BaseException as error:
            context.returned(action, number, error)
            raise
        context.returned(action, number, result)
        return result

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def waiting(*args: P.args, **kwargs: P.kwargs) -> Any:
            with asked(*args, **kwargs) as (context, action, bound):
                number = ruled(context, action, await guard.acheck(action), bound)
            return await awaited(context, action, number, function(*bound.args, **bound.kwargs))

        return cast("Callable[P, R]", waiting)

    @functools.wraps(function)
    def calling(*args: P.args, **kwargs: P.kwargs) -> R:
        with asked(*args, **kwargs) as (context, action, bound):
            number = ruled(context, action, guard.check(action), bound)
        try:
            result = function(*bound.args, **bound.kwargs)
        except BaseException as error:
            context.returned(action, number, error)
            raise
        if inspect.isawaitable(result):
            return cast(R, awaited(context, action, number, result))
        context.returned(action, number, result)
        return result

    return calling


def _named(bound: inspect.BoundArguments, signature: inspect.Signature) -> dict[str, Any]:
    """Arguments by name; what was gathered by ``**`` stands beside the others, what was gathered by ``*`` is a list.

    Raises:
        TypeError: Two have one name (``f(a, /, **more)`` called with another ``a``): the guard would see one of them.
    """
    found: dict[str, Any] = {}
    first = next(iter(signature.parameters), "")
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            twice = sorted(value.keys() & signature.parameters.keys())
            if twice:
                raise TypeError(f"{', '.join(twice)} given twice")
            found.update(value)
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            found[name] = list(value)
        elif name != first or name not in ("self", "cls"):
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


def _error(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - an error that cannot be printed tells the agent nothing, either
        return type(error).__name__


def _text(result: Any) -> str:
    if isinstance(result, str):
        return result
    try:
        return json.dumps(result, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(result)
