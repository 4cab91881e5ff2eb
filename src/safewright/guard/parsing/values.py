"""The values of a call that say whom or what it reaches: addresses, accounts, links, paths, names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from safewright.guard.policy import ToolSpec

ValueKind = Literal["email", "url", "host", "iban", "phone", "account", "path", "name"]
ADDRESSES: frozenset[str] = frozenset({"email", "url", "host", "iban", "phone", "account", "path"})
"""Kinds that lead anywhere, as opposed to a name, which is looked up in the deployment's own directory."""

MOST_VALUES = 2_000
"""Values of one call or text; what is beyond is not read, and `Values.cut` callers may ask for."""


@dataclass(frozen=True)
class Value:
    """A value that names whom or what a call reaches.

    Args:
        kind: What it looks like; `name` is a value of a declared argument that looks like none of the others.
        text: As it stands in the arguments.
        argument: The argument it stands in, with a path into lists and tables: ``to[0]``, ``event.guests[1]``.
        declared: Whether the policy names the argument under `identities`.
        normal: The form in which values are compared.
    """

    kind: ValueKind
    text: str
    argument: str = ""
    declared: bool = False
    normal: str = ""


_SCHEME = re.compile(r"(?i)\b(?:https?|ftps?|wss?|file|data|mailto|tel|sftp|ssh|git)(?=:)")
_EMAIL = re.compile(r"[\w.+%'-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_HOST = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,62})\.){1,8}[a-z][a-z0-9-]{1,23}", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:\d{1,3}\.){3}\d{1,3}")
_IBAN = re.compile(r"[A-Za-z]{2}\d{2}[A-Za-z0-9]{10,30}")
_SPACED_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,4})?\b")
_PHONE = re.compile(r"(?<![\w.])\+?\(?\d(?:[ ()/.-]{0,2}\d){6,14}(?![\w])")
_ACCOUNT = re.compile(r"\d{8,20}")
_CUT = re.compile(r"[^\s<>\"'`(){}\[\]|,;\u2018\u2019\u201c\u201d]+")
_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}")
_NUMBER = re.compile(r"[+-]?\d{1,15}(?:[.,]\d{1,15})?")
_FILES = frozenset((
    "txt", "md", "csv", "tsv", "json", "yaml", "yml", "toml", "ini", "cfg", "conf", "log", "pdf", "doc",
    "docx", "xls", "xlsx", "ppt", "pptx", "odt", "png", "jpg", "jpeg", "gif", "svg", "webp", "mp3", "mp4",
    "wav", "zip", "gz", "tar", "tgz", "bz2", "7z", "py", "js", "ts", "sh", "rb", "rs", "c", "h", "cpp",
    "java", "html", "htm", "xml", "sql", "db", "sqlite", "env", "pem", "key", "crt", "ipynb", "bak", "tmp",
    "eml", "ics",
))  # fmt: skip
"""Endings that make a bare ``name.ending`` a file rather than a host."""
TELLING = frozenset((
    "to", "cc", "bcc", "recipient", "recipients", "payee", "beneficiary", "iban", "account", "account_number",
    "destination", "email", "emails", "phone", "url", "address", "receiver", "user_email",
))  # fmt: skip
"""Names of arguments that count as identities where a policy declares none."""
_TRAILING = ".,;:!?…"


def values_of(arguments: Mapping[str, Any], spec: ToolSpec | None) -> tuple[Value, ...]:
    """The values of a call's arguments that say whom or what it reaches, each once.

    Declared arguments count as a whole, whatever they look like. Every other text is searched for addresses, links,
    accounts; free text (`content`) too, since a link in a message reaches its readers. Paths in undeclared arguments
    count only where the policy declares none.
    """
    declared = spec.identities if spec is not None else None
    content = spec.content if spec is not None else ()
    found: dict[tuple[str, str, str], Value] = {}
    for argument, value in arguments.items():
        own = argument in declared if declared is not None else argument.casefold() in TELLING
        for where, text in _texts(value, argument):
            if own:
                if text.strip():
                    one = _whole(text, where)
                    found.setdefault((one.kind, one.normal, one.argument), one)
                continue
            for one in _searched(text, where, paths=declared is None and argument not in content):
                found.setdefault((one.kind, one.normal, one.argument), one)
            if len(found) >= MOST_VALUES:
                return tuple(found.values())
    return tuple(found.values())


def values_in(text: str) -> tuple[Value, ...]:
    """The addresses, links, accounts and paths in a text."""
    return tuple(_searched(text, "", paths=True))


def _texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    stack: list[tuple[Any, str]] = [(value, where)]
    while stack:
        each, place = stack.pop()
        if isinstance(each, str):
            yield place, each
        elif isinstance(each, bool) or each is None:
            continue
        elif isinstance(each, (int, float)):
            yield place, str(each)
        elif isinstance(each, Mapping):
            for key, inner in reversed(list(each.items())):
                # A key can carry an address as well as a value can.
                stack.append((inner, f"{place}.{key}"))
                stack.append((str(key), f"{place}.{key}"))
        elif isinstance(each, (list, tuple)):
            stack.extend((inner, f"{place}[{index}]") for index, inner in reversed(list(enumerate(each))))


def _whole(text: str, argument: str) -> Value:
    """A declared argument's value: what it is, if it is one thing, else a name."""
    stripped = text.strip()
    token = stripped.strip("<>\"'")
    kind = _kind(token) if not any(mark.isspace() for mark in token) else None
    if kind is None and _SPACED_IBAN.fullmatch(stripped):
        kind = "iban"
    if kind is None and _PHONE.fullmatch(stripped) and not _DATE.fullmatch(stripped):
        kind = "phone"
    if kind is None and _ACCOUNT.fullmatch(stripped):
        kind = "account"
    kind = kind or "name"
    return Value(kind, stripped, argument, True, normal_of(kind, token))


def _searched(text: str, argument: str, *, paths: bool) -> Iterator[Value]:
    count = 0
    seen: set[tuple[str, str]] = set()
    for kind, raw in _candidates(text, paths):
        normal = normal_of(kind, raw)
        if not normal or (kind, normal) in seen:
            continue
        seen.add((kind, normal))
        yield Value(kind, raw, argument, False, normal)
        count += 1
        if count >= MOST_VALUES:
            return


def _candidates(text: str, paths: bool) -> Iterator[tuple[ValueKind, str]]:
    for found in _CUT.finditer(text):
        token = found.group()
        yield from _inside(token, paths)
    for found in _SPACED_IBAN.finditer(text):
        yield "iban", found.group()
    for found in _PHONE.finditer(text):
        digits = sum(mark.isdigit() for mark in found.group())
        if not _DATE.match(found.group()) and (found.group().startswith("+") or digits >= 9):
            yield "phone", found.group()


def _inside(token: str, paths: bool) -> Iterator[tuple[ValueKind, str]]:
    token = token.rstrip(_TRAILING).lstrip("*_#")
    if not token:
        return
    scheme = _SCHEME.search(token) if ":" in token else None
    if scheme is not None:
        yield "url", token[scheme.start() :]
        return
    if "=" in token and "/" not in token.split("=", 1)[0]:
        for part in token.split("="):
            yield from _inside(part, paths)
        return
    kind = _kind(token)
    if kind is None and ":" in token:
        for part in token.split(":"):
            yield from _inside(part, paths)
        return
    if kind is None and "@" in token:
        email = _EMAIL.search(token[-400:])
        if email:
            yield "email", email.group()
        return
    if kind is not None and (paths or kind != "path"):
        yield kind, token


def _kind(token: str) -> ValueKind | None:
    """What a text without white space is, if it is one of the kinds."""
    if len(token) > 4096:
        return "url" if _SCHEME.match(token) else None
    if _SCHEME.match(token) and len(token) > token.index(":") + 1:
        return "url"
    if "@" in token and _EMAIL.fullmatch(token):
        return "email"
    if _NUMBER.fullmatch(token) or _DATE.fullmatch(token):
        return None
    if _IBAN.fullmatch(token) and sum(mark.isdigit() for mark in token) >= 6:
        return "iban"
    host, slash, rest = token.partition("/")
    name, _, port = host.partition(":")
    if (_HOST.fullmatch(name) or _ADDRESS.fullmatch(name)) and (not port or port.isdigit()):
        file = name.rsplit(".", 1)[-1].lower() in _FILES and not name.lower().startswith("www.")
        if file:
            return "path"
        return "url" if (slash and rest) or name.lower().startswith("www.") else "host"
    if token[0] in "/~" or token.startswith(("./", "../")) or (len(token) > 2 and token[1:3] == ":\\"):
        return "path" if len(token) > 1 else None
    return None


def normal_of(kind: str, text: str) -> str:
    """The form in which values of a kind are compared: spelling that makes no difference is dropped."""
    text = plain(text)
    if kind == "email":
        return text.removeprefix("mailto:").strip("<>.")
    if kind in ("url", "host"):
        text = re.sub(r"^[a-z]{2,6}://", "", text).removeprefix("www.")
        return text.rstrip("/.,")
    if kind == "iban":
        return re.sub(r"[\s-]", "", text)
    if kind in ("phone", "account"):
        return ("+" if text.startswith("+") else "") + re.sub(r"\D", "", text)
    if kind == "path":
        return _path(text)
    return text.strip("\"'`<> ").lstrip("@#").strip()


def _path(text: str) -> str:
    import posixpath

    text = text.replace("\\", "/")
    return posixpath.normpath(text).removeprefix("./") if text else ""


_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\U000e0000-\U000e0fff]"
)


def plain(text: str) -> str:
    """A text as it is compared: compatible characters folded, invisible ones dropped, case and white space evened."""
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    return " ".join(text.casefold().split())
