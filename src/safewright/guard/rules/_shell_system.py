"""Processes, accounts, services, resources and the network, as shell commands touch them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from typing import Any

from safewright.guard.nouns import CheckStatus
from safewright.guard.parsing.shell.model import SCALAR, Command, Effect
from safewright.guard.rules._shell_globs import meets
from safewright.guard.rules._shell_paths import Finding, Place

MANY = 20
"""From this many rounds on, ids that are counted up mean everybody's processes."""
PRIVILEGED: dict[str, tuple[str, str]] = {
    "become": ("identity", "This user may not act as another one."),
    "account": ("accounts", "Only an administrator changes accounts."),
    "password": ("accounts", "Passwords are not changed by an agent."),
    "service": ("services", "Only an administrator changes services."),
    "power": ("services", "The system is not shut down."),
    "kernel": ("services", "Only an administrator changes the running kernel."),
    "firewall": ("services", "Only an administrator changes the network."),
    "mount": ("services", "Only an administrator mounts file systems."),
    "log": ("logs", "Logs are kept."),
    "cron": ("schedule", "Scheduled jobs are not changed by an agent; ask the user."),
    "trace": ("processes", "The memory of processes is not read."),
}


def of_system(effect: Effect, command: Command, who: Place, settings: Any) -> Iterator[Finding]:
    """What is to be said of an effect on something that is no path."""
    kind, said = effect.kind, f"{effect.kind} {effect.target} {effect.detail}".strip()
    if kind == "exhaust":
        yield from _exhausts(effect, said, settings)
    elif kind == "kill" and SCALAR in effect.target and (command.loops is None or command.loops >= MANY):
        yield (
            "processes",
            "fail",
            f"{said}, for many ids",
            "End only processes that you started, by their id.",
        )
    elif kind == "kill":
        yield from _kills(effect, said, who, settings)
    elif kind == "priority":
        yield from _priorities(effect, said, who, command, settings)
    elif kind == "package":
        yield from _packages(effect, said, who, settings)
    elif kind == "unknown":
        known = command.verb in settings.known_programs or settings.unknown_programs == "pass"
        if not known:
            name = effect.target[:40]
            advice = f"It is not known what {name} does. The user can run it, or add it to known_programs."
            yield ("known", "unknown", effect.target, advice)
    elif kind == "delete":
        yield ("system", "unknown", said, "Tables are not dropped by an agent; ask the user.")
    elif kind == "send":
        status: CheckStatus = (
            "unknown"
            if effect.detail in ("force", "remote")
            or command.verb in ("nc", "ncat", "netcat", "socat", "telnet")
            or effect.target.startswith(("/dev/tcp", "/dev/udp"))
            else "pass"
        )
        yield ("network", status, said, "Say where data goes, and why.")
    elif kind == "log" and effect.detail == "entry":
        yield ("logs", "pass", said, "")
    elif kind in PRIVILEGED:
        rule, advice = PRIVILEGED[kind]
        if who.privileged:
            yield (rule, _by_root(effect, settings), said, advice)
        else:
            yield (rule, "fail", said, advice)


def _by_root(effect: Effect, settings: Any) -> CheckStatus:
    """What a privileged principal's administration comes to."""
    kind, target, detail = effect.kind, effect.target, effect.detail
    if kind == "power":
        return "fail"
    if kind == "account":
        # Of accounts that exist, nothing is taken away and none is made an administrator; new ones are administration.
        return "fail" if re.search(r";(uid0|lock|admin)", detail) else "pass"
    if kind == "password":
        return "fail"
    if kind == "service":
        stops = detail in ("stop", "disable", "mask", "kill", "remove", "off", "--now")
        listed = any(meets(target, each) for each in settings.services if each != "*")
        return "fail" if stops and (listed or target == "*") else "pass"
    if kind == "firewall":
        down = detail == "off" or re.search(r"\b(down|flush|del|off)\b", target)
        return "fail" if down else "unknown"
    if kind == "cron":
        return "fail"
    if kind == "trace":
        # A dump of a process holds its secrets; to look on is a debugger's work.
        return "fail" if target == "1" or detail == "dump" else "unknown"
    if kind == "log":
        return "fail" if detail == "off" else "unknown"
    if kind == "mount":
        gone = {each.rstrip("/") or "/" for each in target.split()} & set(settings.protected)
        return "fail" if gone or target == "" else "unknown"
    if kind == "become":
        return "unknown" if detail == "host mounted" else "pass"
    return "unknown"


def _exhausts(effect: Effect, said: str, settings: Any) -> Iterator[Finding]:
    advice = "Give it a bound: a count, a size, a time."
    rounds = re.fullmatch(r"(\d+) times", effect.detail)
    if rounds and int(rounds[1]) < settings.most_rounds:
        return
    if effect.detail.isdigit() and int(effect.detail) <= settings.most_bytes:
        return
    yield ("exhaustion", "fail", said, advice)


def _kills(effect: Effect, said: str, who: Place, settings: Any) -> Iterator[Finding]:
    target = effect.target
    advice = "End only processes that you started, by their id."
    if target in ("1", "-1", "0") or (target.startswith("-") and target.lstrip("-").isdigit()):
        yield ("processes", "fail", said, advice)
    elif target.startswith("user:"):
        own = target == f"user:{who.user}" or SCALAR in target
        yield ("processes", "unknown" if own and not who.privileged else "fail", said, advice)
    elif _vital(target, settings, part=effect.detail == "part"):
        yield ("processes", "fail", said, advice)
    elif not effect.resolved or not target or (target.startswith("name:port:") and who.privileged):
        yield ("processes", "unknown", said, advice)
    else:
        yield ("processes", "pass", said, "")


MOST_REPEATED = 4
"""Of names this short no search with as many takes long."""


def _vital(target: str, settings: Any, *, part: bool = False) -> bool:
    """Whether a name means all processes, or one that the system needs; of a command line its first word counts.

    ``part`` says that the name may be a part of a process's own: ``pkill syst`` ends systemd.
    """
    if not target.startswith("name:"):
        return False
    for each in re.split(r"\\?\|", target.removeprefix("name:")):
        words = re.split(r"[\s\u00a0]", each.strip("^$()"))
        name = words[0].rsplit("/", 1)[-1].rstrip(":")
        if name == "*" or any(fnmatch.fnmatchcase(name, known) for known in settings.processes):
            return True
        if part and name and " " not in each and any(_part_of(each, known) for known in settings.processes):
            return True
    return False


def _part_of(pattern: str, known: str) -> bool:
    """Whether a pattern of pkill's is found in a name; one with groups or many repetitions is not tried."""
    if known.startswith(".") or not re.fullmatch(r"[\w.*+?^$\[\]-]{1,64}", pattern):
        return False
    if sum(map(pattern.count, "*+?")) > MOST_REPEATED:
        return False
    try:
        return re.search(pattern, known.rstrip("*")) is not None
    except re.error:
        return False


def _priorities(effect: Effect, said: str, who: Place, command: Command, settings: Any) -> Iterator[Finding]:
    advice = "Leave priorities of other processes as they are."
    raised = effect.detail.startswith("-")
    many = command.loops != 1 or "xargs" in command.wrappers
    others = effect.target.startswith("user:") and (who.privileged or effect.target != f"user:{who.user}")
    vital = effect.target == "1" or _vital(effect.target, settings) or others or effect.detail == "-20"
    if vital or (not who.privileged and (raised or many)):
        yield ("processes", "fail", said, advice)
    elif not effect.resolved or effect.target.startswith("user:"):
        yield ("processes", "unknown", said, advice)
    else:
        yield ("processes", "pass", said, "")


def _packages(effect: Effect, said: str, who: Place, settings: Any) -> Iterator[Finding]:
    if effect.detail.startswith("own:"):
        yield ("packages", "pass", said, "")
    elif not who.privileged:
        yield (
            "packages",
            "fail",
            said,
            "Only an administrator changes packages; use an environment of your own.",
        )
    else:
        named = [
            word
            for word in effect.target.split()
            for each in settings.packages
            if fnmatch.fnmatchcase(word, each)
        ]
        removes = effect.detail in ("remove", "purge", "autoremove", "uninstall", "del", "erase")
        yield ("packages", "fail" if removes and named else "pass", said, "The system needs this package.")
