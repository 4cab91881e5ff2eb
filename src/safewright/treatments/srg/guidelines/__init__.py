"""Guidelines: what a teacher reasons by, in a file that users can read and change.

A trained model never sees them (context distillation); every record carries the digest of the file it was made with.
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from safewright.errors import BadInput, nearest, need_extra
from safewright.runs import digest_bytes, write_bytes
from safewright.treatments.job import Job

Kind = Literal["harmful", "helpful", "contrast"]
"""What a request is labelled as; each kind has guidelines of its own."""
KINDS: tuple[Kind, ...] = get_args(Kind)

Decision = Literal["refuse", "safe_complete", "comply"]
DECISIONS: tuple[Decision, ...] = get_args(Decision)

DEFAULT = "default"
NAMES = (DEFAULT, "default-1")
"""Names of the guidelines that come with this package."""
FILE = "guidelines.yaml"
MOST_CASES = 2
"""Cases shown in one prompt, at most."""

_FIELDS = frozenset({"version", "verdict", "categories", "sets", "cases"})
_CASE = frozenset({"type", "decision", "request", "reasoning", "answer"})


@dataclass(frozen=True)
class Verdict:
    """How the last line of a trace says its decision: ``line`` begins it, ``words`` has one word per decision."""

    line: str
    words: Mapping[Decision, str]


@dataclass(frozen=True)
class Perspective:
    """One side from which a request is looked at."""

    name: str
    text: str


@dataclass(frozen=True)
class Case:
    """A worked example."""

    type: Kind
    decision: Decision
    request: str
    reasoning: str
    answer: str


@dataclass(frozen=True)
class GuidelineSet:
    """What one kind of request is reasoned by: perspectives, and how a decision is come to."""

    perspectives: tuple[Perspective, ...]
    decision: str


@dataclass(frozen=True)
class Guidelines:
    """Guidelines of a file; ``hash`` is the digest of its bytes."""

    version: str
    hash: str
    verdict: Verdict
    categories: tuple[str, ...]
    sets: Mapping[Kind, GuidelineSet]
    cases: tuple[Case, ...]

    @classmethod
    def load(cls, name_or_path: str | Path = DEFAULT) -> Guidelines:
        """The guidelines of a name, or of a YAML file.

        Raises:
            BadInput: There are none, or the file cannot be used: no YAML, no version, a kind without a set, a set
                without a decision section, an unknown field.
            Missing: PyYAML is not installed.
        """
        if str(name_or_path) in NAMES:
            return parse(default_bytes(), f"the guidelines {name_or_path}")
        file = Path(name_or_path)
        if not file.is_file():
            raise BadInput(
                f"There are no guidelines {str(name_or_path)!r}: no such file.",
                fix=f"Name a YAML file, or {DEFAULT}. safewright treat srg guidelines --out DIR writes one to edit.",
            )
        return parse(file.read_bytes(), str(file))

    def require(self, kind: str) -> GuidelineSet:
        """The set of one kind of request.

        Raises:
            BadInput: The file has none.
        """
        if kind not in self.sets:
            raise BadInput(
                f"The guidelines {self.version} have no set for {kind} requests.",
                fix=f"Add it under `sets`; they have: {', '.join(self.sets)}.",
            )
        return self.sets[kind]  # type: ignore[index]

    def render(self, kind: str, cases: int = MOST_CASES, *, turn: int = 0) -> str:
        """The text of one kind's set, with at most ``cases`` cases.

        Of the cases, one refuses and one complies where the file has both; ``turn`` rotates which ones.

        Raises:
            BadInput: An unknown kind, or more than two cases.
        """
        chosen = self.require(kind)
        if not 0 <= cases <= MOST_CASES:
            raise BadInput(f"{cases} cases were asked for.", fix=f"At most {MOST_CASES} are shown.")
        lines = [f"{n}. {one.name}. {one.text}" for n, one in enumerate(chosen.perspectives, 1)]
        lines.append(f"{len(lines) + 1}. Decision and manner. {chosen.decision}")
        parts = ["\n".join(lines)]
        if self.categories:
            parts.append(f"Categories: {', '.join(self.categories)}; or none.")
        for case in self.shown(kind, cases, turn):
            word = self.verdict.words[case.decision]
            parts.append(
                f"Example request: {case.request}\nExample reasoning: {case.reasoning} "
                f"{self.verdict.line} {word}.\nExample answer: {case.answer}"
            )
        return "\n\n".join(parts)

    def shown(self, kind: str, cases: int, turn: int) -> list[Case]:
        """The cases that a prompt shows, see `render`."""
        own = [case for case in self.cases if case.type == kind]
        refusing = [case for case in own if case.decision == "refuse"]
        others = [case for case in own if case.decision != "refuse"]
        return [group[turn % len(group)] for group in (refusing, others) if group][:cases]

    def secrets(self) -> list[str]:
        """The texts that no trace may repeat: perspectives, decisions and cases. Categories are there to be named."""
        found = []
        for one in self.sets.values():
            found += [part.text for part in one.perspectives] + [one.decision]
        for case in self.cases:
            found += [case.request, case.reasoning, case.answer]
        return found


def default_bytes() -> bytes:
    """The file that comes with this package."""
    return (importlib.resources.files("safewright.treatments.srg.guidelines") / "default.yaml").read_bytes()


@functools.lru_cache(maxsize=16)
def parse(data: bytes, where: str) -> Guidelines:
    """The guidelines in the bytes of a YAML file.

    Args:
        data: The file.
        where: Its name, for the errors.

    Raises:
        BadInput: See `Guidelines.load`.
        Missing: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise need_extra("pyyaml", "models") from error
    try:
        plain = yaml.safe_load(data.decode("utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise BadInput(
            f"{where} is no readable YAML ({said:.200}).", fix="Write it as the default file is written."
        ) from error
    top = _mapping(plain, where, _FIELDS, needed={"version", "sets"})
    said_sets = _mapping(top["sets"], f"{where}, sets", frozenset(KINDS), needed=set())
    if not said_sets:
        raise BadInput(f"{where} has no set.", fix=f"Write one for each of {', '.join(KINDS)} that you need.")
    verdict = _verdict(top.get("verdict"), where)
    cases = tuple(
        _case(one, f"{where}, case {n}", verdict)
        for n, one in enumerate(_list(top.get("cases", []), f"{where}, cases"), 1)
    )
    return Guidelines(
        version=_text(top["version"], f"{where}, version"),
        hash=digest_bytes(data),
        verdict=verdict,
        categories=tuple(
            _text(one, f"{where}, categories")
            for one in _list(top.get("categories", []), f"{where}, categories")
        ),
        sets={kind: _set(said_sets[kind], f"{where}, {kind}") for kind in KINDS if kind in said_sets},
        cases=cases,
    )


def _set(plain: Any, where: str) -> GuidelineSet:
    fields = _mapping(plain, where, frozenset({"perspectives", "decision"}), needed={"perspectives"})
    if not fields.get("decision"):
        raise BadInput(
            f"{where} has no decision section.",
            why="A trace that decides nothing teaches nothing to decide.",
            fix="Add `decision:` with a text that says when to refuse, safe-complete or comply.",
        )
    perspectives = []
    for n, one in enumerate(_list(fields["perspectives"], f"{where}, perspectives"), 1):
        spot = f"{where}, perspective {n}"
        said = _mapping(one, spot, frozenset({"name", "text"}), needed={"name", "text"})
        perspectives.append(Perspective(_text(said["name"], spot), _text(said["text"], spot)))
    if not perspectives:
        raise BadInput(f"{where} has no perspective.", fix="Write at least one, with `name` and `text`.")
    return GuidelineSet(tuple(perspectives), _text(fields["decision"], f"{where}, decision"))


def _verdict(plain: Any, where: str) -> Verdict:
    if plain is None:
        return Verdict(
            "Decision:", {"refuse": "refuse", "safe_complete": "safe-complete", "comply": "comply"}
        )
    names = frozenset({"line", *DECISIONS})
    said = _mapping(plain, f"{where}, verdict", names, needed={"line", "refuse", "comply"})
    words = {one: _text(said[one], f"{where}, verdict") for one in DECISIONS if one in said}
    if len({word.casefold() for word in words.values()}) < len(words):
        raise BadInput(f"{where}, verdict: two decisions have the same word.", fix="Give each its own.")
    return Verdict(_text(said["line"], f"{where}, verdict"), words)


def _case(plain: Any, where: str, verdict: Verdict) -> Case:
    said = _mapping(plain, where, _CASE, needed=set(_CASE))
    kind, decision = said["type"], said["decision"]
    if kind not in KINDS:
        raise BadInput(f"{where} has the type {kind!r}.", fix=nearest(str(kind), KINDS))
    if decision not in verdict.words:
        raise BadInput(f"{where} has the decision {decision!r}.", fix=nearest(str(decision), verdict.words))
    return Case(kind, decision, *(_text(said[name], where) for name in ("request", "reasoning", "answer")))


def _mapping(plain: Any, where: str, known: frozenset[str], needed: set[str]) -> Mapping[str, Any]:
    if not isinstance(plain, Mapping):
        raise BadInput(f"{where} is no mapping.", fix=f"It has the fields {', '.join(sorted(known))}.")
    for key in plain:
        if key not in known:
            raise BadInput(f"{where} has an unknown field {key!r}.", fix=nearest(str(key), known))
    lacking = sorted(needed - set(plain))
    if lacking:
        raise BadInput(f"{where} has no {lacking[0]}.", fix=f"Needed: {', '.join(sorted(needed))}.")
    return plain


def _list(plain: Any, where: str) -> Sequence[Any]:
    if not isinstance(plain, list):
        raise BadInput(f"{where} is no list.", fix="Write each entry on a line of its own behind a dash.")
    return plain


def _text(plain: Any, where: str) -> str:
    if not isinstance(plain, str) or not plain.strip():
        raise BadInput(f"{where} holds {plain!r:.60}, not a text.", fix="Write a text; quote numbers.")
    return " ".join(plain.split())


def write_guidelines(job: Job) -> dict[str, Any]:
    """Write the default guidelines to edit (guidelines.yaml in --out)."""
    write_bytes(job.draft / FILE, default_bytes())
    own = Guidelines.load()
    return {"file": FILE, "version": own.version, "digest": own.hash, "use": f"--set guidelines=DIR/{FILE}"}
