"""The traces a model writes, and its hidden states at the tokens that are looked at."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safewright.measures.harm_direction.config import DECISION, HarmDirectionConfig
from safewright.measures.harm_direction.verdict import Before, before_verdict
from safewright.measures.journal import Key, journal_rows, journalled
from safewright.models import chat as chats_
from safewright.models.engine import with_recipe
from safewright.models.scoring import white_box
from safewright.models.states import depth_of, stream_states
from safewright.runs import Run
from safewright.types import Decoding, Generation, Row

NO_ROOM = "the prompt does not fit the model's context"
NO_TOKENS = "the prompt has no tokens"


@dataclass(frozen=True)
class Traced:
    """One greedy answer of a model, and what of it stands before its verdict."""

    generation: Generation
    before: Before

    @property
    def failed(self) -> bool:
        """Whether there is no answer at all, which says nothing about how the model answers."""
        return self.generation.stop in ("error", "overlong")


def traces(
    role: str, model: Any, rows: Sequence[Row], config: HarmDirectionConfig, run: Run
) -> dict[str, Traced]:
    """The model's own greedy trace for each row, by the row's id, journalled as it comes."""
    found = {
        key[1]: Traced(
            journalled(Generation, row["generation"], "traces"), journalled(Before, row["before"], "traces")
        )
        for key, row in journal_rows(run, "traces", ("generation", "before")).items()
        if key[0] == role
    }
    done = frozenset(place for place, row in enumerate(rows) if row.id in found)
    if len(done) == len(rows):
        return found
    how = with_recipe(Decoding(), model.ref, config.chosen())
    markers = white_box(model).visible
    with closing(model.stream([row.prompt for row in rows], how, done=done)) as stream:
        for ready in stream:
            for place, said in ready:
                before = before_verdict(said, markers["open"], markers["close"])
                found[rows[place].id] = Traced(said, before)
                if said.stop != "error":  # a failure is not an answer: the next run asks again
                    key: Key = (role, rows[place].id, 0)
                    run.append("traces", {"key": key, "generation": said, "before": before})
    return found


@dataclass(frozen=True)
class States:
    """Hidden states (row, layer, dimension) in float32, of the rows in ``rows``; ``why`` says what the others lack.

    They lie in a file without a name: a large model's do not fit the memory, and one layer is looked at at a time.
    """

    rows: tuple[Row, ...]
    values: NDArray[np.float32]
    why: Mapping[str, str]

    @property
    def layers(self) -> int:
        """How many layers the model has."""
        return int(self.values.shape[1])

    def at(self, layer: int) -> NDArray[np.float64]:
        """States after a layer, from 1 on, in float64."""
        return np.asarray(self.values[:, layer - 1], dtype=np.float64)


@contextmanager
def gathered(
    model: Any, rows: Sequence[Row], position: str, traced: Mapping[str, Traced], run: Run
) -> Iterator[States]:
    """The states of a model at a position, for every row that has one."""
    inner = white_box(model)
    lines: list[list[int]] = []
    kept: list[Row] = []
    why: dict[str, str] = {}
    for row in rows:
        line = chats_.encode(inner.tokenizer, row.prompt)
        if position == DECISION:
            before = traced[row.id].before
            if before.text is None:
                why[row.id] = before.why
                continue
            # The tokens the model itself went on from: its prompt, and what it wrote.
            line = line + chats_.token_ids(inner.tokenizer, before.text, special=False)
        if not line or (inner.limit is not None and len(line) > inner.limit):
            why[row.id] = NO_ROOM if line else NO_TOKENS
            continue
        lines.append(line)
        kept.append(row)
    layers, size = depth_of(model)
    with tempfile.TemporaryFile(dir=run.dir) as file:
        shape = (len(lines), layers, size)
        if lines:
            values: NDArray[np.float32] = np.memmap(file, np.float32, "w+", shape=shape)
            with closing(stream_states(model, lines)) as stream:
                for ready in stream:
                    for index, state in ready:
                        values[index] = state.numpy()
        else:
            values = np.zeros(shape, np.float32)
        yield States(tuple(kept), values, why)
