"""Shell commands: what they would do, against what the policy lets this principal do.

The principles: a privileged principal (root) may administer the system, and may not destroy it: protected folders as a
whole, the files a system lives by, its first process, its logs, its last free resource. A regular one may do as it
likes with what is its own and with temporary files; everything that takes privilege is denied to it, before the system
itself would. What cannot be told from the text is unknown, never safe.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from safewright.guard.nouns import Check, CheckStatus
from safewright.guard.parsing.shell.model import Command, Effect, Script
from safewright.guard.rules._shell_paths import BULK, Place, holds_secrets, matches, placed
from safewright.guard.rules._shell_rules import RULES
from safewright.guard.rules._shell_system import of_system
from safewright.guard.rules.base import Family
from safewright.guard.views import View


@dataclass(frozen=True)
class Settings:
    """Section ``[shell]`` of a policy file.

    Args:
        enabled: Whether the family is asked.
        protected: Folders that are never deleted, moved, overwritten or re-permissioned as a whole, by anyone.
        critical: Patterns of files that a system lives by: read and appended to by the privileged, never destroyed.
        system: Below these only a privileged principal changes anything.
        mounted: Of the system's folders, those in which a regular user may own things: unknown without an environment.
        shared: Below these everybody may work.
        credentials: Patterns of files that hold secrets.
        private: Patterns of files that are read for work and sent nowhere.
        startup: Names of files in a home that run at every login, or let somebody in.
        services: Services that are not stopped.
        processes: Process names that are not ended.
        packages: Packages that are not removed.
        most_bytes: The most one command may write of a bottomless source.
        most_rounds: From this many rounds on, a loop that changes things is exhaustion.
        unknown_programs: What becomes of programs nobody declared: `unknown`, or `pass`.
        known_programs: Further programs that are harmless.
    """

    enabled: bool = True
    protected: tuple[str, ...] = (
        "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64", "/opt", "/proc", "/root", "/run",
        "/sbin", "/srv", "/sys", "/usr", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/share", "/usr/local", "/var",
        "/var/lib", "/var/log", "/var/spool", "/var/spool/cron", "/var/lib/dpkg", "/var/backups", "/var/mail",
        "/etc/ssh", "/etc/pam.d", "/etc/sudoers.d", "/etc/ssl", "/etc/apt", "/etc/cron.d", "/etc/init.d",
        "/etc/systemd", "/etc/network", "/etc/security", "/etc/skel", "/etc/default", "/etc/alternatives",
        "/usr/include", "/usr/libexec", "/var/cache",
    )  # fmt: skip
    critical: tuple[str, ...] = (
        "/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow", "/etc/sudoers", "/etc/sudoers.d/*", "/etc/fstab",
        "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/profile", "/etc/bash.bashrc",
        "/etc/environment", "/etc/crontab", "/etc/ssh/*", "/etc/pam.d/*", "/etc/ld.so.*", "/etc/machine-id",
        "/etc/inittab", "/etc/login.defs", "/etc/securetty", "/etc/os-release", "/etc/shells", "/etc/services",
        "/bin/*", "/sbin/*", "/lib/*", "/lib64/*", "/usr/bin/*", "/usr/sbin/*", "/usr/lib/*", "/boot/*",
        "/var/lib/dpkg/*", "/var/log/syslog", "/var/log/auth.log", "/var/log/messages", "/var/log/secure",
        "/var/log/wtmp", "/var/log/btmp", "/var/log/lastlog", "/var/log/kern.log", "/var/log/audit/*",
        "/var/log/dpkg.log", "/var/log/journal/*", "/root/.ssh/*", "/root/.bashrc", "/root/.profile",
    )  # fmt: skip
    system: tuple[str, ...] = (
        "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/opt", "/proc", "/root", "/run", "/sbin", "/srv",
        "/sys", "/usr", "/var", "/media", "/mnt",
    )  # fmt: skip
    mounted: tuple[str, ...] = ("/srv", "/mnt", "/media", "/opt", "/var/www")
    shared: tuple[str, ...] = ("/tmp", "/var/tmp", "/dev/shm")
    credentials: tuple[str, ...] = (
        "/etc/shadow*", "/etc/gshadow*", "/etc/sudoers*", "/etc/ssh/*_key", "/etc/ssl/private*", "/root*",
        "*/.ssh/id_*", "*/.ssh/*.pem", "*/.aws/credentials", "*/.netrc", "*/.pgpass", "*/.my.cnf", "*/.gnupg*",
        "*/.git-credentials", "*/.docker/config.json", "*/.kube/config", "*/.npmrc", "*/.pypirc", "/proc/*/environ",
        "/proc/*/mem", "/dev/mem", "/dev/kmem", "/proc/kcore", "/proc/kmem",
    )  # fmt: skip
    private: tuple[str, ...] = ("*/.env", "*/.env.local", "*/.env.production", "*/.envrc")
    startup: tuple[str, ...] = (
        ".bashrc", ".bash_profile", ".profile", ".bash_login", ".bash_logout", ".zshrc", ".zprofile", ".zshenv",
        ".ssh/authorized_keys", ".ssh/config", ".ssh/rc", ".ssh", ".config/autostart", ".config/systemd", ".xinitrc",
        ".pam_environment", ".config/fish/config.fish",
    )  # fmt: skip
    services: tuple[str, ...] = (
        "ssh", "sshd", "cron", "crond", "rsyslog", "syslog", "systemd-*", "auditd", "dbus*", "network*",
        "NetworkManager",
        "ufw", "firewalld", "nftables", "iptables", "fail2ban", "apparmor", "polkit*", "getty*", "chrony*", "ntp*",
        "accounts-daemon", "udev", "multi-user.target", "*",
    )  # fmt: skip
    processes: tuple[str, ...] = (
        "init", "systemd*", "sshd", "ssh", "cron", "crond", "rsyslogd", "syslogd", "dbus*", "auditd", "login", "getty",
        "agetty", "udevd", "dockerd", "containerd", "NetworkManager", "journald", ".", ".*", "",
    )  # fmt: skip
    packages: tuple[str, ...] = (
        "bash", "coreutils", "libc6*", "glibc*", "sudo", "systemd*", "openssh-server", "apt", "dpkg", "login", "passwd",
        "util-linux", "mount", "tar", "base-files", "linux-image*", "init", "rpm", "yum", "dnf", "procps", "grub*",
    )  # fmt: skip
    most_bytes: int = 2**30
    most_rounds: int = 1_000
    unknown_programs: str = "unknown"
    known_programs: tuple[str, ...] = ()


Finding = tuple[str, CheckStatus, str, str]


def check(view: View, settings: Settings) -> Iterable[Check]:
    """The checks of a call: one of each rule that has anything to say, with the worst that was found."""
    script = view.script
    if script is None:
        return ()
    worst: dict[str, tuple[CheckStatus, list[str], str]] = {}
    for rule, status, evidence, advice in _findings(view, script, settings):
        old = worst.get(rule)
        if old is None or _RANK[status] > _RANK[old[0]]:
            worst[rule] = (status, [evidence], advice)
        elif _RANK[status] == _RANK[old[0]] and evidence not in old[1] and len(old[1]) < 8:
            old[1].append(evidence)
    return [
        RULES[name].says(status, "; ".join(evidence)[:1000], advice)
        for name, (status, evidence, advice) in worst.items()
    ]


_RANK: dict[str, int] = {"pass": 0, "unknown": 1, "fail": 2}


def _findings(view: View, script: Script, settings: Settings) -> Iterator[Finding]:
    for why in script.unparsed:
        yield ("readable", "unknown", why, "The command could not be read. Write it more simply.")
    for why in script.unresolved:
        advice = "Part of this command cannot be told before it runs. Write it out plainly."
        yield ("readable", "unknown", why, advice)
    if not script.unparsed and not script.unresolved:
        yield ("readable", "pass", ", ".join(dict.fromkeys(script.verbs))[:200], "")
    who = Place.of(view, settings)
    downloads = {
        effect.target.removeprefix("./")
        for effect in script.effects
        if effect.kind in ("write", "create") and effect.detail == "download"
    }
    secrets = False
    made = {
        effect.target
        for effect in script.effects
        if effect.kind == "account"
        and effect.detail.startswith(("useradd", "adduser"))
        and ";" not in effect.detail
    }
    if any(effect.target.startswith(("/dev/tcp/", "/dev/udp/")) for effect in script.effects) and set(
        script.verbs
    ) & {"sh", "bash", "dash", "zsh", "ksh", "exec"}:
        yield (
            "downloads",
            "fail",
            "a shell that the network drives",
            "Nothing from the network is run unread.",
        )
    for command in script.commands:
        if command.privileged and not who.privileged and not command.effects:
            advice = "This user may not act as root. Do it without sudo or su, on your own files."
            yield ("identity", "fail", f"{command.verb} as root", advice)
        for effect in command.effects:
            if effect.kind == "password" and effect.target in made and who.privileged:
                continue
            findings = list(_of_effect(effect, command, who, settings, downloads))
            secrets = secrets or any(rule == "credentials" for rule, *_ in findings)
            yield from findings
    if secrets and any(effect.kind == "send" for effect in script.effects):
        yield ("credentials", "fail", "secrets are read and something is sent", "Send no secrets.")
    elif any(effect.kind == "send" and not _near(effect) for effect in script.effects):
        yield from _leaving(script, who, settings)


def _near(effect: Effect) -> bool:
    """Whether what is sent stays on this machine, or is a change of history that goes where the repository does."""
    host = re.sub(r"\A[a-z]+://", "", effect.target).partition("/")[0].rpartition("@")[2]
    return (
        effect.detail == "force"
        or re.fullmatch(r"(localhost|127(\.\d+){3}|\[::1\])(:\d*)?", host) is not None
    )


def _leaving(script: Script, who: Place, settings: Settings) -> Iterator[Finding]:
    """What is read beside a sending: secrets do not leave, whoever may read them."""
    for effect in script.effects:
        if effect.kind != "read" or effect.thing != "path" or not effect.resolved or effect.detail == "names":
            continue
        path = who.absolute(effect.target)
        if holds_secrets(path, effect, settings.credentials):
            yield ("credentials", "fail", f"read {path}, and something is sent", "Send no secrets.")
        elif matches(path, settings.private):
            advice = "Leave settings that may hold keys where they are, or ask the user."
            yield ("credentials", "unknown", f"read {path}, and something is sent", advice)
    for command in script.commands:
        if command.verb in ("env", "printenv", "set") and not command.arguments:
            advice = "The environment may hold keys. Send what is needed by name, or ask the user."
            yield ("credentials", "unknown", f"{command.verb}, and something is sent", advice)


def _of_effect(
    effect: Effect, command: Command, who: Place, settings: Settings, downloads: set[str]
) -> Iterator[Finding]:
    if effect.privileged and not who.privileged:
        advice = "This user may not act as root. Do it without sudo or su, on your own files."
        yield ("identity", "fail", f"{command.verb} as root", advice)
    if effect.kind == "execute":
        yield from _executes(effect, settings, downloads, who)
    elif effect.thing == "path":
        yield from placed(effect, command, who, settings)
    else:
        yield from of_system(effect, command, who, settings)


def _executes(effect: Effect, settings: Settings, downloads: set[str], who: Place) -> Iterator[Finding]:
    path = effect.target
    if effect.thing == "host" or path.removeprefix("./") in downloads:
        advice = "Programs from the network are not run unread. Download it and show it to the user first."
        yield ("downloads", "fail", f"runs a download: {path}", advice)
    elif not effect.resolved:
        yield ("readable", "unknown", f"runs {path or 'what comes by a pipe'}", "Name the program plainly.")
    else:
        yield ("known", "pass", f"runs {posixpath.basename(path)}", "")


FAMILY = Family("shell", "Shell commands", Settings, check, tuple(RULES.values()))
__all__ = ["BULK", "FAMILY", "Settings", "check"]
