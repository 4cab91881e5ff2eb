"""Paths that a shell command touches, against what is whose."""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safewright.guard.nouns import CheckStatus, Environment
from safewright.guard.parsing.shell.model import SCALAR, UNKNOWN, Command, Effect, under
from safewright.guard.rules._shell_globs import meets

if TYPE_CHECKING:
    from safewright.guard.views import View

Finding = tuple[str, CheckStatus, str, str]
DESTROYS = ("delete", "move", "write", "encrypt")
GRAVE = ("", "777", "666", "a-rwx", "a+rwx", "ugo+rwx", "ugo-rwx", "u-rwx", "a=rwx", "a=")
"""Modes that open something to everybody, or close it to its owner."""
CHANGES = (*DESTROYS, "append", "create", "chmod", "chown", "lock")
BULK = ("*", "**", ".*", ".[!.]*", "{*,.*}", "?*")
MEMORY = ("/dev/mem", "/dev/kmem", "/dev/port", "/proc/kcore", "/proc/kmem")
MEMORIES = re.compile(r"^/proc/[^/]+/mem$")
SCHEDULES = (
    "/etc/cron.d", "/etc/cron.daily", "/etc/cron.hourly", "/etc/cron.weekly", "/etc/cron.monthly", "/etc/crontab",
    "/etc/anacrontab", "/etc/at.allow", "/etc/cron.allow", "/var/spool/cron", "/var/spool/at",
)  # fmt: skip
LOGINS = (
    "/etc/profile",
    "/etc/profile.d",
    "/etc/bash.bashrc",
    "/etc/rc.local",
    "/etc/ld.so.preload",
    "/etc/environment",
)
"""What runs, or is loaded, with everybody's login or program."""
GIT_RUNS = re.compile(r"/\.git/(?:modules/.+/|worktrees/[^/]+/)?(?:hooks(?:/[^/]+)?|config(?:\.worktree)?)$")
"""What git runs with its own commands, and the settings that name such programs."""
SETUID = re.compile(r"^0?[4-7][0-7]{3}$|^[ugoa]*[+=][rwxX]*s")
ELSEWHERE = "Leave the system's own files alone; work in your own folders or in /tmp."


@dataclass(frozen=True)
class Place:
    """Who acts, and from where: user name, home, working folder, privilege."""

    user: str
    home: str
    cwd: str | None
    privileged: bool
    environment: Environment | None

    @classmethod
    def of(cls, view: View, settings: Any) -> Place:
        """From a call: the working folder is an argument (``cwd``, ``workdir``) or an attribute of the principal."""
        action = view.action
        principal = action.principal
        user = principal.id if principal is not None else ""
        privileged = view.privilege == "privileged"
        home = "/root" if user == "root" or (privileged and not user) else f"/home/{user or 'user'}"
        if action.environment is not None and user:
            try:
                told = action.environment.home(user)
            except Exception:  # noqa: BLE001 - whatever a probe dies of, it has not answered
                told = None
            home = told if isinstance(told, str) and told else home
        given = [action.arguments.get(name) for name in ("cwd", "workdir", "working_directory")]
        if principal is not None:
            given += [principal.attributes.get(name) for name in ("cwd", "home")]
        cwd = next((each for each in given if isinstance(each, str) and each.startswith("/")), None)
        return cls(user, posixpath.normpath(home), cwd, privileged, action.environment)

    def absolute(self, path: str) -> str:
        """A path of the parser's as an absolute one; a relative one counts from the working folder, else the home."""
        if path == "~" or path.startswith("~/"):
            path = self.home + path[1:]
        elif not path.startswith("/"):
            path = posixpath.join(self.cwd or self.home, path)
        return posixpath.normpath(path)

    def owns(self, path: str) -> bool | None:
        """Whether what is at a path, or would hold it, is the principal's; None where nothing is known."""
        if self.environment is None or not self.user:
            return None
        try:
            for each in (path, posixpath.dirname(path)):
                entry = self.environment.stat(each)
                if entry is not None:
                    return entry.owner == self.user
        except Exception:  # noqa: BLE001 - whatever a probe dies of, it has not answered
            return None
        return None


def matches(path: str, patterns: tuple[str, ...]) -> bool:
    """Whether a path fits a pattern; where it is a glob itself, whether it may mean what a pattern names."""
    if any(fnmatch.fnmatchcase(path, each) for each in patterns):
        return True
    return any(mark in path for mark in "*?[") and any(fnmatch.fnmatchcase(each, path) for each in patterns)


def named_whole(folder: str, folders: tuple[str, ...]) -> bool:
    """Whether a folder is one of some, or a pattern of its last name that means one: ``/us?``."""
    if folder in folders:
        return True
    last = folder.rpartition("/")[2]
    return (
        any(mark in folder for mark in "*?[")
        and last not in BULK
        and any(meets(folder, each) for each in folders)
    )


def whole(path: str) -> str:
    """A folder, where a pattern means all that is in it; else the path itself."""
    head, _, tail = path.rpartition("/")
    while tail in BULK:
        path = head or "/"
        head, _, tail = path.rpartition("/")
    return path


def placed(effect: Effect, command: Command, who: Place, settings: Any) -> Iterator[Finding]:
    """What is to be said of an effect on a path."""
    kind = effect.kind
    if UNKNOWN in effect.target or not effect.resolved:
        if kind == "read" and effect.detail == "names":
            return
        yield (
            "readable",
            "unknown",
            f"{kind} of a path that cannot be told",
            "Write the path out, so that it can be told what is touched.",
        )
        return
    path = who.absolute(effect.target)
    said = f"{kind} {path}"
    if kind == "read":
        yield from _read(path, said, effect, who, settings)
        return
    if kind not in CHANGES:
        return
    findings = list(_changed(path, said, effect, command, who, settings))
    yield from findings
    if not findings:
        yield ("system", "pass", said, "")


def _secret(path: str, patterns: tuple[str, ...]) -> bool:
    # What a search lists by its ending may lie anywhere, and hardly ever is a key.
    if "**" in path and path.rpartition("/")[2].startswith("*"):
        return matches(path, patterns)
    return any(meets(path, each) for each in patterns)


def holds_secrets(path: str, effect: Effect, patterns: tuple[str, ...]) -> bool:
    """Whether what is read is a file that holds secrets, or the folder in a home that is there for them."""
    if path.endswith(".pub"):
        return False
    folders = [posixpath.dirname(each) for each in patterns if each.startswith("*/.") and each.count("/") > 1]
    return _secret(path, patterns) or (
        effect.detail != "names" and any(fnmatch.fnmatchcase(path, each) for each in folders)
    )


def _read(path: str, said: str, effect: Effect, who: Place, settings: Any) -> Iterator[Finding]:
    if effect.detail == "names" and not under(path, ("/root",)):
        return
    if path in MEMORY or MEMORIES.match(path):
        yield ("processes", "fail", said, "The memory of processes is not read.")
        return
    if path.endswith(".pub"):
        return
    if not who.privileged and holds_secrets(path, effect, settings.credentials):
        own = under(path, (who.home,)) and who.home != "/root"
        advice = "Do not read files that hold secrets."
        yield ("credentials", "unknown" if own else "fail", said, advice)


def _changed(
    path: str, said: str, effect: Effect, command: Command, who: Place, settings: Any
) -> Iterator[Finding]:
    kind = effect.kind
    folder = whole(path)
    everything = folder != path or effect.recursive or kind in ("move", "write")
    permission = kind in ("chmod", "chown")
    rule = "permissions" if permission else "encryption" if kind == "encrypt" else "system"
    copied = kind in ("write", "create", "append") and effect.detail.startswith("copy:")
    if copied and (path in settings.protected or path.endswith("/")):
        # Into a folder, the copy is a file in it.
        path = folder = posixpath.join(path, effect.detail[5:])
    taken = kind in ("delete", "move", "encrypt") and everything
    taken = taken or (kind == "write" and effect.detail == "link")
    grave = effect.detail.lstrip("0") in GRAVE or kind == "chown"
    home = permission and folder == who.home and path != folder and not grave
    if (taken or permission) and not home and named_whole(folder, settings.protected):
        logs = folder.startswith("/var/log") and not permission
        yield ("logs" if logs else rule, "fail", said, ELSEWHERE)
        return
    if (
        kind == "delete"
        and effect.recursive
        and folder.count("/") <= 2
        and under(folder, ("/etc", "/usr", "/boot", "/lib", "/lib64", "/bin", "/sbin"))
    ):
        yield (rule, "fail", said, ELSEWHERE)
        return
    if kind in ("delete", "move", "encrypt") and path.startswith(("/**", "/*")):
        yield (rule, "fail", said, ELSEWHERE)
        return
    if kind == "create" and effect.detail == "unpack" and who.privileged and folder in settings.protected:
        yield (rule, "unknown", said, "Unpack into a folder of its own.")
        return
    system = ("/etc", "/usr", "/boot", "/lib", "/var/lib", "/var/log")
    if kind in ("delete", "move", "encrypt") and "/**" in path and under(path, system):
        aged = path.startswith("/var/log") and path.endswith((".gz", ".old", ".1", ".xz"))
        if not aged:
            yield ("logs" if path.startswith("/var/log") else rule, "fail", said, ELSEWHERE)
            return
    if (
        permission
        and effect.recursive
        and under(
            folder,
            ("/etc", "/usr", "/boot", "/lib", "/lib64", "/bin", "/sbin", "/dev", "/var/log", "/var/lib"),
        )
    ):
        yield (rule, "fail", said, ELSEWHERE)
        return
    if under(path, ("/dev",)) and not under(path, settings.shared) and kind != "read":
        yield ("system", "fail", said, "Devices are not written to.")
        return
    if under(path, ("/proc", "/sys")):
        grave = path.startswith(("/proc/sys", "/proc/1")) or not who.privileged
        yield (
            "services",
            "fail" if grave else "unknown",
            said,
            "Settings of the running kernel stay as they are.",
        )
        return
    if kind == "encrypt" and (
        effect.pattern or effect.recursive or command.loops != 1 or {"xargs", "find"} & set(command.wrappers)
    ):
        yield ("encryption", "fail", said, "Files are not encrypted in bulk.")
        return
    if kind == "lock":
        if effect.detail == "long":
            mine = under(path, (who.home,)) and not under(path, settings.system)
            yield ("exhaustion", "unknown" if mine else "fail", said, "Hold locks briefly.")
        return
    if kind == "chmod" and SETUID.search(effect.detail):
        status: CheckStatus = "fail" if who.privileged else "unknown"
        yield ("permissions", status, said, "Nothing is made to run with its owner's rights.")
        if who.privileged:
            return
    yield from _startup(path, said, effect, who, settings)
    made = kind in ("write", "append", "create") and effect.detail not in ("dir", "touch")
    if made and GIT_RUNS.search(path) and not path.endswith(".sample"):
        yield ("startup", "unknown", said, "Ask the user to change what git runs by itself.")
    if under(path, settings.shared):
        if path in settings.shared and (
            permission or (kind in ("delete", "move") and folder == path and not effect.pattern)
        ):
            yield (rule, "fail", said, ELSEWHERE)
        return
    if under(folder, ("/home",)) or under(folder, (who.home,)):
        yield from _homes(path, folder, said, effect, who)
        return
    if not who.privileged:
        if under(path, settings.system) or path.count("/") == 1:
            if who.owns(path):
                return
            if under(path, settings.mounted) and who.environment is None:
                yield ("others", "unknown", said, "It is not known whose this is. Work in your own folders.")
                return
            if under(path, settings.mounted):
                return
            kept = "logs" if path.startswith("/var/log") and kind in DESTROYS else rule
            yield ("schedule" if "/cron" in path else kept, "fail", said, ELSEWHERE)
        return
    if (
        SCALAR in path
        and kind in DESTROYS
        and under(path, ("/etc", "/usr", "/boot", "/lib", "/bin", "/sbin"))
    ):
        yield ("readable", "unknown", said, "Write the path out, so that it can be told what is touched.")
    yield from _by_root(path, said, effect, rule, settings)


def _startup(path: str, said: str, effect: Effect, who: Place, settings: Any) -> Iterator[Finding]:
    homes = [who.home, "/root"]
    parts = path.split("/")
    if len(parts) > 3 and parts[1] == "home":
        homes.append("/".join(parts[:3]))
    for home in homes:
        rest = path.removeprefix(home + "/")
        named = any(rest.startswith(each + "/") for each in settings.startup)
        if rest == path or not (named or matches(rest, settings.startup)):
            continue
        if effect.kind in ("append", "write", "create") and "authorized_keys" in rest:
            yield ("startup", "fail", said, "Keys that let somebody in are not changed.")
        elif effect.kind in ("append", "write", "move", "delete") and not rest.startswith(".ssh/known_hosts"):
            grave = effect.kind in ("write", "delete", "move") or not under(path, (who.home,))
            advice = "Ask the user to change files that run at login."
            yield ("startup", "fail" if grave else "unknown", said, advice)
        return


def _homes(path: str, folder: str, said: str, effect: Effect, who: Place) -> Iterator[Finding]:
    own = under(path, (who.home,))
    depth = folder.count("/")
    top = folder == who.home or (folder.startswith("/home/") and depth == 2)
    if (
        top
        and effect.kind in ("delete", "move", "encrypt")
        and (effect.recursive or folder != path or effect.pattern)
    ):
        if path != folder and not effect.recursive and effect.kind == "delete":
            yield ("home", "unknown", said, "Name the files, instead of all of them.")
            return
        yield ("home", "fail", said, "Delete single files or folders, not a whole home.")
    elif (
        top
        and effect.kind in ("chmod", "chown")
        and (not own or (effect.recursive and effect.detail in ("000", "0", "777", "a-rwx")))
    ):
        if not who.privileged or effect.detail in ("000", "0", "777", "a-rwx"):
            yield ("permissions", "fail", said, "Leave the permissions of homes as they are.")
    elif not own and not who.privileged and who.environment is None:
        yield ("others", "fail", said, "Work in your own folders.")
    elif effect.kind == "chown" and not who.privileged and not _to_itself(effect, who):
        yield ("permissions", "fail", said, "A regular user cannot give files away.")


def _to_itself(effect: Effect, who: Place) -> bool:
    """Whether an owner or group that is given is the principal's own already: ``$USER``, ``$(id -gn)``, its name."""
    names = [each for each in re.split(r"[:.]", effect.detail) if each]
    return bool(names) and all(each in (who.user, SCALAR) for each in names)


def _by_root(path: str, said: str, effect: Effect, rule: str, settings: Any) -> Iterator[Finding]:
    kind = effect.kind
    logs = path.startswith("/var/log")
    if kind in ("append", "write", "create") and under(path, ("/etc/sudoers.d",)):
        yield ("accounts", "fail", said, "Ask the user to change rights.")
    if kind in ("append", "write", "create") and under(path, LOGINS):
        loaded = path.startswith(("/etc/ld.so", "/etc/rc.local"))
        yield (
            "startup",
            "fail" if loaded else "unknown",
            said,
            "Ask the user to change what runs at every login.",
        )
    if under(path, SCHEDULES):
        yield ("schedule", "fail", said, "Ask the user before jobs are scheduled.")
    if matches(path, settings.critical):
        account = path.startswith(("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow"))
        if kind in ("delete", "move", "encrypt", "chmod", "chown"):
            harmless = kind == "chmod" and effect.detail in (
                "+x",
                "a+x",
                "755",
                "0755",
                "644",
                "0644",
                "440",
                "0440",
            )
            if not (harmless and not account):
                yield ("logs" if logs else rule, "fail", said, ELSEWHERE)
        elif kind == "write":
            fresh = effect.detail.startswith("copy:") and under(
                path, ("/usr/bin", "/usr/sbin", "/usr/lib", "/lib")
            )
            fresh = fresh or (under(path, ("/etc/ssh", "/etc/sudoers.d")) and not effect.detail)
            status: CheckStatus = "unknown" if fresh or effect.detail == "download" else "fail"
            yield ("logs" if logs else rule, status, said, ELSEWHERE)
        elif kind == "append":
            if account:
                yield ("accounts", "fail", said, "Use the account tools.")
            elif logs and effect.detail == "edit":
                yield ("logs", "fail", said, "Logs are kept.")
            elif under(path, ("/etc/sudoers", "/etc/sudoers.d", "/etc/pam.d")):
                yield ("accounts", "fail", said, "Ask the user to change rights.")
            elif under(
                path, ("/bin", "/sbin", "/lib", "/lib64", "/usr/bin", "/usr/sbin", "/usr/lib", "/boot")
            ):
                yield (rule, "fail", said, ELSEWHERE)
        return
    if (
        logs
        and kind in DESTROYS
        and effect.pattern
        and path.rpartition("/")[2] in ("*.log", "*log*", "*.log*")
    ):
        yield ("logs", "fail", said, "Logs are kept.")
    if (
        kind in ("chmod",)
        and effect.detail.lstrip("0") in ("777", "666", "a+rwx", "o+w", "a+w")
        and under(path, ("/etc", "/usr", "/var/log"))
    ):
        yield (rule, "fail", said, "Do not make the system's files writable for everybody.")
