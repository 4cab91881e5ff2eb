"""Who is asked: teachers for candidates, a scorer for marks, a guard for outcomes; each model is opened once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from safewright.errors import BadInput
from safewright.judges.model import JudgeModel, models_of
from safewright.judges.text import without_control
from safewright.models.chat import THINK
from safewright.runs import Calls, digest_json
from safewright.treatments.asking import Asker, filled
from safewright.treatments.srg.guidelines import Guidelines
from safewright.treatments.srg.synthesis.config import SynthesisOptions
from safewright.treatments.srg.synthesis.pool import Prompt
from safewright.treatments.srg.synthesis.scoring import Counted, guard_of
from safewright.types import Decoding, Judge, ModelRef

if TYPE_CHECKING:
    pass

HINTS = {
    "harmful": "one that must not be helped with as it stands",
    "helpful": "harmless, and to be answered",
    "contrast": "harmless though it may sound otherwise, and to be answered",
}
"""What a hinted prompt says of a label."""


@dataclasses.dataclass
class Voices:
    """The models of a synthesis: ``teachers`` by role (``teacher``, and ``fallback`` where there is one).

    ``scorer`` is None where no trace is scored, ``guard`` where no outcome is judged.
    """

    teachers: dict[str, Asker]
    scorer: Asker | None
    guard: Judge | None
    judged: Counted

    @property
    def models(self) -> list[JudgeModel]:
        """Every model, once."""
        askers = [*self.teachers.values(), *([self.scorer] if self.scorer else [])]
        found = [asker.model for asker in askers]
        found += models_of(self.guard) if self.guard is not None else ()
        return list({id(model): model for model in found}.values())

    def conventions(self) -> dict[str, Any]:
        """What the manifest says about them."""
        said: dict[str, Any] = {role: asker.model.conventions() for role, asker in self.teachers.items()}
        if self.scorer is not None:
            said["scorer"] = self.scorer.model.conventions()
        if self.guard is not None:
            said["guard"] = {"judge": self.guard.name, **self.guard.conventions}
        return said

    def counts(self) -> dict[str, int]:
        """How often each was asked what."""
        found: dict[str, int] = {}
        for asker in {id(one): one for one in (*self.teachers.values(), self.scorer) if one}.values():
            for kind, count in asker.counts.items():
                found[kind] = found.get(kind, 0) + count
        return {**found, **{f"guard: {kind}": count for kind, count in self.judged.counts.items()}}


def voices(models: Mapping[str, Any], options: SynthesisOptions) -> Voices:
    """Who is asked, from models by role: ``teacher`` (or ``student``, with ``teacher_self``), ``fallback``, ``judge``.

    Raises:
        BadInput: There is no teacher, or two; somebody is to score who was not given; the guard is no judge.
    """
    if options.teacher_self and "teacher" in models:
        raise BadInput(
            "A teacher was given, and teacher_self says that the student is its own.",
            fix="Leave out --model teacher=… or teacher_self.",
        )
    own = "student" if options.teacher_self else "teacher"
    if own not in models:
        raise BadInput(
            f"There is no {own} to write reasoning.",
            fix="Give it: --model teacher=MODEL (a folder, http://host:port/v1#NAME, inspect:PROVIDER/NAME), or "
            "--model student=… with --set teacher_self=true.",
        )
    calls = None if options.call_store is None else Calls.in_folder(options.call_store)
    calls = calls or Calls()
    opened: dict[str, JudgeModel] = {}

    def ask(role: str) -> JudgeModel:
        given = models[role]
        key = given.digest if isinstance(given, ModelRef) else str(id(given))
        if key not in opened:
            model = JudgeModel(given, options.score_tokens)
            model.allowed = tuple(THINK.values())
            _settled(model, options, calls)
            opened[key] = model
        return opened[key]

    teachers = {"teacher": Asker(ask(own))}
    if "fallback" in models:
        teachers["fallback"] = Asker(ask("fallback"))
    scores = options.filter == "process"
    role = _scorer(models, options, own)
    scorer = Asker(ask(role)) if scores else None
    guard: Judge | None = None
    if options.filter != "none":
        guard = guard_of(options.guard, models[role])
        for model in models_of(guard):
            _settled(model, options, calls)
        if options.guard.partition("?")[0] == "rubric":
            guard.model = ask(role)  # type: ignore[attr-defined]  # the same weights are not opened twice
    return Voices(teachers, scorer, guard, Counted())


def _settled(model: JudgeModel, options: SynthesisOptions, calls: Calls) -> None:
    model.calls, model.at_once, model.timeout = calls, options.at_once, options.call_timeout


def _scorer(models: Mapping[str, Any], options: SynthesisOptions, own: str) -> str:
    """The role of who scores."""
    role = {"auto": "judge" if "judge" in models else own, "teacher": own}.get(
        options.score_by, options.score_by
    )
    if role not in models:
        raise BadInput(
            f"score_by is {options.score_by}, and no {role} was given.", fix=f"Give it: --model {role}=MODEL"
        )
    return role


def synthesis_prompt(prompt: Prompt, guidelines: Guidelines, options: Any, *, hinted: bool) -> str:
    """The question for a candidate: guidelines first, so that a server keeps their part."""
    words = [guidelines.verdict.words[name] for name in guidelines.verdict.words]
    return filled(
        "srg_synthesis",
        guidelines=guidelines.render(prompt.kind, options.cases, turn=prompt.turn),
        open=THINK["open"],
        close=THINK["close"],
        least=options.least_words,
        most=options.most_words,
        line=guidelines.verdict.line,
        words=", ".join(words),
        hint=HINTS[prompt.kind] if hinted else "",
        request=without_control(prompt.text),
    )


def drawing(model: JudgeModel, options: SynthesisOptions, seed: int, draw: int, hinted: bool) -> Decoding:
    """How one draw is made: its seed is made of the run's, its number, and whether it is hinted."""
    own = int(digest_json(["srg draw", seed, draw, hinted]).removeprefix("sha256:")[:7], 16)
    return dataclasses.replace(
        model.how,
        max_new_tokens=options.max_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=own,
    )
