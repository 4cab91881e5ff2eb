"""Figures of a long-context set: its clusters, its statistics, and those the release is known to have."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from safewright.data.longsafety.labels import SAFETY_TYPES, SHOWN, TASK_TYPES, listed
from safewright.types import Check, Row


def clusters(links: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """For each row, given as id and links, the connected component of rows that share a link.

    Named ``c`` and the smallest id in it (numbers by size, then other texts).
    """
    root = list(range(len(links)))

    def top(place: int) -> int:
        while root[place] != place:
            root[place] = root[root[place]]
            place = root[place]
        return place

    first: dict[str, int] = {}
    for place, (_, shared) in enumerate(links):
        for link in shared:
            root[top(place)] = top(first.setdefault(link, place))
    smallest: dict[int, str] = {}
    for place, (name, _) in enumerate(links):
        smallest[top(place)] = min(smallest.get(top(place), name), name, key=_by_size)
    return [f"c{smallest[top(place)]}" for place in range(len(links))]


def oddities(rows: Sequence[Row]) -> list[str]:
    """What is odd about a set's instructions, links and keywords, one sentence each."""
    notes = []
    asked: dict[str, list[str]] = defaultdict(list)
    linked: dict[str, set[str]] = defaultdict(set)
    issues: dict[str, Counter[str | None]] = defaultdict(Counter)
    uneven = []
    for row in rows:
        meta = row.meta
        asked[row.prompt[-1]["content"].strip()].append(row.id)
        for link in meta.get("link", ()):
            linked[link].add(row.id)
        for word in meta.get("key_words", ()):
            issues[word][meta.get("safety_type")] += 1
        if "doc_num" in meta and "link" in meta and meta["doc_num"] != len(meta["link"]):
            uneven.append(row.id)
    twice = [names for text, names in asked.items() if text and len(names) > 1]
    if twice:
        same = "; ".join(", ".join(names[:SHOWN]) for names in twice[:SHOWN])
        notes.append(f"Instructions that stand in more than one row: {len(twice)} ({same}).")
    if uneven:
        notes.append(f"`doc_num` is not the number of links in {len(uneven)} rows ({listed(uneven)}).")
    shared = sum(len(names) > 1 for names in linked.values())
    if shared:
        sizes = Counter(row.meta["cluster"] for row in rows)
        many = sum(size for size in sizes.values() if size > 1)
        notes.append(
            f"Links that stand in more than one row: {shared}; {len(sizes)} clusters, {many} rows in shared ones."
        )
    astray = {word: sum(seen.values()) - max(seen.values()) for word, seen in issues.items() if len(seen) > 1}
    if astray:
        notes.append(
            f"Keywords that stand under several safety types: {len(astray)} ({sum(astray.values())} rows away from "
            "the commonest one)."
        )
    return notes


def _by_size(name: str) -> tuple[int, int, str]:
    return (0, int(name), name) if re.fullmatch(r"[0-9]{1,18}", name) else (1, 0, name)


QUANTILES = {"p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99}
BINS = (3000, 4000, 5000, 6000, 8000, 10000, 15000, 20000)
"""Lower edges in words, each bin up to the next one's edge; the last is open."""

_TASK_ORDER = (
    "Brainstorming",
    "Generation",
    "Question Answering",
    "Rewrite",
    "Role-playing",
    "Summarization",
)

RELEASE: Mapping[str, Any] = {
    "rows": 1543,
    "length": {
        "min": 3000,
        "p5": 3074,
        "p25": 3606,
        "median": 4726,
        "p75": 6959,
        "p90": 9223,
        "p95": 10264,
        "p99": 13704,
        "max": 20676,
    },
    "mean length": 5579.09,
    "sd of length": 2521,
    "total length in millions": 8.61,
    "bins": dict(zip(BINS, (565, 276, 172, 257, 181, 84, 7, 1), strict=True)),
    "cross": {
        issue: dict(zip(_TASK_ORDER, counts, strict=True))
        for issue, counts in {
            "Bias": (39, 52, 15, 40, 37, 38),
            "Illegal Activities": (77, 54, 86, 27, 82, 47),
            "Physical & Mental Health": (28, 25, 62, 19, 46, 33),
            "Privacy & Property": (21, 15, 39, 8, 12, 16),
            "Sensitive Topics": (19, 43, 32, 38, 26, 12),
            "Toxicity": (35, 44, 32, 5, 36, 30),
            "Unethical Activities": (59, 44, 68, 22, 54, 26),
        }.items()
    },
    "safety_type": {
        "Illegal Activities": (373, 5710),
        "Unethical Activities": (273, 5375),
        "Bias": (221, 5935),
        "Physical & Mental Health": (213, 5169),
        "Toxicity": (182, 5821),
        "Sensitive Topics": (170, 5528),
        "Privacy & Property": (111, 5400),
    },
    "task_type": {
        "Question Answering": (334, 5467),
        "Role-playing": (293, 5375),
        "Brainstorming": (278, 5492),
        "Generation": (277, 5616),
        "Summarization": (202, 5975),
        "Rewrite": (159, 5777),
    },
    "doc_num": {1: 962, 2: 249, 3: 167, 4: 100, 5: 35, 6: 16, 7: 8, 8: 4, 9: 1, 11: 1},
    "mean length of one document": 6322,
    "clusters": {"clusters": 1433, "largest": 9, "rows in shared clusters": 173},
    "distinct links": 2599,
    "distinct instructions": 1542,
}
"""The released metadata in figures, computed from that file when this method was specified.

``safety_type`` and ``task_type`` give rows and mean length; quantiles are interpolated linearly.
"""


def statistics(rows: Sequence[Row]) -> dict[str, Any]:
    """A set in figures: rows by label, the cross table, documents, lengths (words), clusters, links.

    All labels are there, also those of no row; a row without a label counts under ``none``, there only if it
    occurs. Mean lengths and the lengths' figures are None where no row has a length.
    """
    metas = [row.meta for row in rows]
    links = Counter(link for meta in metas for link in set(meta.get("link", ())))
    sizes = Counter(meta["cluster"] for meta in metas)
    cross = {issue: dict.fromkeys(TASK_TYPES, 0) for issue in SAFETY_TYPES}
    for meta in metas:
        if "safety_type" in meta and "task_type" in meta:
            cross[meta["safety_type"]][meta["task_type"]] += 1
    return {
        "rows": len(rows),
        "safety_type": _by_label(metas, "safety_type", SAFETY_TYPES),
        "task_type": _by_label(metas, "task_type", TASK_TYPES),
        "cross": cross,
        "doc_num": dict(sorted(Counter(meta["doc_num"] for meta in metas if "doc_num" in meta).items())),
        "length": _lengths([meta["length"] for meta in metas if "length" in meta]),
        "clusters": {
            "clusters": len(sizes),
            "largest": max(sizes.values(), default=0),
            "rows in shared clusters": sum(size for size in sizes.values() if size > 1),
        },
        "links": {"distinct": len(links), "in several rows": sum(count > 1 for count in links.values())},
        "distinct instructions": len({row.prompt[-1]["content"] for row in rows}),
        "distinct keywords": len({word for meta in metas for word in meta.get("key_words", ())}),
    }


def release_checks(rows: Sequence[Row]) -> list[Check]:
    """Whether rows have each figure the released metadata has (`RELEASE`), with what was seen.

    Agreement says that the counts are the release's, not that the texts are.
    """
    found, checks = statistics(rows), []

    def check(name: str, seen: Any, expected: Any, within: float | None = None) -> None:
        if within is None:
            checks.append(Check(name, seen == expected, f"{seen}, expected {expected}"))
        else:
            # A hair above the tolerance: 5579.10 - 5579.09 is more than 0.01 in floating point.
            holds = seen is not None and abs(seen - expected) <= within + 1e-9
            checks.append(Check(name, holds, f"{seen}, expected {expected} ± {within}"))

    check("rows", found["rows"], RELEASE["rows"])
    ids = [row.id for row in rows]
    check("ids are distinct", len(set(ids)), RELEASE["rows"])
    check("ids are 0 to 1542 in order", ids == [str(i) for i in range(RELEASE["rows"])], True)
    length = found["length"]
    for name, expected in RELEASE["length"].items():
        check(f"length: {name}", length[name], expected, 0.0 if name in ("min", "max") else 0.5)
    check("length: mean", length["mean"], RELEASE["mean length"], 0.01)
    # The specification does not say whether it divides by n or n - 1: they differ by 0.8.
    check("length: sd", length["sd"], RELEASE["sd of length"], 1.3)
    millions = None if length["total"] is None else length["total"] / 1e6
    check("length: total in millions", millions, RELEASE["total length in millions"], 0.005)
    for edge, expected in RELEASE["bins"].items():
        check(f"length: rows from {edge}", length["bins"][edge], expected)
    for kind in ("safety_type", "task_type"):
        for label, (count, mean) in RELEASE[kind].items():
            check(f"{kind} {label}: rows", found[kind][label]["rows"], count)
            check(f"{kind} {label}: mean length", found[kind][label]["mean length"], mean, 0.5)
    for issue, tasks in RELEASE["cross"].items():
        for task, expected in tasks.items():
            check(f"{issue} by {task}", found["cross"][issue][task], expected)
    check("doc_num: rows", found["doc_num"], RELEASE["doc_num"])
    single = [row.meta["length"] for row in rows if row.meta.get("doc_num") == 1 and "length" in row.meta]
    check("doc_num 1: mean length", _mean(single), RELEASE["mean length of one document"], 0.5)
    uneven = [row.id for row in rows if len(row.meta.get("link", ())) != row.meta.get("doc_num")]
    checks.append(
        Check("doc_num is the number of links", not uneven, f"not so in {listed(uneven)}" if uneven else "")
    )
    for name, expected in RELEASE["clusters"].items():
        check(f"clusters: {name}", found["clusters"][name], expected)
    check("links: distinct", found["links"]["distinct"], RELEASE["distinct links"])
    check("instructions: distinct", found["distinct instructions"], RELEASE["distinct instructions"])
    return checks


def _by_label(metas: Sequence[Mapping[str, Any]], name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    table = {}
    for label in (*labels, None):
        those = [meta for meta in metas if meta.get(name) == label]
        if label is not None or those:
            lengths = [meta["length"] for meta in those if "length" in meta]
            table[label or "none"] = {"rows": len(those), "mean length": _mean(lengths)}
    return table


def _lengths(lengths: Sequence[int]) -> dict[str, Any]:
    import numpy as np

    names = ("min", *QUANTILES, "max", "mean", "sd", "total")
    bins = dict.fromkeys(BINS, 0)
    below = 0
    for length in lengths:
        edge = max((edge for edge in BINS if edge <= length), default=None)
        if edge is None:
            below += 1
        else:
            bins[edge] += 1
    if not lengths:
        return {**dict.fromkeys(names), "below the first bin": 0, "bins": bins}
    values = np.asarray(lengths, np.float64)
    quantiles = np.quantile(values, list(QUANTILES.values()))
    return {
        "min": min(lengths),
        **{name: float(value) for name, value in zip(QUANTILES, quantiles, strict=True)},
        "max": max(lengths),
        "mean": float(values.mean()),
        "sd": float(values.std(ddof=1)) if len(lengths) > 1 else None,
        "total": sum(lengths),
        "below the first bin": below,
        "bins": bins,
    }


def _mean(lengths: Sequence[int]) -> float | None:
    return sum(lengths) / len(lengths) if lengths else None
