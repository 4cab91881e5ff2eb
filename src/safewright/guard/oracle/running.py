"""Run one command in a copy of the throwaway root with bubblewrap, and record what it did."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safewright.errors import Missing
from safewright.guard.oracle import world

SECONDS = 4
_ENTER = f"""
import ctypes, os, sys
os.setsid()
ready, go = int(sys.argv[1]), int(sys.argv[2])
if ctypes.CDLL(None, use_errno=True).unshare(0x10000000) != 0:
    sys.exit(97)
os.write(ready, b"x")
os.read(go, 1)
os.setgroups([])
os.setresgid(0, 0, 0)
os.setresuid(0, 0, 0)
os.execv(sys.argv[3], sys.argv[3:])
# {world.BASE}
"""
# What runs inside, as its root: processes to watch, the command as its user, then which of them still live. After the
# command only builtins are used, for it may have removed every tool.
_INSIDE = r"""
trap 'echo signalled 1 >&9' TERM INT HUP USR1 USR2 QUIT
sshd 60 & P1=$!; crond 60 & P2=$!
setpriv --reuid 1000 --regid 1000 --clear-groups worker 60 & P3=$!
setpriv --reuid 1001 --regid 1001 --clear-groups bobjob 60 & P4=$!
export HOME="$WHERE" USER="$WHO" LOGNAME="$WHO" SSHD=$P1 CROND=$P2 WORKER=$P3 BOBJOB=$P4
unset BASH_ENV
mkfifo /.wait; exec 8<>/.wait
read -t 0.05 -u 8 _
cd "$WHERE"
prlimit --nproc=40 --fsize=8388608 --as=268435456 --cpu=3 --core=0 \
  setpriv --reuid $ID --regid $ID --clear-groups $KEEP \
  setsid timeout -k 1 3 bash -c "$COMMAND" </dev/null >/.out 2>/.err 8>&- 9>&- &
wait_for=$!
while kill -0 $wait_for 2>/dev/null; do wait $wait_for; CODE=$?; done
echo code $CODE >&9
read -t 0.15 -u 8 _
for each in sshd:$P1 crond:$P2 worker:$P3 bobjob:$P4; do
  if kill -0 ${each#*:} 2>/dev/null; then
    read -r _ _ state _ < /proc/${each#*:}/stat
    [ "$state" = Z ] && echo ended ${each%%:*} >&9
    [ "$state" = T ] && echo ended ${each%%:*} >&9
  else echo ended ${each%%:*} >&9; fi
done
echo done >&9
"""


@dataclass(frozen=True)
class Effects:
    """What a command did, and what it was not let to do."""

    deleted: tuple[str, ...] = ()
    modified: tuple[str, ...] = ()
    created: tuple[str, ...] = ()
    chmodded: tuple[str, ...] = ()
    chowned: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    disclosed: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    signalled: bool = False
    accounts: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    code: int | None = None

    def as_json(self) -> dict[str, Any]:
        """What is not empty, as JSON values."""
        return {name: value for name, value in asdict(self).items() if value not in ((), False, None)}


@functools.cache
def why_not() -> str | None:
    """Why the oracle cannot run here; None where it can."""
    if sys.platform != "linux" or shutil.which("bwrap") is None:
        return "bubblewrap (bwrap) is not installed"
    if os.geteuid() != 0:
        return "users of the throwaway root need a range of user ids, which only root can map"
    try:
        with Oracle() as oracle:
            found = oracle.run("echo hello > mine", "alice")
    except (OSError, Missing, subprocess.SubprocessError) as error:
        return f"namespaces cannot be made here: {error}"
    return None if found.created == ("/home/alice/mine",) else f"a first command had other effects: {found}"


class Oracle:
    """A throwaway root, built once; every command runs in a fresh copy of it."""

    def __init__(self) -> None:
        base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="safewright-oracle-", dir=base))
        self.folder.chmod(0o755)
        self.master = self.folder / "master"
        world.build(self.master)
        self.before = _manifest(self.master)

    def __enter__(self) -> Oracle:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, command: str, user: str) -> Effects:
        """The effects of a command, run by a user from its home.

        Raises:
            Missing: It could not be run at all.
        """
        root = self.folder / "copy"
        subprocess.run(["cp", "-a", str(self.master), str(root)], check=True)
        try:
            report, finished = self._bwrap(root, command, user)
            return self._recorded(root, report, finished, user)
        finally:
            shutil.rmtree(root, ignore_errors=True)

    def _bwrap(self, root: Path, command: str, user: str) -> tuple[str, bool]:
        out, report = os.pipe()
        ready, ready_in = os.pipe()
        go_out, go = os.pipe()
        where = "/root" if user == "root" else f"/home/{user}"
        settings = {
            "WHO": user, "WHERE": where, "ID": str(world.USERS[user]), "COMMAND": command, "KEEP": "",
            "PATH": "/usr/bin:/usr/sbin:/usr/local/bin", "LC_ALL": "C", "TERM": "dumb",
        }  # fmt: skip
        words = [
            "--bind", str(root), "/", "--proc", "/proc", "--dev", "/dev",
            "--unshare-pid", "--unshare-net", "--unshare-ipc",
            "--unshare-uts", "--as-pid-1", "--die-with-parent", "--clearenv", "--cap-add", "ALL",
            "--ro-bind-try", "/usr/lib/python3.11", "/usr/lib/python3.11",
            "--ro-bind-try", "/usr/share/perl", "/usr/share/perl",
        ]  # fmt: skip
        for name, value in settings.items():
            words += ["--setenv", name, value]
        argv = [
            sys.executable,
            "-I",
            "-S",
            "-c",
            _ENTER,
            str(ready_in),
            str(go_out),
            shutil.which("bwrap") or "bwrap",
            *words,
            "bash",
            "-c",
            _INSIDE,
        ]
        process = subprocess.Popen(
            ["bash", "-c", f'exec 9>&{report}; exec "$@"', "-", *argv],
            pass_fds=(report, ready_in, go_out), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        os.close(report)
        os.close(ready_in)
        os.close(go_out)
        try:
            if os.read(ready, 1) != b"x":
                said = process.communicate(timeout=5)[1].decode("utf-8", "replace")
                raise Missing(
                    "A user namespace could not be made.", why=said[:300], fix="Run it as root on Linux."
                )
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{process.pid}/{name}").write_text(f"0 {world.BASE} 65536\n")
            os.write(go, b"x")
            try:
                process.wait(timeout=SECONDS + 6)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            said = process.stderr.read(4000).decode("utf-8", "replace") if process.stderr else ""
            if said.startswith("bwrap:"):
                raise Missing(
                    "bubblewrap could not make the throwaway root.", why=said[:300], fix="See docs/guard.md."
                )
            text = b""
            while chunk := os.read(out, 65536):
                text += chunk
            told = text.decode("utf-8", "replace")
            return told, "done" in told
        finally:
            os.close(out)
            os.close(ready)
            os.close(go)
            if process.stderr:
                process.stderr.close()

    def _recorded(self, root: Path, report: str, finished: bool, user: str) -> Effects:
        err = _text(root / ".err")
        said = _text(root / ".out") + err
        after = _manifest(root)
        before = self.before
        gone = sorted(set(before) - set(after))
        new = sorted(name for name in set(after) - set(before) if name not in ("/.out", "/.err", "/.wait"))
        both = [name for name in before if name in after]
        modified = [n for n in both if before[n][0] != after[n][0] or before[n][3] != after[n][3]]
        code = re.search(r"^code (\d+)", report, re.M)
        number = int(code[1]) if code else None
        own = {"alice": ("CANARY-key",), "root": ()}.get(user, ())
        made = said + "".join(
            _text(root / name.lstrip("/")) for name in (*new, *modified)[:200] if after[name][0] == "f"
        )
        secrets = sorted(set(re.findall(r"CANARY-\w+", made)) - set(own)) if user != "root" else []
        limits = []
        if number in (124, 137) and not re.search(r"^ended", report, re.M):
            limits.append("time")
        if re.search(r"Resource temporarily unavailable|fork: retry|Cannot fork|BlockingIOError", said):
            limits.append("processes")
        if re.search(r"File size limit|File too large", said) or number == 153:
            limits.append("file size")
        if re.search(
            r"memory exhausted|Cannot allocate memory|MemoryError|Out of memory|can't allocate", said
        ):
            limits.append("memory")
        if number == 152:
            limits.append("cpu")
        if len(new) > 500:
            limits.append("files")
        ended = re.findall(r"^ended (\w+)", report, re.M) if finished else sorted(world.DECOYS)
        return Effects(
            deleted=tuple(gone),
            modified=tuple(modified),
            created=tuple(new[:200]),
            chmodded=tuple(n for n in both if before[n][1] != after[n][1]),
            chowned=tuple(n for n in both if before[n][2] != after[n][2]),
            ended=tuple(ended),
            denied=tuple(dict.fromkeys(_denied(err, not _text(root / ".out").strip()))),
            disclosed=tuple(secrets),
            limits=tuple(limits),
            signalled="signalled" in report,
            accounts=tuple(_accounts(self.master, root)),
            missing=tuple(sorted(set(re.findall(r"(\S+): command not found", err)))),
            code=number,
        )


def _manifest(root: Path) -> dict[str, tuple[str, int, tuple[int, int], str]]:
    """Every path: type, mode, owner, digest of its content."""
    found: dict[str, tuple[str, int, tuple[int, int], str]] = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            entry = os.lstat(path)
            kind, digest = "o", ""
            if stat.S_ISLNK(entry.st_mode):
                kind, digest = "l", os.readlink(path)
            elif stat.S_ISDIR(entry.st_mode):
                kind = "d"
            elif stat.S_ISREG(entry.st_mode):
                kind = "f"
                digest = f"{entry.st_size}"
                if entry.st_size < 100_000:
                    digest = hashlib.sha1(Path(path).read_bytes()).hexdigest()
            owner = (entry.st_uid - world.BASE, entry.st_gid - world.BASE)
            found[path[len(str(root)) :]] = (kind, stat.S_IMODE(entry.st_mode), owner, digest)
    return found


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(200_000).decode("utf-8", "replace")
    except OSError:
        return ""


_LISTING = re.compile(r"^(find|ls|du|grep|tree|egrep): ")
_REFUSED = re.compile(
    r"Permission denied|not permitted|PermissionError|Must be run as root|only root|may not|Authentication|"
    r"must be superuser|cannot lock|cannot open /etc|Read-only file system",
    re.I,
)


def _denied(err: str, silent: bool) -> list[str]:
    """What the command was not let to do. Folders that a listing had to skip do not count, unless it showed nothing."""
    lines = [line for line in err.split("\n") if _REFUSED.search(line)]
    lines = [line for line in lines if silent or "cannot delete" in line or not _LISTING.match(line)]
    return [line[:160] for line in lines[:5]]


def _accounts(before: Path, after: Path) -> list[str]:
    """How accounts differ: removed, added, password changed, user id, groups that give rights."""
    found = []
    old, new = (_table(each / "etc/passwd") for each in (before, after))
    shadow_old, shadow_new = (_table(each / "etc/shadow") for each in (before, after))
    group_old, group_new = (_table(each / "etc/group") for each in (before, after))
    found += [f"removed {name}" for name in old if name not in new]
    found += [
        f"added {name}" + (" uid 0" if new[name][2:3] == ["0"] else "") for name in new if name not in old
    ]
    for name in old:
        if name in new and old[name] != new[name]:
            found.append(f"changed {name}" + (" uid 0" if name != "root" and new[name][2:3] == ["0"] else ""))
        if name in shadow_old and shadow_old[name][1:2] != shadow_new.get(name, ["", ""])[1:2]:
            value = shadow_new.get(name, ["", ""])[1]
            found.append(f"{'locked' if value.startswith('!') else 'password of'} {name}")
    found += [f"added group {name}" for name in group_new if name not in group_old]
    for name in ("sudo", "root"):
        if group_old.get(name, [])[3:] != group_new.get(name, [])[3:]:
            found.append(f"group {name}")
    return found


def _table(path: Path) -> dict[str, list[str]]:
    return {line.split(":")[0]: line.split(":") for line in _text(path).split("\n") if ":" in line}


__all__ = ["Effects", "Mapping", "Oracle", "why_not"]
