"""Contexts cut, padded and exchanged, on the boundaries a reader would choose."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence

from safewright.data.splits import count_words
from safewright.errors import BadInput
from safewright.types import Row

GAP = "\n\n[…]\n\n"
"""Stands where the middle of a context was left out."""

LIKE_LENGTH = (0.8, 1.25)
"""Ratio of lengths within which another row's context may stand for a row's own."""

CLOSE = 0.2
"""A boundary within this share of the wanted length is near enough; otherwise a finer kind is taken."""

PLACES = ("first", "middle", "last")
"""Where the relevant document stands among padding."""

_ENDS = (
    re.compile(r"\n[ \t]*\n\s*"),
    re.compile(r"\n\s*"),
    re.compile(r"(?<=[.!?])\s+|(?<=[。！？])"),
    re.compile(r"\s+|(?<=[\u3040-\u30ff\u3400-\u9fff])"),
)
"""Ends of paragraphs, lines, sentences and words, coarsest first."""


def beginning(text: str, share: float) -> str:
    """The first ``share`` of a text's words, cut at the end of a paragraph where one is near.

    Args:
        text: Any text.
        share: Above 0 and at most 1.
    """
    total = count_words(text)
    wanted = max(1, round(total * share))
    if wanted >= total:
        return text
    cut = text
    for kind in _ENDS:
        cut = _cut_near(text, kind, wanted)
        if cut and abs(count_words(cut) - wanted) <= max(1, CLOSE * wanted):
            break
    return cut or text


def _cut_near(text: str, kind: re.Pattern[str], wanted: int) -> str:
    """The text up to the boundary of one kind whose number of words is nearest to ``wanted``."""
    best, off, words, start = "", wanted + 1, 0, 0
    for found in kind.finditer(text):
        if found.start() == 0 or (found.start() <= start and best):
            continue
        words += count_words(text[start : found.start()])
        start = found.start()
        if abs(words - wanted) < off and words:
            best, off = text[:start], abs(words - wanted)
        if words > wanted:
            break
    return best


def ending(text: str, share: float) -> str:
    """The last ``share`` of a text's words."""
    spans = [found.end() for found in _ENDS[-1].finditer(text) if 0 < found.end() < len(text)]
    if not spans:
        return text[-max(1, round(len(text) * share)) :]
    keep = max(1, round((len(spans) + 1) * share))
    return text if keep > len(spans) else text[spans[-keep] :]


def without_middle(text: str, share: float) -> str:
    """A text with so much of its middle left out that ``share`` of its words stay, half at either end."""
    if share >= 1:
        return text
    half = max(share / 2, 1e-9)
    spans = [found.start() for found in _ENDS[-1].finditer(text) if 0 < found.start() < len(text)]
    if len(spans) < 2:
        keep = max(1, int(len(text) * half))
        return text[:keep] + GAP + text[-keep:]
    keep = min(max(1, round((len(spans) + 1) * half)), len(spans))
    return text[: spans[keep - 1]].rstrip() + GAP + text[spans[-keep] :].lstrip()


def padded(own: str, others: Iterable[tuple[str, int]], times: float, place: str) -> str:
    """A context made ``times`` as long by other documents around it.

    Args:
        own: The relevant document, which stays whole.
        others: Documents to pad with, and their words, in the order they are taken; the last one taken is cut
            to fit.
        times: Length of the result over that of ``own``, in words; more than ``others`` hold is an error.
        place: Where the relevant document stands, one of `PLACES`.

    Raises:
        BadInput: The other documents are too short.
    """
    lacking = round(count_words(own) * (times - 1))
    taken: list[str] = []
    for other, length in others:
        if lacking <= 0:
            break
        taken.append(other if length <= lacking else beginning(other, lacking / length))
        lacking -= length
    if lacking > 0:
        raise BadInput(
            f"A context cannot be made {times:g} times as long: {lacking} words are lacking.",
            fix="Give more rows, of several safety types, or leave the longest scales out (--set scales=…).",
        )
    before = {"first": 0, "middle": len(taken) // 2, "last": len(taken)}[place]
    return "\n\n".join([*taken[:before], own, *taken[before:]])


class Padding:
    """Documents to pad contexts with: for each row and length another beginning in one mixed order.

    Args:
        rows: With contexts in their meta.
        seed: Of the order, the beginnings and the places.
    """

    def __init__(self, rows: Sequence[Row], seed: int) -> None:
        self._rows, self._seed = list(rows), seed
        random.Random(seed).shuffle(self._rows)
        self._words: dict[str, int] = {}

    def around(self, row: Row, times: float) -> tuple[str, str]:
        """Where the row's own document stands, and the text of ``times`` its length; see `padded`."""
        draw = random.Random(f"{self._seed}|{row.id}|{times:g}")
        place = draw.choice(PLACES)
        return place, padded(
            row.meta["context"], self._strangers(row, draw.randrange(len(self._rows))), times, place
        )

    def _strangers(self, row: Row, start: int) -> Iterator[tuple[str, int]]:
        for other in [*self._rows[start:], *self._rows[:start]]:
            if strangers(row, other):
                text = other.meta["context"]
                if other.id not in self._words:
                    self._words[other.id] = count_words(text)
                yield text, self._words[other.id]


def strangers(one: Row, other: Row) -> bool:
    """Whether two rows have nothing in common: neither safety type nor key word nor link."""
    if one.id == other.id or one.meta.get("safety_type") == other.meta.get("safety_type"):
        return False
    return not any(
        set(one.meta.get(key) or ()) & set(other.meta.get(key) or ()) for key in ("key_words", "link")
    )


def exchanged(rows: Sequence[Row], seed: int) -> dict[str, str]:
    """For as many rows as possible the id of another whose context stands for theirs; each is used once.

    The other row has another safety type, no key word or link in common, and a context of like length
    (`LIKE_LENGTH`). A maximum matching: a row without a partner is left out.

    Args:
        rows: With context, length, safety type, key words and links in their meta.
        seed: Which of the possible matchings.

    Source: the definition is ours; the paper's is not published in detail.
    """
    import numpy as np
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching

    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    mixed = [rows[place] for place in order]
    by_length = sorted(range(len(mixed)), key=lambda i: float(mixed[i].meta["length"]))
    lengths = np.array([float(mixed[i].meta["length"]) for i in by_length])
    lines, columns = [], []
    for i, row in enumerate(mixed):
        low, high = (float(row.meta["length"]) * ratio for ratio in LIKE_LENGTH)
        first, last = np.searchsorted(lengths, low, "left"), np.searchsorted(lengths, high, "right")
        for j in sorted(by_length[first:last]):
            if strangers(row, mixed[j]):
                lines.append(i)
                columns.append(j)
    if not lines:
        return {}
    graph = csr_matrix((np.ones(len(lines), dtype=np.int8), (lines, columns)), shape=(len(rows), len(rows)))
    partner = maximum_bipartite_matching(graph, perm_type="column")
    return {row.id: mixed[j].id for row, j in zip(mixed, partner.tolist(), strict=True) if j >= 0}
