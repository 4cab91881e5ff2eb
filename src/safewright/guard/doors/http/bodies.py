"""What is asked and answered, as pydantic models: they read requests strictly, and describe the address in OpenAPI.

This file imports pydantic; it is imported when an app is built.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from safewright.guard.nouns import CheckStatus, Decision, Failure, Method, Origin, TurnKind

MOST_ACTIONS = 32
"""Calls of one batch."""
Object = dict[str, Any]


def _whole(value: Any) -> Any:
    """In JSON, 2.0 is a whole number too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class _Asked(BaseModel):
    """Part of a request: another field, or another type, is an error."""

    model_config = ConfigDict(extra="forbid", strict=True)


class _Told(BaseModel):
    """Part of an answer."""

    model_config = ConfigDict(extra="forbid")


class PrincipalBody(_Asked):
    """On whose behalf the agent acts, as the host declares it."""

    id: str = ""
    role: str = ""
    attributes: Object = {}


class TurnBody(_Asked):
    """One entry of what went before."""

    kind: TurnKind
    text: str = ""
    tool: str = ""
    arguments: Object = {}
    id: str = ""


class EntryBody(_Asked):
    """What a path is, as stat would say; the mode is a number (493) or octal digits ("0755")."""

    type: Literal["file", "dir", "link", "other"] = "file"
    owner: str = "root"
    group: str = "root"
    mode: (
        Annotated[int, Field(ge=0, le=0o7777), BeforeValidator(_whole)]
        | Annotated[str, Field(pattern="^(0o)?[0-7]{1,4}$")]
    ) = 0o755
    target: str | None = None
    size: Annotated[int, Field(ge=0, le=2**53), BeforeValidator(_whole)] = 0


Path = Annotated[str, Field(pattern="^/([^/]|$)")]
"""An absolute path. POSIX gives two slashes at its beginning a meaning of their own, so they are none."""


class ActionBody(_Asked):
    """A call that an agent wants to make, before it is made."""

    tool: str
    arguments: Object = {}
    request: str | None = None
    principal: PrincipalBody | None = None
    agent: str = ""
    session: str = ""
    history: list[TurnBody] = []
    siblings: list[TurnBody] = []
    environment: (
        Annotated[dict[Path, EntryBody], Field(json_schema_extra={"additionalProperties": False})] | None
    ) = None
    schema_: Annotated[Object | None, Field(alias="schema")] = None
    hints: Object = {}


class BatchBody(_Asked):
    """Calls that are judged one by one."""

    actions: Annotated[list[ActionBody], Field(min_length=1, max_length=MOST_ACTIONS)]


class ScanBody(_Asked):
    """What a tool returned."""

    text: str
    tool: str = ""


class DecisionBody(_Asked):
    """An operator's decision: the digest is the one that the operator was shown."""

    digest: Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")]


class OverrideBody(_Asked):
    """Checks of an entry that were wrong; with `tombstone` they are dropped for good."""

    checks: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=200)]], Field(min_length=1, max_length=100)
    ]
    tombstone: bool = False


class CheckTold(_Told):
    """One thing that must hold of a call, and whether it does. Evidence is for operators; others get none."""

    id: str
    category: str
    statement: str
    status: CheckStatus
    method: Method
    origin: Origin
    evidence: str
    advice: str
    narrowed: Object | None


class UsageTold(_Told):
    """What a decision cost."""

    calls: int
    tokens_in: int
    tokens_out: int
    embedded: int


class PlaceTold(_Told):
    """Where an escalated call waits for an operator, until `expires` (seconds since 1970)."""

    id: str
    state: Literal["pending", "approved", "denied"]
    expires: float


class VerdictTold(_Told):
    """What the guard says of a call. Only `allow` and `modify` let it be made; `detail` is for operators."""

    decision: Decision
    found: Decision
    checks: list[CheckTold]
    reasons: list[str]
    failure: Failure | None
    detail: str
    modified: Object | None
    key: str
    policy: str
    audit_id: str | None
    usage: UsageTold
    latency_ms: float
    escalation: PlaceTold | None


class BatchTold(_Told):
    """Verdicts, in the order of the calls."""

    verdicts: list[VerdictTold]


class SpanTold(_Told):
    """A stretch of the text that reads like instructions: characters `start` to `end`."""

    start: int
    end: int
    kind: str
    text: str


class ScanTold(_Told):
    """What was found in a result, and the result without it."""

    tainted: bool
    spans: list[SpanTold]
    sanitised: str


class EscalationTold(_Told):
    """A call that waits for an operator, or was decided."""

    id: str
    digest: str
    call: Object
    reasons: list[str]
    audit_id: str | None
    created: float
    expires: float
    state: Literal["pending", "approved", "denied", "used"]
    asked: int
    decided: float | None
    decided_by: str | None


class EscalationsTold(_Told):
    """Calls that wait for an operator, oldest first."""

    escalations: list[EscalationTold]


class StateTold(_Told):
    """What has become of an escalated call."""

    id: str
    state: Literal["pending", "approved", "denied", "used", "expired"]
    expires: float


class RecordsTold(_Told):
    """Audit records, newest first; `next` is the `before` of the page that follows."""

    records: list[Object]
    next: int | None


class RecordTold(_Told):
    """One audit record, and what it says in words."""

    record: Object
    explanation: str


class EntriesTold(_Told):
    """Entries of memory; `next` is the `after` of the page that follows."""

    entries: list[Object]
    next: int | None


class EntryTold(_Told):
    """One entry of memory, and what happened to it, latest first."""

    entry: Object
    events: list[Object]


class HealthTold(_Told):
    """Whether the server answers."""

    status: Literal["ok"]


class ReadyTold(_Told):
    """Whether calls can be judged, and what each part says."""

    ready: bool
    parts: dict[str, str]


class ProblemTold(_Told):
    """Why there is no answer: no error of any kind is a permission."""

    decision: Literal["deny"]
    code: str
    message: str
