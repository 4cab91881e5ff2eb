"""Parts that share no question, and the check that they do not.

Two questions count as the same when their words are, whatever the case, spacing and punctuation; they
overlap when they share 13 words in a row. A Chinese, Japanese or Thai character counts as a word.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from safewright.data.rows import content_digest
from safewright.errors import BadInput
from safewright.types import Row

GRAM = 13
"""Words in a row that make an overlap: the length of Brown et al. (2020), arXiv:2005.14165, appendix C."""

# Scripts without spaces, where one character is one word: kana, Chinese, Thai, Lao, Burmese, Khmer.
_SINGLE = (
    r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
)
# Marks that belong to the letter before them: combining accents, Hebrew and Arabic points, Indic vowels.
_MARKS = r"\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0963\u0966-\u0dff\u1ab0-\u1aff"
_PUNCTUATION = (
    r"!-/:-@\[-`{-~\u00a1\u00a7\u00ab\u00b6\u00b7\u00bb\u00bf\u060c\u061b\u061f\u0964\u0965"
    r"\u200b-\u206f\u3001-\u303f\ufe00-\ufe0f"
)
# Punctuation is dropped; other symbols are words of their own, so that rows of symbols stay distinct.
_WORD = re.compile(rf"[{_SINGLE}]|(?:(?![{_SINGLE}])[^\W_]|[{_MARKS}])+|[^\w\s{_PUNCTUATION}]")

# Punctuation that is written without spaces around it: Chinese and Japanese marks, full-width forms.
_PAUSES = r"\u3001-\u3003\u3008-\u301f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
_RUN = re.compile(rf"[{_SINGLE}]|[^\s{_SINGLE}{_PAUSES}]+")

# Soft hyphens and marks without width: two texts that differ by them look the same. Not U+200C, which
# Persian writes where others write a space.
_UNSEEN = re.compile("[\u00ad\u180e\u200b\u200d-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")


@dataclass(frozen=True)
class Overlap:
    """A row of one set that another set also has: ids, the kind of match, and how many 13-grams."""

    a: str
    b: str
    kind: Literal["exact", "13-gram"]
    shared: int


def words(text: str) -> list[str]:
    """The words of a text after NFKC and case folding, without punctuation, spacing and invisible marks."""
    return _WORD.findall(unicodedata.normalize("NFKC", _UNSEEN.sub("", text)).casefold())


def count_words(text: str) -> int:
    """How long a text is: runs between white space, as ``str.split`` counts them.

    Where a script has no spaces each character counts as a word, and its punctuation as white space.
    """
    return len(text.split()) if text.isascii() else len(_RUN.findall(text))


def normalise(text: str) -> str:
    """The form in which two texts are compared: their words with single spaces.

    A text of punctuation alone keeps it: otherwise all such texts would be the same.
    """
    return " ".join(words(text)) or "".join(unicodedata.normalize("NFKC", text).casefold().split())


def question(row: Row) -> str:
    """What is compared of a row: its user turns."""
    return "\n".join(turn["content"] for turn in row.prompt if turn["role"] == "user")


def overlap(a: Iterable[Row], b: Iterable[Row]) -> list[Overlap]:
    """The rows of ``a`` that ``b`` has too, in the order of ``a``; each with the first such row of ``b``.

    ``exact`` when the normalised questions are equal, else ``13-gram`` when they share 13 words in a row.
    Questions of fewer than 13 words can only match exactly.
    """
    import numpy as np

    left, right = list(a), list(b)
    keys: dict[str, int] = {}
    for place, row in enumerate(right):
        keys.setdefault(normalise(question(row)), place)
    grams_a, rows_a = _grams(left)
    grams_b, rows_b = _grams(right)
    unique, first = np.unique(grams_b, return_index=True)
    hits: dict[int, list[int]] = defaultdict(list)
    if len(unique) and len(grams_a):
        spots = np.minimum(np.searchsorted(unique, grams_a), len(unique) - 1)
        for i in np.flatnonzero(unique[spots] == grams_a):
            hits[int(rows_a[i])].append(int(rows_b[first[spots[i]]]))
    found: list[Overlap] = []
    for place, row in enumerate(left):
        same = keys.get(normalise(question(row)))
        if same is not None:
            found.append(Overlap(row.id, right[same].id, "exact", len(hits.get(place, ()))))
        elif place in hits:
            found.append(Overlap(row.id, right[min(hits[place])].id, "13-gram", len(hits[place])))
    return found


def require_disjoint(sets: Mapping[str, Sequence[Row]]) -> None:
    """Nothing, when no two of the named sets overlap.

    Raises:
        BadInput: Some do; the pairs, how many rows by which kind, and one pair of ids each.
    """
    said = []
    for (name, rows), (other, others) in combinations(sets.items(), 2):
        found = overlap(rows, others)
        if found:
            exact = sum(pair.kind == "exact" for pair in found)
            said.append(
                f"{len(found)} of {len(rows)} rows of {name!r} are also in {other!r} ({exact} exact, "
                f"{len(found) - exact} by 13 words in a row; first: {found[0].a} and {found[0].b})"
            )
    if said:
        raise BadInput(
            "; ".join(said) + ".",
            why="What a model was trained or tuned on says nothing about new questions.",
            fix="Remove the shared rows from one of the sets, or cut both from one file with a split.",
        )


def split(
    rows: Sequence[Row], sizes: Mapping[str, int | float], *, seed: int, disjoint: bool = True
) -> dict[str, list[Row]]:
    """Named parts of the rows, each in file order; rows beyond the sizes are in none.

    Rows with the same normalised question always land in the same part; with ``disjoint`` also rows that
    share 13 words in a row, directly or through others. The assignment depends on the rows' content and
    the seed, not on their order.

    Args:
        rows: What to split.
        sizes: Rows per part: a whole number, or a fraction of all rows such as 0.8.
        seed: Of the assignment.
        disjoint: Also keep 13-gram overlaps together.

    Raises:
        BadInput: A size is not positive, the parts need more rows than there are, or rows that belong
            together fit into no part.
    """
    counts = _counts(sizes, len(rows))
    groups = _groups(rows, together=disjoint)
    keyed = []
    for group in groups:
        name = min(content_digest(rows[i]) for i in group)
        keyed.append((-len(group), hashlib.sha256(f"{seed}\0{name}".encode()).hexdigest(), group))
    # Big groups first, while there is room; single rows then fill every part to its size.
    keyed.sort(key=lambda item: (item[0], item[1]))
    room = {**counts, "": len(rows) - sum(counts.values())}
    full = dict(room)
    chosen: dict[str, list[int]] = {name: [] for name in room}
    for negative, _, group in keyed:
        fitting = [name for name in room if room[name] >= -negative]
        if not fitting:
            raise BadInput(
                f"{-negative} rows belong together ({rows[group[0]].id} and others) and fit into no part "
                f"(asked for: {', '.join(f'{name} {n}' for name, n in counts.items())} of {len(rows)}).",
                why="Cutting through them would put the same question on both sides.",
                fix="Remove duplicates, make a part larger, or allow shared 13-grams with disjoint=False.",
            )
        part = max(fitting, key=lambda name: room[name] / full[name])
        room[part] -= len(group)
        chosen[part].extend(group)
    return {name: [rows[i] for i in sorted(chosen[name])] for name in counts}


def _counts(sizes: Mapping[str, int | float], n: int) -> dict[str, int]:
    if not sizes:
        raise BadInput("No parts were named.", fix="Give a size per part, for example train=0.8, test=0.2.")
    exact: dict[str, float] = {}
    for name, size in sizes.items():
        wrong = isinstance(size, bool) or not isinstance(size, (int, float)) or not size > 0
        if wrong or not name or (isinstance(size, float) and size > 1.0):
            raise BadInput(
                f"The size of part {name!r} is {size!r}.",
                fix="Give a whole number of rows, or a fraction up to 1.",
            )
        exact[name] = size * n if isinstance(size, float) else float(size)
    total = sum(exact.values())
    if total > n + 1e-6 * max(n, 1):
        raise BadInput(
            f"The parts need {total:g} rows, but there are {n}.",
            fix="Make a part smaller, or give more rows.",
        )
    counts = {name: int(value + 1e-9) for name, value in exact.items()}
    # Largest remainders, so that fractions that sum to one use every row.
    spare = min(round(total), n) - sum(counts.values())
    for name in sorted(counts, key=lambda part: counts[part] - exact[part])[: max(spare, 0)]:
        counts[name] += 1
    empty = [name for name, count in counts.items() if count == 0]
    if empty:
        raise BadInput(
            f"Part {empty[0]!r} would be empty: {sizes[empty[0]]!r} of {n} rows.", fix="Make it larger."
        )
    return counts


def _groups(rows: Sequence[Row], *, together: bool) -> list[list[int]]:
    """Places of rows that must not be separated: connected by equal questions or shared grams."""
    import numpy as np

    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[str, int] = {}
    for place, row in enumerate(rows):
        parent[root(place)] = root(first.setdefault(normalise(question(row)), place))
    if together:
        grams, owners = _grams(rows)
        order = np.argsort(grams, kind="stable")
        grams, owners = grams[order], owners[order]
        for i in np.flatnonzero(grams[1:] == grams[:-1]):
            parent[root(int(owners[i + 1]))] = root(int(owners[i]))
    groups: dict[int, list[int]] = defaultdict(list)
    for place in range(len(rows)):
        groups[root(place)].append(place)
    return list(groups.values())


def _grams(rows: Sequence[Row]) -> tuple[Any, Any]:
    """64-bit hashes of all 13-grams, one per distinct gram and row, and the row each belongs to.

    A gram's hash is a weighted sum of its words' hashes modulo 2^64; by chance two of 10 million
    different grams agree less than once in 100,000 runs.
    """
    import numpy as np

    known: dict[str, int] = {}
    codes: list[int] = []
    owners: list[int] = []
    for place, row in enumerate(rows):
        said = words(question(row))
        if len(said) >= GRAM:
            codes.extend(known.setdefault(word, len(known)) for word in said)
            owners.extend([place] * len(said))
    empty = np.zeros(0, dtype=np.int64)
    if not codes:
        return empty.astype(np.uint64), empty
    hashes = np.array([_word_hash(word) for word in known], dtype=np.uint64)
    weights = np.array([_word_hash(f"\0{i}") | 1 for i in range(GRAM)], dtype=np.uint64)
    each, owner = hashes[np.array(codes)], np.array(owners, dtype=np.int64)
    span = len(each) - GRAM + 1
    grams = np.zeros(span, dtype=np.uint64)
    for i in range(GRAM):
        grams += each[i : i + span] * weights[i]  # wraps modulo 2^64, as meant
    inside = owner[:span] == owner[GRAM - 1 :]
    grams, owner = grams[inside], owner[:span][inside]
    order = np.lexsort((grams, owner))
    grams, owner = grams[order], owner[order]
    fresh = np.ones(len(grams), dtype=bool)
    fresh[1:] = (grams[1:] != grams[:-1]) | (owner[1:] != owner[:-1])
    return grams[fresh], owner[fresh]


def _word_hash(word: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )
