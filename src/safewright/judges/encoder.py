"""The encoders behind a judge: opened at the first question, used by one thread at a time."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright.errors import NumericalFailure
from safewright.runs import Calls
from safewright.types import ModelRef

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from safewright.models.encoders import Label


class JudgeEncoder:
    """An encoder of a judge's; beside `JudgeModel` in a judge's ``models``.

    Args:
        model: A reference that is opened at the first question, or an object with ``embed`` or ``classify``.
        opener: Opens a reference.
    """

    remote = False
    """It is computed here."""

    def __init__(self, model: Any, opener: Callable[[ModelRef], Any]) -> None:
        self._model, self._opener = model, opener
        self._opened: Any = None if isinstance(model, (ModelRef, str, Path)) else model
        self._lock = threading.Lock()
        self._vectors: dict[str, npt.NDArray[np.float64]] = {}
        self.calls = Calls()
        self.at_once: int | None = None
        self.timeout: float | None = None

    @functools.cached_property
    def ref(self) -> ModelRef:
        """Which model it is.

        Raises:
            BadInput: Not a model.
            Missing: The hub cannot be reached.
        """
        if isinstance(self._model, ModelRef):
            return self._model
        if isinstance(self._model, (str, Path)):
            from safewright.models import resolve

            return resolve(self._model)
        found: ModelRef = self._model.ref
        return found

    def conventions(self) -> dict[str, Any]:
        """What a scorecard says about it. Where its folder lies is not part of what it is."""
        return {"model": self.ref.digest, "model_kind": self.ref.kind}

    def opened(self) -> Any:
        """The encoder itself, opened at the first call."""
        with self._lock:
            if self._opened is None:
                self._opened = self._opener(self.ref)
            return self._opened

    def embed(self, texts: Sequence[str]) -> Mapping[str, npt.NDArray[np.float64]]:
        """The vector of every text, each text read once.

        Raises:
            NumericalFailure: A vector is 0 or not finite: it would be like nothing, and all of it forgotten.
        """
        encoder = self.opened()
        with self._lock:
            new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
            if new:
                self._vectors |= _checked(new, encoder.embed(new))
            return {text: self._vectors[text] for text in texts}

    def classify(self, pairs: Sequence[tuple[str, str]]) -> list[Label]:
        """The label of every pair, equal pairs read once."""
        classifier = self.opened()
        with self._lock:
            distinct = list(dict.fromkeys(pairs))
            found = dict(zip(distinct, classifier.classify(distinct), strict=True))
            return [found[pair] for pair in pairs]

    def close(self) -> None:
        """Let go of the encoder's memory."""
        with self._lock:
            if isinstance(self._model, (ModelRef, str, Path)):
                self._opened = None
            self._vectors.clear()


def _checked(texts: Sequence[str], vectors: Any) -> dict[str, npt.NDArray[np.float64]]:
    import numpy as np

    found = dict(zip(texts, np.asarray(vectors, dtype=np.float64), strict=True))
    if not all(0.0 < float(np.linalg.norm(vector)) < np.inf for vector in found.values()):
        raise NumericalFailure("The encoder gave a vector of length 0, or one that is not finite.")
    return found
