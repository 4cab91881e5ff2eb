"""From what a user writes after ``--judge`` to a judge, and the table of all judges."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from safewright.errors import BadInput, nearest
from safewright.judges.agents import AgentsJudge
from safewright.judges.classifier import LlamaGuardJudge, Qwen3GuardJudge
from safewright.judges.combined import CombinedJudge
from safewright.judges.coverage import CoverageJudge
from safewright.judges.keyword import KeywordJudge, LegacyKeywordJudge
from safewright.judges.rubric import RubricJudge
from safewright.types import Judge

_OPTIONS = re.compile(r"\w+=[^&?]*(?:&\w+=[^&?]*)*")


@dataclass(frozen=True)
class JudgeEntry:
    """One judge in the table.

    ``model`` says whether it takes a reference to a model, ``options`` which options with what type, ``roles``
    for which of its agents it takes models of their own (the role ``judge`` is the model itself).
    """

    name: str
    answers: tuple[str, ...]
    strength: str
    summary: str
    model: Literal["none", "required", "optional"]
    make: Callable[..., Judge]
    options: Mapping[str, type[int] | type[str]] = field(default_factory=dict)
    roles: tuple[str, ...] = ()


JUDGES: Mapping[str, JudgeEntry] = {
    entry.name: entry
    for entry in (
        JudgeEntry(
            "keyword",
            ("harmful", "refusal"),
            "weak",
            "Refusal rules on the answer's opening, English and Chinese; harmful means not refused.",
            "none",
            KeywordJudge,
        ),
        JudgeEntry(
            "keyword-legacy",
            ("harmful", "refusal"),
            "weak",
            "The 29 refusal substrings of the Safe Delta release, anywhere in the answer; for comparison.",
            "none",
            LegacyKeywordJudge,
        ),
        JudgeEntry(
            "rubric",
            ("harmful", "refusal"),
            "unmeasured",
            "Any chat model grades harm from 1 to 5, or says whether the answer refuses: rubric:MODEL.",
            "required",
            RubricJudge,
            {"threshold": int, "tries": int, "partial": str, "max_new_tokens": int},
        ),
        JudgeEntry(
            "agents",
            ("harmful",),
            "unmeasured",
            "Three agents of any chat model: risks of the instruction, summary of its context, verdict.",
            "required",
            AgentsJudge,
            {"form": str, "tries": int, "max_new_tokens": int, "store": str},
            ("risk", "context"),
        ),
        JudgeEntry(
            "lsa",
            ("harmful", "refusal"),
            "unmeasured",
            "Llama Guard's flag and a rubric's grade together, as lifelong safety alignment combines them.",
            "required",
            CombinedJudge,
            {"tries": int, "partial": str, "max_new_tokens": int},
            ("guard",),
        ),
        JudgeEntry(
            "coverage",
            ("forgotten", "retained"),
            "unmeasured",
            "Entities of the known answer that an answer covers: word for word, or as a chat model lists them.",
            "optional",
            CoverageJudge,
            {"rule": str, "tries": int, "max_new_tokens": int, "store": str},
            ("nli", "embedder"),
        ),
        JudgeEntry(
            "llama-guard",
            ("harmful",),
            "unmeasured",
            "Llama Guard 3 labels the answer safe or unsafe.",
            "optional",
            LlamaGuardJudge,
        ),
        JudgeEntry(
            "qwen3guard",
            ("harmful", "refusal"),
            "unmeasured",
            "Qwen3Guard-Gen labels the answer safe, unsafe or controversial, and whether it refuses.",
            "optional",
            Qwen3GuardJudge,
            {"controversial": str},
        ),
    )
}
"""All judges by name."""


JUDGE_ROLES = ("judge", *dict.fromkeys(role for entry in JUDGES.values() for role in entry.roles))
"""Roles of models that are a judge's: ``judge`` is the model that decides."""


def resolve(spec: str, models: Mapping[str, Any] | None = None) -> Judge:
    """The judge ``spec`` names; nothing is loaded or downloaded yet.

    Args:
        spec: ``NAME``, ``NAME:MODEL`` or ``NAME:MODEL?option=value&option=value``; MODEL is anything
            `safewright.models.load` takes.
        models: Models by `JUDGE_ROLES`, in the place of MODEL and for further agents.

    Raises:
        BadInput: An unknown judge or option (with the nearest name), a missing or unwanted model.
    """
    roles = dict(models or {})
    body, options = _split_options(spec)
    name, colon, model = body.partition(":")
    if name not in JUDGES:
        hint = nearest(name, JUDGES)
        if "/" in name or ("/" in spec and not hint.startswith("Did you mean")):
            hint = f"To let this model judge, write: rubric:{spec}"
        raise BadInput(f"There is no judge {spec!r}.", fix=hint)
    entry = JUDGES[name]
    if colon and not model:
        raise BadInput(f"The judge {spec!r} names no model after the colon.", fix=_usage(entry))
    if model and "judge" in roles:
        raise BadInput(
            f"The judge {name} is given two models.", fix="Leave out --model-role judge=…, or the other."
        )
    decides: Any = roles.pop("judge", None) or model
    if decides and entry.model == "none":
        raise BadInput(f"The judge {name} takes no model (given: {decides}).", fix=_usage(entry))
    if not decides and entry.model == "required":
        raise BadInput(
            f"The judge {name} needs a model.", fix=f"Give it with --model-role judge=MODEL. {_usage(entry)}"
        )
    for role in roles:
        if role not in entry.roles:
            raise BadInput(
                f"The judge {name} has no agent {role!r}.", fix=nearest(role, ("judge", *entry.roles))
            )
    given: dict[str, Any] = dict(roles)
    for key, value in options:
        if key not in entry.options:
            raise BadInput(f"The judge {name} has no option {key!r}.", fix=nearest(key, entry.options))
        if key in given:
            raise BadInput(f"The judge {name} is given the option {key!r} twice.")
        given[key] = _value(name, key, value, entry.options[key])
    return entry.make(*([decides] if decides else []), **given)


def _split_options(spec: str) -> tuple[str, list[tuple[str, str]]]:
    body, mark, tail = spec.rpartition("?")
    if not mark:
        return spec, []
    if not _OPTIONS.fullmatch(tail):
        raise BadInput(
            f"The options {tail!r} of the judge {body!r} cannot be read.",
            fix="Write ?option=value&option=value.",
        )
    return body, [(key, value) for key, _, value in (part.partition("=") for part in tail.split("&"))]


def _value(name: str, key: str, value: str, kind: type[int] | type[str]) -> int | str:
    if kind is int:
        if not re.fullmatch(r"[0-9]+", value):
            raise BadInput(f"The judge {name}'s option {key} is {value!r}.", fix="It must be a whole number.")
        return int(value)
    return value


def _usage(entry: JudgeEntry) -> str:
    forms = {
        "none": entry.name,
        "required": f"{entry.name}:MODEL (a folder, a hub id, or http://host:port/v1#NAME)",
        "optional": f"{entry.name} or {entry.name}:MODEL",
    }
    return f"Write {forms[entry.model]}."
