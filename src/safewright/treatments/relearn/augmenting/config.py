"""Options of the data pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from safewright.errors import BadInput, nearest
from safewright.treatments.bounds import check_calls

KINDS = ("simple", "contextual", "noise", "logical")
"""The ways a question is rewritten."""


@dataclass(frozen=True)
class AugmentOptions:
    """Options of `safewright treat relearn augment`; `treat relearn` has them too."""

    variants: str = field(
        default=",".join(KINDS), metadata={"help": f"Rewrites of each question: {', '.join(KINDS)}; or none."}
    )
    original: bool = field(
        default=True, metadata={"help": "Also pair the question itself with a vague answer."}
    )
    one_call: bool = field(
        default=False, metadata={"help": "Ask for all rewrites of a question in one call."}
    )
    answer_rounds: int = field(
        default=3,
        metadata={"help": "Tries at a usable text before it is dropped: the first and those after it."},
    )
    chunk: int = field(
        default=800, metadata={"help": "Characters of an original answer that are rewritten at once."}
    )
    verify: bool = field(
        default=True,
        metadata={"help": "Let the model examine each vague answer after the deterministic check."},
    )
    verify_tries: int = field(
        default=2, metadata={"help": "Questions for a readable verdict before it is unparsed: never safe."}
    )
    entities: Literal["auto", "given", "rules", "model"] = field(
        default="auto",
        metadata={
            "help": "Where secret entities come from: meta `entities`, rules, or the model; auto takes the first "
            "of given, rules (Latin script), model."
        },
    )
    leak_scope: Literal["set", "item"] = field(
        default="set",
        metadata={"help": "Reject secrets of all forget rows in each text, or of its own row only."},
    )
    completion: str = field(
        default="25",
        metadata={
            "help": "Percent of a vague answer's words in a completion row's prompt: 25,50,75; or none."
        },
    )
    generic_ratio: float = field(
        default=1.0, metadata={"help": "Generic rows per row made from the forget set (completions counted)."}
    )
    generic_short: Literal["error", "repeat"] = field(
        default="error", metadata={"help": "What is done where there are too few generic rows."}
    )
    min_coverage: float = field(
        default=0.95,
        metadata={"help": "Share of forget rows that must get a vague answer.", "decides": False},
    )
    prefix_rows: Literal["none", "openings"] = field(
        default="none", metadata={"help": "Rows that go on vaguely from an opening of meta `openings`."}
    )
    prefix_weight: int = field(default=2, metadata={"help": "How often each prefix row occurs."})
    prefix_openings: str | None = field(
        default=None,
        metadata={
            "help": "Text file of openings for every row, one a line; {subject} is the row's subject.",
            "decides": False,
        },
    )
    augment_tokens: int = field(default=512, metadata={"help": "Room for each reply of the augmenter."})
    augment_temperature: float = field(
        default=0.0, metadata={"help": "Sampling temperature of the augmenter; 0 is greedy."}
    )
    at_once: int | None = field(
        default=None, metadata={"help": "Requests to a served augmenter at once.", "decides": False}
    )
    call_timeout: float | None = field(
        default=None, metadata={"help": "Seconds for one such request.", "decides": False}
    )
    call_store: str | None = field(
        default=None,
        metadata={"help": "Folder that keeps received replies for later runs.", "decides": False},
    )
    price_in: float | None = field(
        default=None,
        metadata={"help": "Price of a million prompt tokens, for the estimate.", "decides": False},
    )
    price_out: float | None = field(
        default=None,
        metadata={"help": "Price of a million reply tokens, for the estimate.", "decides": False},
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The rewrites asked for, in the order given."""
        return _list(self.variants, "variants", _kind)

    @property
    def shares(self) -> tuple[int, ...]:
        """The percentages of completion rows."""
        return _list(self.completion, "completion", _percent)

    def inputs(self) -> dict[str, Path]:
        """The files whose content decides the rows."""
        return openings_file(self)


def check(options: Any) -> None:
    """Pass when the pipeline's options can be used.

    Args:
        options: An `AugmentOptions`, or a configuration with its fields.

    Raises:
        BadInput: One cannot, with the values that can.
    """
    _list(options.variants, "variants", _kind)
    _list(options.completion, "completion", _percent)
    if options.variants == "none" and not options.original:
        raise BadInput(
            "variants is none and original is false.", why="No question would be left.", fix="Allow one."
        )
    for name in ("answer_rounds", "chunk", "verify_tries", "prefix_weight", "augment_tokens"):
        if getattr(options, name) < 1:
            raise BadInput(f"{name} is {getattr(options, name)}.", fix="It must be at least 1.")
    for name, high in (("generic_ratio", 1000.0), ("min_coverage", 1.0), ("augment_temperature", 10.0)):
        if not 0 <= getattr(options, name) <= high:
            raise BadInput(f"{name} is {getattr(options, name)}.", fix=f"It must lie in [0, {high:g}].")
    check_calls(options)


def options_of(config: Any) -> AugmentOptions:
    """The pipeline's options among those of a treatment that has all of them."""
    return AugmentOptions(**{f.name: getattr(config, f.name) for f in dataclasses.fields(AugmentOptions)})


def openings_file(options: Any) -> dict[str, Path]:
    """The file of openings, where one is named.

    Raises:
        BadInput: There is no such file.
    """
    if not options.prefix_openings:
        return {}
    file = Path(options.prefix_openings)
    if not file.is_file():
        raise BadInput(f"prefix_openings={file} is no file.", fix="Name a text file with one opening a line.")
    return {"prefix_openings": file}


def _list(text: str, name: str, read: Callable[[str, str], Any]) -> tuple[Any, ...]:
    """The parts of ``a,b,c``, each once; none of ``none``."""
    if text.strip() == "none":
        return ()
    parts = tuple(read(part.strip(), name) for part in text.split(","))
    if len(set(parts)) < len(parts):
        raise BadInput(f"{name} is {text!r}.", fix="Name each part once.")
    return parts


def _kind(part: str, name: str) -> str:
    if part not in KINDS:
        raise BadInput(f"{name} has {part!r}.", fix=nearest(part, KINDS))
    return part


def _percent(part: str, name: str) -> int:
    if not part.isascii() or not part.isdigit() or not 0 < int(part) < 100:
        raise BadInput(f"{name} has {part!r}.", fix="Write whole percentages, such as 25 or 25,50,75.")
    return int(part)
