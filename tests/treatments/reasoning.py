"""Records, tokenizers and students for tests of `srg`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safewright.treatments.srg.config import SRGConfig
from safewright.treatments.srg.encoding import Student
from safewright.treatments.srg.records import Reasoned
from tests import tiny
from tests.treatments import folders

W = tiny.WORDS
OTHERS = ("[[", "]]")
"""Markers that nobody would guess."""

RECORD = Reasoned(
    id="boat",
    messages=({"role": "user", "content": "How do I fold a paper boat?"},),
    type="harmful",
    reasoning="They ask how to fold a boat.\nPaper boats are forbidden here. So I refuse.",
    answer="No, I do not fold boats. Try a kite.",
    refusal="No.",
    restated="A way to fold a boat is asked for.",
    verdict="Decision: refuse.",
    draft="It would say how to fold.",
)
"""A record with everything."""


def words(*, more: Sequence[str] = ()) -> Any:
    """A word-level tokenizer that can write markers."""
    return tiny.tokenizer(more=(*tiny.THINKING, ".", *more))


def bytes_tokenizer(template: str, eos: str) -> Any:
    """A tokenizer whose tokens are bytes, with the markers as tokens, under a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=eos, bos_token="<bos>")
    made.add_special_tokens({"additional_special_tokens": list(tiny.THINKING)})
    made.chat_template = template
    return made


def student(tokenizer: Any, *, context: str | None = None, **options: Any) -> Student:
    """A student of a tokenizer, with options of `srg`."""
    return Student(tokenizer, SRGConfig(**options), frozenset({tokenizer.eos_token_id}), context)


def objects(count: int) -> list[dict[str, Any]]:
    """Rows of a data file: every second one harmful, all with reasoning, in words of the tiny tokenizer."""
    found = []
    for i, row in enumerate(tiny.rows(count)):
        harmful = i % 2 == 0
        found.append(
            {
                "id": row.id,
                "prompt": row.prompt[0]["content"],
                "type": "harmful" if harmful else "helpful",
                "reasoning": f"{W[i % 8]} {W[8 + i % 7]} . {W[30] if harmful else W[31]} .",
                "answer": W[33] if harmful else f"{W[i % 9]} {W[20]}",
                "refusal": W[34] if harmful else None,
                "decision": "refuse" if harmful else "comply",
                "source": "made up",
            }
        )
    return found


def write(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def save(folder: Path, **more: Any) -> Path:
    """A tiny student."""
    return tiny.save_tiny(folder, more=(*tiny.THINKING, ".", *OTHERS), **{**folders.SMALL, **more})
