"""A whole measure in one file: the share of terse answers.

    python examples/add_a_measure.py MODEL rows.jsonl

Put the same file into ``safewright/measures/``, or into a package with the entry point
``safewright.plugins``, and ``safewright measure terse_rate MODEL`` works too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from safewright import Behaviour, Decoding, Record, measure, measure_model
from safewright.measures.behaviour import AskOptions, answer_status, rates, scored
from safewright.types import Findings, Judge


@dataclass(frozen=True)
class TerseConfig(AskOptions):
    """Options of `terse_rate`."""

    words: int = field(default=5, metadata={"help": "Longest answer, in words, that counts as terse."})


@measure("terse_rate", version="1", config=TerseConfig, data=("benign",))
def terse_rate(config: TerseConfig) -> Behaviour:
    """Share of answers of at most `words` words."""

    async def score(records: Sequence[Record], judge: Judge | None) -> list[Record]:
        result = []
        for record in records:
            status, why = answer_status(record)
            terse = float(len((record.output or "").split()) <= config.words)
            result.append(scored(record, "terse", terse if status == "ok" else None, status, why))
        return result

    return Behaviour(
        ask=config.ask,
        score=score,
        summarise=lambda records: Findings(rates(records, {"terse": "neither"})),
        decoding=Decoding(max_new_tokens=64),
        chosen=config.chosen(),
    )


if __name__ == "__main__":
    card = measure_model("terse_rate", sys.argv[1], data=sys.argv[2])
    for reading in card.readings:
        print(reading)
