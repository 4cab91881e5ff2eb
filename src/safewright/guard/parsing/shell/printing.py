"""What commands print, where that follows from their words and input."""

from __future__ import annotations

import base64
import binascii
import posixpath
import re
from collections.abc import Callable

from safewright.guard.parsing.shell.call import Call
from safewright.guard.parsing.shell.exhausting import MANY_IDS, span_of
from safewright.guard.parsing.shell.model import SCALAR, UNKNOWN
from safewright.guard.parsing.shell.options import options
from safewright.guard.parsing.shell.pids import MARK, passed_on, printed_pids
from safewright.guard.parsing.shell.scripts import text_of
from safewright.guard.parsing.shell.state import HOME, has_glob


def _echo(call: Call) -> str | None:
    words = call.fields[1:]
    escapes, newline = False, "\n"
    while words and re.fullmatch(r"-[neE]+", words[0]):
        escapes = escapes or "e" in words[0]
        newline = "" if "n" in words[0] else newline
        words = words[1:]
    text = " ".join(words)
    return (_backslashes(text) if escapes else text) + newline


def _backslashes(text: str) -> str:
    from safewright.guard.parsing.shell.words import _ansi

    return _ansi(re.sub(r"\\0([0-7]{1,3})", r"\\\1", text))


def _printf(call: Call) -> str | None:
    words = call.fields[1:]
    if words[:1] == ["-v"] and len(words) > 1:
        from safewright.guard.parsing.shell.launching import does_environment

        text = _formatted(words[2:])
        value = UNKNOWN if text is None else text
        does_environment(call.walk, words[1], value, call.state)
        call.state.assign(words[1], value)
        return ""
    return _formatted(words[1:] if words[:1] == ["--"] else words)


def _formatted(words: list[str]) -> str | None:
    if not words:
        return ""
    template, given = _backslashes(words[0]), words[1:]
    pieces = re.split(r"(%%|%-?\d*[sbdq])", template)
    slots = sum(1 for piece in pieces if piece.startswith("%") and piece != "%%")
    if re.search(r"%(?!%|-?\d*[sbdq])", template.replace("%%", "")):
        return None
    out = []
    while True:
        for piece in pieces:
            if piece == "%%":
                out.append("%")
            elif re.fullmatch(r"%-?\d*[sbdq]", piece):
                value = given.pop(0) if given else ""
                out.append(_backslashes(value) if piece.endswith("b") else value)
            else:
                out.append(piece)
        if not given or not slots:
            return "".join(out)


def _cat(call: Call) -> str | None:
    files = [each for each in call.fields[1:] if not each.startswith("-") or each == "-"]
    if call.verb in ("head", "tail"):
        files = [each for each in options(call.fields[1:], "nc")[1] if not re.fullmatch(r"\+\d+", each)]
    if not files or files == ["-"]:
        return passed_on(call) if call.verb in ("head", "tail") and is_pids(call.stdin) else call.stdin
    texts = [text_of(call.state, each)[1] for each in files] if call.verb in ("cat", "tee") else [None]
    if call.verb == "cat" and None not in texts:
        return "".join(text or "" for text in texts)
    if call.verb == "cat" and all(each.endswith(".pid") for each in files):
        return "".join(f"{MARK}{posixpath.basename(each)[:-4]}\n" for each in files)
    return call.stdin if call.verb == "tee" else None


def _base64(call: Call) -> str | None:
    decode = any(each in ("-d", "--decode", "-D", "-di", "-id") for each in call.fields[1:])
    files = [each for each in call.fields[1:] if not each.startswith("-")]
    if call.verb == "openssl":
        if "base64" not in call.fields and "-base64" not in call.fields:
            return None
        files = []
    if not decode or call.stdin is None or files:
        return None
    try:
        return base64.b64decode(re.sub(r"\s", "", call.stdin) + "==").decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return None


def _xxd(call: Call) -> str | None:
    if call.stdin is None or not any("r" in each for each in call.fields[1:] if each.startswith("-")):
        return None
    try:
        return bytes.fromhex(re.sub(r"\s", "", call.stdin)).decode("utf-8", "replace")
    except ValueError:
        return None


def _rev(call: Call) -> str | None:
    return None if call.stdin is None else "\n".join(line[::-1] for line in call.stdin.split("\n"))


def _tr(call: Call) -> str | None:
    words = [each for each in call.fields[1:] if not each.startswith("-")]
    if is_pids(call.stdin):
        return call.stdin
    flags = "".join(each[1:] for each in call.fields[1:] if each.startswith("-"))
    if call.stdin is None or not words:
        return None
    one = _ranges(words[0])
    if "d" in flags and one is not None:
        return "".join(mark for mark in call.stdin if mark not in one)
    two = _ranges(words[1]) if len(words) > 1 else None
    if flags or not one or not two:
        return None
    two = two + two[-1] * (len(one) - len(two))
    return call.stdin.translate({ord(a): b for a, b in zip(one, two, strict=False)})


def _ranges(text: str) -> str | None:
    if "[" in text:
        return None
    text = _backslashes(text)
    return re.sub(
        r"(.)-(.)",
        lambda m: "".join(chr(c) for c in range(ord(m[1]), min(ord(m[2]), ord(m[1]) + 512) + 1)),
        text,
    )


def _path_part(call: Call) -> str | None:
    words = [each for each in call.fields[1:] if not each.startswith("-")]
    if not words:
        return None
    if UNKNOWN in words[0]:
        return UNKNOWN
    part = posixpath.basename if call.verb == "basename" else posixpath.dirname
    value = part(words[0].rstrip("/") or "/")
    if call.verb == "basename" and len(words) > 1:
        value = value.removesuffix(words[1])
    return (value or ".") + "\n"


def _mktemp(call: Call) -> str | None:
    template = [each for each in call.fields[1:] if not each.startswith("-")]
    inside = "-p" in call.fields or any(each.startswith("--tmpdir=") for each in call.fields)
    if inside:
        return None
    return (
        f"/tmp/{SCALAR}" if not template or ("/" not in template[0] and "-t" in call.fields) else template[0]
    ) + "\n"


def _pwd(call: Call) -> str | None:
    return (call.state.cwds[0] if len(call.state.cwds) == 1 else UNKNOWN).replace("~", HOME) + "\n"


def _seq(call: Call) -> str | None:
    """Numbers: which they are hardly matters, but whether they are many does."""
    many = span_of(" ".join(("seq", *call.fields[1:]))) >= MANY_IDS
    return f"{SCALAR}\n" * MANY_IDS if many else SCALAR


def _scalar(call: Call) -> str | None:
    return SCALAR


def _sed(call: Call) -> str | None:
    """A plain substitution on a known text."""
    if is_pids(call.stdin):
        return passed_on(call)
    words = [each for each in call.fields[1:] if each not in ("-e", "-E", "-r")]
    if call.stdin is None or len(words) != 1 or len(words[0]) < 4 or words[0][0] != "s":
        return None
    parts = words[0][1:].split(words[0][1])
    if len(parts) != 4 or re.search(r"[\\.*^$\[&+?(|{]", parts[1] + parts[2]):
        return None
    return call.stdin.replace(parts[1], parts[2], -1 if "g" in parts[3] else 1)


def is_pids(text: str | None) -> bool:
    """Whether a text is of process ids."""
    return text is not None and text.startswith(MARK)


def _nothing(call: Call) -> str | None:
    return ""


def _ls(call: Call) -> str | None:
    """What ls prints of patterns: files that fit them."""
    words = [each for each in call.fields[1:] if not each.startswith("-")]
    if words and all(each.rstrip("/") == "/proc" for each in words):
        return MARK + "*\n"
    plain = not any(re.match(r"-\w*[ldRs]", each) for each in call.fields[1:])
    if plain and len(words) == 1 and words[0].startswith("/") and not has_glob(words[0]):
        return "*\n"
    return (
        "\n".join(words) + "\n"
        if words and all(has_glob(each.rpartition("/")[2]) for each in words)
        else None
    )


def _git(call: Call) -> str | None:
    if "rev-parse" in call.fields and "--show-toplevel" not in call.fields:
        return SCALAR
    return "*\n" if "ls-files" in call.fields else None


PRINTERS: dict[str, Callable[[Call], str | None]] = {
    "echo": _echo, "printf": _printf, "cat": _cat, "tac": _cat, "base64": _base64, "openssl": _base64,
    "xxd": _xxd, "rev": _rev, "tr": _tr, "basename": _path_part, "dirname": _path_part, "mktemp": _mktemp,
    "pwd": _pwd, "date": _scalar, "whoami": _scalar, "id": _scalar, "hostname": _scalar, "nproc": _scalar,
    "uname": _scalar, "wc": _scalar, "sed": _sed, "true": _nothing, ":": _nothing, "sleep": _nothing,
    "tee": _cat, "sort": _cat, "uniq": _cat, "head": _cat, "git": _git, "mkdir": _nothing, "touch": _nothing,
    "rm": _nothing, "cp": _nothing, "mv": _nothing, "chmod": _nothing, "chown": _nothing, "ln": _nothing,
    "seq": _seq, "pgrep": printed_pids, "pidof": printed_pids, "ps": printed_pids, "lsof": printed_pids,
    "tail": _cat, "grep": passed_on, "egrep": passed_on, "fgrep": passed_on, "awk": passed_on, "gawk": passed_on,
    "mawk": passed_on, "cut": passed_on,
    "ls": _ls,
}  # fmt: skip
