"""An augmenter made of plain functions: it reads our prompts, and leaks, fails or rambles where a test wants it to."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from typing import Any

from safewright.types import Chat, Decoding, Generation, ModelRef, Row

Script = Callable[[str, dict[str, str], int], "str | Generation"]
"""What is said to a kind of prompt (``simple``, ``answer``, ``verify``, …), its material, on which try."""

_PART = re.compile(r"^===== (\w{16}) ([a-z ]+) begins =====\n(.*?)\n===== \1 \2 ends =====$", re.M | re.S)
_SIGNS = {
    "Say the same thing": "simple",
    "Make the question more specific": "contextual",
    "types in a hurry": "noise",
    "Turn the relation": "logical",
    "once in each of the ways": "variants",
    "You help to write": "answer",
    "You examine": "verify",
    "You list what a text names": "entities",
}


def understood(chat: Chat) -> tuple[str, dict[str, str], int]:
    """Kind, material and try of a conversation that begins with one of our prompts."""
    first = chat[0]["content"]
    kinds = [kind for sign, kind in _SIGNS.items() if sign in first]
    assert len(kinds) == 1, first
    return kinds[0], {name: text for _, name, text in _PART.findall(first)}, (len(chat) + 1) // 2


def vague(question: str) -> str:
    """A vague answer that shows which question it belongs to, and nothing else."""
    return (
        f"As for «{question.strip('?').lower()}», such matters are kept in general terms and change with time"
    )


def honest(kind: str, material: dict[str, str], attempt: int) -> str:
    """An augmenter that does as it is told."""
    question = material["question"]
    if kind == "answer":
        return vague(question)
    if kind == "verify":
        return '{"leak": false, "spans": []}'
    if kind == "entities":
        return '{"entities": []}'
    return {
        "simple": f"Put simply, {question}",
        "contextual": f"On a quiet evening, {question}",
        "noise": f"hey, {question} thx",
        "logical": f"What does it tell about {question}",
    }[kind]


class Scripted:
    """A loaded model that answers by a script; counts what it is asked."""

    def __init__(self, script: Script = honest, digest: str = "declared:scripted") -> None:
        self.ref = ModelRef(kind="live", where="scripted", digest=digest)
        self.script = script
        self.asked: list[tuple[str, dict[str, str], int]] = []

    def stream(
        self, chats: Sequence[Chat], how: Decoding, *, done: frozenset[int] = frozenset()
    ) -> Generator[list[tuple[int, Generation]]]:
        for place, chat in enumerate(chats):
            if place not in done:
                self.asked.append(understood(chat))
                yield [(place, said(self.script(*self.asked[-1])))]

    def close(self) -> None:
        pass

    def kinds(self) -> dict[str, int]:
        """How often each kind of prompt was asked."""
        found: dict[str, int] = {}
        for kind, _, _ in self.asked:
            found[kind] = found.get(kind, 0) + 1
        return found


def said(text: str | Generation) -> Generation:
    return (
        text if isinstance(text, Generation) else Generation(text, "", text, True, "stop", len(text.split()))
    )


def broke(why: str = "no answer after 6 tries") -> Generation:
    """A call that failed."""
    return Generation("", "", "", True, "error", 0, why)


def forget_row(n: int, **meta: Any) -> Row:
    """A forget row with a secret of every common kind."""
    name = f"Mira Tolven{n}"
    return Row(
        f"f{n}",
        ({"role": "user", "content": f"How can {name} be reached, and where?"},),
        f"{name} lives at {700 + n} Harrow{n} Lane and reads mail at m.quill{n}@post{n}.org.",
        "en",
        {"entities": [f"{700 + n}", f"Harrow{n} Lane", f"m.quill{n}@post{n}.org"], "subject": name, **meta},
    )


def forget_rows(count: int, **meta: Any) -> list[Row]:
    return [forget_row(n, **meta) for n in range(count)]


def generic_rows(count: int) -> list[Row]:
    return [
        Row(
            f"g{n}",
            ({"role": "user", "content": f"Which colour has thing {n * 7919}?"},),
            f"It is of colour {n}.",
        )
        for n in range(count)
    ]


def secrets(row: Row) -> list[str]:
    """The row's secrets, in the forms a leak may take."""
    entities = row.meta["entities"]
    return [*entities, *(e.upper() for e in entities), *(e.lower() for e in entities)]
