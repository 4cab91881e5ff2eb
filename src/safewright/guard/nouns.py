"""What the guard is asked, and what it answers: frozen dataclasses, standard library only, JSON in and JSON out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast, get_args

from safewright.errors import BadInput, nearest

Decision = Literal["allow", "modify", "escalate", "deny"]
"""What is to be done with a call, from the loosest to the tightest."""
CheckStatus = Literal["pass", "fail", "unknown", "deleted"]
Method = Literal["rule", "probe", "llm"]
Origin = Literal["pinned", "memory", "new"]
Effect = Literal["read", "fetch", "write", "delete", "send", "pay", "execute", "admin"]
"""What a tool does to the world. `fetch` reads from outside, and can carry something out in its address."""
TurnKind = Literal["user", "assistant", "call", "result"]

Failure = Literal[
    "invalid_action",
    "timeout",
    "rule_error",
    "probe_error",
    "no_checks",
    "llm_timeout",
    "llm_connection",
    "llm_empty",
    "llm_refused",
    "llm_truncated",
    "llm_unparsed",
    "memory_unavailable",
    "audit_unavailable",
    "upstream",
    "internal",
]
"""Why no valid verdict could be reached, for machines. A verdict with a failure is never `allow`, unless the guard was
opened with ``fail_mode="open"``."""

MOST_ARGUMENT_BYTES = 64 * 1024
"""JSON bytes of a call's arguments; a larger call is an `invalid_action`."""

MOST_DEPTH = 200
"""Levels of lists and objects in a call's arguments; a deeper call is an `invalid_action`."""

MOST_TURNS = 4096
"""Turns of a history; a longer one is an `invalid_action`, because reading only its end would forget taint."""


@dataclass(frozen=True)
class Principal:
    """On whose behalf the agent acts. Who it is was declared by the host, never by the agent."""

    id: str = ""
    role: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """One entry of what went before: what the user or the agent said, a call, or what a tool returned.

    ``text`` is what was said or returned; ``tool`` and ``arguments`` are a call's (a result repeats its tool);
    ``id`` binds a result to its call.
    """

    kind: TurnKind
    text: str = ""
    tool: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True)
class Entry:
    """What a path is: as `stat` would say, with names of owner and group, and mode as an integer (0o755)."""

    type: Literal["file", "dir", "link", "other"]
    owner: str = "root"
    group: str = "root"
    mode: int = 0o755
    target: str | None = None
    size: int = 0


class Environment(Protocol):
    """Read-only questions about the place where a call would run. Answers are None where they cannot be had.

    Implementations never run anything that the agent or a model wrote.
    """

    def stat(self, path: str) -> Entry | None:
        """What is at an absolute path, itself not followed where it is a link; None where there is nothing.

        Raises:
            OSError: The question could not be answered (that is not the same as: there is nothing).
        """

    def listdir(self, path: str) -> Sequence[str] | None:
        """The names in a folder; None where it is none or may not be read."""

    def groups(self, user: str) -> frozenset[str]:
        """The groups a user is in."""

    def free_bytes(self, path: str) -> int | None:
        """What is left on the file system of a path."""

    def home(self, user: str) -> str | None:
        """The home folder of a user."""


@dataclass(frozen=True)
class Action:
    """A call that an agent wants to make, before it is made.

    Args:
        tool: The tool's name.
        arguments: By name, JSON values.
        request: What the user asked for; None where the door cannot know it.
        principal: On whose behalf; None is least privilege.
        agent: What the agent is, for humans.
        session: What this call belongs to; budgets are counted, and confirmations are told apart, by it.
        history: What went before, oldest first. Taint is recomputed from it on every call.
        siblings: The other calls of the same turn.
        environment: Where the call would run; None where nothing is known.
        schema: The tool's JSON schema, where the door knows it.
        hints: What the tool says of itself (MCP annotations): believed where they tighten, never where they loosen.
    """

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    request: str | None = None
    principal: Principal | None = None
    agent: str = ""
    session: str = ""
    history: tuple[Turn, ...] = ()
    siblings: tuple[Turn, ...] = ()
    environment: Environment | None = None
    schema: Mapping[str, Any] | None = None
    hints: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One thing that must hold of a call, and whether it does.

    ``statement`` says what must hold; ``evidence`` what was seen (never shown to the agent); ``advice`` what the agent
    may do instead (shown to it, so neither policy text nor secrets). A check that passes with ``narrowed`` arguments
    holds of those only: they turn the call into `modify` where nothing else is wrong with it.
    """

    id: str
    category: str
    statement: str
    status: CheckStatus
    method: Method = "rule"
    origin: Origin = "pinned"
    evidence: str = ""
    advice: str = ""
    narrowed: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Usage:
    """What a decision cost: calls of a model, its tokens in and out, texts embedded."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    embedded: int = 0

    def __add__(self, other: Usage) -> Usage:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Usage(*(one + two for one, two in pairs))


NOTHING = Usage()


@dataclass(frozen=True)
class Verdict:
    """What the guard says of a call.

    ``decision`` is what a door must do; in ``mode="observe"`` it is always `allow`, and ``found`` says what it would
    have been. ``modified`` are the arguments to call with where the decision is `modify`. ``reasons`` may be shown to
    the agent; ``detail`` says more of a failure, to operators.
    """

    decision: Decision
    found: Decision
    checks: tuple[Check, ...] = ()
    reasons: tuple[str, ...] = ()
    failure: Failure | None = None
    detail: str = ""
    modified: Mapping[str, Any] | None = None
    key: str = ""
    policy: str = ""
    audit_id: str | None = None
    usage: Usage = NOTHING
    latency_ms: float = 0.0

    @property
    def allowed(self) -> bool:
        """Whether the tool may run (with ``modified`` arguments where there are any)."""
        return self.decision in ("allow", "modify")

    def as_json(self) -> dict[str, Any]:
        """The verdict as JSON values."""
        return dataclasses.asdict(self)


def action_json(action: Action) -> dict[str, Any]:
    """An action as JSON values, without its environment (which is a door's business)."""
    found = {
        each.name: getattr(action, each.name)
        for each in dataclasses.fields(action)
        if each.name != "environment"
    }
    found["principal"] = dataclasses.asdict(action.principal) if action.principal else None
    for name in ("history", "siblings"):
        found[name] = [dataclasses.asdict(turn) for turn in found[name]]
    return found


def read_action(values: Any, *, environment: Environment | None = None) -> Action:
    """The action in a JSON object, read strictly.

    Raises:
        BadInput: It is no object, a field is unknown or of another type, or a text holds a NUL or is no Unicode.
    """
    given = _object(values, "an action", Action)
    given.pop("environment", None)
    principal = given.get("principal")
    if principal is not None:
        given["principal"] = read_principal(principal)
    for name in ("history", "siblings"):
        turns = given.get(name, [])
        if not isinstance(turns, (list, tuple)):
            raise BadInput(f"{name} of an action is no list.", fix="A list of turns, oldest first.")
        given[name] = tuple(read_turn(turn) for turn in turns)
    action = Action(**given, environment=environment)
    validate(action)
    return action


def read_principal(values: Any) -> Principal:
    """The principal in a JSON object.

    Raises:
        BadInput: It is no such object.
    """
    given = _object(values, "a principal", Principal)
    found = Principal(**given)
    _held(found)
    return found


def named_principal(text: str) -> Principal:
    """The principal in ``[ROLE:]ID``, as command lines and configurations write it; without a role, a regular user."""
    role, colon, name = text.partition(":")
    return Principal(name, role) if colon else Principal(text, "user")


def read_turn(values: Any) -> Turn:
    """The turn in a JSON object.

    Raises:
        BadInput: It is no such object, or its kind is unknown.
    """
    given = _object(values, "a turn", Turn)
    found = Turn(**given)
    _told(found)
    return found


def _held(principal: Principal) -> None:
    _typed("principal.id", principal.id, str)
    _typed("principal.role", principal.role, str)
    _typed("principal.attributes", principal.attributes, Mapping)


def _told(turn: Turn) -> None:
    if turn.kind not in get_args(TurnKind):
        raise BadInput(f"A turn has the kind {turn.kind!r}.", fix=", ".join(get_args(TurnKind)))
    for name in ("text", "tool", "id"):
        _typed(f"turn.{name}", getattr(turn, name), str)
    _typed("turn.arguments", turn.arguments, Mapping)


def validate(action: Action) -> None:
    """Refuse what no rule could read: every door calls this, through the engine.

    Raises:
        BadInput: A field has another type, arguments are no JSON or too large, a text is not Unicode or holds a NUL.
    """
    _typed("the action", action, Action)
    _typed("tool", action.tool, str)
    if not action.tool.strip():
        raise BadInput("The action names no tool.")
    for name in ("agent", "session"):
        _typed(name, getattr(action, name), str)
    if action.request is not None:
        _typed("request", action.request, str)
    if action.principal is not None:
        _typed("principal", action.principal, Principal)
        _held(action.principal)
    for name in ("history", "siblings"):
        turns = getattr(action, name)
        _typed(name, turns, (tuple, list))
        for turn in turns:
            _typed(f"an entry of {name}", turn, Turn)
            _told(turn)
    if len(action.history) > MOST_TURNS:
        raise BadInput(
            f"The history has {len(action.history):,} turns; at most {MOST_TURNS:,} are read.",
            fix="Begin a new session.",
        )
    _typed("arguments", action.arguments, Mapping)
    _typed("hints", action.hints, Mapping)
    if action.schema is not None:
        _shaped(action.schema)
    if action.environment is not None:
        _asked(action.environment)
    _measured(action.arguments)
    size = len(_json_bytes("arguments", action.arguments))
    if size > MOST_ARGUMENT_BYTES:
        raise BadInput(_TOO_LARGE)
    for turn in action.siblings:
        _measured(turn.arguments)
        _json_bytes("arguments of a sibling", dict(turn.arguments))
    for text in (action.tool, action.request or "", action.session, action.agent):
        _clean(text)


def _shaped(schema: Any) -> None:
    """Refuse a tool's schema that is none; a host hands it over, and arguments cannot be held against it."""
    _typed("schema", schema, Mapping)
    _json_bytes("schema", dict(schema))
    for name, kind in (
        ("properties", Mapping),
        ("required", (list, tuple)),
        ("additionalProperties", (bool, Mapping)),
    ):
        if schema.get(name) is not None:
            _typed(f"schema: {name}", schema[name], cast(Any, kind))
    for each in schema.get("required") or ():
        _typed("an entry of required in the schema", each, str)


def _asked(environment: Any) -> None:
    """Refuse an environment that cannot be asked."""
    for name in ("stat", "listdir", "groups", "free_bytes", "home"):
        try:
            there = callable(getattr(environment, name, None))
        except Exception:  # noqa: BLE001 - an object that fails when it is looked at is no environment
            there = False
        if not there:
            raise BadInput(f"environment is {type(environment).__name__}: it has no method {name}.")


def _json_bytes(what: str, values: Any) -> bytes:
    try:
        return json.dumps(values, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"The {what} are no JSON: {error}.") from error


_TOO_LARGE = f"The arguments are too large; at most {MOST_ARGUMENT_BYTES:,} bytes are looked at."


def _measured(values: Mapping[str, Any]) -> None:
    """Look at every value, and stop where there are too many: an object may hold itself, or one list many times."""
    seen = 0
    waiting: list[tuple[Any, int]] = [(values, 1)]
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if isinstance(value, str):
            seen += len(value)
        if seen > MOST_ARGUMENT_BYTES:  # each takes a byte of JSON at least
            raise BadInput(_TOO_LARGE)
        if isinstance(value, str):
            _clean(value)
        elif isinstance(value, (Mapping, list, tuple)):
            if depth > MOST_DEPTH:
                raise BadInput(f"The arguments are nested more than {MOST_DEPTH} levels deep.")
            if len(value) > MOST_ARGUMENT_BYTES:
                raise BadInput(_TOO_LARGE)
            if isinstance(value, Mapping):
                for name in value:
                    if not isinstance(name, str):
                        raise BadInput(f"A name in the arguments is {type(name).__name__}, not a text.")
                waiting += [(name, depth) for name in value]
                value = list(value.values())
            waiting += [(each, depth + 1) for each in value]


def _clean(text: str) -> None:
    if "\0" in text:
        raise BadInput("A text of the action holds a NUL character.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput("A text of the action is no valid Unicode.") from error


def _object(values: Any, what: str, kind: type) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise BadInput(f"{what.capitalize()} is no JSON object.", why=f"It is {type(values).__name__}.")
    names = {each.name for each in dataclasses.fields(cast(Any, kind))}
    for name in values:
        if name not in names:
            raise BadInput(f"{what.capitalize()} has no field {name!r}.", fix=nearest(str(name), names))
    required = {
        each.name
        for each in dataclasses.fields(cast(Any, kind))
        if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
    }
    for name in sorted(required - set(values)):
        raise BadInput(f"{what.capitalize()} lacks {name!r}.")
    return dict(values)


def _typed(name: str, value: Any, kind: type | tuple[type, ...]) -> None:
    if not isinstance(value, kind):
        wanted = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
        raise BadInput(f"{name} is {type(value).__name__}, not {wanted}.")
