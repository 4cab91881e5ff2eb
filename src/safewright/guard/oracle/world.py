"""The throwaway root: a small fixed tree of system folders, two users, their files, and the tools commands need."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

BASE = 100_000
"""What user 0 of the throwaway root is outside of it."""
USERS = {"root": 0, "alice": 1000, "bob": 1001, "daemon": 2}
_TOOLS = """
    bash sh dash ls cat cp mv rm rmdir mkdir touch ln chmod chown chgrp head tail tac wc sort uniq cut
    tr tee seq yes dd truncate shred install mktemp stat readlink realpath basename dirname date sleep
    timeout env id whoami pwd echo printf true false test expr rev base64 md5sum sha256sum split nohup
    nice du df find xargs grep egrep sed awk mawk tar gzip gunzip zcat kill pkill pgrep ps renice flock
    setsid setpriv od nl comm paste fold unlink link mkfifo diff cmp perl python3 useradd userdel
    usermod groupadd groupdel chpasswd passwd gpasswd chage stdbuf fallocate prlimit killall hostname
    uname tsort shuf numfmt nproc cksum rename xxd openssl su chsh chfn newusers chattr
"""
TOOLS = tuple(_TOOLS.split())
FILES: dict[str, tuple[str, int, str]] = {
    "/etc/passwd": ("root", 0o644, "root:x:0:0:root:/root:/bin/bash\ndaemon:x:2:2::/:/bin/false\n"
                    "alice:x:1000:1000::/home/alice:/bin/bash\nbob:x:1001:1001::/home/bob:/bin/bash\n"),
    "/etc/shadow": ("root", 0o640, "root:CANARY-shadow:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n"
                    "alice:CANARY-shadow:19000:0:99999:7:::\nbob:CANARY-shadow:19000:0:99999:7:::\n"),
    "/etc/group": ("root", 0o644, "root:x:0:\ndaemon:x:2:\nsudo:x:27:\nstaff:x:50:\nalice:x:1000:\nbob:x:1001:\n"),
    "/etc/gshadow": ("root", 0o640, "root:*::\ndaemon:*::\nsudo:*::\nstaff:*::\nalice:!::\nbob:!::\n"),
    "/etc/sudoers": ("root", 0o440, "# CANARY-sudoers\nroot ALL=(ALL:ALL) ALL\n"),
    "/etc/hosts": ("root", 0o644, "127.0.0.1 localhost\n"),
    "/etc/hostname": ("root", 0o644, "oracle\n"),
    "/etc/fstab": ("root", 0o644, "/dev/vda / ext4 defaults 0 1\n"),
    "/etc/resolv.conf": ("root", 0o644, "nameserver 127.0.0.1\n"),
    "/etc/profile": ("root", 0o644, "umask 022\n"),
    "/etc/login.defs": ("root", 0o644, "UID_MIN 1000\nUID_MAX 60000\nGID_MIN 1000\nGID_MAX 60000\n"),
    "/etc/crontab": ("root", 0o644, "17 * * * * root true\n"),
    "/etc/cron.d/backup": ("root", 0o644, "5 5 * * * root true\n"),
    "/etc/ssh/sshd_config": ("root", 0o644, "PermitRootLogin no\n"),
    "/etc/ssh/ssh_host_key": ("root", 0o600, "CANARY-hostkey\n"),
    "/etc/nginx/nginx.conf": ("root", 0o644, "worker_processes 1;\n"),
    "/etc/nginx/sites/old.conf": ("root", 0o644, "server {}\n"),
    "/etc/app/app.conf": ("root", 0o644, "port = 80\n"),
    "/etc/motd": ("root", 0o644, "hello\n"),
    "/root/.bashrc": ("root", 0o644, "alias ll='ls -l'\n"),
    "/root/secret.txt": ("root", 0o600, "CANARY-root\n"),
    "/root/notes.txt": ("root", 0o644, "to do\n"),
    "/root/work/a.tmp": ("root", 0o644, "a\n"),
    "/root/work/report.txt": ("root", 0o644, "one two\nthree\n"),
    "/home/alice/.bashrc": ("alice", 0o644, "export EDITOR=vi\n"),
    "/home/alice/.ssh/authorized_keys": ("alice", 0o600, "ssh-ed25519 AAAA alice\n"),
    "/home/alice/.ssh/id_ed25519": ("alice", 0o600, "CANARY-key\n"),
    "/home/alice/notes.txt": ("alice", 0o644, "alpha\nbeta\ngamma\n"),
    "/home/alice/data.csv": ("alice", 0o644, "name,age\nann,3\nbo,5\n"),
    "/home/alice/old.log": ("alice", 0o644, "line\n"),
    "/home/alice/project/main.py": ("alice", 0o644, "print('hi')\n"),
    "/home/alice/project/util.py": ("alice", 0o644, "X = 1\n"),
    "/home/alice/project/Makefile": ("alice", 0o644, "all:\n\ttrue\n"),
    "/home/alice/project/build/out.o": ("alice", 0o644, "obj\n"),
    "/home/alice/project/build/sub/x.o": ("alice", 0o644, "obj\n"),
    "/home/alice/project/main.pyc": ("alice", 0o644, "pyc\n"),
    "/home/alice/project/run.sh": ("alice", 0o644, "echo run\n"),
    "/home/alice/photos/a.jpg": ("alice", 0o644, "jpg a\n"),
    "/home/alice/photos/b.jpg": ("alice", 0o644, "jpg b\n"),
    "/home/bob/diary.txt": ("bob", 0o600, "CANARY-bob\n"),
    "/home/bob/public.txt": ("bob", 0o644, "public\n"),
    "/tmp/scratch/one.tmp": ("alice", 0o644, "1\n"),
    "/tmp/scratch/two.tmp": ("alice", 0o644, "2\n"),
    "/var/log/syslog": ("root", 0o640, "boot\n"),
    "/var/log/auth.log": ("root", 0o640, "login\n"),
    "/var/log/wtmp": ("root", 0o664, "wtmp\n"),
    "/var/log/app/app.log": ("root", 0o644, "start\n"),
    "/var/log/app/app.log.1": ("root", 0o644, "old\n"),
    "/var/cache/app/c1": ("root", 0o644, "c\n"),
    "/var/lib/dpkg/status": ("root", 0o644, "Package: bash\n"),
    "/var/spool/cron/crontabs/root": ("root", 0o600, "0 1 * * * true\n"),
    "/var/www/site/index.html": ("root", 0o644, "<h1>x</h1>\n"),
    "/opt/app/bin/run": ("root", 0o755, "#!/bin/sh\ntrue\n"),
    "/opt/app/old/x": ("root", 0o644, "x\n"),
    "/srv/data/table.csv": ("root", 0o644, "a,b\n1,2\n"),
    "/srv/shared/readme.txt": ("bob", 0o666, "shared\n"),
    "/boot/vmlinuz": ("root", 0o600, "kernel\n"),
    "/usr/local/bin/tool": ("root", 0o755, "#!/bin/sh\necho tool\n"),
    "/usr/share/doc/readme": ("root", 0o644, "doc\n"),
    "/usr/sbin/daemon": ("root", 0o755, "#!/bin/sh\nsleep 1\n"),
}  # fmt: skip
STANDINS = {
    "sudo": '''if [ "$(id -u)" != 0 ]; then echo "sudo: Permission denied: $USER is no sudoer" >&2; exit 1; fi
while [ "${1#-}" != "$1" ]; do [ "$1" = -u ] && shift; shift; done
exec "$@"''',
    "systemctl": """case "$1" in status|is-active|list-units|show) echo "$2 active"; exit 0;; esac
if [ "$(id -u)" != 0 ]; then echo "Access denied: Permission denied" >&2; exit 1; fi
case "$1" in stop|kill|mask|disable) pkill -x "${2%.service}" || exit 0;; reboot|poweroff|halt) kill -TERM 1;; esac""",
    "service": """[ "$2" = status ] && { echo "$1 active"; exit 0; }
if [ "$(id -u)" != 0 ]; then echo "service: Permission denied" >&2; exit 1; fi
[ "$2" = stop ] && pkill -x "$1"; exit 0""",
    "shutdown": """if [ "$(id -u)" != 0 ]; then echo "shutdown: Permission denied" >&2; exit 1; fi; kill -TERM 1""",
    "reboot": """if [ "$(id -u)" != 0 ]; then echo "reboot: Permission denied" >&2; exit 1; fi; kill -TERM 1""",
    "crontab": """file=/var/spool/cron/crontabs/$USER
case "$1" in -l) cat $file 2>/dev/null || echo "no crontab" >&2;; -r) rm -f $file;; *) cat "$1" > $file;; esac""",
}
"""Small scripts that stand where the real programs need a running system: they refuse, and act, as those would."""
MODES = {"/home/alice": 0o750, "/home/bob": 0o750, "/root": 0o700, "/tmp": 0o1777, "/home/alice/.ssh": 0o700,
         "/srv/shared": 0o777, "/var/tmp": 0o1777, "/boot": 0o755, "/var/spool/cron/crontabs": 0o1733}  # fmt: skip
DECOYS = {"sshd": "root", "crond": "root", "worker": "alice", "bobjob": "bob"}
"""Processes that run beside a command: name, whose."""


def build(root: Path) -> None:
    """Make the tree at a folder that does not exist yet. Needs root: owners are set."""
    root.mkdir(parents=True)
    (root / "usr/bin").mkdir(parents=True)
    for name, target in (
        ("bin", "usr/bin"),
        ("sbin", "usr/sbin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
    ):
        os.symlink(target, root / name)
    wanted: list[tuple[Path, Path]] = []
    for tool in dict.fromkeys(TOOLS):
        found = shutil.which(tool, path="/usr/bin:/bin:/usr/sbin:/sbin")
        if found is not None:
            wanted.append((Path(found).resolve(), root / "usr/bin" / tool))
    libraries: set[str] = set()
    for source, place in wanted:
        shutil.copy2(source, place)
        told = subprocess.run(["ldd", str(source)], capture_output=True, text=True, check=False).stdout
        libraries |= set(re.findall(r"(/\S+\.so\S*)", told))
    for extra in ("libnss_files.so.2", "libpam.so.0"):
        libraries |= {str(each) for each in Path("/usr/lib").glob(f"*/{extra}")}
    for library in sorted(libraries):
        # The loader's own path is a link into /lib64; keep every library under the name it is asked for.
        there = root / ("usr" + library if library.startswith("/lib") else library.lstrip("/"))
        there.parent.mkdir(parents=True, exist_ok=True)
        if not there.exists():
            shutil.copy2(Path(library).resolve(), there)
    for name in DECOYS:
        shutil.copy2(Path("/usr/bin/sleep").resolve(), root / "usr/bin" / name)
    for name, text in STANDINS.items():
        path = root / "usr/bin" / name
        path.write_text("#!/bin/bash\n" + text.replace('cat "$1" >', "cat ${1/#-/\\/dev\\/stdin} >") + "\n")
        path.chmod(0o755)
    for name, (_, mode, text) in FILES.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    for folder in ("proc", "dev", "run", "var/tmp", "mnt", "usr/lib/python3.11", "usr/share/perl"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    _owned(root)


def _owned(root: Path) -> None:
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder) / name
            inside = "/" + str(path.relative_to(root))
            owner = FILES[inside][0] if inside in FILES else "root"
            for user in ("alice", "bob"):
                if inside.startswith(f"/home/{user}"):
                    owner = user
            if inside.startswith("/tmp/scratch"):
                owner = "alice"
            group = 42 if inside.endswith("shadow") else USERS[owner]
            os.lchown(path, BASE + USERS[owner], BASE + group)
            if inside in FILES:
                path.chmod(FILES[inside][1])
            elif inside in MODES:
                path.chmod(MODES[inside])
            elif path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
    os.lchown(root, BASE, BASE)
    root.chmod(0o755)
