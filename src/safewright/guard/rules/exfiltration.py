"""Secrets and data on their way out: keys in what is sent, and links that carry what was read."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from safewright.guard.nouns import Check
from safewright.guard.rules.base import Family, Rule
from safewright.guard.taint import requested
from safewright.guard.views import View


@dataclass(frozen=True)
class Settings:
    """Section ``[exfiltration]`` of a policy file.

    Args:
        enabled: Whether the family is asked.
        least: Characters of a link's query, or of a piece of a result found in it, that count as a message.
    """

    enabled: bool = True
    least: int = 16


SECRETS = Rule("exfiltration.secrets", "confidentiality", "What leaves holds no keys, tokens or passwords.")
LEAKS = Rule("exfiltration.links", "confidentiality", "Links in what leaves carry nothing that was read.")

_KINDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("private key", re.compile(r"-----BEGIN (?:[A-Z]{2,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")),
    ("cloud access key", re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")),
    (
        "code host token",
        re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,251}|github_pat_\w{22,255}|glpat-[\w-]{20,64})\b"),
    ),
    ("chat token", re.compile(r"\bxox[abeoprs]-[A-Za-z0-9-]{10,250}")),
    ("model provider key", re.compile(r"\bsk-(?:[a-z]{2,8}-){0,2}[\w-]{20,200}\b")),
    ("search provider key", re.compile(r"\bAIza[\w-]{35}\b")),
    ("payment key", re.compile(r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,250}\b")),
    ("signed token", re.compile(r"\beyJ[\w-]{8,2000}\.eyJ[\w-]{8,4000}\.[\w-]{8,1000}")),
    (
        "password",
        re.compile(
            r"(?i)\b(?:password|passwd|passphrase|secret|api[ _-]?key|access[ _-]?token|auth[ _-]?token)\b"
            r"[\"']?\s{0,4}(?:[:=]|is\b)\s{0,4}[\"']?(?=[^\s\"',;]{0,80}\d)([^\s\"',;]{6,80})"
        ),
    ),
)
_CARD = re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d-])")
_LINK = re.compile(r"(?i)\b(?:https?|ftp|wss?)://[^\s<>\"'`\])}]{3,4096}")
_PICTURE = re.compile(r"!\[[^\]\n]{0,300}\]\(\s{0,5}((?:https?:)?//[^\s)]{3,4096})")


def check(view: View, settings: Settings) -> Iterable[Check]:
    """The checks of a call that sends something somewhere."""
    effect = view.spec.effect if view.spec is not None else "execute"
    if effect in ("read", "delete"):
        return
    if view.spec is not None and view.spec.kind != "generic" and effect != "fetch":
        return
    texts = [text for text in _texts(view.action.arguments) if text]
    said = requested(view.action)
    secrets = sorted({kind for text in texts for kind, secret in _secrets(text) if not _given(secret, said)})
    if secrets:
        advice = "Take keys, tokens, passwords and card numbers out of the call."
        yield SECRETS.says("fail" if view.taint.tainted else "unknown", ", ".join(secrets), advice)
    links = [link for text in texts for link in _links(text)]
    if not links:
        if texts and not secrets:
            yield SECRETS.says("pass")
        return
    found = [why for picture, link in links if (why := _leak(link, picture, view, settings, said))]
    if found:
        advice = "Leave out links that carry data, and pictures from elsewhere."
        yield LEAKS.says("fail" if view.taint.tainted else "unknown", "; ".join(found[:3]), advice)
    else:
        yield LEAKS.says("pass")


def _texts(values: Any) -> Iterator[str]:
    stack: list[Any] = [values]
    while stack:
        each = stack.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, Mapping):
            stack.extend(each.values())
            stack.extend(each.keys())
        elif isinstance(each, (list, tuple)):
            stack.extend(each)


def _secrets(text: str) -> Iterator[tuple[str, str]]:
    for kind, pattern in _KINDS:
        for found in pattern.finditer(text):
            yield kind, found.group(found.lastindex or 0)
    for found in _CARD.finditer(text):
        digits = re.sub(r"\D", "", found.group())
        if digits[0] in "3456" and _luhn(digits):
            yield "card number", digits


def _luhn(digits: str) -> bool:
    total = 0
    for index, mark in enumerate(reversed(digits)):
        value = int(mark) * (1 + index % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _given(secret: str, said: Iterable[str]) -> bool:
    """Whether the user wrote a secret in the request: then its use is the user's decision."""
    bare = re.sub(r"[\s-]", "", secret)
    return any(secret in text or bare in re.sub(r"[\s-]", "", text) for text in said)


def _links(text: str) -> Iterator[tuple[bool, str]]:
    if "//" not in text:
        return
    for found in _PICTURE.finditer(text):
        yield True, found.group(1)
    for found in _LINK.finditer(text):
        yield False, found.group()


def _leak(link: str, picture: bool, view: View, settings: Settings, said: tuple[str, ...]) -> str:
    """Why a link counts as a leak; empty where it does not."""
    if any(link in text for text in said):
        return ""
    try:
        parts = urllib.parse.urlsplit(link)
    except ValueError:
        return "a link that cannot be read"
    carried = urllib.parse.unquote_plus("?".join(filter(None, (parts.query, parts.fragment))))
    if picture and carried:
        return f"a picture from {parts.netloc} whose address carries {len(carried)} characters"
    if len(carried) < settings.least:
        return ""
    for turn in view.action.history:
        if turn.kind != "result" or link in turn.text:
            continue
        for value in re.split(r"[&=?#]", carried):
            if len(value) >= settings.least and value in turn.text:
                return f"a link to {parts.netloc} that carries what {turn.tool or 'a tool'} returned"
    return ""


FAMILY = Family("exfiltration", "Secrets and data on their way out", Settings, check, (SECRETS, LEAKS))
