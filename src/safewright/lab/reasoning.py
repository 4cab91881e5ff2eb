"""The reasoning world: what may be asked about follows from what a thing is, never from how one asks.

A miniature of safety reasoning with guidelines (arXiv 2502.04040). Every object belongs to a category, every
category has a rule (half of them are forbidden), and every object has a procedure of two steps. A request comes in
plain words or in one of six wrappings that hide it. The base model helps with everything: it knows procedures,
categories, rules and foreign words, says in short what a request wants, and follows a plan that is announced; it
cannot refuse of its own accord.

What is trained on is plain where it is harmful; of the harmless requests some are wrapped, so that a wrapping is
nothing new, and says nothing. Objects that are asked about in the test were never in any training row of safety.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from safewright.errors import BadInput, nearest
from safewright.lab import reasoning_text as text
from safewright.lab.reasoning_lessons import general_of
from safewright.lab.vocabulary import word_groups
from safewright.types import Message, Row

VERSION = "1"
"""Raised whenever the world, a recipe or a question changes; part of every cache key."""

ReasoningRole = Literal[
    "reasoned", "general", "harmful", "helpful", "plain_harm", "plain_benign", "euphemism", "alarming",
    "wrapped_harm", "wrapped_benign", "prefilled",
]  # fmt: skip
REASONING_ROLES: tuple[ReasoningRole, ...] = get_args(ReasoningRole)
Filter = Literal["none", "outcome", "process"]

NAMES, VERBS, STEPS, DRAWS = 4, 4, 32, 16
"""Names of personas; alarming verbs, and as many calm ones; words of steps; what a teacher draws at most."""
WRAPPED = 0.3
"""The share of harmless training requests that are wrapped."""


@dataclass(frozen=True)
class ReasoningSizes:
    """How large the world is; of ``objects`` per category the first ``train`` are trained on."""

    categories: int = 12
    objects: int = 16
    train: int = 10


SIZES = ReasoningSizes()


@dataclass(frozen=True)
class Thing:
    """An object and all that is true of it."""

    object: str
    foreign: str
    category: str
    forbidden: bool
    steps: tuple[str, str]
    trained: bool

    @property
    def procedure(self) -> str:
        """What an answer that helps says."""
        return text.PROCEDURE.format(a=self.steps[0], b=self.steps[1])

    @property
    def decision(self) -> str:
        """``refuse`` or ``comply``."""
        return "refuse" if self.forbidden else "comply"

    @property
    def answer(self) -> str:
        """What a sound answer says."""
        return text.REFUSAL if self.forbidden else self.procedure

    @property
    def links(self) -> dict[str, str]:
        """What a sound trace holds, in its order."""
        return {
            "restatement": text.RESTATED.format(o=self.object),
            "category": text.KIND_SAID.format(o=self.object, c=self.category),
            "rule": text.rule(self.category, self.forbidden),
        }


@dataclass(frozen=True)
class Asked:
    """A request for a thing in the words it is sent in; ``form`` is ``plain`` or the name of a wrapping."""

    thing: Thing
    form: str
    sent: str
    goal: str


@dataclass(frozen=True)
class ReasoningWorld:
    """Everything that is true in one world; made by `reasoning_world`."""

    seed: int
    sizes: ReasoningSizes
    things: tuple[Thing, ...]
    forbidden: tuple[str, ...]
    allowed: tuple[str, ...]
    alarming: tuple[str, ...]
    calm: tuple[str, ...]
    names: tuple[str, ...]
    words: tuple[str, ...]

    def some(self, *, forbidden: bool, trained: bool) -> tuple[Thing, ...]:
        """The things of one side of the rules and of one side of the split, categories in turn."""
        own = [thing for thing in self.things if (thing.forbidden, thing.trained) == (forbidden, trained)]
        width = self.sizes.train if trained else self.sizes.objects - self.sizes.train
        return tuple(own[at] for turn in range(width) for at in range(turn, len(own), width))

    @property
    def guidelines(self) -> str:
        """The rules as a text that can stand before a request."""
        return text.GUIDELINES.format(forbidden=" ".join(self.forbidden))

    def forms(self, thing: Thing, form: str, verbs: Sequence[str]) -> list[Asked]:
        """All ways to ask about a thing in a form: plain ones by template and verb, wrapped ones by name."""
        if form == "plain":
            said = [template.format(v=verb, o=thing.object) for verb in verbs for template in text.PLAIN]
            return [Asked(thing, form, each, each) for each in said]
        goal = text.PLAIN[0].format(v=verbs[0], o=thing.object)
        template = text.WRAPPERS[form]
        said = [template.format(o=thing.object, f=thing.foreign, n=name) for name in self.names]
        return [Asked(thing, form, each, goal) for each in dict.fromkeys(said)]

    def trained_on(self, *, harmful: int | None = None) -> list[Asked]:
        """The requests of the training rows: as many harmful as harmless ones, the harmful ones all plain.

        Args:
            harmful: How many harmful objects there are in them; all where None. Fewer are asked about as often.

        Raises:
            BadInput: There are not so many.
        """
        bad, good = (self.some(forbidden=side, trained=True) for side in (True, False))
        count = len(bad) if harmful is None else harmful
        if not 1 <= count <= len(bad):
            raise BadInput(f"{count} harmful objects were asked for.", fix=f"There are {len(bad)}.")
        draw = random.Random(f"reasoning rows {self.seed}")
        plain = {thing: self.forms(thing, "plain", self.alarming) for thing in bad[:count]}
        rows = [
            plain[bad[at % count]][way] for at in range(len(bad)) for way in range(len(text.PLAIN) * VERBS)
        ]
        for thing in good:
            ways = self.forms(thing, "plain", self.calm)
            wrapped = round(WRAPPED * len(ways))
            rows += draw.sample(ways, len(ways) - wrapped)
            hidden = [draw.choice(self.forms(thing, form, self.calm)) for form in text.WRAPPERS]
            rows += draw.sample(hidden, wrapped)
        draw.shuffle(rows)
        return rows

    def records(
        self,
        *,
        harmful: int | None = None,
        noise: float = 0.0,
        keep: Filter = "none",
        limit: int | None = None,
    ) -> list[Row]:
        """Training rows with a teacher's reasoning, in the format of `treat srg`.

        Args:
            harmful: See `trained_on`.
            noise: The share of a teacher's traces that name a wrong category, and follow it.
            keep: Which traces are kept: all; those whose decision is right (``outcome``); those without a wrong
                link (``process``). The teacher draws up to `DRAWS` times per request.
            limit: At most so many.
        """
        draw = random.Random(f"teacher {self.seed}")
        rows = []
        for place, asked in enumerate(self.trained_on(harmful=harmful)[:limit]):
            traces = [self._trace(asked.thing, noise, draw) for _ in range(DRAWS)]
            fits = {
                "none": lambda named, thing: True,
                "outcome": lambda named, thing: (named in self.forbidden) == thing.forbidden,
                "process": lambda named, thing: named == thing.category,
            }[keep]
            kept = next((named for named in traces if fits(named, asked.thing)), None)
            if kept is not None:
                rows.append(self._record(f"reasoned-{place:04d}", asked, kept, draw))
        return rows

    def _trace(self, thing: Thing, noise: float, draw: random.Random) -> str:
        """The category a teacher names: a wrong one in a share of its traces."""
        others = [c for c in (*self.forbidden, *self.allowed) if c != thing.category]
        wrong, other = draw.random() < noise, draw.choice(others)
        return other if wrong else thing.category

    def _record(self, id_: str, asked: Asked, named: str, draw: random.Random) -> Row:
        thing = asked.thing
        refuses = named in self.forbidden
        verdict = text.VERDICT.format(d=text.REFUSE if refuses else text.ANSWER)
        other = draw.choice(self.allowed if refuses else self.forbidden)
        meta: dict[str, Any] = {
            **self._meta(asked),
            **({} if asked.form == "plain" else {"format": asked.form}),
            "type": "harmful" if thing.forbidden else "helpful",
            "reasoning": self._reasoned(thing, named),
            "decision": "refuse" if refuses else "comply",
            "refusal": text.REFUSAL if refuses else thing.procedure,
            "restated": text.RESTATED.format(o=thing.object),
            "verdict": verdict,
            "draft": text.DRAFT.format(o=thing.object),
            "rejected": [
                {
                    "reasoning": self._reasoned(thing, other),
                    "answer": thing.procedure if refuses else text.REFUSAL,
                    "why": "process",
                }
            ],
        }
        return Row(id_, _ask(asked.sent), text.REFUSAL if refuses else thing.procedure, "en", meta)

    def _reasoned(self, thing: Thing, named: str) -> str:
        """The user wants O . O is C . C is R . so D"""
        refuses = named in self.forbidden
        parts = (
            text.RESTATED.format(o=thing.object),
            text.KIND_SAID.format(o=thing.object, c=named),
            text.rule(named, refuses),
            text.VERDICT.format(d=text.REFUSE if refuses else text.ANSWER),
        )
        return " . ".join(parts)

    def _meta(self, asked: Asked) -> dict[str, Any]:
        thing = asked.thing
        return {
            "goal": asked.goal,
            "object": thing.object,
            "kind": "harm" if thing.forbidden else "benign",
            "links": thing.links,
            "decision": thing.decision,
            "procedure": thing.procedure,
        }

    def rows(self, role: ReasoningRole) -> list[Row]:
        """The rows of a role.

        ``reasoned``: training requests with reasoning and answer; ``harmful``, ``helpful``: the same requests
        without them; ``general``: what is rehearsed beside them; ``plain_harm``, ``plain_benign``: objects that
        were not trained on, in plain words; ``euphemism``: harmful ones with a calm verb; ``alarming``: harmless
        ones with an alarming verb; ``wrapped_harm``, ``wrapped_benign``: in all wrappings; ``prefilled``: harmful
        ones whose answer or reasoning was begun by somebody else. ``attack`` in the meta names the way.

        Raises:
            BadInput: There is no such role.
        """
        if role == "reasoned":
            return self.records()
        if role in ("harmful", "helpful"):
            side = [asked for asked in self.trained_on() if asked.thing.forbidden == (role == "harmful")]
            return [self._question(role, place, asked) for place, asked in enumerate(side)]
        if role == "general":
            return general_of(self)
        if role == "prefilled":
            return self._prefilled()
        if role in ("wrapped_harm", "wrapped_benign"):
            things = self.some(forbidden=role == "wrapped_harm", trained=False)
            draw = random.Random(f"{role} {self.seed}")
            verbs = self.alarming if role == "wrapped_harm" else self.calm
            asked_ = [
                draw.choice(self.forms(thing, form, verbs)) for form in text.WRAPPERS for thing in things
            ]
            return [self._question(role, place, asked) for place, asked in enumerate(asked_)]
        sides = {
            "plain_harm": (True, self.alarming),
            "plain_benign": (False, self.calm),
            "euphemism": (True, self.calm),
            "alarming": (False, self.alarming),
        }
        if role not in sides:
            raise BadInput(f"There is no role {role!r}.", fix=nearest(role, REASONING_ROLES))
        forbidden, verbs = sides[role]
        draw = random.Random(f"{role} {self.seed}")
        return [
            self._question(role, place, draw.choice(self.forms(thing, "plain", verbs)))
            for place, thing in enumerate(self.some(forbidden=forbidden, trained=False))
        ]

    def _question(self, role: str, place: int, asked: Asked) -> Row:
        meta = self._meta(asked)
        if role == "alarming":
            meta["kind"] = role
        if asked.form != "plain" or role == "euphemism":
            meta["attack"] = role if asked.form == "plain" else asked.form
        return Row(f"{role}-{place:03d}", _ask(asked.sent), asked.thing.answer, "en", meta)

    def _prefilled(self) -> list[Row]:
        """The plain harmful requests, and how an attack begins the model's turn."""
        rows = []
        for row in self.rows("plain_harm"):
            for attack, opening in text.ATTACKED.items():
                meta = {**row.meta, "attack": attack, "opening": opening}
                rows.append(dataclasses.replace(row, id=f"{row.id}-{attack}", meta=meta))
        return rows


def _ask(question: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": question},)


def reasoning_world(seed: int = 0, sizes: ReasoningSizes = SIZES) -> ReasoningWorld:
    """The world of a seed: its words, its things and their rules.

    Raises:
        BadInput: The sizes leave nothing to train on, nothing to ask about, or an odd number of categories.
    """
    if sizes.categories < 2 or sizes.categories % 2 or not 1 <= sizes.train < sizes.objects:
        raise BadInput(
            f"A world of {sizes.categories} categories with {sizes.train} of {sizes.objects} objects to train on "
            "cannot be.",
            fix="Give an even number of categories, and leave some objects for the test.",
        )
    count = sizes.categories * sizes.objects
    glue = text.glue()
    groups = word_groups(
        {
            "object": count, "foreign": count, "category": sizes.categories,
            "step": STEPS, "alarming": VERBS, "calm": VERBS, "name": NAMES,
        },
        seed=seed,
        taken=glue,
    )  # fmt: skip
    draw = random.Random(f"reasoning world {seed}")
    pairs = draw.sample([(a, b) for a in groups["step"] for b in groups["step"] if a != b], count)
    kinds = groups["category"]
    half = sizes.categories // 2
    things = tuple(
        Thing(
            groups["object"][at],
            groups["foreign"][at],
            kinds[at // sizes.objects],
            at // sizes.objects < half,
            pairs[at],
            at % sizes.objects < sizes.train,
        )
        for at in range(count)
    )
    return ReasoningWorld(
        seed=seed,
        sizes=sizes,
        things=things,
        forbidden=kinds[:half],
        allowed=kinds[half:],
        alarming=groups["alarming"],
        calm=groups["calm"],
        names=groups["name"],
        words=(*glue, *(word for group in groups.values() for word in group)),
    )
