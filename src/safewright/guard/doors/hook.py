"""The door for coding agents: ``safewright guard hook`` reads a hook's JSON on stdin and answers by its exit code.

0 lets the call run. 2 stops it, and so does every failure: JSON that cannot be read, a policy that cannot, a module
that cannot be imported, a crash, a signal, a time-out. Only the standard library is imported here; everything else is
imported by a child process, whose end, whatever it is, decides nothing unless it says `allow` in so many words.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

ALLOWED, STOPPED = 0, 2
MOST_BYTES = 8 * 1024 * 1024
SPARE_SECONDS = 2.0
"""What starting, reading and answering may take beside the guard's own deadline."""
FILES = {
    "policy": "a policy in TOML; without it the one called coding",
    "memory": "where checks are remembered (SQLite)",
    "audit": "where decisions are written down (SQLite)",
}
USAGE = """safewright guard hook [options] < JSON

Reads a coding agent's hook (tool_name, tool_input, session_id, cwd, hook_event_name) and exits with 0 to let the call
run, with 2 to stop it and on every failure. Reasons are on standard error.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Answer one hook and leave; never returns."""
    code = STOPPED
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _stopped)
        given = list(sys.argv[1:] if arguments is None else arguments)
        code = answer(given)
    except SystemExit as error:  # argparse: 0 for --help, 2 for what it does not know
        code = ALLOWED if error.code == 0 and _only_help(arguments) else STOPPED
    except BaseException as error:  # noqa: BLE001 - every failure stops the call, Ctrl-C among them
        _say(f"The guard failed ({type(error).__name__}: {error}), so the call was not made.")
    os._exit(code)  # the interpreter's own end could change the code


def _only_help(arguments: Sequence[str] | None) -> bool:
    given = sys.argv[1:] if arguments is None else arguments
    return any(each in ("-h", "--help") for each in given)


def _stopped(number: int, frame: Any) -> None:
    _say("The guard was stopped, so the call was not made.")
    os._exit(STOPPED)


def _say(text: str) -> None:
    try:
        os.write(2, f"{text}\n".encode("utf-8", "replace"))
    except OSError:
        return


def options_of(arguments: Sequence[str]) -> dict[str, Any]:
    """The options of a command line."""
    import argparse

    parser = argparse.ArgumentParser(prog="safewright guard hook", usage=USAGE, allow_abbrev=False)
    add = parser.add_argument
    for name, said in FILES.items():
        add(f"--{name}", default=None, metavar="FILE", help=said)
    add("--backend", default="rules", help="rules, llm, or hybrid (rules first)")
    add(
        "--model",
        default=None,
        metavar="REF",
        help="for llm and hybrid: http://host:port/v1#NAME or inspect:NAME",
    )
    add("--preset", default="hardened", help="hardened, or faithful to the paper")
    add("--mode", default="enforce", help="enforce, or observe: record, and let everything through")
    add("--on-unknown", default=None, help="escalate or deny, instead of what the policy says")
    add("--namespace", default="default", help="whose memory it is: a tenant, an agent")
    add("--freeze", action="store_true", help="leave memory as it is")
    add("--user", default=None, metavar="[ROLE:]ID", help="on whose behalf; without it, who runs this")
    add("--deadline", type=float, default=8.0, help="seconds for one decision")
    add("--no-environment", action="store_true", help="do not look at this machine's files to decide")
    add("--no-daemon", action="store_true", help="answer in this process, always")
    add("--daemon", action="store_true", help="be the daemon that answers hooks")
    add("--idle", type=float, default=1800.0, help="seconds after which an idle daemon ends")
    add("--verdict", action="store_true", help="print the verdict as JSON on standard output, too")
    found = vars(parser.parse_args(list(arguments)))
    for name in FILES:
        given = found[name]
        # A policy may also be one that comes with the package, by its name.
        if given is not None and (name != "policy" or os.sep in given or os.path.exists(given)):
            found[name] = os.path.abspath(given)
    if not 0 < found["deadline"] < 3600:
        parser.error("--deadline is a number of seconds above 0")
    return found


def answer(arguments: Sequence[str]) -> int:
    """The exit code for one hook."""
    options = options_of(arguments)
    if options["daemon"]:
        from safewright.guard.doors.hook_daemon import serve

        serve(options)
        return STOPPED
    until = time.monotonic() + options["deadline"] + SPARE_SECONDS
    given = _read(until)
    reply = None if options["no_daemon"] else ask_daemon(options, given, until)
    if reply is None:
        reply = ask_child(options, given, until)
        if not options["no_daemon"]:
            start_daemon(options)
    for line in reply.get("reasons", ()):
        _say(str(line))
    if options["verdict"] and reply.get("verdict") is not None:
        os.write(1, (json.dumps(reply["verdict"]) + "\n").encode())
    if reply.get("code") == ALLOWED and reply.get("word") == "allow":
        return ALLOWED
    if not reply.get("reasons"):
        _say("The call was not allowed.")
    return STOPPED


def _read(until: float) -> Any:
    """The JSON on standard input.

    Raises:
        TimeoutError: It does not end.
        ValueError: It is empty, too large, or no JSON object.
    """
    text = bytearray()
    while True:
        ready, _, _ = select.select([0], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise TimeoutError("standard input does not end")
        chunk = os.read(0, 1 << 16)
        if not chunk:
            break
        text += chunk
        if len(text) > MOST_BYTES:
            raise ValueError(f"standard input is more than {MOST_BYTES:,} bytes")
    if not text.strip():
        raise ValueError("standard input is empty; it takes a hook's JSON")
    try:
        given = json.loads(bytes(text).decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"standard input is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise ValueError("standard input is no JSON object")
    return given


MOST_PLACE = 80
"""Bytes of the folder's path: a socket's own may have at most 107, and its name takes 22."""


def state_folder() -> str | None:
    """The user's own folder for sockets and histories, made if need be; None where there is none that is safe."""
    base = os.environ.get("SAFEWRIGHT_GUARD_STATE") or os.environ.get("XDG_RUNTIME_DIR")
    place = os.path.join(base, "safewright-guard") if base else f"/tmp/safewright-guard-{os.getuid()}"
    if len(os.fsencode(place)) > MOST_PLACE:
        return None
    try:
        os.makedirs(place, mode=0o700, exist_ok=True)
        found = os.lstat(place)
    except OSError:
        return None
    import stat

    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return place if private else None


def socket_of(options: Mapping[str, Any], folder: str) -> str:
    """The socket of the daemon that was started with these options."""
    import hashlib

    said = {name: value for name, value in options.items() if name not in ("daemon", "no_daemon", "verdict")}
    digest = hashlib.sha256(json.dumps([said, sys.executable], sort_keys=True).encode()).hexdigest()[:16]
    return os.path.join(folder, f"{digest}.sock")


def policy_digest(options: Mapping[str, Any]) -> str:
    """The digest of the policy file as it is now, and of this code: a daemon with another one must not answer."""
    import hashlib

    found = hashlib.sha256()
    room = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for folder in (room, os.path.join(room, "rules"), os.path.join(room, "doors")):
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                if entry.name.endswith((".py", ".toml")):
                    seen = entry.stat()
                    found.update(f"{entry.path}:{seen.st_mtime_ns}:{seen.st_size}\n".encode())
    if options["policy"] is not None and os.sep in options["policy"]:
        with open(options["policy"], "rb") as file:
            found.update(file.read())
    return found.hexdigest()


def ask_daemon(options: Mapping[str, Any], given: Any, until: float) -> dict[str, Any] | None:
    """A daemon's reply; None where none answers, so that this process must.

    Raises:
        TimeoutError: There is one, and it hangs.
        ValueError: It answers something else.
    """
    import socket

    folder = state_folder()
    if folder is None:
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as wire:
        wire.settimeout(max(0.05, until - time.monotonic()))
        try:
            wire.connect(socket_of(options, folder))
            nonce = os.urandom(8).hex()
            message = {"hook": given, "nonce": nonce, "policy": policy_digest(options), "cwd": os.getcwd()}
            wire.sendall(json.dumps(message).encode() + b"\n")
            text = bytearray()
            while not text.endswith(b"\n"):
                chunk = wire.recv(1 << 16)
                if not chunk:
                    break
                text += chunk
                wire.settimeout(max(0.05, until - time.monotonic()))
        except TimeoutError:
            raise
        except OSError:
            return None
    if not text.endswith(b"\n"):
        return None  # it ended in the middle: it will have been stopped
    reply = json.loads(text)
    if not isinstance(reply, dict) or reply.get("nonce") != nonce:
        raise ValueError("the guard's daemon answers something else")
    return None if reply.get("word") == "stale" else reply


def ask_child(options: Mapping[str, Any], given: Any, until: float) -> dict[str, Any]:
    """The reply of a child of this process, which does all that can crash or hang.

    Raises:
        TimeoutError: It did not answer in time.
        ValueError: It ended without an answer.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = STOPPED
        try:
            os.close(reader)
            os.setpgid(0, 0)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            os.dup2(2, 1)  # what a library prints is no verdict
            from safewright.guard.doors.hook_daemon import decide_once

            said = json.dumps(decide_once(dict(options), given, os.getcwd())).encode() + b"\n"
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(said)
            code = ALLOWED
        except BaseException as error:  # noqa: BLE001 - the parent is told, whatever it is
            _say(f"The guard failed ({type(error).__name__}: {error}), so the call was not made.")
        finally:
            os._exit(code)
    os.close(writer)
    text = bytearray()
    try:
        while True:
            ready, _, _ = select.select([reader], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise TimeoutError("the safety check did not finish in time")
            chunk = os.read(reader, 1 << 16)
            if not chunk:
                break
            text += chunk
    finally:
        for target in (os.kill, os.killpg):
            try:
                target(pid, signal.SIGKILL)
            except OSError:
                continue
        _, status = os.waitpid(pid, 0)
    if not text.endswith(b"\n"):
        raise ValueError(f"the safety check ended without an answer (status {status})")
    reply = json.loads(text)
    if not isinstance(reply, dict):
        raise ValueError("the safety check ended without an answer")
    return reply


def start_daemon(options: Mapping[str, Any]) -> None:
    """Start a daemon for the calls to come; that it cannot be started changes nothing about this one."""
    try:
        folder = state_folder()
        if folder is None:
            return
        arguments = ["--daemon"]
        for name, value in options.items():
            if name in ("daemon", "no_daemon", "verdict") or value is None or value is False:
                continue
            flag = f"--{name.replace('_', '-')}"
            arguments += [flag] if value is True else [flag, str(value)]
        program = "from safewright.guard.doors.hook import main; main()"
        command = [sys.executable, "-P", "-c", program, *arguments]
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                nowhere = os.open(os.devnull, os.O_RDWR)
                log = os.open(
                    os.path.join(folder, "daemon.log"),
                    os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW,
                    0o600,
                )
                os.dup2(nowhere, 0)
                os.dup2(nowhere, 1)
                os.dup2(log, 2)
                os.closerange(3, 256)
                os.chdir("/")
                os.execv(sys.executable, command)
            os._exit(0)
        os.wait()
    except OSError:
        return


if __name__ == "__main__":
    main()
