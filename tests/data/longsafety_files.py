"""Made-up files in LongSafety's format: a set of a few rows, and one with every figure of the release.

The words are made up; only the counts, lengths and labels are the release's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from safewright.data.longsafety import DOCS, META, RELEASE, SAFETY_TYPES, TASK_TYPES

Object = dict[str, Any]

_TEXT = "zor blim kade wug fep dax toma lirk vun sabe quil nerp hosk jive murn pelt"
_WORDS = _TEXT.split()

_ANCHORS = (
    (0, 3000), (77, 3074), (78, 3074), (308, 3458), (309, 3459), (385, 3606), (386, 3606), (564, 3999),
    (565, 4001), (616, 4149), (617, 4149), (771, 4726), (840, 4999), (841, 5001), (925, 5490), (926, 5491),
    (1012, 5999), (1013, 6001), (1156, 6959), (1157, 6959), (1233, 7606), (1234, 7607), (1269, 7999),
    (1270, 8001), (1387, 9223), (1388, 9223), (1450, 9999), (1451, 10001), (1464, 10264), (1465, 10264),
    (1526, 13704), (1527, 13704), (1534, 14999), (1535, 15001), (1541, 19999), (1542, 20676),
)  # fmt: skip
"""Places among the sorted lengths that the quantiles and the bins of the release fix, and their words."""


def text(words: int, seed: int = 0) -> str:
    """So many made-up words, in paragraphs of fifty."""
    rng = np.random.default_rng(seed)
    chosen = [_WORDS[i] for i in rng.integers(len(_WORDS), size=words)]
    return "\n\n".join(" ".join(chosen[i : i + 50]) for i in range(0, words, 50))


def small(n: int, *, words: int = 60, seed: int = 0) -> list[Object]:
    """A few rows with their contexts: labels in turn through all 42 cells, every fifth row sharing a link."""
    cells = cycle((issue, task) for task in TASK_TYPES for issue in SAFETY_TYPES)
    rows = []
    for number, (issue, task) in zip(range(n), cells, strict=False):
        length = words + 7 * (number % 5)
        links = [f"https://zor.example/{number - 1 if number % 5 == 4 else number}"]
        rows.append(
            {
                "id": number,
                "link": links,
                "length": length,
                "safety_type": issue,
                "key_words": [f"{_WORDS[number % 7]} {_WORDS[number % 5]}"],
                "instruction": f"How would a {_WORDS[number % 16]} number {number} be blimmed?",
                "task_type": task,
                "doc_num": 1,
                "context": text(length, seed + number),
            }
        )
    return rows


def write(folder: Path, rows: Sequence[Object], *, documents: bool = True) -> Path:
    """Rows with contexts as the two files of the release, the documents in reversed order; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = [{key: value for key, value in row.items() if key != "context"} for row in rows]
    _lines(folder / META, meta)
    if documents:
        _lines(folder / DOCS, [{"id": row["id"], "context": row["context"]} for row in reversed(rows)])
    return folder


def write_small(folder: Path, n: int = 12, *, words: int = 60, seed: int = 0) -> Path:
    """The two files of a small set; see `small`."""
    return write(folder, small(n, words=words, seed=seed))


def release_like(scale: float = 1.0, *, contexts: bool = False) -> list[Object]:
    """1,543 made-up rows with every figure of the release; lengths times ``scale``, at least 1.

    With ``contexts`` the documents too, as long as ``length`` says: 8.6 million words at scale 1.
    """
    rows = []
    for row in _release():
        length = max(1, round(row["length"] * scale))
        made = {**row, "link": list(row["link"]), "key_words": list(row["key_words"]), "length": length}
        rows.append({**made, "context": text(length, row["id"])} if contexts else made)
    return rows


def write_release_like(folder: Path, *, scale: float = 1.0, documents: bool = False) -> Path:
    """The metadata file of `release_like`, and its documents if asked; the folder."""
    return write(folder, release_like(scale, contexts=documents), documents=documents)


def _lines(file: Path, objects: Sequence[Object]) -> None:
    file.write_text("".join(json.dumps(obj) + "\n" for obj in objects), encoding="utf-8")


@lru_cache
def _release() -> tuple[Object, ...]:
    rng = np.random.default_rng(7)
    labels = [
        (issue, task)
        for issue, tasks in RELEASE["cross"].items()
        for task, n in tasks.items()
        for _ in range(n)
    ]
    labels = [labels[i] for i in rng.permutation(len(labels))]
    documents = rng.permutation(np.repeat(list(RELEASE["doc_num"]), list(RELEASE["doc_num"].values())))
    lengths = _assigned(labels, documents, rng)
    links = _links(documents, rng)
    return tuple(
        {
            "id": number,
            "link": links[number],
            "length": int(lengths[number]),
            "safety_type": issue,
            "key_words": [f"{_WORDS[number % 16]} {_WORDS[number % 3]}"],
            # The release has one instruction twice.
            "instruction": f"How would a {_WORDS[min(number, 1541) % 16]} number {min(number, 1541)} be blimmed?",
            "task_type": task,
            "doc_num": int(documents[number]),
        }
        for number, (issue, task) in enumerate(labels)
    )


def _sorted_lengths() -> np.ndarray:
    """Lengths with the release's quantiles, bins, mean and spread, in order."""
    total = round(RELEASE["mean length"] * RELEASE["rows"])

    def drawn(bend: float, tail: float) -> np.ndarray:
        values = np.zeros(RELEASE["rows"], np.int64)
        for (left, low), (right, high) in pairwise(_ANCHORS):
            steps = (np.arange(left, right + 1) - left) / max(1, right - left)
            power = tail if low >= 8000 else bend
            values[left : right + 1] = np.round(low + (high - low) * steps**power)
        return values

    def filled(tail: float) -> np.ndarray:
        """The bend of the shorter lengths that gives the mean: a larger one makes them shorter."""
        bend = _solved(lambda bend: drawn(bend, tail).sum() > total)
        return drawn(bend, tail)

    values = filled(_solved(lambda tail: filled(tail).std() > RELEASE["sd of length"]))
    fixed = {place for place, _ in _ANCHORS}
    free = [place for place in range(len(values)) if place not in fixed]
    step = 1 if values.sum() < total else -1
    for place in free[::-1] if step > 0 else free:
        if values.sum() == total:
            break
        if values[place - 1] <= values[place] + step <= values[place + 1]:
            values[place] += step
    return values


def _solved(too_large: Callable[[float], bool]) -> float:
    low, high = 0.05, 20.0
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if too_large(middle) else (low, middle)
    return high


def _assigned(
    labels: Sequence[tuple[str, str]], documents: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The lengths given to rows so that each group has its mean: swaps that bring the sums nearer."""
    groups = [[f"safety_type {issue}", f"task_type {task}"] for issue, task in labels]
    for place, count in enumerate(documents):
        groups[place] += ["single"] if count == 1 else []
    aims = {
        f"{kind} {label}": (n * mean, 0.45 * n)
        for kind in ("safety_type", "task_type")
        for label, (n, mean) in RELEASE[kind].items()
    }
    singles = RELEASE["doc_num"][1]
    aims["single"] = (singles * RELEASE["mean length of one document"], 0.45 * singles)
    # Rows of one document are longer: begin with a rough ordering that has it so.
    order = np.argsort(rng.random(len(labels)) + 0.45 * (documents == 1), kind="stable")
    lengths = np.empty(len(labels), np.int64)
    lengths[order] = _sorted_lengths()
    sums = dict.fromkeys(aims, 0)
    for place, names in enumerate(groups):
        for name in names:
            sums[name] += int(lengths[place])

    def off(name: str, total: int) -> float:
        return max(0.0, float(abs(total - aims[name][0]) - aims[name][1]))

    pairs: Iterator[Any] = iter(rng.integers(len(labels), size=(400_000, 2)).tolist())
    while any(off(name, total) > 0 for name, total in sums.items()):
        a, b = next(pairs)
        move = int(lengths[b] - lengths[a])
        only_a, only_b = set(groups[a]) - set(groups[b]), set(groups[b]) - set(groups[a])
        new = {name: sums[name] + move for name in only_a} | {name: sums[name] - move for name in only_b}
        if move and sum(off(n, t) for n, t in new.items()) < sum(off(n, sums[n]) for n in new):
            sums |= new
            lengths[a], lengths[b] = lengths[b], lengths[a]
    return lengths


def _links(documents: np.ndarray, rng: np.random.Generator) -> list[list[str]]:
    """Links that give 1,433 clusters, the largest of 9 rows, 173 rows in shared ones and 2,599 links.

    122 links stand in several rows, 19 of them in three: 62 clusters of 2 or 3 rows and a chain of nine.
    """
    many = iter(rng.permutation(np.flatnonzero(documents >= 2)).tolist())
    few = iter(rng.permutation(np.flatnonzero(documents == 1)).tolist())
    links: list[list[str]] = [[] for _ in documents]
    names = iter(f"https://zor.example/shared/{number}" for number in range(10**6))

    def share(*rows: int) -> None:
        link = next(names)
        for row in rows:
            links[row].append(link)

    chain = [next(many) for _ in range(9)]
    for left, right in pairwise(chain):
        share(left, right)
    for _ in range(19):
        share(next(few), next(few), next(few))
    for number in range(21):
        left, middle, right = (next(many) for _ in range(3))
        share(left, middle)
        share(middle, right)
        if number < 9:
            share(left, right)  # a third link where two would join them
    for _ in range(22):
        left, right = next(many), next(many)
        share(left, right)
        share(left, right)
    for row, shared in enumerate(links):
        own = range(int(documents[row]) - len(shared))
        shared += [f"https://zor.example/{row}/{number}" for number in own]
    return links
