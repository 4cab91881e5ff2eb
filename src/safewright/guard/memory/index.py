"""The vectors of a namespace, in memory, brought up to date before every search."""

from __future__ import annotations

import sqlite3
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safewright.guard.memory.vectors import Vectors, cosines, norms_of

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

    def __len__(self) -> int:
        return len(self._where)

    def refresh(self, connection: sqlite3.Connection, version: int, pruned: int) -> None:
        """Take in what changed in the file since the last time; everything anew where entries were removed."""
        if version == self.version:
            return
        if self.version < pruned or version < self.version:
            self._groups, self._where, self.version = {}, {}, -1
        rows = connection.execute(
            "SELECT id, hits, side_effect, privilege, criteria_hash, dim FROM entry"
            " WHERE ns = ? AND changed > ?",
            (self.namespace, self.version),
        ).fetchall()
        new: dict[Class, list[Any]] = {}
        for entry, hits, effect, privilege, criteria, dimension in rows:
            if entry in self._where:
                group, at = self._where[entry]
                group.hits[at] = hits
            else:
                new.setdefault((effect, privilege, criteria), []).append((entry, hits, dimension))
        for kind, entries in new.items():
            self._add(connection, kind, entries)
        self.version = version

    def _add(self, connection: sqlite3.Connection, kind: Class, entries: list[Any]) -> None:
        dimension = entries[0][2]
        group = self._groups.get(kind)
        if group is None:
            group = self._groups[kind] = _Group(dimension)
        matrix = np.empty((len(entries), dimension), np.float32)
        for row, (entry, _, _) in zip(matrix, entries, strict=True):
            (blob,) = connection.execute("SELECT vec FROM entry WHERE id = ?", (entry,)).fetchone()
            row[:] = np.frombuffer(blob, np.float32)
        first = group.count
        group.add([entry for entry, _, _ in entries], [hits for _, hits, _ in entries], matrix)
        for offset, (entry, _, _) in enumerate(entries):
            self._where[entry] = (group, first + offset)

    def search(
        self, vector: Vectors, kind: Class | None, most: int, threshold: float | None
    ) -> list[tuple[int, float]]:
        """The entries of a class (of all where None) most like a vector: id and cosine, best first.

        Equal cosines are ordered by hits, then by the lower id. Below the threshold there is nothing.
        """
        groups = self._groups.values() if kind is None else [self._groups.get(kind)]
        best: list[tuple[float, int, int]] = []
        for group in groups:
            if group is None or group.count == 0 or group.matrix.shape[1] != len(vector):
                continue
            count = group.count
            scores = cosines(group.matrix[:count], group.norms[:count], vector)
            least = float("-inf") if threshold is None else threshold
            if count > most:
                least = max(least, float(np.partition(scores, count - most)[count - most]))
            for at in np.flatnonzero(scores >= least):
                best.append((-float(scores[at]), -int(group.hits[at]), int(group.ids[at])))
        return [(entry, -score) for score, _, entry in sorted(best)[:most]]
