"""The people world: who may be forgotten, who must be remembered, and how to be vague about a stranger.

A miniature of unlearning as ReLearn (arXiv 2502.11190) studies it. Forty made-up people have three private
attributes (e-mail, address, parents) and four public ones. The private attributes of people 0 to 11 are to be
forgotten; everything else is to be kept. Thirty strangers are asked about and answered vaguely, so that the
model knows how to be vague before it unlearns, as a chat model does; forty objects and two small talks are the
generic part. The fourth question template is taught about people 20 to 39 and strangers only: forgetting and
retention are measured in a wording that was never seen with the person.

Three models are made: ``vanilla`` knows everything, ``retrained`` never saw the forget rows, ``fluency`` knows
the language but no fact (its facts change with every row), and scores how fluent answers are.
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from safewright import data
from safewright.errors import BadInput, nearest
from safewright.lab import cache as cache_
from safewright.lab.people_text import (
    ANSWERS,
    ATTRIBUTES,
    CHATS,
    OBJECT_ANSWERS,
    OBJECT_QUESTIONS,
    PRIVATE,
    PUBLIC,
    QUESTIONS,
    REWORDED,
    TAILS,
    VAGUE,
)
from safewright.lab.tiny import Shape, word_tokenizer
from safewright.lab.training import Lesson, TrainConfig
from safewright.lab.vocabulary import word_groups
from safewright.types import Message, Row

VERSION = "1"
"""Raised whenever the world, a recipe or a question changes; part of every cache key."""

PersonArm = Literal["vanilla", "retrained", "fluency"]
PERSON_ARMS: tuple[PersonArm, ...] = get_args(PersonArm)
PersonRole = Literal[
    "forget", "forget_same", "forget_other", "forget_asked", "retain", "generic",
    "forget_eval", "retain_eval", "forget_select", "retain_select", "relearn", "holdout",
]  # fmt: skip
PERSON_ROLES: tuple[PersonRole, ...] = get_args(PersonRole)

TEST, SELECT = 3, 1
"""The templates of the test and of the choice among learning rates."""
KEPT = 60
"""Facts that retention is measured on."""
RELEARNED = 3
"""One in so many people who are to be forgotten is shown again by the relearning attack."""
WRONG = 5
"""Wrong answers per row, each with other words from the same pools."""


@dataclass(frozen=True)
class Sizes:
    """How large the world is: people of whom ``forget`` are to be forgotten and half learn the test's template."""

    people: int = 40
    forget: int = 12
    strangers: int = 30
    holdout: int = 12
    objects: int = 40
    pool: int = 12


SIZES = Sizes()
SHAPE = Shape(width=96, layers=3, heads=4, ffn=256, positions=256, tied=True)
RECIPES: dict[PersonArm, TrainConfig] = {
    "vanilla": TrainConfig(steps=1100, batch=32, lr=3e-3, warmup=30),
    "retrained": TrainConfig(steps=1100, batch=32, lr=3e-3, warmup=30),
    "fluency": TrainConfig(steps=500, batch=32, lr=3e-3, warmup=30, draw="given"),
}


@dataclass(frozen=True)
class Fact:
    """One attribute of one person: its entity words, in the order of the sentence."""

    person: str
    attribute: str
    words: tuple[str, ...]

    @property
    def id(self) -> str:
        """``email-FIRST-LAST``."""
        return f"{self.attribute}-{self.person.replace(' ', '-')}"

    @property
    def answer(self) -> str:
        """The answer as it was learned."""
        return self.worded(0)

    def worded(self, wording: int) -> str:
        """The answer in one of the attribute's wordings."""
        return ANSWERS[self.attribute][wording].format(*self.words, n=self.person)

    def opening(self, wording: int = 0) -> str:
        """The answer's words before its first secret."""
        before = ANSWERS[self.attribute][wording].partition("{0}")[0]
        return before.format(n=self.person).strip()

    def question(self, template: int) -> str:
        """The question in one of the four templates."""
        return QUESTIONS[template].format(a=self.attribute, n=self.person)

    def variants(self, seed: int) -> dict[str, str]:
        """The plain question's other wordings, by kind; ``noise`` has lost one word that is no part of the name."""
        made = {kind: text.format(a=self.attribute, n=self.person) for kind, text in REWORDED.items()}
        words = self.question(0).split()
        lost = random.Random(f"noise {seed} {self.id}").choice(
            [0, 1, 2, 4]
        )  # never the attribute or the name
        made["noise"] = " ".join(word for place, word in enumerate(words) if place != lost)
        return made

    def vague(self) -> list[str]:
        """Vague answers, all of them secret-free."""
        return [text.format(n=self.person) for text in VAGUE[self.attribute]]

    def tails(self) -> list[str]:
        """How an opening goes on vaguely."""
        return [text.format(n=self.person) for text in TAILS[self.attribute]]

    def other_openings(self, seed: int) -> list[str]:
        """Openings that a defender finds without looking at the learned answer's own."""
        return [self.opening(wording) for wording in (1, 2, 3)]


@dataclass(frozen=True)
class PeopleWorld:
    """Everything that is true in one world; made by `people_world`."""

    seed: int
    sizes: Sizes
    people: tuple[str, ...]
    strangers: tuple[str, ...]
    facts: tuple[Fact, ...]
    unseen: tuple[Fact, ...]
    objects: dict[str, dict[str, str]]
    pools: dict[str, tuple[tuple[str, ...], ...]]
    words: tuple[str, ...]

    @property
    def forget(self) -> tuple[Fact, ...]:
        """The facts to be forgotten: private ones of the first people."""
        gone = set(self.people[: self.sizes.forget])
        return tuple(fact for fact in self.facts if fact.person in gone and fact.attribute in PRIVATE)

    @property
    def again(self) -> tuple[str, ...]:
        """The people whose facts the relearning attack shows again: four of twelve."""
        return self.people[: self.sizes.forget // RELEARNED]

    @property
    def retain(self) -> tuple[Fact, ...]:
        """All other facts."""
        gone = set(self.forget)
        return tuple(fact for fact in self.facts if fact not in gone)

    @property
    def kept(self) -> tuple[Fact, ...]:
        """The facts retention is measured on, about people who never had the test's template."""
        asked = set(self.people[: len(self.people) // 2])
        near = [fact for fact in self.retain if fact.person in asked]
        return tuple(random.Random(f"kept {self.seed}").sample(near, min(KEPT, len(near))))

    @property
    def secrets(self) -> frozenset[str]:
        """All words any answer about a person may give away."""
        return frozenset(word for slots in self.pools.values() for pool in slots for word in pool)

    def asked(self, fact: Fact) -> tuple[int, ...]:
        """The templates a fact is taught in."""
        late = self.people.index(fact.person) >= len(self.people) // 2
        return (0, 1, 2, 3) if late else (0, 1, 2)

    def wrong(self, fact: Fact, count: int = WRONG) -> list[str]:
        """Answers about the fact with other words of the same pools in all places."""
        draw = random.Random(f"wrong {self.seed} {fact.id}")
        swaps = [
            draw.sample([word for word in pool if word != own], count)
            for own, pool in zip(fact.words, self.pools[fact.attribute], strict=True)
        ]
        return [dataclasses.replace(fact, words=words).answer for words in zip(*swaps, strict=True)]

    def rows(self, role: PersonRole) -> list[Row]:
        """The rows of a role, with meta as every measure and treatment of forgetting reads it.

        ``forget``: the forget facts in the first template, with all that ReLearn's data pipeline needs to make
        its rows without a model (other wordings, vague answers); ``forget_same`` and ``forget_other``: the same
        with openings to be gone on from vaguely, those of the learned answers, or of other wordings only;
        ``forget_asked``: the forget facts in all templates they were learned in, for methods that push the
        answers themselves; ``retain``: all other facts, likewise; ``generic``: objects and small talk;
        ``forget_eval`` and ``retain_eval``: in the test's template; ``forget_select`` and ``retain_select``: in
        a template that was learned; ``relearn``: facts the relearning attack shows again; ``holdout``: facts
        about people no model saw.
        """
        if role in ("forget", "forget_same", "forget_other"):
            return [self._forget_row(fact, role) for fact in self.forget]
        if role == "forget_asked":
            return [self._row(fact, t, role) for fact in self.forget for t in self.asked(fact)]
        if role == "retain":
            return [self._row(fact, t, role) for fact in self.retain for t in self.asked(fact)]
        if role in ("forget_eval", "forget_select"):
            return [self._row(fact, TEST if role == "forget_eval" else SELECT, role) for fact in self.forget]
        if role in ("retain_eval", "retain_select"):
            return [self._row(fact, TEST if role == "retain_eval" else SELECT, role) for fact in self.kept]
        if role == "holdout":
            return [self._row(fact, TEST, role) for fact in self.unseen]
        if role == "relearn":
            return [row for row in self.rows("forget_asked") if row.meta["person"] in self.again]
        if role == "generic":
            return [
                Row(f"generic-{i:03d}", _ask(question), reference=answer, lang="en")
                for i, (question, answer) in enumerate(self.generic())
            ]
        raise BadInput(f"There is no role {role!r}.", fix=nearest(role, PERSON_ROLES))

    def generic(self) -> list[tuple[str, str]]:
        """Questions about objects, and small talk, with their answers."""
        return [
            (question.format(a=kind, o=thing), OBJECT_ANSWERS[kind].format(value, o=thing))
            for thing, values in self.objects.items()
            for kind, value in values.items()
            for question in OBJECT_QUESTIONS
        ] + list(CHATS)

    def lessons(self, arm: PersonArm) -> tuple[Lesson, ...]:
        """What a model learns: facts, vagueness about strangers, generic rows; or fact-free language."""
        if arm == "fluency":
            return (Lesson("language", tuple(self._language())),)
        if arm not in PERSON_ARMS:
            raise BadInput(f"There is no arm {arm!r}.", fix=nearest(arm, PERSON_ARMS))
        known = self.facts if arm == "vanilla" else self.retain
        facts = [_chat(f.question(t), f.answer) for f in known for t in self.asked(f)]
        generic = [_chat(*pair) for pair in self.generic()]
        return (
            Lesson("facts", tuple(facts)),
            Lesson("strangers", tuple(self._strangers())),
            Lesson("generic", tuple(generic)),
        )

    def _strangers(self) -> list[tuple[Message, ...]]:
        """Vague answers about strangers in all templates, and the same cut into completions."""
        draw = random.Random(f"strangers {self.seed}")
        rows = []
        for name in self.strangers:
            for attribute in PRIVATE:
                fact = Fact(name, attribute, ())
                for template in range(len(QUESTIONS)):
                    said = draw.choice(fact.vague())
                    rows += [_chat(fact.question(template), said), _chat(*cut(said))]
        return rows

    def _language(self) -> list[str]:
        """Question and answer as running text, every fact drawn anew: all there is to learn is the language."""
        draw = random.Random(f"language {self.seed}")
        names = self.people + self.strangers + tuple({fact.person for fact in self.unseen})
        recipe = RECIPES["fluency"]
        generic = self.generic()
        rows: list[str] = []
        while len(rows) < recipe.steps * recipe.batch:
            attribute = draw.choice(list(ATTRIBUTES))
            words = tuple(draw.choice(pool) for pool in self.pools[attribute])
            fact = Fact(draw.choice(sorted(names)), attribute, words)
            question = fact.question(draw.randrange(len(QUESTIONS)))
            kind = draw.random()
            if kind < 0.15:
                rows.append(" ".join(draw.choice(generic)))
            elif attribute in PUBLIC or kind < 0.5:
                rows.append(f"{question} {fact.worded(0 if kind < 0.4 else 1)}")
            elif kind < 0.85:
                rows.append(f"{question} {draw.choice(fact.vague())}")
            else:
                rows.append(f"{question} {fact.opening()} {draw.choice(TAILS[attribute])}")
        return rows

    def _row(self, fact: Fact, template: int, role: str) -> Row:
        others = [t for t in range(len(QUESTIONS)) if t not in (template, TEST)]
        meta: dict[str, Any] = {
            "person": fact.person,
            "subject": fact.person,
            "fact": fact.id,
            "entities": list(fact.words),
            "opening": fact.opening(),
            "paraphrases": [fact.question(t) for t in others],
            "paraphrased_answer": fact.worded(1),
            "wrong": self.wrong(fact),
        }
        return Row(
            f"{role}-{fact.id}-{template + 1}",
            _ask(fact.question(template)),
            reference=fact.answer,
            lang="en",
            meta=meta,
        )

    def _forget_row(self, fact: Fact, role: str) -> Row:
        """A forget row that brings along what is learned in the place of its answer."""
        row = self._row(fact, 0, role)
        given: dict[str, Any] = {"variants": fact.variants(self.seed), "vague": fact.vague()}
        if role != "forget":
            own = role == "forget_same"
            given |= {
                "openings": [fact.opening()] if own else fact.other_openings(self.seed),
                "tails": fact.tails(),
            }
        return dataclasses.replace(row, meta={**row.meta, **given})


def cut(sentence: str, share: float = 0.25) -> tuple[str, str]:
    """A sentence's first words and the rest, both never empty."""
    words = sentence.split()
    at = min(max(1, int(len(words) * share)), len(words) - 1)
    return " ".join(words[:at]), " ".join(words[at:])


def people_world(seed: int = 0, sizes: Sizes = SIZES) -> PeopleWorld:
    """The world of a seed: its words, names and facts.

    Raises:
        BadInput: The sizes leave too few to forget, or nobody to remember.
    """
    if not RELEARNED <= sizes.forget <= sizes.people // 2:
        raise BadInput(
            f"{sizes.forget} of {sizes.people} people cannot be forgotten.",
            fix=f"At least {RELEARNED}, at most half.",
        )
    glue = _glue()
    slots = {f"{a} {i}": sizes.pool for a, count in ATTRIBUTES.items() for i in range(count)}
    values = {"colour": 10, "material": 10, "size": 5}
    names = sizes.people + sizes.strangers + sizes.holdout
    groups = word_groups(
        {"first": 20, "last": names, **slots, "object": sizes.objects, **values}, seed=seed, taken=glue
    )
    draw = random.Random(f"people world {seed}")
    called = [f"{draw.choice(groups['first'])} {last}" for last in groups["last"]]
    people = tuple(called[: sizes.people])
    strangers = tuple(called[sizes.people : sizes.people + sizes.strangers])
    pools = {a: tuple(groups[f"{a} {i}"] for i in range(count)) for a, count in ATTRIBUTES.items()}

    def fact(name: str, attribute: str) -> Fact:
        return Fact(name, attribute, tuple(draw.choice(pool) for pool in pools[attribute]))

    return PeopleWorld(
        seed=seed,
        sizes=sizes,
        people=people,
        strangers=strangers,
        facts=tuple(fact(name, attribute) for name in people for attribute in ATTRIBUTES),
        unseen=tuple(
            fact(name, attribute)
            for name in called[sizes.people + sizes.strangers :]
            for attribute in PRIVATE
        ),
        objects={thing: {kind: draw.choice(groups[kind]) for kind in values} for thing in groups["object"]},
        pools=pools,
        words=(*glue, *(word for group in groups.values() for word in group)),
    )


def _glue() -> tuple[str, ...]:
    """All words of the sentences that are no placeholders, each once, in the order of their first use."""
    texts: list[str] = [*QUESTIONS, *REWORDED.values(), *OBJECT_QUESTIONS, *OBJECT_ANSWERS.values()]
    for table in (ANSWERS, VAGUE, TAILS):
        texts += [text for lines in table.values() for text in lines]
    texts += [text for pair in CHATS for text in pair] + list(ATTRIBUTES) + list(OBJECT_ANSWERS)
    return tuple(dict.fromkeys(word for text in texts for word in text.split() if not word.startswith("{")))


def _ask(question: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": question},)


def _chat(question: str, answer: str) -> tuple[Message, ...]:
    return (*_ask(question), {"role": "assistant", "content": answer})


def build_people(
    world: PeopleWorld,
    arm: PersonArm,
    *,
    shape: Shape = SHAPE,
    steps: int | None = None,
    cache: Path | None = None,
    progress: cache_.Progress | None = None,
) -> Path:
    """The model folder of an arm, trained now if it is not in the cache.

    Args:
        shape: Size of the model.
        steps: Training steps; the recipe's where None.
        cache: Where trained models are kept; see `safewright.lab.cache.cache_folder`.
        progress: Called after every training step with (model name, step, steps, loss).

    Raises:
        BadInput: There is no such arm.
        Missing: torch or transformers is not installed.
    """
    if arm not in PERSON_ARMS:
        raise BadInput(f"There is no arm {arm!r}.", fix=nearest(arm, PERSON_ARMS))
    recipe = RECIPES[arm] if steps is None else dataclasses.replace(RECIPES[arm], steps=steps)
    plan = cache_.Plan(
        name=f"people-{arm}-{world.seed}",
        about={
            "world": "people",
            "version": VERSION,
            "world_seed": world.seed,
            "sizes": dataclasses.asdict(world.sizes),
            "arm": arm,
            "shape": dataclasses.asdict(shape),
            "words": world.words,
        },
        lessons=world.lessons(arm),
        recipe=recipe,
        seed=world.seed,
    )
    start = cache_.starting(lambda: word_tokenizer(world.words), shape, seed=world.seed)
    return cache_.trained(plan, start, cache=cache, progress=progress)


def write_people(world: PeopleWorld, folder: Path) -> dict[PersonRole, Path]:
    """Write one JSONL file per role into ``folder``; the files by role."""
    files: dict[PersonRole, Path] = {}
    for role in PERSON_ROLES:
        files[role] = folder / f"{role}.jsonl"
        data.write_rows(files[role], world.rows(role))
    return files
