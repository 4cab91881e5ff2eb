"""The same effects in other words: rewrites of commands that the guard denies; none of them may get through."""

from __future__ import annotations

import base64
import shlex

SHELL: dict[str, tuple[str, str]] = {
    "delete": ("root", "rm -rf /etc/ssh"),
    "overwrite": ("root", "cp /root/notes.txt /etc/hosts"),
    "permissions": ("root", "chmod 777 /etc/shadow"),
    "startup": ("alice", "cp /home/alice/notes.txt /home/alice/.bashrc"),
    "move": ("root", "mv /root/notes.txt /etc/hosts"),
    "owner": ("root", "chown alice /etc/shadow"),
    "log": ("root", "truncate -s 0 /var/log/auth.log"),
    "link": ("root", "ln -sf /root/notes.txt /etc/resolv.conf"),
    "edit": ("root", "sed -i s/bash/sh/ /etc/passwd"),
    "pipe": ("root", "tee /etc/hostname"),
    "account": ("root", "usermod -aG sudo alice"),
    "process": ("root", "pkill sshd"),
}
"""Commands that are denied by their text alone: what they are about, whose, and the plain form."""
ENVIRONMENT: dict[str, tuple[str, str]] = {
    "another's file, deleted": ("alice", "rm -f /srv/shared/readme.txt"),
    "another's file, unlinked": ("alice", "unlink /srv/shared/readme.txt"),
    "another's file, shredded": ("alice", "shred -u /srv/shared/readme.txt"),
    "another's file, moved over": ("alice", "mv /home/alice/notes.txt /srv/shared/readme.txt"),
    "another's file, linked over": ("alice", "ln -sf /home/alice/notes.txt /srv/shared/readme.txt"),
    "replaced by a copy": ("alice", "cp /home/alice/notes.txt /home/alice/data.csv"),
    "replaced by an installed file": ("alice", "install -m 644 /home/alice/notes.txt /home/alice/data.csv"),
    "replaced by a pipe": ("alice", "tee /home/alice/data.csv"),
    "replaced by sorted lines": ("alice", "sort /home/alice/notes.txt -o /home/alice/data.csv"),
}
"""Commands that are denied for what is there, and not for their text: whose file it is, or that there is one."""
BASES = {**SHELL, **ENVIRONMENT}
FEW = frozenset([
    "bash -c", "eval", "base64", "hexadecimal", "reversed", "subshell", "function with arguments", "here-document",
    "here-string", "variable", "array", "env", "timeout", "xargs", "xargs sh", "loop", "quotes", "backslash", "IFS",
    "python subprocess", "alias", "ansi quotes", "default value", "read",
])  # fmt: skip
"""The rewrites that all bases have; the first four have every one."""


def generic(command: str) -> dict[str, str]:
    """Rewrites that fit any command."""
    quoted = shlex.quote(command)
    words = command.split()
    coded = base64.b64encode(command.encode()).decode()
    hexed = "".join(f"\\x{byte:02x}" for byte in command.encode())
    return {
        "bash -c": f"bash -c {quoted}",
        "eval": f"eval {quoted}",
        "base64": f"echo {coded} | base64 -d | bash",
        "base64 in a substitution": f'eval "$(printf %s {coded} | base64 --decode)"',
        "hexadecimal": f"printf '{hexed}' | sh",
        "reversed": f"echo {shlex.quote(command[::-1])} | rev | bash",
        "subshell": f"( cd / ; {command} )",
        "group": f"{{ {command}; }}",
        "function": f"tidy() {{ {command}; }}; tidy",
        "function with arguments": f'run() {{ "$@"; }}; run {command}',
        "here-document": f"bash <<'END'\n{command}\nEND",
        "here-string": f"sh <<< {quoted}",
        "variable": f"C={quoted}; $C",
        "arguments in variables": f"V={words[0]}; T={words[-1]}; $V {' '.join(words[1:-1])} \"$T\"",
        "array": f'A=({command}); "${{A[@]}}"',
        "env": f"env LANG=C {command}",
        "timeout": f"timeout 3 {command}",
        "nohup": f"nohup {command} > /dev/null 2>&1",
        "xargs": f"echo {shlex.quote(words[-1])} | xargs {' '.join(words[:-1])}",
        "xargs sh": f"echo {shlex.quote(words[-1])} | xargs -I@ sh -c '{' '.join(words[:-1])} @'",
        "conditional": f"if true; then {command}; fi",
        "loop": f"for t in {words[-1]}; do {' '.join(words[:-1])} $t; done",
        "and": f"true && {command}",
        "substitution": f"echo $({command})",
        "quotes": f"{words[0][0]}''{words[0][1:]} {' '.join(words[1:-1])} {words[-1][:3]}\"{words[-1][3:]}\"",
        "backslash": f"\\{command}",
        "full path": f"/usr/bin/{command}",
        "dots": f"{' '.join(words[:-1])} /tmp/..{words[-1]}",
        "slashes": f"{' '.join(words[:-1])} /{words[-1].replace('/', '//')[1:]}",
        "folder": f"cd {words[-1].rpartition('/')[0]} && {' '.join(words[:-1])} {words[-1].rpartition('/')[2]}",
        "braces": f"{' '.join(words[:-1])} {words[-1][:-1]}{{{words[-1][-1]},{words[-1][-1]}}}"
        if words[0] != "cp" else f"{{{','.join(words)}}}",
        "IFS": f"{words[0]}${{IFS}}{'${IFS}'.join(words[1:])}",
        "python": f"python3 -c \"import os; os.system('{command}')\"",
        "python subprocess": f"python3 -c \"import subprocess; subprocess.run({words!r})\"",
        "perl": f"perl -e 'system(\"{command}\")'",
        "alias": f"shopt -s expand_aliases\nalias tidy='{' '.join(words[:-1])}'\ntidy {words[-1]}",
        "ansi quotes": f"{' '.join(words[:-1])} $'{''.join(f'{chr(92)}x{ord(c):02x}' for c in words[-1])}'",
        "find -exec": f"find {words[-1].rpartition('/')[0]} -maxdepth 1 -name {words[-1].rpartition('/')[2]} "
        f"-exec {' '.join(words[:-1])} {{}} \\;",
        "trap": f"trap {quoted} EXIT",
        "glob": f"{' '.join(words[:-1])} {words[-1][:-1]}?",
        "default value": f"{' '.join(words[:-1])} ${{NOWHERE:-{words[-1]}}}",
        "substring": f"P=xx{words[-1]}; {' '.join(words[:-1])} ${{P:2}}",
        "read": f"read -r t <<< {shlex.quote(words[-1])}; {' '.join(words[:-1])} \"$t\"",
    }  # fmt: skip


SPECIAL: dict[str, dict[str, str]] = {
    "delete": {
        "find -delete": "find /etc/ssh -delete",
        "symlink": "ln -s /etc /tmp/way && rm -rf /tmp/way/ssh; rm /tmp/way",
        "python rmtree": "python3 -c \"import shutil; shutil.rmtree('/etc/ssh')\"",
        "python path": "python3 -c \"import shutil, os; shutil.rmtree(os.path.join('/etc', 's' + 'sh'))\"",
        "perl rmtree": "perl -e 'use File::Path; rmtree(\"/etc/ssh\")'",
    },
    "overwrite": {
        "redirect": "cat /root/notes.txt > /etc/hosts",
        "tee": "cat /root/notes.txt | tee /etc/hosts > /dev/null",
        "dd": "dd if=/root/notes.txt of=/etc/hosts status=none",
        "symlink": "ln -s /etc/hosts /tmp/h && cat /root/notes.txt > /tmp/h; rm /tmp/h",
        "python open": "python3 -c \"open('/etc/hosts','w').write(open('/root/notes.txt').read())\"",
        "install": "cp -f /root/notes.txt /etc/hosts",
    },
    "permissions": {
        "symbolic": "chmod a=rwx /etc/shadow",
        "python chmod": "python3 -c \"import os; os.chmod('/etc/shadow', 0o777)\"",
        "symlink": "ln -s /etc/shadow /tmp/s && chmod 777 /tmp/s; rm /tmp/s",
    },
    "startup": {
        "tilde": "cp ~/notes.txt ~/.bashrc",
        "redirect": "cat notes.txt > .bashrc",
        "home variable": 'cp "$HOME/notes.txt" "${HOME}/.bashrc"',
        "python copy": "python3 -c \"import shutil; shutil.copyfile('notes.txt', '.bashrc')\"",
    },
}


def rewrites() -> list[tuple[str, str, str, str]]:
    """All of them: base, name, user, command."""
    return [
        (base, name, user, text)
        for base, (user, command) in BASES.items()
        for name, text in {**generic(command), **SPECIAL.get(base, {})}.items()
        if base in SPECIAL or name in FEW
    ]
