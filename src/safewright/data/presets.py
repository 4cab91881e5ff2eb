"""Named public data sets: where they are, what is read of them, and what is known about their terms.

Nothing of them is shipped. A revision or a licence is written here only with the place where it was
read; otherwise it is None, and shown as such.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safewright.data import longsafety
from safewright.data.rows import Draft, read_object, with_ids
from safewright.errors import BadInput, nearest
from safewright.types import Row

Record = Mapping[str, Any]

_GATE = (
    "The hub may ask you to accept this set's terms: open {homepage}, accept them, then log in here with "
    "`hf auth login`."
)


@dataclass(frozen=True)
class Preset:
    """A named data set on the hub and how its records become rows."""

    name: str
    role: str
    """What its rows are for: ``harm``, ``benign``, ``utility`` or ``long_context``."""
    repo: str
    """Repository on the hub, or a local folder that holds the same files."""
    config: str | None
    split: str
    columns: tuple[str, ...]
    """Names of the column with the question; the first that is there is read."""
    columns_source: str
    summary: str
    revision: str | None = None
    revision_source: str = ""
    licence: str | None = None
    licence_source: str = ""
    gated: bool | None = None
    """Whether terms must be accepted first; None where that is not known."""
    gate_notice: str = ""
    keep: tuple[str, str] | None = None
    """Column and value of the rows that are read, where not all are."""
    reference: Callable[[Record, str], str] | None = None
    """From a record and its place to the known answer."""
    solution: str | None = None
    """Column of a worked answer, kept in meta as ``solution``."""
    lang: str = "en"
    own: str = ""
    """How a copy of it at hand is given, where that takes more than a file of rows."""

    @property
    def homepage(self) -> str:
        """The page of the set, with its card, terms and licence."""
        return f"https://huggingface.co/datasets/{self.repo}"

    @property
    def licence_line(self) -> str:
        """The licence and where it was read, or that it is not recorded here."""
        if self.licence is None:
            return "not recorded; see the data set's card"
        return f"{self.licence} (read in {self.licence_source})"

    @property
    def revision_line(self) -> str:
        """The pinned revision and where it was read, or that there is none."""
        if self.revision is None:
            return "unpinned; resolved at the first download and recorded in the run"
        return f"{self.revision} (read in {self.revision_source})"


def gsm8k_answer(record: Record, where: str) -> str:
    """The number after the last ``####`` of a GSM8K solution, as it is written there.

    Raises:
        BadInput: The record has no such number.
    """
    answer = record.get("answer")
    found = re.search(r"####\s*([-+]?[$]?[\d.,]*\d)[^\d]*$", answer) if isinstance(answer, str) else None
    if found is None:
        fields = ", ".join(sorted(map(str, record)))
        raise BadInput(
            f"{where}: there is no number after #### in `answer` (fields found: {fields}).",
            why="It is the reference of the row.",
        )
    return found.group(1)


_ALL = (
    Preset(
        name="jbb",
        role="harm",
        repo="JailbreakBench/JBB-Behaviors",
        config="behaviors",
        split="harmful",
        columns=("Goal", "goal"),
        columns_source="garak 0.17.1, garak/probes/goat.py",
        summary="JailbreakBench: 100 harmful behaviours in ten categories.",
    ),
    Preset(
        name="strongreject",
        role="harm",
        repo="walledai/StrongREJECT",
        config=None,
        split="train",
        columns=("prompt", "forbidden_prompt"),
        columns_source="general knowledge; forbidden_prompt: inspect-evals 0.26.0, "
        "inspect_evals/strong_reject/utils.py",
        summary="StrongREJECT: 313 forbidden prompts in six categories.",
        gate_notice=_GATE,
    ),
    Preset(
        name="harmbench",
        role="harm",
        repo="walledai/HarmBench",
        config="standard",
        split="train",
        columns=("prompt", "Behavior", "behavior"),
        columns_source="general knowledge; Behavior: pyrit 1.1.0, "
        "pyrit/datasets/seed_datasets/remote/harmbench_dataset.py",
        summary="HarmBench: the 200 standard behaviours.",
        licence="MIT",
        licence_source="garak 0.17.1, garak/data/harmbench/README.md, of the original repository",
        gate_notice=_GATE,
    ),
    Preset(
        name="xstest",
        role="benign",
        repo="walledai/XSTest",
        config=None,
        split="test",
        columns=("prompt",),
        columns_source="inspect-evals 0.26.0, inspect_evals/xstest/xstest.py",
        summary="XSTest: the 250 safe prompts that sound unsafe.",
        revision="f1d713187c61b6ae64e602d74f0b3d812cc2e8e8",
        revision_source="inspect-evals 0.26.0, inspect_evals/xstest/xstest.py",
        keep=("label", "safe"),
        gate_notice=_GATE,
    ),
    Preset(
        name="or_bench",
        role="benign",
        repo="bench-llm/or-bench",
        config="or-bench-hard-1k",
        split="train",
        columns=("prompt",),
        columns_source="pyrit 1.1.0, pyrit/datasets/seed_datasets/remote/or_bench_dataset.py",
        summary="OR-Bench: the hard thousand of benign prompts that models refuse.",
        licence="CC BY 4.0",
        licence_source="pyrit 1.1.0, pyrit/datasets/seed_datasets/remote/or_bench_dataset.py",
    ),
    Preset(
        name="gsm8k",
        role="utility",
        repo="openai/gsm8k",
        config="main",
        split="test",
        columns=("question",),
        columns_source="inspect-evals 0.26.0, inspect_evals/gsm8k/gsm8k.py",
        summary="GSM8K: 1,319 word problems with a number as the answer.",
        revision="cc7b047b6e5bb11b4f1af84efc572db110a51b3c",
        revision_source="inspect-evals 0.26.0, inspect_evals/gsm8k/gsm8k.py",
        reference=gsm8k_answer,
        solution="answer",
    ),
    Preset(
        name="longsafety",
        role=longsafety.ROLE,
        repo=longsafety.HUB,
        config=None,
        split="train",
        columns=("instruction",),
        columns_source="this method's specification, of the data set's card",
        summary="LongSafety: 1,543 instructions about long documents, seven safety issues by six tasks.",
        licence="MIT",
        licence_source="this method's specification, of the data set's card; it covers the compilation, the "
        "documents are third-party texts",
        own=longsafety.OWN_FILES,
    ),
)

PRESETS: Mapping[str, Preset] = {preset.name: preset for preset in _ALL}
"""All presets by name."""

DEFAULTS: Mapping[str, str] = {
    "harm": "jbb",
    "benign": "xstest",
    "utility": "gsm8k",
    longsafety.ROLE: "longsafety",
}
"""The preset that a role falls back to when no data is given."""


def find_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        BadInput: There is none; the nearest is named.
    """
    if name not in PRESETS:
        raise BadInput(
            f"There is no preset {name!r}, nor a file of that name.",
            fix=f"{nearest(name, PRESETS)} A file is given by its path, for example ./rows.jsonl.",
        )
    return PRESETS[name]


def preset_rows(preset: Preset, records: Sequence[Record]) -> tuple[list[Row], tuple[str, ...]]:
    """The rows of a preset's records, and what is to be noted about them.

    A row has the question, the known answer where there is one, and the rest as meta; those of long contexts
    are as `longsafety.load_long` gives them.

    Raises:
        BadInput: The expected column is absent, a value has the wrong type, or no record is left.
    """
    where = f"{preset.repo} ({preset.split})"
    found = sorted({str(key) for record in records for key in record})
    column = next((name for name in preset.columns if name in found), None)
    wanted = [name for name in (preset.keep and preset.keep[0], preset.solution) if name]
    absent = ([] if column else [" or ".join(preset.columns)]) + [
        name for name in wanted if name not in found
    ]
    if column is None or absent:
        raise BadInput(
            f"{where} has no column {absent[0]!r} (columns found: {', '.join(found) or 'none'}).",
            why=f"The preset {preset.name!r} reads it.",
            fix=f"The set may have changed: see {preset.homepage}, or give rows of your own with "
            f"--data {preset.role}=rows.jsonl.",
        )
    if preset.role == longsafety.ROLE:
        given = [{"lang": preset.lang, **record} for record in records]
        return longsafety.survey_records(given, where).usable()
    drafts: list[Draft] = []
    for number, record in enumerate(records, 1):
        if preset.keep is not None and record[preset.keep[0]] != preset.keep[1]:
            continue
        spot = f"{where}, row {number}"
        rest = {key: value for key, value in record.items() if key not in (column, preset.solution)}
        # Names of the row format are ours: the set's own columns of those names stay as data.
        row: dict[str, Any] = {
            f"source_{key}" if key in _RESERVED else key: value for key, value in rest.items()
        }
        row |= {"prompt": record[column], "lang": preset.lang}
        if preset.reference is not None:
            row["response"] = preset.reference(record, spot)
        if preset.solution is not None:
            row["solution"] = record[preset.solution]
        drafts.append(read_object(row, spot))
    if not drafts and preset.keep is not None:
        labels = ", ".join(sorted({repr(record[preset.keep[0]]) for record in records})) or "none"
        raise BadInput(
            f"{where} has no row with {preset.keep[0]} {preset.keep[1]!r} (values found: {labels}).",
            fix=f"The set may have changed: see {preset.homepage}.",
        )
    if not drafts:
        raise BadInput(f"{where} holds no rows.", fix=f"The set may have changed: see {preset.homepage}.")
    return with_ids(drafts, prefix=preset.name), ()


_RESERVED = frozenset(
    {"id", "lang", "system", "messages", "prompt", "response", "instruction", "input", "output", "solution"}
)
