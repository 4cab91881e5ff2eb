"""What commands do to processes, accounts, services, packages and the network."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from safewright.guard.parsing.shell.exhausting import MANY_IDS
from safewright.guard.parsing.shell.model import SCALAR, UNKNOWN, Effect
from safewright.guard.parsing.shell.options import options, value_of
from safewright.guard.parsing.shell.pids import named
from safewright.guard.parsing.shell.state import has_glob
from safewright.guard.parsing.shell.touching import on, paths
from safewright.guard.parsing.shell.versioning import does_config, does_setting, runs, runs_commands

if TYPE_CHECKING:
    from safewright.guard.parsing.shell.calls import Call


def does_download(call: Call) -> list[Effect]:
    words = call.fields[1:]
    letters, operands = options(
        words,
        "oOXHdFuAeTbcmxwUPTtQ",
        (
            "--output",
            "--request",
            "--header",
            "--data",
            "--user",
            "--url",
            "--data-binary",
            "--retry",
            "--max-time",
        ),
    )
    urls = [each for each in operands if each] or (
        [value_of(words, "--url") or ""] if "--url" in letters else []
    )
    data = (
        value_of(words, "-d", "--data", "--data-binary", "-F", "--form", "-T", "--upload-file", "--data-raw")
        if call.verb == "curl"
        else value_of(words, "--post-file", "--post-data", "--body-file")
    )
    found = [on(call, "send" if data is not None else "fetch", url, "host") for url in urls]
    if data is not None:
        sent = re.search(r"@(.+)", data)
        file = value_of(words, "-T", "--upload-file", "--post-file", "--body-file") or (
            sent[1] if sent else None
        )
        found += paths(call, "read", [file.split(";")[0]] if file else [])
    out = (
        value_of(words, "-o", "--output")
        if call.verb == "curl"
        else value_of(words, "-O", "--output-document")
    )
    name = urls[0].split("?")[0].rstrip("/").rsplit("/", 1)[-1] if urls else ""
    if out and out != "-":
        found += paths(call, "write", [out], detail="download")
    elif (call.verb == "wget" and out is None) or (call.verb == "curl" and letters & {"O", "--remote-name"}):
        folder = value_of(words, "-P", "--directory-prefix") if call.verb == "wget" else None
        found += paths(
            call, "create", [(folder + "/" if folder else "") + (name or "index.html")], detail="download"
        )
    return found


def does_net(call: Call) -> list[Effect]:
    words = call.fields[1:]
    if call.verb in ("nc", "ncat", "netcat", "socat", "telnet"):
        if any(re.match(r"-\w*[ec]$", each) or "exec:" in each.lower() or each == "--exec" for each in words):
            return [on(call, "execute", "download", "host", "shell")]
        if any("l" in each for each in words if each.startswith("-")):
            return [on(call, "fetch", "listen", "host")]
        if any(re.fullmatch(r"-\w*z\w*", each) for each in words):
            return []
        return [on(call, "send", " ".join(words), "host")]
    if call.verb in ("ssh", "sftp", "ftp", "mosh"):
        return [on(call, "send", " ".join(words), "host", "remote")]
    return [on(call, "send", " ".join(words), "host")]


def does_kill(call: Call) -> list[Effect]:
    words = call.fields[1:]
    if any(each in ("-l", "-L", "--list") for each in words) or "-0" in words:
        return []
    if call.verb in ("skill", "snice") and (user := value_of(words, "-u", "--user")):
        return [on(call, "kill", f"user:{user}", "process")]
    end = words.index("--") if "--" in words else len(words)
    words, behind = words[:end], words[end + 1 :]
    signal = next((each for each in words if re.fullmatch(r"-(\d+|[A-Z][A-Z0-9]+)", each)), "")
    signal = value_of(words, "-s", "--signal", "-n") or signal
    pids = [
        each
        for each in words
        if each != signal
        and (
            not each.startswith("-")
            or (each in ("-1",) and each != words[0])
            or (re.fullmatch(r"-\d+", each) and each != words[0])
        )
    ]
    pids = [each for each in pids if each != signal.lstrip("-")] + behind
    if words == ["-1"] and not behind:
        pids = ["-1"]
    counted = sum(1 for each in pids if each.isdigit() or each == SCALAR)
    if any(has_glob(each) for each in pids) or counted >= MANY_IDS:
        # Names that are numbers are those of /proc; ids that are counted up are everybody's.
        return [on(call, "kill", "name:*", "process", signal)]
    return [on(call, "kill", named(each), "process", signal) for each in pids]


def does_pkill(call: Call) -> list[Effect]:
    words = call.fields[1:]
    if call.verb == "killall5":
        return [on(call, "kill", "-1", "process")]
    # `-STOP` is a signal, and no cluster of options.
    words = [each for each in words if not re.fullmatch(r"-(?:SIG)?[A-Z]{2,}[A-Z0-9+-]*|-\d+", each)]
    user = value_of(words, "-u", "-U", "--user", "--euid")
    valued = "uUsgGPtFoy" if call.verb == "pkill" else "usoyg"
    letters, operands = options(
        words, valued.replace("o", "") if call.verb == "pkill" else valued,
        ("--user", "--euid", "--uid", "--signal", "-signal", "--parent", "--pidfile", "--pgroup", "--group",
         "--terminal", "--session", "--ns", "--older-than", "--younger-than", "--older"),
    )  # fmt: skip
    if call.verb == "fuser":
        whole = any(each in ("/", "/usr", "/etc", "/var", "/home", "/dev", "/proc") for each in operands)
        target = "name:*" if whole else " ".join(operands)
        return [on(call, "kill", target, "process", "fuser")] if letters & {"k", "-kill"} else []
    if call.verb == "pkill" and letters & {"v", "--inverse"}:
        return [on(call, "kill", "name:*", "process", "all but one")]
    if (
        call.verb == "pkill"
        and not operands
        and (parent := value_of(words, "-P", "--parent", "-s", "--session"))
    ):
        first = {"0", "1"} & set(parent.split(","))
        return [on(call, "kill", "name:*" if first else f"below:{parent}", "process")]
    if call.verb == "pkill" and (file := value_of(words, "-F", "--pidfile")):
        name = file.rsplit("/", 1)[-1].removesuffix(".pid")
        return [on(call, "kill", f"name:{name}", "process")]
    if user and not operands:
        return [on(call, "kill", f"user:{user}", "process")]
    if call.verb == "pkill" and not operands and letters & set("gGt"):
        return [on(call, "kill", "", "process", "all of a group or a terminal")]
    operands = [each for each in operands if not each.isdigit() or len(operands) == 1]
    if letters & {"i", "I", "--ignore-case"}:
        operands = [each.lower() for each in operands]
    part = "part" if call.verb == "pkill" and "x" not in letters and "--exact" not in letters else ""
    if call.verb == "killall" and letters & {"r", "--regexp"}:
        part = "part"
    return [on(call, "kill", f"name:{each}", "process", part) for each in operands]


def does_renice(call: Call) -> list[Effect]:
    words = call.fields[1:]
    level = value_of(words, "-n", "--priority") or next(
        (each for each in words if re.fullmatch(r"[+-]?\d+", each)), ""
    )
    rest = list(words)
    if level in rest:
        rest.remove(level)
    users = [value_of(words, "-u", "--user", "-g")] if value_of(words, "-u", "--user", "-g") else []
    targets = [each for each in rest if not each.startswith("-")]
    found = [f"user:{each}" for each in users if each] or targets
    return [on(call, "priority", named(each), "process", level) for each in found]


def does_trace(call: Call) -> list[Effect]:
    words = call.fields[1:]
    targets = list(options(words, "o")[1]) or [value_of(words, "-p", "--pid") or UNKNOWN]
    return [on(call, "trace", named(each), "process", "dump") for each in targets]


def does_cron(call: Call) -> list[Effect]:
    letters, operands = options(call.fields[1:], "u")
    user = value_of(call.fields[1:], "-u") or ""
    if "l" in letters and "r" not in letters:
        return [on(call, "read", user or "crontab", "system", "names")] if user else []
    text = call.stdin or ""
    remove = "remove" if "r" in letters else "install"
    found = [on(call, "cron", user or "own", "system", remove)]
    lines = [
        line
        for line in text.split("\n")
        if line.strip() and not line.startswith("#") and UNKNOWN not in line[:1]
    ]
    for line in lines[:20]:
        parts = line.split(None, 1 if line.startswith("@") else 5)
        if len(parts) > 1:
            call.walk.inner(parts[-1], call.inside("crontab"))
    del operands
    return found


def does_service(call: Call) -> list[Effect]:
    words = [each for each in call.fields[1:] if not each.startswith("-")]
    if not words:
        return []
    verb = words[0]
    names = words[1:]
    if (call.verb in ("service", "rc-service", "invoke-rc.d") and len(words) > 1) or (
        call.verb in ("update-rc.d", "chkconfig") and len(words) > 1
    ):
        names, verb = [words[0]], words[1]
    if "--user" in call.fields:
        return []
    if verb in (
        "status",
        "show",
        "is-active",
        "is-enabled",
        "list-units",
        "list-unit-files",
        "list-timers",
        "cat",
        "is-failed",
        "list-sockets",
        "list-dependencies",
        "get-default",
        "is-system-running",
        "list-jobs",
        "help",
    ):
        return []
    if verb in (
        "poweroff",
        "reboot",
        "halt",
        "kexec",
        "suspend",
        "hibernate",
        "rescue",
        "emergency",
        "isolate",
        "exit",
        "soft-reboot",
    ):
        return [on(call, "power", verb, "system")]
    return [on(call, "service", name.removesuffix(".service"), "service", verb) for name in names or ["*"]]


def does_init_script(call: Call) -> list[Effect]:
    """``/etc/init.d/NAME stop``."""
    verb = call.fields[1] if len(call.fields) > 1 else ""
    return [] if verb in ("status", "") else [on(call, "service", call.verb, "service", verb)]


def does_power(call: Call) -> list[Effect]:
    if "-c" in call.fields or (call.verb == "init" and not set("".join(call.fields[1:2])) & set("06sS")):
        return []
    return [on(call, "power", " ".join(call.fields[1:]), "system")]


def does_sysctl(call: Call) -> list[Effect]:
    words = call.fields[1:]
    if call.verb == "sysctl" and not any("=" in each or each in ("-w", "-p", "--system") for each in words):
        return []
    if call.verb in ("ip", "ifconfig", "route", "tc", "nmcli", "resolvectl"):
        changing = set(words) & {
            "set",
            "add",
            "del",
            "delete",
            "flush",
            "down",
            "up",
            "replace",
            "disconnect",
            "off",
            "change",
        }
        return [on(call, "firewall", " ".join(words), "system")] if changing else []
    if call.verb in ("iptables", "ip6tables", "nft", "ufw", "firewall-cmd", "iptables-restore", "ebtables"):
        listing = set(words) & {"-L", "-S", "list", "status", "--list", "--list-all", "--state"}
        return (
            []
            if listing
            else [
                on(
                    call,
                    "firewall",
                    " ".join(words),
                    "system",
                    "off" if set(words) & {"-F", "flush", "disable", "-P"} else "",
                )
            ]
        )
    return [on(call, "kernel", " ".join(words), "system")]


def does_mount(call: Call) -> list[Effect]:
    operands = options(call.fields[1:], "toUL")[1]
    if not operands and call.verb == "mount" and not any(each.startswith("-a") for each in call.fields[1:]):
        return []
    return [on(call, "mount", " ".join(operands), "system", call.verb)]


def does_package(call: Call) -> list[Effect]:
    words = [each for each in call.fields[1:] if not each.startswith("-")]
    verb = words[0] if words else ""
    if call.verb in ("pip", "pip3", "gem", "brew"):
        return (
            []
            if verb not in ("install", "uninstall")
            else [on(call, "package", " ".join(words[1:]), "package", "own:" + verb)]
        )
    if (
        verb
        in (
            "list",
            "search",
            "show",
            "policy",
            "info",
            "depends",
            "rdepends",
            "changelog",
            "provides",
            "repolist",
            "history",
            "check",
            "madison",
        )
        or not call.fields[1:]
    ):
        return []
    if call.verb in ("dpkg", "rpm") and not re.match(
        r"-\w*[irPeUF]|--(install|remove|purge|erase|upgrade|force|unpack|configure)",
        call.fields[1] if len(call.fields) > 1 else "",
    ):
        return []
    if call.verb in ("dpkg", "rpm"):
        verb = "remove" if re.match(r"-\w*[rPe]|--(remove|purge|erase)", call.fields[1]) else "install"
    if call.verb == "pacman":
        verb = (
            "remove"
            if call.fields[1].startswith("-R")
            else "install"
            if "S" in call.fields[1] and "s" not in call.fields[1]
            else ""
        )
        if not verb:
            return []
    return [on(call, "package", " ".join(words[1:]), "package", verb)]


def does_log(call: Call) -> list[Effect]:
    words = call.fields[1:]
    if call.verb == "journalctl":
        cuts = [each for each in words if each.startswith(("--vacuum", "--rotate", "--flush"))]
        return [on(call, "log", "journal", "system", cuts[0])] if cuts else []
    if call.verb == "dmesg":
        return [on(call, "log", "kernel ring", "system")] if set(words) & {"-C", "-c", "--clear"} else []
    if call.verb == "history":
        return [on(call, "log", "history", "system", "history")] if set(words) & {"-c", "-cw", "-wc"} else []
    if call.verb == "logrotate" and any(re.match(r"-\w*d|--debug", each) for each in words):
        return []
    if call.verb == "auditctl":
        return [on(call, "log", "audit", "system", "off")] if set(words) & {"-e", "-D", "-d"} else []
    return [on(call, "log", " ".join(words), "system")]


def does_stress(call: Call) -> list[Effect]:
    return [on(call, "exhaust", "cpu", "system", "without end")]


def does_clock(call: Call) -> list[Effect]:
    """date, timedatectl, hostnamectl, localectl: what they set."""
    words = call.fields[1:]
    if call.verb == "date":
        sets = any(re.match(r"-\w*s(?!\w*[ud]$)|--set", each) for each in words)
        sets = sets or any(re.fullmatch(r"\d{8,12}(\.\d\d)?", each) for each in words)
        sets = sets and value_of(words, "-d", "--date", "-r") is None
    else:
        sets = any(each.startswith("set-") for each in words)
    return [on(call, "kernel", " ".join(words), "system")] if sets else []


def does_logger(call: Call) -> list[Effect]:
    """What writes to the system's log, or to somebody's screen or mailbox; in an endless loop it fills them."""
    return [on(call, "log", "", "system", "entry")]


def does_hostname(call: Call) -> list[Effect]:
    operands = options(call.fields[1:])[1]
    return [on(call, "kernel", "hostname", "system")] if operands else []


def does_git(call: Call) -> list[Effect]:
    words = list(call.fields[1:])
    folder = "."
    while words and words[0].startswith("-"):
        option = words.pop(0)
        if option in ("-C", "--git-dir", "--work-tree", "-c") and words:
            value = words.pop(0)
            folder = value if option in ("-C", "--work-tree") else folder
            if option == "-c":
                does_setting(call, value)
        elif option.startswith("--config-env=") and runs(option.split("=")[1]):
            call.walk.found.unclear("a program that git runs")
    verb = words[0] if words else ""
    runs_commands(call, verb, words[1:])
    if verb == "clean" and any("f" in each for each in words if each.startswith("-")):
        rest = [each for each in words[1:] if not each.startswith("-")]
        return paths(call, "delete", rest or [folder + "/*"], recursive=True, detail="clean")
    if verb in ("clone", "fetch", "pull"):
        urls = [each for each in words[1:] if "://" in each or each.startswith("git@")]
        return [on(call, "fetch", each, "host", "git") for each in urls]
    if verb == "push" and any(
        each in ("-f", "--force", "--mirror", "--delete") or each.startswith("+") for each in words
    ):
        return [on(call, "send", "remote", "host", "force")]
    if verb == "config":
        does_config(call, words[1:])
    if verb == "config" and "--system" in words:
        return paths(call, "append", ["/etc/gitconfig"])
    return []


def does_docker(call: Call) -> list[Effect]:
    words = call.fields[1:]
    text = " ".join(words)
    if re.search(
        r"(-v|--volume|--mount)[ =](type=bind,(source|src)=)?/(etc|usr|root|var|home)?[:,/ ]"
        r"|--privileged|--pid[ =]host",
        text,
    ):
        return [on(call, "become", "root", "account", "host mounted")]
    verb = words[0] if words else ""
    if verb in (
        "ps",
        "images",
        "logs",
        "inspect",
        "version",
        "info",
        "stats",
        "top",
        "port",
        "diff",
        "history",
        "search",
    ):
        return []
    if verb in ("build", "compose", "pull", "tag", "run", "start", "create"):
        return []
    return [on(call, "unknown", call.verb, "system")]


def does_split(call: Call) -> list[Effect]:
    return paths(call, "read", options(call.fields[1:], "lbnaC")[1][:1])


def module_effects(call: Call, module: str, rest: list[str]) -> list[Effect]:
    """What ``python -m MODULE`` does."""
    if module == "pip":
        verb = rest[0] if rest else ""
        return (
            [on(call, "package", " ".join(rest[1:]), "package", "own:" + verb)]
            if verb in ("install", "uninstall")
            else []
        )
    if module == "venv":
        return paths(call, "create", [each for each in rest if not each.startswith("-")], recursive=True)
    if module in (
        "json.tool",
        "pytest",
        "unittest",
        "http.server",
        "compileall",
        "timeit",
        "cProfile",
        "pdb",
        "doctest",
        "build",
        "mypy",
        "ruff",
        "black",
        "coverage",
        "this",
        "site",
        "sysconfig",
        "zipfile",
        "tarfile",
        "calendar",
        "platform",
        "ensurepip",
        "flake8",
        "isort",
        "pylint",
        "py_compile",
    ):
        return []
    return paths(call, "execute", ["./" + module.split(".")[0]])
