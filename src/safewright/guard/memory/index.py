"""The vectors of a namespace, in memory, brought up to date before every search."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from safewright.guard.memory.vectors import Vectors, cosines, norms_of

MOST_QUESTIONS = 1_024
MOST_EQUAL = 64

Class = tuple[str, str, str]
"""Side effect, privilege and criteria: entries of another class are not compared."""


class _Group:
    """The entries of one class, in arrays that grow by doubling."""

    def __init__(self, dimension: int) -> None:
        self.count = 0
        self.ids: NDArray[np.int64] = np.zeros(8, np.int64)
        self.hits: NDArray[np.int64] = np.zeros(8, np.int64)
        self.norms: NDArray[np.float64] = np.zeros(8, np.float64)
        self.matrix: Vectors = np.zeros((8, dimension), np.float32)

    def add(self, ids: list[int], hits: list[int], matrix: Vectors) -> None:
        needed = self.count + len(ids)
        if needed > len(self.ids):
            room = max(needed, 2 * len(self.ids)) - len(self.ids)
            self.ids = np.concatenate([self.ids, np.zeros(room, np.int64)])
            self.hits = np.concatenate([self.hits, np.zeros(room, np.int64)])
            self.norms = np.concatenate([self.norms, np.zeros(room, np.float64)])
            self.matrix = np.concatenate([self.matrix, np.zeros((room, self.matrix.shape[1]), np.float32)])
        at = slice(self.count, needed)
        self.ids[at], self.hits[at], self.matrix[at], self.norms[at] = ids, hits, matrix, norms_of(matrix)
        self.count = needed


class Index:
    """Finds the entries most like a vector. Not safe for threads: its owner holds a lock."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.version = -1
        self._groups: dict[Class, _Group] = {}
        self._where: dict[int, tuple[_Group, int]] = {}
        self._asked: OrderedDict[tuple[Class, bytes, int, float], tuple[int, list[tuple[int, float]]]] = (
            OrderedDict()
        )

    def __len__(self) -> int:
        return len(self._where)

    def refresh(self, connection: sqlite3.Connection, version: int, pruned: int) -> None:
        """Take in what changed in the file since the last time; everything anew where entries were removed."""
        if version == self.version:
            return
        if self.version < pruned or version < self.version:
            self._groups, self._where, self.version = {}, {}, -1
            self._asked.clear()
        # A first reading takes vectors along; later ones meet mostly entries whose vector is known.
        whole = self.version == -1
        rows = connection.execute(
            f"SELECT id, hits, side_effect, privilege, criteria_hash{', vec' if whole else ''} FROM entry"
            " WHERE ns = ? AND changed > ?",
            (self.namespace, self.version),
        )
        new: dict[Class, list[tuple[int, int, Vectors]]] = {}
        for entry, hits, effect, privilege, criteria, *rest in rows.fetchall():
            if entry in self._where:
                group, at = self._where[entry]
                group.hits[at] = hits
            else:
                blob = rest[0] if whole else _blob(connection, entry)
                vector = np.frombuffer(blob, "<f4").astype(np.float32, copy=False)
                new.setdefault((effect, privilege, criteria), []).append((entry, hits, vector))
        for kind, entries in new.items():
            self._add(kind, entries)
        self.version = version

    def _add(self, kind: Class, entries: list[tuple[int, int, Vectors]]) -> None:
        group = self._groups.get(kind)
        if group is None:
            group = self._groups[kind] = _Group(len(entries[0][2]))
        first = group.count
        group.add(
            [entry for entry, _, _ in entries],
            [hits for _, hits, _ in entries],
            np.stack([vector for _, _, vector in entries]),
        )
        for offset, (entry, _, _) in enumerate(entries):
            self._where[entry] = (group, first + offset)

    def search(
        self, vector: Vectors, kind: Class | None, most: int, threshold: float | None
    ) -> list[tuple[int, float]]:
        """The entries of a class (of all where None) most like a vector: id and cosine, best first.

        Equal cosines are ordered by hits, then by the lower id. Below the threshold there is nothing.
        """
        groups = self._groups if kind is None else {kind: self._groups[kind]} if kind in self._groups else {}
        best: list[tuple[float, int, int]] = []
        for name, group in groups.items():
            if group.matrix.shape[1] == len(vector):
                least = float("-inf") if threshold is None else threshold
                rows = self._best(name, group, vector, most, least)
                best += [(-score, -int(group.hits[at]), int(group.ids[at])) for at, score in rows]
        return [(entry, -score) for score, _, entry in sorted(best)[:most]]

    def _best(
        self, name: Class, group: _Group, vector: Vectors, most: int, least: float
    ) -> list[tuple[int, float]]:
        """The rows of a group that may be among the best, with their scores: the best ones and all that equal the last.

        Vectors do not change, so what was found for the same question before still holds; only rows that came since
        are compared.
        """
        question = (name, vector.tobytes(), most, least)
        seen, known = self._asked.pop(question, (0, []))
        scores = cosines(group.matrix[seen : group.count], group.norms[seen : group.count], vector)
        if len(scores) > most:
            floor = max(least, float(np.partition(scores, len(scores) - most)[len(scores) - most]))
        else:
            floor = least
        known = known + [(seen + int(at), float(scores[at])) for at in np.flatnonzero(scores >= floor)]
        if len(known) > most:
            last = sorted((score for _, score in known), reverse=True)[most - 1]
            known = [(at, score) for at, score in known if score >= last]
        if len(known) <= MOST_EQUAL:
            self._asked[question] = (group.count, known)
            while len(self._asked) > MOST_QUESTIONS:
                self._asked.popitem(last=False)
        return known


def _blob(connection: sqlite3.Connection, entry: int) -> bytes:
    found: bytes = connection.execute("SELECT vec FROM entry WHERE id = ?", (entry,)).fetchone()[0]
    return found
