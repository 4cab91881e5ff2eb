"""A teacher, guard and scorer made of plain functions: they read our prompts, and go wrong where a test wants it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from safewright.treatments.srg.synthesis import Synthesis, SynthesisOptions, prompt_pool, synthesise, voices
from safewright.types import Chat, Decoding, Generation, ModelRef, Row

_PART = re.compile(r"^===== (\w{16}) ([a-z ]+) begins? =====\n(.*?)\n===== \1 \2 ends? =====$", re.M | re.S)
_SIGNS = {
    "You write demonstrations": "write",
    "You examine a demonstration": "score",
    "You grade how harmful": "harm",
    "You decide whether": "refusal",
    "You note what": "draft",
}


@dataclass(frozen=True)
class Asked:
    """One question: its kind, its material, which try it is, how often the same was asked before, and the seed."""

    kind: str
    material: dict[str, str]
    attempt: int
    before: int
    seed: int
    prompt: str

    @property
    def hinted(self) -> bool:
        return "known about the request beforehand" in self.prompt

    @property
    def request(self) -> str:
        return self.material["request"]

    @property
    def harmful(self) -> bool:
        return "forbidden" in self.request


Script = Callable[[Asked], "str | Generation"]


def understood(chat: Chat) -> tuple[str, dict[str, str], int]:
    """Kind, material and try of a conversation that begins with one of our prompts."""
    first = chat[0]["content"]
    kinds = [kind for sign, kind in _SIGNS.items() if first.startswith(sign)]
    assert len(kinds) == 1, first
    return kinds[0], {name: text for _, name, text in _PART.findall(first)}, (len(chat) + 1) // 2


def trace(asked: Asked, more: str = "", answer: str = "") -> str:
    """A sound trace for a request."""
    word = "refuse" if asked.harmful else "comply"
    said = answer or ("I won't help with that." if asked.harmful else f"Here is how: {asked.request}")
    return (
        f"<think>Somebody wants this: {asked.request} I look at who gains by it. Look {asked.before}.{more}\n"
        f"Decision: {word} - that is what follows.</think>\n{said}"
    )


def marks(asked: Asked, **changed: Any) -> str:
    """A scorer's object."""
    harmful = asked.harmful
    plain = dict.fromkeys(("safety", "relevance", "agreement", "specificity"), 9)
    facts = {
        "request_is_harmful": "yes" if harmful else "no",
        "answer_type": "refuse" if harmful else "comply",
    }
    return json.dumps({**plain, **facts, **changed})


def honest(asked: Asked) -> str:
    """Whoever does as they are told."""
    if asked.kind == "write":
        return trace(asked)
    if asked.kind == "score":
        return marks(asked)
    if asked.kind == "draft":
        return "A reply will describe how something is folded."
    if asked.kind == "harm":
        return "<reason>nothing in it</reason>\n<score>1</score>"
    refuses = "won't" in asked.material["reply"]
    return f"<reason>plainly</reason>\n<refusal>{'yes' if refuses else 'no'}</refusal>"


class Scripted:
    """A loaded model that answers by a script, and remembers what it was asked."""

    def __init__(self, script: Script = honest, name: str = "scripted") -> None:
        self.ref = ModelRef(kind="live", where=name, digest=f"declared:{name}")
        self.script = script
        self.asked: list[Asked] = []
        self._times: Counter[tuple[str, str]] = Counter()

    def stream(
        self, chats: Sequence[Chat], how: Decoding, *, done: frozenset[int] = frozenset()
    ) -> Generator[list[tuple[int, Generation]]]:
        for place, chat in enumerate(chats):
            if place not in done:
                kind, material, attempt = understood(chat)
                key = (kind, material["request"])
                asked = Asked(kind, material, attempt, self._times[key], how.seed, chat[0]["content"])
                self._times[key] += 1
                self.asked.append(asked)
                yield [(place, said(self.script(asked)))]

    def close(self) -> None:
        pass

    def kinds(self) -> Counter[str]:
        """How often each kind was asked."""
        return Counter(asked.kind for asked in self.asked)


def said(text: str | Generation) -> Generation:
    """A reply as an engine gives it: reasoning and answer split."""
    if isinstance(text, Generation):
        return text
    from safewright.models.chat import split_reasoning

    return Generation(text, *split_reasoning(text), "stop", len(text.split()))


def broke(why: str = "no answer after 6 tries") -> Generation:
    """A call that failed."""
    return Generation("", "", "", True, "error", 0, why)


def cut_off(text: str) -> Generation:
    """A reply that ran into its limit."""
    from safewright.models.chat import split_reasoning

    return Generation(text, *split_reasoning(text), "length", len(text.split()))


def harmful_row(n: int, **meta: Any) -> Row:
    return Row(
        f"h{n}",
        ({"role": "user", "content": f"How does one fold the forbidden boat {n}?"},),
        None,
        "en",
        meta,
    )


def helpful_row(n: int, **meta: Any) -> Row:
    return Row(
        f"b{n}",
        ({"role": "user", "content": f"How does one fold a paper boat of size {n}?"},),
        None,
        "en",
        meta,
    )


def harmful_rows(count: int, **meta: Any) -> list[Row]:
    return [harmful_row(n, **meta) for n in range(count)]


def helpful_rows(count: int, **meta: Any) -> list[Row]:
    return [helpful_row(n, **meta) for n in range(count)]


PLAIN: dict[str, Any] = {"formats": 0.0, "least_words": 5, "draws": 1}


def made(
    script: Script = honest,
    harmful: int = 2,
    helpful: int = 2,
    *,
    models: dict[str, Any] | None = None,
    rows: list[Row] | None = None,
    contrast: list[Row] | None = None,
    **set_: Any,
) -> tuple[Synthesis, Scripted]:
    """A synthesis with scripted models; the teacher among them."""
    options = SynthesisOptions(**{**PLAIN, **set_})
    teacher = Scripted(script)
    pool = prompt_pool(
        harmful_rows(harmful) if rows is None else rows,
        helpful_rows(helpful),
        contrast or (),
        share=options.formats,
    )
    given = models if models is not None else {}
    speakers = voices({"teacher": teacher, **given}, options)
    return synthesise(pool, speakers, options=options), teacher
