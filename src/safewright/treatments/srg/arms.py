"""The arms: one name for every way to train on the same records, and what a comparison of them is made of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from safewright.errors import BadInput, nearest


def _arm(**options: Any) -> Mapping[str, Any]:
    return MappingProxyType(options)


ARMS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "rt": _arm(target="rt"),
        "rt_tokens": _arm(target="rt", budget="tokens"),
        "srg": _arm(target="srg"),
        "noguide": _arm(target="noguide"),
        "label": _arm(target="label"),
        "filler": _arm(target="filler"),
        "posthoc": _arm(target="posthoc"),
        "context": _arm(target="srg", context="kept"),
        "harden": _arm(target="srg", harden=0.25),
        "on_policy_kl": _arm(target="srg", objective="on_policy_kl"),
        "answer_then_check": _arm(target="answer_then_check"),
        "dpo": _arm(target="srg", objective="dpo"),
    }
)
"""Options of `srg` by arm. All arms are asked the same prompts, in the same order (`context` with a text above)."""

SUMMARIES: Mapping[str, str] = MappingProxyType(
    {
        "rt": "refusal training: a short answer, no reasoning",
        "rt_tokens": "refusal training on as many learned tokens as srg",
        "srg": "reasoning along the guidelines, then the answer",
        "noguide": "what is asked and the verdict, then the answer",
        "label": "the verdict, then the answer",
        "filler": "as many words without content, then the answer",
        "posthoc": "the answer, then the same reasoning",
        "context": "srg with the guidelines kept in the training prompts, measured without them",
        "harden": "srg with rows whose turn somebody else began",
        "on_policy_kl": "drawn to what the student itself says below the guidelines",
        "answer_then_check": "a draft, its examination, then the answer",
        "dpo": "srg, and kept traces preferred to rejected ones",
    }
)
"""What is learned in each arm, in a line."""

DEFAULT = ("rt", "rt_tokens", "srg", "noguide", "label", "filler", "posthoc", "harden")
"""Arms of a comparison where none are named: those that need nothing but reasoning and answers."""

SCALED = ("rt", "srg")
"""Arms that are trained at every data scale."""

SHOWN = frozenset({"context", "on_policy_kl"})
"""Arms in which a text is shown to a model: those that read ``context_file``."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class AblationOptions:
    """Options of `safewright treat srg ablate`, beside those of the training, which every arm has."""

    arms: str = field(
        default=",".join(DEFAULT),
        metadata={"help": f"Arms that are compared: {', '.join(ARMS)}; or all."},
    )
    scales: str = field(
        default="",
        metadata={
            "help": f"Shares of the records (0.1,0.3) at which {' and '.join(SCALED)} are also trained.",
        },
    )
    teachers: str = field(
        default="",
        metadata={
            "help": "NAME=TEACHER, comma between: srg is also trained on the records of each teacher, "
            "made now by a model (or self, the student) or given as a file.",
        },
    )
    measures: str = field(
        default="",
        metadata={
            "help": "Measures of every arm; default those of attack_success, over_refusal and utility that "
            "rows are given for.",
        },
    )

    def __post_init__(self) -> None:
        arms_of(self.arms)
        scales_of(self.scales)
        teachers_of(self.teachers)
        measures_of(self.measures)


def arms_of(text: str) -> tuple[str, ...]:
    """The arms that ``arms=`` names, in its order.

    Raises:
        BadInput: One that there is not, one named twice, or none.
    """
    if text.strip() == "all":
        return tuple(ARMS)
    return known(_parts(text, "arms"))


def known(names: Sequence[str]) -> tuple[str, ...]:
    """The names, where each is an arm's.

    Raises:
        BadInput: One that there is not, or none.
    """
    for name in names:
        if name not in ARMS:
            raise BadInput(f"There is no arm {name!r}.", fix=nearest(name, ARMS))
    if not names:
        raise BadInput("arms names none.", fix=f"Name some of: {', '.join(ARMS)}.")
    return tuple(names)


def scales_of(text: str) -> tuple[float, ...]:
    """The shares that ``scales=`` names, rising; 1 is what the arms themselves are.

    Raises:
        BadInput: One is no number in (0, 1], or is named twice.
    """
    found = []
    for part in _parts(text, "scales"):
        try:
            share = float(part)
        except ValueError:
            share = -1.0
        if not 0 < share <= 1:
            raise BadInput(f"scales holds {part!r}.", fix="Write shares above 0 and up to 1: 0.1,0.3")
        found.append(share)
    if len(set(found)) < len(found):
        raise BadInput(f"scales is {text!r}.", fix="Name each share once.")
    return tuple(sorted(share for share in found if share < 1))


def teachers_of(text: str) -> dict[str, str]:
    """By name the teacher that ``teachers=`` gives: a model, a file of records, or ``self``.

    Raises:
        BadInput: A part is no NAME=TEACHER, or a name is used twice.
    """
    found: dict[str, str] = {}
    for part in _parts(text, "teachers"):
        name, equals, teacher = (piece.strip() for piece in part.partition("="))
        if not equals and name == "self":
            teacher = "self"
        if not teacher or not _NAME.fullmatch(name):
            raise BadInput(
                f"teachers holds {part!r}.",
                fix="Write NAME=MODEL, NAME=FILE.jsonl or NAME=self, with letters, digits and _ in names.",
            )
        if name in found:
            raise BadInput(f"teachers names {name!r} twice.", fix="Give each another name.")
        found[name] = teacher
    return found


def measures_of(text: str) -> tuple[str, ...]:
    """The measures that ``measures=`` names.

    Raises:
        BadInput: One is named twice.
    """
    return _parts(text, "measures")


def _parts(text: str, option: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(",")) if text.strip() else ()
    if not all(parts):
        raise BadInput(f"{option} is {text!r}.", fix="Write names with one comma between them.")
    if len(set(parts)) < len(parts):
        raise BadInput(f"{option} is {text!r}.", fix="Name each once.")
    return parts
