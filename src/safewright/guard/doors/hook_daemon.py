"""What answers hooks: shapes of several coding agents read into actions, and a process that stays warm."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safewright.errors import BadInput, SafewrightError
from safewright.guard.doors.hook import ALLOWED, MOST_BYTES, STOPPED, policy_digest, socket_of, state_folder
from safewright.guard.doors.sessions import Sessions
from safewright.guard.engine import Guard
from safewright.guard.nouns import Action, Environment, Principal, Verdict, named_principal, read_action

MOST_AT_ONCE = 16
BEFORE = frozenset(
    ("", "pretooluse", "beforetool", "beforetoolcall", "beforeshellexecution", "beforemcpexecution")
)
AFTER = frozenset(("posttooluse", "aftertool", "aftertoolcall", "aftershellexecution", "aftermcpexecution"))
PROMPT = frozenset(("userpromptsubmit", "beforeagent", "beforesubmitprompt"))
END = frozenset(("sessionend",))
START = frozenset(("sessionstart",))
_NAMES: Mapping[str, tuple[str, ...]] = {
    "event": ("hook_event_name", "hookEventName", "event", "hook_event"),
    "tool": ("tool_name", "toolName"),
    "arguments": ("tool_input", "toolInput", "tool_args", "toolArgs"),
    "session": ("session_id", "sessionId", "conversation_id", "conversationId"),
    "result": (
        "tool_response",
        "toolResponse",
        "tool_result",
        "toolResult",
        "tool_output",
        "result_json",
        "output",
    ),
    "call": ("tool_use_id", "toolUseId", "tool_call_id", "toolCallId"),
    "prompt": ("prompt", "user_prompt"),
    "cwd": ("cwd", "workspace", "working_directory"),
}
"""What agents call the same thing."""


@dataclass(frozen=True)
class Hook:
    """A hook, whatever the agent calls its parts."""

    event: str
    tool: str
    arguments: Mapping[str, Any]
    session: str
    result: str | None
    call: str
    prompt: str | None
    cwd: str


def read_hook(given: Mapping[str, Any], cwd: str = "") -> Hook:
    """A hook's JSON.

    Raises:
        BadInput: It has no shape that is known, or says the same thing twice in different ways.
    """
    found = {name: _one(given, name, keys) for name, keys in _NAMES.items()}
    event = str(found["event"] or "").replace("_", "").replace("-", "").lower()
    tool, arguments = found["tool"], found["arguments"]
    if tool is None and isinstance(given.get("command"), str) and "shell" in event:
        tool, arguments = "bash", {"command": given["command"]}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise BadInput(f"The call's arguments are no JSON: {error}.") from error
    if event in BEFORE | AFTER:
        if not isinstance(tool, str) or not isinstance(arguments, Mapping):
            raise BadInput("The hook names no tool and arguments.", fix="tool_name and tool_input.")
    elif event not in PROMPT | START | END:
        raise BadInput(f"The hook's event {found['event']!r} is not known.", fix="For example: PreToolUse.")
    if event in PROMPT and not isinstance(found["prompt"], str):
        raise BadInput("The hook holds no prompt.")
    session = found["session"] if found["session"] is not None else ""
    if not isinstance(session, str) or (event in AFTER | PROMPT and not session):
        raise BadInput("The hook names no session.")
    result = found["result"]
    return Hook(
        event=event,
        tool=tool if isinstance(tool, str) else "",
        arguments=arguments if isinstance(arguments, Mapping) else {},
        session=session,
        result=result
        if result is None or isinstance(result, str)
        else json.dumps(result, ensure_ascii=False),
        call=str(found["call"] or ""),
        prompt=found["prompt"],
        cwd=str(found["cwd"] or cwd),
    )


def _one(given: Mapping[str, Any], name: str, keys: tuple[str, ...]) -> Any:
    values = [given[key] for key in keys if given.get(key) is not None]
    if any(value != values[0] for value in values):
        raise BadInput(f"The hook says its {name} in {len(values)} ways that differ.")
    return values[0] if values else None


class Answerer:
    """What answers hooks in one process, with one guard and the histories of its sessions."""

    def __init__(self, options: Mapping[str, Any], folder: str | None) -> None:
        self.options = options
        self.digest = policy_digest(options)
        self.guard = guard_of(options)
        self.sessions = Sessions(Path(folder) / "sessions" if folder is not None else None)

    def reply(self, given: Mapping[str, Any], cwd: str) -> dict[str, Any]:
        """The reply to one hook: only a call that may be made gets the word `allow`."""
        try:
            return self._reply(given, cwd)
        except SafewrightError as error:
            return _stop(f"{error.what} {error.fix}".strip())
        except Exception as error:  # noqa: BLE001 - a failure stops the call
            return _stop(f"The guard failed ({type(error).__name__}: {error}), so the call was not made.")

    def _reply(self, given: Mapping[str, Any], cwd: str) -> dict[str, Any]:
        if "tool" in given and "arguments" in given:  # an action as the other doors take it
            return _told(self.guard.check(read_action(given)))
        hook = read_hook(given, cwd)
        if hook.event in END:
            self.sessions.forget(hook.session)
        elif hook.event in PROMPT:
            self.sessions.asked(hook.session, hook.prompt or "")
        elif hook.event in AFTER:
            self.sessions.called(hook.session, hook.tool, hook.arguments, hook.result or "", hook.call)
        elif hook.event in BEFORE:
            return _told(self.guard.check(self.action(hook)))
        return {"code": ALLOWED, "word": "allow"}

    def action(self, hook: Hook) -> Action:
        """The call that a hook announces, with what is known of its session."""
        return Action(
            tool=hook.tool,
            arguments=hook.arguments,
            request=self.sessions.request(hook.session) if hook.session else None,
            principal=principal_of(self.options["user"], hook.cwd),
            agent="coding agent",
            session=hook.session,
            history=self.sessions.history(hook.session) if hook.session else (),
            environment=None if self.options["no_environment"] else environment_of(),
        )


def guard_of(options: Mapping[str, Any]) -> Guard:
    """The guard that a hook's options mean.

    Raises:
        BadInput, Missing: An option, or the policy, cannot be used.
    """
    given: dict[str, Any] = {
        name: options[name] for name in ("memory", "audit", "backend", "model", "preset")
    }
    given |= {name: options[name] for name in ("mode", "on_unknown", "namespace", "freeze")}
    return Guard(options["policy"] or "coding", deadline_s=options["deadline"], **given)


def principal_of(user: str | None, cwd: str = "") -> Principal:
    """On whose behalf: what the command line says, else the user who runs the agent; and in which folder."""
    where = {"cwd": cwd} if cwd.startswith("/") else {}
    if user is not None:
        return replace(named_principal(user), attributes=where)
    import pwd

    number = os.getuid()
    try:
        name = pwd.getpwuid(number).pw_name
    except KeyError:
        name = str(number)
    return Principal(name, "root" if number == 0 else "user", where)


def environment_of() -> Environment:
    """This machine's files, read-only."""
    from safewright.guard.environments import LocalEnvironment

    return LocalEnvironment()


def _told(verdict: Verdict) -> dict[str, Any]:
    said = {"verdict": verdict.as_json()}
    if verdict.decision == "allow":
        return {"code": ALLOWED, "word": "allow", **said}
    reasons = list(verdict.reasons)
    if verdict.decision == "modify":  # an exit code cannot change arguments; the agent can
        reasons.append(f"Call it instead with: {json.dumps(dict(verdict.modified or {}))}")
    elif verdict.decision == "escalate":
        reasons.insert(0, "A person must approve this call, and nobody can be asked here.")
    return {"code": STOPPED, "word": verdict.decision, "reasons": reasons, **said}


def _stop(why: str) -> dict[str, Any]:
    return {"code": STOPPED, "word": "failed", "reasons": [why]}


def decide_once(options: Mapping[str, Any], given: Mapping[str, Any], cwd: str) -> dict[str, Any]:
    """The reply to one hook, in a process of its own."""
    try:
        answerer = Answerer(options, state_folder())
    except SafewrightError as error:
        said = " ".join(filter(None, (error.what, error.why, error.fix)))
        return _stop(f"The guard cannot start, so the call was not made. {said}")
    try:
        return answerer.reply(given, cwd)
    finally:
        answerer.guard.close()


def serve(options: Mapping[str, Any]) -> None:
    """Answer hooks on a socket until nobody asks any more. Nothing where another daemon does so already.

    Raises:
        BadInput: There is no private folder for the socket, or the policy cannot be used.
    """
    folder = state_folder()
    if folder is None:
        raise BadInput("There is no folder of this user's own for a socket.", fix="Set XDG_RUNTIME_DIR.")
    place = socket_of(options, folder)
    lock = os.open(f"{place}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    answerer = Answerer(options, folder)
    Path(place).unlink(missing_ok=True)  # of a daemon that was killed: we hold its lock
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(place)
        os.chmod(place, 0o600)
        listener.listen(64)
        try:
            _serve(listener, answerer, float(options["idle"]))
        finally:
            Path(place).unlink(missing_ok=True)


def _serve(listener: socket.socket, answerer: Answerer, idle: float) -> None:
    slots = threading.BoundedSemaphore(MOST_AT_ONCE)
    over = threading.Event()
    used = time.monotonic()
    while not over.is_set():
        listener.settimeout(min(1.0, idle))
        try:
            wire, _ = listener.accept()
        except TimeoutError:
            if time.monotonic() - used > idle:
                return
            continue
        used = time.monotonic()
        slots.acquire()
        threading.Thread(target=_handle, args=(wire, answerer, slots.release, over.set), daemon=True).start()


def _handle(
    wire: socket.socket, answerer: Answerer, done: Callable[[], None], stale: Callable[[], None]
) -> None:
    try:
        with wire:
            wire.settimeout(10.0)
            text = bytearray()
            while not text.endswith(b"\n"):
                chunk = wire.recv(1 << 16)
                if not chunk or len(text) > 2 * MOST_BYTES:
                    return
                text += chunk
            asked = json.loads(text)
            if asked["policy"] != answerer.digest:
                stale()  # the policy, or this code, is another: a new daemon takes over
                reply: dict[str, Any] = {"word": "stale"}
            else:
                reply = answerer.reply(asked["hook"], asked["cwd"])
            wire.sendall(json.dumps({**reply, "nonce": asked["nonce"]}).encode() + b"\n")
    except (OSError, ValueError, KeyError, TypeError):
        return  # whoever asked hears nothing, and stops
    finally:
        done()
