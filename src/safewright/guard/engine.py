"""The engine: one call in, one verdict out, whatever fails on the way."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from safewright.errors import BadInput, need_extra
from safewright.guard.keys import key_of
from safewright.guard.lattice import OnUnknown, aggregate, tightest
from safewright.guard.nouns import NOTHING, Action, Check, Decision, Failure, Usage, Verdict, validate
from safewright.guard.parts import Analysis, Analyst, Audit, Case, Found, Key, Lesson, Memory
from safewright.guard.policy import Policy
from safewright.guard.rules import families
from safewright.guard.tooling import tool_checks
from safewright.guard.views import View
from safewright.guard.working import Workers
from safewright.runs import run_sync

Backend = Literal["rules", "llm", "hybrid"]
Mode = Literal["enforce", "observe"]
Preset = Literal["hardened", "faithful"]
T = TypeVar("T")

DEADLINE_SECONDS = 8.0
LEAST_AUDIT_SECONDS = 1.0
"""What writing the verdict down may take where the deadline is already used up."""
MOST_NARROWINGS = 4
"""How often a call is examined again because rules narrow what other rules narrowed."""

ADVICE: Mapping[str, str] = {
    "invalid_action": "The call could not be read. Send its arguments as plain JSON values of reasonable size.",
    "timeout": "The safety check did not finish in time, so the call was not made. Try again, or a simpler call.",
}
OTHERWISE = "The safety check could not be completed, so the call was not made."


class Failed(Exception):  # noqa: N818 - never leaves the engine
    """No valid verdict can be reached; ``failure`` says why, for machines."""

    def __init__(
        self, failure: Failure, detail: str = "", usage: Usage = NOTHING, analysis: Analysis | None = None
    ) -> None:
        super().__init__(detail)
        self.failure, self.detail, self.usage = failure, detail, usage
        self.analysis = analysis or Analysis()


class Guard:
    """A guard between an agent and its tools. `check` and `acheck` never raise.

    Args:
        policy: A policy, or the path of its TOML file; the default policy where None.
        memory: The path of its file, or an opened memory; none is kept where None.
        audit: The path of its file, or an opened log; none is kept where None.
        backend: `rules` needs no model; `llm` asks one of every call, `hybrid` of what the rules let pass. The rules
            hold in all three (but for the preset `faithful`, which has the model alone).
        model: For `llm` and `hybrid`: a model reference (``http://host:port/v1#NAME``, ``inspect:PROVIDER/NAME``), or
            an `Analyst`.
        preset: `hardened`, or `faithful` to the paper's order, thresholds and three calls (backend `llm`).
        deadline_s: Seconds for a whole decision.
        fail_mode: `closed`: what fails is denied. `open`: it is let through, and recorded as such. Use it knowingly.
        on_unknown: What becomes of a call that no check decides, instead of what the policy says.
        mode: `observe` records what would have been decided, and lets everything through.
        approver: Whether somebody stands behind the guard who decides escalated calls; failures then are escalated.
        freeze: Whether memory stays as it is.
        namespace: Whose memory it is (a tenant, an agent).

    Raises:
        BadInput: The policy, the memory or an option cannot be used.
        Missing: A parser that the policy's tools need is not installed.
    """

    def __init__(
        self,
        policy: Policy | Path | str | None = None,
        *,
        memory: Memory | Path | str | None = None,
        audit: Audit | Path | str | None = None,
        backend: Backend = "rules",
        model: Any = None,
        preset: Preset = "hardened",
        deadline_s: float = DEADLINE_SECONDS,
        fail_mode: Literal["closed", "open"] = "closed",
        on_unknown: OnUnknown | None = None,
        mode: Mode = "enforce",
        approver: bool = False,
        freeze: bool = False,
        namespace: str = "default",
    ) -> None:
        for name, value, known in (
            ("backend", backend, ("rules", "llm", "hybrid")),
            ("preset", preset, ("hardened", "faithful")),
            ("fail_mode", fail_mode, ("closed", "open")),
            ("mode", mode, ("enforce", "observe")),
            ("on_unknown", on_unknown, (None, "escalate", "deny")),
        ):
            if value not in known:
                raise BadInput(
                    f"{name} is {value!r}.", fix=f"One of: {', '.join(str(each) for each in known)}."
                )
        if not deadline_s > 0:
            raise BadInput(f"deadline_s is {deadline_s!r}.", fix="A number of seconds above 0.")
        if preset == "faithful" and backend != "llm":
            raise BadInput(
                "The preset faithful needs a model.", fix='Guard(preset="faithful", backend="llm", model=…)'
            )
        if (backend != "rules") != (model is not None):
            raise BadInput(
                f"The backend {backend} {'needs a' if model is None else 'takes no'} model.",
                fix='For example: backend="hybrid", model="http://127.0.0.1:8000/v1#NAME".',
            )
        self.policy = (
            policy if isinstance(policy, Policy) else Policy.load(policy) if policy else Policy.default()
        )
        _need(self.policy)
        self.on_unknown: OnUnknown = on_unknown or self.policy.on_unknown
        self.backend, self.preset, self.mode, self.fail_mode = backend, preset, mode, fail_mode
        self.deadline_s, self.approver = deadline_s, approver
        self._workers, self._writers = Workers(), Workers()
        self.memory = _memory(memory, preset, freeze, namespace)
        self.audit = _audit(audit)
        self.analyst = _analyst(model, preset, self.policy)

    def check(self, action: Action) -> Verdict:
        """The verdict on a call. Never raises."""
        return run_sync(self._decide(action, blocking=True))

    async def acheck(self, action: Action) -> Verdict:
        """The verdict on a call, under asyncio or trio. Never raises."""
        return await self._decide(action, blocking=False)

    async def acheck_many(self, actions: Sequence[Action]) -> list[Verdict]:
        """The verdicts on some calls, each under a deadline of its own, in order."""
        import anyio

        verdicts: list[Verdict | None] = [None] * len(actions)

        async def one(index: int) -> None:
            verdicts[index] = await self.acheck(actions[index])

        async with anyio.create_task_group() as group:
            for index in range(len(actions)):
                group.start_soon(one, index)
        return [verdict for verdict in verdicts if verdict is not None]

    def check_many(self, actions: Sequence[Action]) -> list[Verdict]:
        """The verdicts on some calls, in order."""
        return run_sync(self.acheck_many(actions))

    def protect(
        self,
        function: Callable[..., Any] | None = None,
        *,
        tool: str | None = None,
        arguments: Any = None,
        approve: Any = None,
    ) -> Any:
        """Decorate a function so that it asks before it runs (`doors.python.protect`): ``@guard.protect``."""
        from safewright.guard.doors.python import protect

        def decorated(inner: Callable[..., Any]) -> Callable[..., Any]:
            return protect(self, inner, tool=tool, arguments=arguments, approve=approve)

        return decorated if function is None else decorated(function)

    def acting(self, **context: Any) -> Any:
        """Say for whom and on which request protected functions are called (`doors.python.acting`)."""
        from safewright.guard.doors.python import acting

        return acting(**context)

    def close(self) -> None:
        """Close memory, audit log and model."""
        for part in (self.analyst, self.memory, self.audit):
            if part is not None:
                part.close()
        self._workers.close()
        self._writers.close()

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _decide(self, action: Action, *, blocking: bool) -> Verdict:
        began = time.monotonic()
        work = _Clock(self._workers, began + self.deadline_s, blocking)
        case: Case | None = None
        analysis = Analysis()
        try:
            case = await work.run(self._examine, action)
            if case.failure is not None:
                raise Failed(case.failure, case.detail)
            if self.analyst is not None and (self.backend == "llm" or not _failed(case.checks)):
                case, analysis = await self._ask(case, work)
            checks = (*case.checks, *analysis.checks)
            verdict = self._verdict(checks, case, analysis.usage, None, "")
            if verdict.modified is not None:
                verdict = await self._narrowed(action, verdict, work)
        except Failed as failed:
            analysis = failed.analysis
            verdict = self._failure(failed, case)
        except TimeoutError:
            verdict = self._failure(Failed("timeout"), case)
        except Exception as error:  # noqa: BLE001 - the guard never raises: what it did not foresee is denied
            verdict = self._failure(Failed("internal", _said(error)), case)
        modified = None if self.mode == "observe" else verdict.modified
        verdict = replace(
            verdict,
            modified=modified,
            usage=verdict.usage + (case.usage if case is not None else NOTHING),
            latency_ms=1000 * (time.monotonic() - began),
        )
        # Writing down has threads of its own, so that what hangs elsewhere costs no record.
        work.workers, work.until = self._writers, max(work.until, time.monotonic() + LEAST_AUDIT_SECONDS)
        written = _Written()
        try:
            return await work.run(self._record, action, case, analysis, verdict, written)
        except TimeoutError:
            in_time = written.given_up()
            if in_time is not None:  # only memory was still learning
                return in_time
            lost = Failed("audit_unavailable", "The record was not written in time.")
        except Exception as error:  # noqa: BLE001 - what is not written down is not let through
            lost = Failed("audit_unavailable", _said(error))
        return self._lost(lost, case, verdict)

    def _examine(self, action: Action) -> Case:
        """What the rules find in a call; runs in a worker."""
        try:
            validate(action)
        except BadInput as error:
            raise Failed("invalid_action", str(error)) from error
        view = View(action, self.policy)
        checks, errors = self._rules(view) if self.preset == "hardened" else (tool_checks(view), [])
        case = Case(view, tuple(checks), key_of(view))
        if errors:
            return replace(case, failure="rule_error", detail="; ".join(errors))
        try:
            found, usage = self._retrieved(case.key)
            return replace(case, found=found, usage=usage)
        except Failed as failed:
            return replace(case, failure=failed.failure, detail=failed.detail)

    def _rules(self, view: View) -> tuple[list[Check], list[str]]:
        """What every family finds; one that breaks does not silence the others."""
        checks, errors = tool_checks(view), []
        for name, family in families().items():
            settings = self.policy.settings[name]
            if not getattr(settings, "enabled", True):
                continue
            try:
                checks += family.check(view, settings)
            except Exception as error:  # noqa: BLE001 - it becomes the verdict's failure
                errors.append(f"{name}: {_said(error)}")
        return checks, errors

    async def _narrowed(self, action: Action, verdict: Verdict, work: _Clock) -> Verdict:
        """A verdict on narrowed arguments stands only where the rules let the narrowed call pass as well."""
        arguments = verdict.modified or {}
        for _ in range(MOST_NARROWINGS):
            again = await work.run(self._examine, replace(action, arguments=arguments))
            if again.failure is not None:
                raise Failed(again.failure, again.detail)
            found = aggregate(again.checks, self.on_unknown)
            after = _merged(arguments, again.checks)
            if found == "allow" or (found == "modify" and after == arguments):
                return replace(verdict, modified=arguments)
            if found != "modify":
                return self._verdict(again.checks, again, verdict.usage, None, "")
            arguments = after
        raise Failed("rule_error", "Rules narrow each other's arguments, to no end.")

    def _retrieved(self, key: Key) -> tuple[tuple[Found, ...], Usage]:
        if self.memory is None:
            return (), NOTHING
        before = getattr(self.memory, "embedded_here", 0)
        try:
            found = tuple(self.memory.retrieve(key))
        except Exception as error:
            raise Failed("memory_unavailable", _said(error)) from error
        return found, Usage(embedded=getattr(self.memory, "embedded_here", 0) - before)

    async def _ask(self, case: Case, work: _Clock) -> tuple[Case, Analysis]:
        """The model's part: its own key where it makes one, and its checks."""
        analyst = self.analyst
        if analyst is None:
            raise Failed("internal", "There is no model to ask.")
        usage = NOTHING
        own = await work.within(analyst.abstract(case.view, work.left()))
        if isinstance(own, Analysis):
            raise Failed(own.failure or "internal", own.detail, own.usage, own)
        if own is not None:
            key, usage = own
            found, embedded = await work.run(self._retrieved, key)
            case = replace(case, key=key, found=found, usage=case.usage + embedded)
        analysis = await work.within(
            analyst.analyse(case.view, case.key, case.found, case.checks, work.left())
        )
        analysis = replace(analysis, usage=usage + analysis.usage)
        if analysis.failure is not None:
            raise Failed(analysis.failure, analysis.detail, analysis.usage, analysis)
        if all(check.status == "deleted" for check in analysis.checks):
            raise Failed("no_checks", "The model left no check standing.", analysis.usage)
        return case, analysis

    def _verdict(
        self, checks: tuple[Check, ...], case: Case | None, usage: Usage, failure: Failure | None, detail: str
    ) -> Verdict:
        found: Decision
        if failure is None:
            found = aggregate(checks, self.on_unknown)
        elif self.fail_mode == "open" and failure != "invalid_action" and not _failed(checks):
            # What failed is let through; what the rest left undecided is not.
            found = aggregate(checks, self.on_unknown) if checks else "allow"
            found = self.on_unknown if found == "modify" else found
        else:
            # A rule that already denied stands, whatever failed after it.
            found = "escalate" if self.approver and not _failed(checks) else "deny"
        reasons = _reasons(checks, found) if failure is None else (ADVICE.get(failure, OTHERWISE),)
        modified: dict[str, Any] | None = None
        if found == "modify" and case is not None:
            modified = _merged(case.view.action.arguments, checks)
        return Verdict(
            decision="allow" if self.mode == "observe" else found,
            found=found,
            checks=checks,
            reasons=reasons if found != "allow" else (),
            failure=failure,
            detail=detail,
            modified=modified,
            key=case.key.text if case else "",
            policy=self.policy.digest,
            usage=usage,
        )

    def _failure(self, failed: Failed, case: Case | None) -> Verdict:
        return self._verdict(case.checks if case else (), case, failed.usage, failed.failure, failed.detail)

    def _lost(self, lost: Failed, case: Case | None, verdict: Verdict) -> Verdict:
        """What is given out in place of a verdict that could not be written down: never a looser one."""
        after = self._verdict(verdict.checks, case, verdict.usage, lost.failure, lost.detail)
        found = tightest((verdict.found, after.found))
        return replace(
            after,
            decision="allow" if self.mode == "observe" else found,
            found=found,
            reasons=after.reasons or verdict.reasons,
            modified=verdict.modified if found == "modify" else None,
            latency_ms=verdict.latency_ms,
        )

    def _record(
        self, action: Action, case: Case | None, analysis: Analysis, verdict: Verdict, written: _Written
    ) -> Verdict:
        """Write a verdict down, then let memory learn from it where it is a valid one; runs in a worker."""
        if self.audit is not None:
            from safewright.guard.audit import record_of

            record = record_of(action, case, analysis, verdict, self.policy, self.memory, log=self.audit)
            verdict = replace(verdict, audit_id=self.audit.append(record))
        if not written.in_time(verdict):
            # Nobody waited for it: what was given out instead stands in the log as well, and nothing is learned.
            late = self._lost(
                Failed("audit_unavailable", f"The record {verdict.audit_id} was written too late."),
                case,
                verdict,
            )
            if self.audit is not None:
                self.audit.append(
                    record_of(action, case, analysis, late, self.policy, self.memory, log=self.audit)
                )
            return late
        if self.memory is None or case is None or verdict.failure is not None:
            return verdict
        try:
            self._learn(self.memory, action, case, analysis, verdict)
        except Exception:  # noqa: BLE001 - the verdict stands and is recorded; what is not learned is counted
            self.unlearned += 1
        return verdict

    def _learn(
        self, memory: Memory, action: Action, case: Case, analysis: Analysis, verdict: Verdict
    ) -> None:
        lesson = Lesson(
            key=case.key,
            found=case.found[0] if case.found and (analysis.belongs or self.analyst is None) else None,
            checks=analysis.checks if self.analyst is not None else case.checks,
            decision=verdict.found,
            session=action.session,
            tainted=case.view.taint.tainted,
            arguments=action.arguments,
        )
        memory.learn(lesson)

    unlearned = 0
    """Verdicts that memory could not take in."""


class _Written:
    """Which came first: that a verdict was written down, or that who waited for it gave up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._verdict: Verdict | None = None
        self._gone = False

    def in_time(self, verdict: Verdict) -> bool:
        with self._lock:
            self._verdict = None if self._gone else verdict
            return not self._gone

    def given_up(self) -> Verdict | None:
        """The verdict, where it was written after all."""
        with self._lock:
            self._gone = self._verdict is None
            return self._verdict


class _Clock:
    """What is left of a deadline, and how to work within it."""

    def __init__(self, workers: Workers, until: float, blocking: bool) -> None:
        self.workers, self.until, self.blocking = workers, until, blocking

    def left(self) -> float:
        return max(0.0, self.until - time.monotonic())

    async def run(self, job: Callable[..., T], *arguments: Any) -> T:
        if self.blocking:  # a loop of our own, in which nobody else waits
            return self.workers.run(self.left(), job, *arguments)
        import anyio

        # The waiting thread itself is bounded by the deadline. It has a place of its own: anyio's common ones may all
        # be taken, and waiting for one is not.
        return await anyio.to_thread.run_sync(
            self.workers.run, self.left(), job, *arguments, limiter=anyio.CapacityLimiter(1)
        )

    async def within(self, waiting: Any) -> Any:
        import anyio

        with anyio.fail_after(self.left()):
            return await waiting


def _failed(checks: Sequence[Check]) -> bool:
    return any(check.status == "fail" for check in checks)


def _reasons(checks: Sequence[Check], found: Decision) -> tuple[str, ...]:
    """What the agent is told: the advice of the checks that decided, never policy text or evidence.

    What a model proposed and struck out again decided nothing, and is in the model's own words.
    """
    deciding = {"deny": ("fail",), "escalate": ("unknown", "deleted")}.get(found, ("fail", "unknown"))
    if found == "deny" and not _failed(checks):
        deciding = ("unknown", "deleted")
    said = [
        check.advice or check.statement
        for check in checks
        if (check.status in deciding or (found == "modify" and check.narrowed is not None))
        and (check.status != "deleted" or check.origin == "pinned")
    ]
    return tuple(dict.fromkeys(said))


def _merged(arguments: Mapping[str, Any], checks: Sequence[Check]) -> dict[str, Any]:
    """Arguments as the checks narrow them."""
    found = dict(arguments)
    for check in checks:
        found.update(check.narrowed or {})
    return found


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]


PARSERS = {"shell": "tree_sitter_bash", "file": "tree_sitter_bash", "sql": "sqlglot"}


def _need(policy: Policy) -> None:
    """Say at the start, and not call by call, that a parser is missing."""
    for spec in policy.tools:
        package = PARSERS.get(spec.kind)
        if package is not None and importlib.util.find_spec(package) is None:
            raise need_extra(package.replace("_", "-"), "guard")


def _memory(memory: Any, preset: Preset, freeze: bool, namespace: str) -> Memory | None:
    if memory is None or not isinstance(memory, (str, Path)):
        return cast("Memory | None", memory)
    from safewright.guard.memory import open_memory

    return open_memory(memory, namespace=namespace, preset=preset, freeze=freeze)


def _audit(audit: Any) -> Audit | None:
    if audit is None or not isinstance(audit, (str, Path)):
        return cast("Audit | None", audit)
    from safewright.guard.audit import open_audit

    return open_audit(audit)


def _analyst(model: Any, preset: Preset, policy: Policy) -> Analyst | None:
    if model is None or not isinstance(model, str):
        return cast("Analyst | None", model)
    from safewright.guard.analyst import open_analyst

    return open_analyst(model, preset=preset, policy=policy)
