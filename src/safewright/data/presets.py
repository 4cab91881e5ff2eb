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
    """What its rows are for: ``harm``, ``benign``, ``utility`` or ``long_context`` (evaluation); ``harmful``,
    ``helpful`` or ``contrast`` (training requests, whose ``type`` says so, see `treat srg`)."""
    repo: str
    """Repository on the hub, or a local folder that holds the same files."""
    config: str | None
    split: str
    columns: tuple[str, ...]
    """Names of the column with the question; the first that is there is read. All must be there for ``question``."""
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
    question: Callable[[Record, str], str] | None = None
    """From a record and its place to the question, where that is not one column."""
    only: Callable[[Record, str], bool] | None = None
    """Whether a record is read, where a value of one column does not tell; with ``only_says``."""
    only_says: str = ""
    """What ``only`` keeps, in words."""
    categories: Callable[[Record], tuple[str, ...]] | None = None
    """From a record to the kinds of harm its own labels name, kept in meta as ``categories``."""
    distinct: bool = False
    """Whether a question that stands in several records is read once."""
    bare: bool = False
    """Whether the other columns are left out of meta, as answers nobody may learn from are."""
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


_PKU = (
    "pyrit 1.1.0, pyrit/datasets/seed_datasets/remote/pku_safe_rlhf_dataset.py; split test: general knowledge"
)
TRAINING = ("harmful", "helpful", "contrast")
"""Roles whose rows are learned from: their ``type`` in meta is that role."""


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


def _boolean(record: Record, column: str, where: str) -> bool:
    value = record.get(column)
    if not isinstance(value, bool):
        raise BadInput(f"{where}: `{column}` is {value!r:.40}.", fix="It must be true or false.")
    return value


def both_unsafe(record: Record, where: str) -> bool:
    """Whether both answers of a PKU-SafeRLHF record are labelled unsafe: then the request asked for harm.

    Raises:
        BadInput: A label is absent.
    """
    return not any(_boolean(record, f"is_response_{place}_safe", where) for place in (0, 1))


def pku_categories(record: Record) -> tuple[str, ...]:
    """The kinds of harm that a PKU-SafeRLHF record's answers are labelled with."""
    labels = [record.get(f"response_{place}_harm_category") or {} for place in (0, 1)]
    return tuple(sorted({name for label in labels for name, is_so in label.items() if is_so}))


def chosen_answer(record: Record, where: str) -> str:
    """The preferred answer of an UltraFeedback record: the last turn of ``chosen``.

    Raises:
        BadInput: There is none.
    """
    turns = record.get("chosen")
    last = turns[-1] if isinstance(turns, Sequence) and turns else None
    text = last.get("content") if isinstance(last, Mapping) and last.get("role") == "assistant" else None
    if not isinstance(text, str):
        raise BadInput(f"{where}: `chosen` does not end with an assistant's turn.", why="It is the answer.")
    return text


def alpaca_question(record: Record, where: str) -> str:
    """An Alpaca instruction with its input, if it has one, after an empty line.

    Raises:
        BadInput: One of them is no text.
    """
    instruction, more = record.get("instruction"), record.get("input")
    if not isinstance(instruction, str) or not isinstance(more, str | None):
        raise BadInput(f"{where}: `instruction` or `input` is no text.")
    return f"{instruction}\n\n{more}" if more else instruction


def _column(name: str) -> Callable[[Record, str], str]:
    def read(record: Record, where: str) -> str:
        value = record.get(name)
        if not isinstance(value, str):
            raise BadInput(f"{where}: `{name}` is {value!r:.40}, not text.", why="It is the row's answer.")
        return value

    return read


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
        name="xstest_unsafe",
        role="harm",
        repo="walledai/XSTest",
        config=None,
        split="test",
        columns=("prompt",),
        columns_source="inspect-evals 0.26.0, inspect_evals/xstest/xstest.py",
        summary="XSTest: the 200 unsafe prompts beside the safe ones; over-refusal is read together with them.",
        revision="f1d713187c61b6ae64e602d74f0b3d812cc2e8e8",
        revision_source="inspect-evals 0.26.0, inspect_evals/xstest/xstest.py",
        keep=("label", "unsafe"),
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
    Preset(
        name="pku_safe_rlhf_test",
        role="harm",
        repo="PKU-Alignment/PKU-SafeRLHF",
        config="default",
        split="test",
        columns=("prompt",),
        columns_source=_PKU,
        summary="PKU-SafeRLHF, held out: requests to which both answers were labelled unsafe.",
        only=both_unsafe,
        only_says="both answers labelled unsafe",
        categories=pku_categories,
        distinct=True,
        bare=True,
    ),
    Preset(
        name="pku_safe_rlhf",
        role="harmful",
        repo="PKU-Alignment/PKU-SafeRLHF",
        config="default",
        split="train",
        columns=("prompt",),
        columns_source=_PKU,
        summary="PKU-SafeRLHF: requests to which both answers were labelled unsafe, without the answers.",
        only=both_unsafe,
        only_says="both answers labelled unsafe",
        categories=pku_categories,
        distinct=True,
        bare=True,
    ),
    Preset(
        name="ultrafeedback",
        role="helpful",
        repo="HuggingFaceH4/ultrafeedback_binarized",
        config="default",
        split="train_sft",
        columns=("prompt",),
        columns_source="this method's specification; split and config: general knowledge",
        summary="UltraFeedback: some 61,000 requests with the preferred of their answers.",
        reference=chosen_answer,
        bare=True,
    ),
    Preset(
        name="alpaca",
        role="helpful",
        repo="tatsu-lab/alpaca",
        config=None,
        split="train",
        columns=("instruction", "input", "output"),
        columns_source="this method's specification",
        summary="Alpaca: 52,000 instructions with answers.",
        question=alpaca_question,
        reference=_column("output"),
        bare=True,
    ),
    Preset(
        name="or_bench_80k",
        role="contrast",
        repo="bench-llm/or-bench",
        config="or-bench-80k",
        split="train",
        columns=("prompt",),
        columns_source="pyrit 1.1.0, pyrit/datasets/seed_datasets/remote/or_bench_dataset.py",
        summary="OR-Bench: 80,000 benign requests that look harmful; its hard thousand (or_bench) is for evaluation.",
        licence="CC BY 4.0",
        licence_source="pyrit 1.1.0, pyrit/datasets/seed_datasets/remote/or_bench_dataset.py",
    ),
    Preset(
        name="false_reject",
        role="contrast",
        repo="AmazonScience/FalseReject",
        config=None,
        split="train",
        columns=("prompt",),
        columns_source="general knowledge",
        summary="FalseReject: 16,000 benign requests that look harmful, in 44 categories, without its answers.",
        bare=True,
    ),
    Preset(
        name="star_benign",
        role="contrast",
        repo="UCSC-VLAA/STAR-benign-915",
        config=None,
        split="train",
        columns=("question", "prompt"),
        columns_source="general knowledge",
        summary="STAR-benign-915: benign requests made after harmful ones, without its answers.",
        bare=True,
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
    wanted += preset.columns if preset.question is not None and column else ()
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
    seen: set[str] = set()
    for number, record in enumerate(records, 1):
        if preset.keep is not None and record[preset.keep[0]] != preset.keep[1]:
            continue
        spot = f"{where}, row {number}"
        if preset.only is not None and not preset.only(record, spot):
            continue
        rest = {key: value for key, value in record.items() if key not in (column, preset.solution)}
        if preset.bare:
            rest = {}
        if preset.role in TRAINING:
            rest["type"] = preset.role
        if preset.categories is not None:
            rest["categories"] = list(preset.categories(record))
        # Names of the row format are ours: the set's own columns of those names stay as data.
        row: dict[str, Any] = {
            f"source_{key}" if key in _RESERVED else key: value for key, value in rest.items()
        }
        asked = preset.question(record, spot) if preset.question is not None else record[column]
        if preset.distinct and asked in seen:
            continue
        seen.add(str(asked))
        row |= {"prompt": asked, "lang": preset.lang}
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
    if not drafts and records and preset.only_says:
        raise BadInput(
            f"None of the {len(records)} rows of {where} is kept ({preset.only_says}).",
            fix=f"The set may have changed: see {preset.homepage}.",
        )
    if not drafts:
        raise BadInput(f"{where} holds no rows.", fix=f"The set may have changed: see {preset.homepage}.")
    return with_ids(drafts, prefix=preset.name), ()


_RESERVED = frozenset(
    {"id", "lang", "system", "messages", "prompt", "response", "instruction", "input", "output", "solution"}
)
