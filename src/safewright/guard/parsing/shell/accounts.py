"""What account tools change: whose account, and what of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from safewright.guard.parsing.shell.model import UNKNOWN, Effect
from safewright.guard.parsing.shell.options import options, value_of
from safewright.guard.parsing.shell.touching import on

if TYPE_CHECKING:
    from safewright.guard.parsing.shell.call import Call

_VALUED = {
    "useradd": "bcdefgGkKpRsuZ", "usermod": "cdefgGlpRsuvVwWZ", "userdel": "RZ", "chage": "dEIMmRW", "chsh": "sR",
    "chfn": "fhoprRw", "groupadd": "gKpRP", "groupmod": "gnpR", "gpasswd": "adMAQ", "passwd": "inqrRwx",
    "faillock": "",
}  # fmt: skip
_NAMED = (
    "--groups", "--shell", "--home", "--password", "--gid", "--uid", "--comment", "--expiredate", "--inactive",
    "--login", "--user", "--ingroup", "--gecos", "--dir", "--home-dir", "--base-dir", "--skel", "--root", "--mindays",
    "--maxdays", "--warndays", "--lastday", "--add", "--delete", "--members", "--administrators", "--new-name",
)  # fmt: skip
ADMIN = frozenset(["0", "sudo", "wheel", "root", "admin", "docker", "shadow", "disk", "adm", "lxd"])
_LOCKS = {
    "L",
    "U",
    "e",
    "f",
    "p",
    "u",
    "l",
    "--lock",
    "--unlock",
    "--expiredate",
    "--inactive",
    "--password",
    "--uid",
}


def _value(words: list[str], valued: str, letter: str, name: str) -> str | None:
    """An option's value, also where its letter stands in a group: ``-aG sudo``."""
    for at, word in enumerate(words):
        if word.startswith("--"):
            if word == name and at + 1 < len(words):
                return words[at + 1]
            if word.startswith(name + "="):
                return word.partition("=")[2]
        elif word.startswith("-"):
            for index, each in enumerate(word[1:], 1):
                if each == letter:
                    return word[index + 1 :] or (words[at + 1] if at + 1 < len(words) else None)
                if each in valued:
                    break
    return None


def does_account(call: Call) -> list[Effect]:
    """Effects of the account tools; ``;admin`` gives rights, ``;uid0`` makes a second root, ``;lock`` locks out."""
    words, verb = call.fields[1:], call.verb
    valued = _VALUED.get(verb, "")
    named = tuple(each for each in _NAMED if not (verb == "passwd" and each == "--delete"))
    letters, operands = options(words, valued, named)
    name = operands[-1] if operands else ""
    if verb in ("gpasswd", "adduser", "addgroup", "deluser") and operands:
        name = operands[0]
        flagged = value_of(words, "-a", "-d") if verb == "gpasswd" else None
        name = flagged or name
    if verb == "faillock":
        return (
            [on(call, "account", value_of(words, "--user") or "", "account", verb)]
            if "--reset" in words
            else []
        )
    detail = verb + (":" + ",".join(sorted(letters)) if letters else "")
    if verb in ("passwd", "chpasswd", "chgpasswd", "newusers"):
        return _passwords(call, letters, name, detail)
    if verb == "chage" and letters <= {"l", "--list"} and letters:
        return []
    if verb in ("visudo", "vipw", "vigr"):
        if "c" in letters or "--check" in letters:
            return []
        return [on(call, "account", "rights", "account", detail + ";admin")]
    groups = _value(words, valued, "G", "--groups") or ""
    if verb in ("gpasswd", "adduser", "addgroup", "deluser") and len(operands) > 1:
        groups = operands[-1]
    if verb == "gpasswd" and operands:
        groups = operands[-1]
    makes = ("useradd", "usermod", "groupadd", "groupmod")
    primary = _value(words, valued, "g", "--gid") if verb in makes else None
    primary = re.sub(r"^0+(?=0$)", "", primary) if primary else primary
    renamed = {_value(words, valued, "n", "--new-name"), name} if verb == "groupmod" else set()
    if renamed & ADMIN:
        # Who is in a group of that name has its rights, or has lost them.
        detail += ";admin"
    elif {*groups.split(","), primary} & ADMIN and not (verb == "deluser" or "d" in letters):
        detail += ";admin"
    if re.fullmatch(r"0+", _value(words, valued, "u", "--uid") or "") and verb in (
        "useradd",
        "usermod",
        "adduser",
    ):
        detail += ";uid0"
    shell = _value(words, valued, "s", "--shell") or ""
    shut = verb in ("usermod", "chsh") and shell.rsplit("/", 1)[-1] in ("nologin", "false", "true", "null")
    removed = verb in ("userdel", "delgroup", "groupdel") or (verb == "deluser" and len(operands) < 2)
    if (verb == "usermod" and letters & _LOCKS) or verb == "chage" or shut or removed:
        detail += ";lock"
    return [on(call, "account", name, "account", detail)]


def _passwords(call: Call, letters: set[str], name: str, detail: str) -> list[Effect]:
    if call.verb == "passwd" and letters & {"S", "--status"}:
        return []
    if call.verb in ("chpasswd", "chgpasswd"):
        lines = [line for line in (call.stdin or UNKNOWN).split("\n") if line.strip()]
        return [
            on(call, "password", line.partition(":")[0].strip(), "account", detail) for line in lines[:20]
        ]
    locks = letters & {"l", "u", "e", "d", "x", "i", "--lock", "--unlock", "--expire", "--delete"}
    return [
        on(call, "account" if locks else "password", name, "account", detail + (";lock" if locks else ""))
    ]
