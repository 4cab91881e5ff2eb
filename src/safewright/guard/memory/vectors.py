"""Texts as vectors. The default needs no model and no network, and gives the same bits everywhere."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from safewright.errors import BadInput, Missing

Vectors = NDArray[np.float32]

HASHED = "hashed"
DIMENSION = 256
ENDPOINT_SECONDS = 5.0

_WORD = re.compile(r"[^\W_]+|_+|[^\w\s]")


class Embedding(Protocol):
    """Turns texts into vectors. ``name`` is stored with each vector: vectors of two embeddings are never compared."""

    name: str

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One row per text."""


class Hashed:
    """Counts of hashed words, pairs of words and letter triples.

    The counts are small whole numbers in float32, so that a dot product of two of them is exact, in whatever order a
    library sums: scores are the same bits on every machine.
    """

    def __init__(self, dimension: int = DIMENSION) -> None:
        self.dimension = dimension
        self.name = f"hashed-1/{dimension}"

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One row per text."""
        rows = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for feature, weight in _features(text).items():
                digest = hashlib.blake2b(feature.encode("utf-8", "backslashreplace"), digest_size=8).digest()
                sign = 1 if digest[7] & 1 else -1
                row[int.from_bytes(digest[:4], "big") % self.dimension] += sign * weight
        return rows


def _features(text: str) -> dict[str, int]:
    """Words (weight 2), neighbours (1) and letter triples within words (1) of a text, each once."""
    words = _WORD.findall(text.casefold())
    found: dict[str, int] = {}
    for word in words:
        found[f"w {word}"] = 2
        edged = f"^{word}$"
        for at in range(len(edged) - 2):
            found[f"c {edged[at : at + 3]}"] = 1
    for one, two in itertools.pairwise(words):
        found[f"p {one} {two}"] = 1
    return found


class SentenceTransformer:
    """A model of the package sentence-transformers, by folder or name."""

    def __init__(self, model: str) -> None:
        try:
            import sentence_transformers
        except ImportError as error:
            raise Missing(
                "The package 'sentence-transformers' is not installed.",
                fix="pip install sentence-transformers, or leave the embedding out: the default needs no model.",
            ) from error
        self.name = f"st:{model}"
        self._model: Any = sentence_transformers.SentenceTransformer(model, device="cpu")

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One row per text."""
        return np.asarray(self._model.encode(list(texts)), np.float32)


class Endpoint:
    """A model behind an OpenAI-compatible ``/embeddings``: ``http://host:port/v1#MODEL``."""

    def __init__(self, reference: str, seconds: float = ENDPOINT_SECONDS) -> None:
        base, _, model = reference.partition("#")
        if not model:
            raise BadInput(
                f"The embedding {reference!r} names no model.", fix="http://127.0.0.1:8000/v1#NAME"
            )
        self.name, self._model, self._seconds = reference, model, seconds
        self._url = base.rstrip("/") + "/embeddings"

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One row per text.

        Raises:
            OSError: The endpoint did not answer in time, or not with vectors.
        """
        import os
        import urllib.request

        body = json.dumps({"model": self._model, "input": list(texts)}).encode()
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("SAFEWRIGHT_EMBEDDING_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._url, body, headers)
        # Straight to the server that was named, whatever proxies the environment has.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=self._seconds) as answer:
            try:
                rows = sorted(json.load(answer)["data"], key=lambda row: int(row["index"]))
                found = np.asarray([row["embedding"] for row in rows], np.float32)
            except (ValueError, KeyError, TypeError) as error:
                raise OSError(f"{self._url} gave no vectors: {error!r}") from error
        if found.ndim != 2 or len(found) != len(texts) or not np.isfinite(found).all():
            raise OSError(f"{self._url} gave {found.shape} for {len(texts)} texts")
        return found


def open_embedding(reference: str | Embedding | None = None) -> Embedding:
    """The embedding that a reference means: ``hashed`` (default), ``st:MODEL``, or ``http://host:port/v1#MODEL``.

    Raises:
        BadInput: It means none.
        Missing: Its package is not installed.
    """
    if reference is None:
        return Hashed()
    if not isinstance(reference, str):
        return reference
    if reference == HASHED:
        return Hashed()
    if match := re.fullmatch(r"hashed-1/(\d{2,5})", reference):
        return Hashed(int(match[1]))
    if reference.startswith("st:"):
        return SentenceTransformer(reference.removeprefix("st:"))
    if reference.startswith(("http://", "https://")):
        return Endpoint(reference)
    raise BadInput(
        f"The embedding {reference!r} is not known.",
        fix="hashed, st:MODEL (sentence-transformers), or http://host:port/v1#MODEL.",
    )


def cosines(matrix: Vectors, norms: NDArray[np.float64], vector: Vectors) -> NDArray[np.float32]:
    """The cosine of each row with a vector, in float32; 0 where either has no length."""
    length = float(np.sqrt(np.square(vector, dtype=np.float64).sum()))
    dots = (matrix @ vector).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where((norms > 0) & (length > 0), dots / (norms * (length or 1.0)), 0.0)
    return found.astype(np.float32)


def norms_of(matrix: Vectors) -> NDArray[np.float64]:
    """The length of each row."""
    found: NDArray[np.float64] = np.sqrt(np.square(matrix, dtype=np.float64).sum(axis=1))
    return found


def similarity(one: str, two: str, embedding: Embedding | None = None) -> float:
    """The cosine of two texts: what the paper's in-memory rule compares with 0.80."""
    vectors = (embedding or Hashed()).embed([one, two])
    return float(cosines(vectors[:1], norms_of(vectors[:1]), vectors[1])[0])
