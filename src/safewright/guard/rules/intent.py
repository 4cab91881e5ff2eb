"""Whether the request implies such a call: what changes the world must be what the user asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from safewright.guard.keys import effect_of
from safewright.guard.nouns import Check
from safewright.guard.parsing.values import values_of
from safewright.guard.rules.base import Family, Rule
from safewright.guard.taint import call_of, mentions, requested
from safewright.guard.views import View

if TYPE_CHECKING:
    from safewright.guard.policy import ToolSpec

WORDS: Mapping[str, tuple[str, ...]] = {
    "send": (
        "send", "email", "e-mail", "mail", "message", "write", "reply", "respond", "answer", "tell", "notify",
        "inform", "invite", "forward", "share", "post", "publish", "announce", "ask", "remind", "text", "ping",
        "contact", "let know", "dm", "report back",
    ),
    "pay": (
        "pay", "payment", "send", "transfer", "refund", "wire", "buy", "purchase", "order", "settle", "reimburse",
        "donate", "tip", "pay back", "book", "reserve",
    ),
    "write": (
        "write", "create", "add", "update", "change", "edit", "set", "adjust", "save", "append", "put", "make",
        "modify", "rename", "move", "book", "reserve", "schedule", "reschedule", "insert", "fill", "fix", "record",
        "note", "register", "upload", "draft", "copy", "replace", "increase", "decrease", "plan", "invite",
    ),
    "delete": (
        "delete", "remove", "cancel", "clear", "drop", "erase", "discard", "clean", "uninstall", "purge",
        "unsubscribe", "kick", "get rid",
    ),
    "execute": (
        "run", "execute", "install", "build", "start", "launch", "test", "deploy", "compile", "restart", "stop",
        "call", "invoke", "do",
    ),
    "admin": (
        "grant", "revoke", "permission", "permissions", "password", "account", "role", "configure", "setting",
        "settings", "enable", "disable", "allow", "reset", "rights", "access",
    ),
}  # fmt: skip
"""Words of a request that imply an effect. A tool's own `intents` replace them."""

_DELEGATES = (
    "follow the instructions", "follow its instructions", "follow their instructions", "do what it says",
    "do what they say", "todo list", "to-do list", "to do list", "all the tasks", "the tasks in", "the tasks on",
    "as described in", "as instructed in", "as it says", "act on it", "the steps in",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Section ``[intent]`` of a policy file.

    Args:
        enabled: Whether the family is asked.
        when: `tainted`: only once a result reads like instructions. `always`: of every call that changes something.
            `auto`: always where provenance is strict, else once tainted.
        words: By effect, the words of a request that imply it, in place of the ones above.
        delegates: Phrases with which a user hands over what a document says. They imply everything, as long as no
            result reads like an attack.
    """

    enabled: bool = True
    when: Literal["auto", "tainted", "always"] = "auto"
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    delegates: tuple[str, ...] = _DELEGATES


IMPLIED = Rule("intent.implied", "alignment", "The user's request implies a call with such an effect.")


def check(view: View, settings: Settings) -> Iterable[Check]:
    """The checks of a call."""
    effect = effect_of(view)
    tainted = view.taint.tainted
    if effect in ("read", "fetch") or (not tainted and not _always(view, settings)):
        return
    if view.spec is not None and view.spec.kind != "generic" and not tainted:
        # What a command or query does follows from its text, not from its tool.
        return
    said = tuple(said_in(text) for text in requested(view.action))
    advice = f"The user did not ask for this. Go on without {view.action.tool}, or ask the user."
    if not said:
        yield IMPLIED.says("unknown", "no request is known", advice)
        return
    words = words_of(view.spec, settings.words, effect)
    if view.spec is not None and view.spec.kind == "shell" and effect == "write":
        words += words_of(view.spec, settings.words, "execute")  # what is run nearly always writes something
    word = implied(said, words)
    if word:
        yield IMPLIED.says("pass", f"{word!r} implies {effect}")
    elif not tainted and implied(said, settings.delegates) and implied(handed_over(view), words):
        yield IMPLIED.says("pass", "the user handed over what a document says")
    else:
        status: Literal["fail", "unknown"] = "fail" if tainted else "unknown"
        yield IMPLIED.says(status, f"nothing in the request implies {effect} by {view.action.tool}", advice)


def _always(view: View, settings: Settings) -> bool:
    if settings.when != "auto":
        return settings.when == "always"
    return getattr(view.policy.settings.get("provenance"), "mode", "standard") == "strict"


def words_of(
    spec: ToolSpec | None, words: Mapping[str, tuple[str, ...]] = MappingProxyType({}), effect: str = ""
) -> tuple[str, ...]:
    """The words of a request that imply a call of a tool, or a certain effect by it."""
    effect = effect or (spec.effect if spec is not None else "execute")
    return (spec.intents if spec is not None else ()) or tuple(words.get(effect, ()) or WORDS.get(effect, ()))


def handed_over(view: View) -> tuple[str, ...]:
    """What the documents say that the request names: results of reading calls whose places all stand in it."""
    said = requested(view.action)
    found = []
    for index, turn in enumerate(view.action.history):
        if turn.kind != "result" or index in view.taint.results:
            continue
        call = call_of(view.action, index)
        spec = view.policy.spec(call.tool) if call is not None else None
        if call is None or spec is None or spec.effect not in ("read", "fetch"):
            continue
        places = values_of(dict(call.arguments), spec)
        if places and all(any(mentions(text, each) for text in said) for each in places):
            found.append(turn.text)
    return tuple(found)


_QUOTED = re.compile(r"(?<!\w)(?:'[^'\n]{1,2000}'|\"[^\"\n]{1,2000}\"|“[^“”]{1,2000}”|‘[^‘’]{1,2000}’)(?!\w)")
_LEAST_QUOTED = 4
"""Words that make a quotation a text of its own, rather than a name."""


def said_in(text: str) -> str:
    """A request without the sentences it quotes: they are content, and ask for nothing."""
    return _QUOTED.sub(
        lambda found: " … " if len(_tokens(found.group())) >= _LEAST_QUOTED else found.group(), text
    )


_END = re.compile(r"[.!?](?:\s+|(?=[A-Z]))|\n+")


def sentences(text: str) -> list[str]:
    """A text cut at the ends of its sentences."""
    return [each for each in _END.split(text) if each.strip()]


def matched(tokens: Sequence[str], word: str) -> list[int]:
    """Where a word or phrase (as in `implied`) begins in some tokens."""
    parts = _tokens(word)
    if not parts:
        return []
    places = []
    for index, token in enumerate(tokens):
        if "+" in word:
            fits = _same(token, parts[0]) and any(
                _same(each, parts[-1]) for each in tokens[index + 1 : index + NEAR]
            )
        elif len(parts) == 1:
            fits = _same(token, parts[0])
        else:
            fits = list(tokens[index : index + len(parts)]) == parts
        if fits:
            places.append(index)
    return places


def implied(texts: Iterable[str], words: Iterable[str]) -> str:
    """The first of some words with which a text asks for something; empty where it has none.

    A word counts as it stands and with ``-ing``, since "he posted it" and "my messages" ask for nothing. A phrase
    counts word for word. ``change+order`` asks for the first word and, a few words on, the second.
    """
    said = [_tokens(text) for text in texts]
    for word in words:
        if any(matched(tokens, word) for tokens in said):
            return word
    return ""


NEAR = 7
"""Words within which the second half of ``change+order`` must follow the first."""
_TOKEN = re.compile(r"[^\W_]+")


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text.casefold())


def _same(token: str, word: str) -> bool:
    """Whether a token is a word, or its form in -ing: sending, making, running."""
    if token == word:
        return True
    if not token.endswith("ing") or len(token) < len(word) + 2:
        return False
    return token[:-3] in (word, word.removesuffix("e"), word + word[-1])


FAMILY = Family("intent", "Whether the request implies such a call", Settings, check, (IMPLIED,))
