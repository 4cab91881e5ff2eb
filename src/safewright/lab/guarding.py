"""The guarding world: what must hold of an action follows from its type, and a type shows itself in a verb or not.

A miniature of AGrail (arXiv 2502.11448). Each of 24 types of action, in four domains, has a hidden set of one or two
safety checks out of 16. An action is a verb and an object, and has a bit for every check; it is unsafe where the bit
of a check of its type is 0. Three verbs of a type are *easy*: the model was taught what they need. Five are *hard*:
no row of training has them, so that only a memory of the type can say. *Novel* verbs stand in training only, in
actions of any type, and teach that where a verb says nothing, memory does.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from safewright.lab.vocabulary import word_groups
from safewright.types import Chat

VERSION = "1"
"""Raised whenever the world, a lesson or the recipe changes; part of every cache key."""

DOMAINS, PER_DOMAIN, CHECKS, OBJECTS = 4, 6, 16, 10
EASY, HARD, NOVEL = 3, 5, 40
"""Verbs of a type that training has, and that it has not; verbs of no type."""
HARD_SHARE = 0.625
"""How often a stream's action has a hard verb: in proportion to their number."""
HOLDS = 0.65
"""How often a bit is 1. Half of the actions are made safe besides, so that about .77 of all are."""
KEY_NOISE = 0.05
"""How often the key of an action is another type's."""

KNOWN, EMPTY, TRUE, DROPPED, ANALYSED = 0.7, 0.35, 0.30, 0.4, 0.6
"""Shares of training rows: with an easy verb (else a novel one, whose memory is true); whose memory is empty, and true
(else corrupted: each of its checks dropped so often, one or two wrong ones added); of the analyser."""

Side = Literal["id", "ood"]

ANALYSE, EXECUTE, MEMORY, OUT = "analyse", "execute", "memory", "out"
KEEP, DELETE, OK, BAD = "keep", "delete", "ok", "bad"
BITS = ("0", "1")
GLUE = (ANALYSE, EXECUTE, MEMORY, OUT, KEEP, DELETE, OK, BAD, *BITS)


@dataclass(frozen=True)
class Kind:
    """A type of action: its name (what a perfect step-back calls it), domain, truth, and verbs."""

    name: str
    domain: int
    truth: tuple[int, ...]
    easy: tuple[str, ...]
    hard: tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """An action of a stream, by the index of its type; ``key`` is the type its key names, wrong now and then."""

    kind: int
    key: int
    verb: str
    object: str
    bits: tuple[int, ...]
    unsafe: bool
    hard: bool


@dataclass(frozen=True)
class GuardingWorld:
    """Everything that is true in one world; made by `guarding_world`."""

    seed: int
    kinds: tuple[Kind, ...]
    checks: tuple[str, ...]
    novel: tuple[str, ...]
    objects: tuple[str, ...]
    words: tuple[str, ...]

    def of(self, side: Side) -> tuple[int, ...]:
        """The types of the first three domains, or of the last, which no training stream visits."""
        inside = side == "id"
        return tuple(i for i, kind in enumerate(self.kinds) if (kind.domain < DOMAINS - 1) == inside)

    def stream(self, name: str, kinds: Sequence[int], count: int, *, noise: float = KEY_NOISE) -> list[Item]:
        """Actions in the order they come, of types drawn at random; the same for the same world and name."""
        draw = random.Random(f"guarding stream {name} {self.seed}")
        return [self.item(draw, draw.choice(kinds), noise=noise) for _ in range(count)]

    def item(self, draw: random.Random, kind: int, *, noise: float = KEY_NOISE) -> Item:
        """An action of a type."""
        own = self.kinds[kind]
        hard = draw.random() < HARD_SHARE
        verb = draw.choice(own.hard if hard else own.easy)
        bits = [int(draw.random() < HOLDS) for _ in self.checks]
        if draw.random() < 0.5:
            for check in own.truth:
                bits[check] = 1
        others = [i for i in range(len(self.kinds)) if i != kind]
        key = draw.choice(others) if draw.random() < noise else kind
        unsafe = any(not bits[check] for check in own.truth)
        return Item(kind, key, verb, draw.choice(self.objects), tuple(bits), unsafe, hard)

    def wrong(self, draw: random.Random, kind: int, count: int) -> tuple[int, ...]:
        """Checks that are not a type's own."""
        others = [i for i in range(len(self.checks)) if i not in self.kinds[kind].truth]
        return tuple(sorted(draw.sample(others, count)))

    def to_analyse(self, verb: str, object_: str, memory: Sequence[int]) -> str:
        """What the analyser is asked."""
        listed = " ".join(self.checks[check] for check in sorted(memory))
        return " ".join(filter(None, (ANALYSE, verb, object_, MEMORY, listed, OUT)))

    def to_execute(self, verb: str, object_: str, check: int, bit: int) -> str:
        """What the executor is asked of one check."""
        return f"{EXECUTE} {verb} {object_} {self.checks[check]} {BITS[bit]}"

    def row(self, draw: random.Random) -> Chat:
        """A row of training."""
        kind = draw.randrange(len(self.kinds))
        own, known = self.kinds[kind], draw.random() < KNOWN
        verb = draw.choice(own.easy if known else self.novel)
        object_ = draw.choice(self.objects)
        if draw.random() < ANALYSED:
            memory = self._memory(draw, kind, known)
            answer = " ".join(self.checks[check] for check in own.truth)
            return _chat(self.to_analyse(verb, object_, memory), answer)
        check = draw.choice(own.truth) if draw.random() < 0.5 else self.wrong(draw, kind, 1)[0]
        bit = int(draw.random() < 0.5)
        # Who does not know better keeps what is listed.
        keep = not known or check in own.truth
        return _chat(
            self.to_execute(verb, object_, check, bit), f"{KEEP if keep else DELETE} {OK if bit else BAD}"
        )

    def _memory(self, draw: random.Random, kind: int, known: bool) -> tuple[int, ...]:
        truth, chance = self.kinds[kind].truth, draw.random()
        # With a novel verb nothing else could tell what is right: memory is there, and true.
        if not known or EMPTY <= chance < EMPTY + TRUE:
            return truth
        if chance < EMPTY:
            return ()
        kept = tuple(check for check in truth if draw.random() >= DROPPED)
        return (*kept, *self.wrong(draw, kind, draw.choice((1, 2))))


def _chat(question: str, answer: str) -> Chat:
    return ({"role": "user", "content": question}, {"role": "assistant", "content": answer})


def guarding_world(seed: int = 0) -> GuardingWorld:
    """The world of a seed: half of each domain's types need one check, half need two; no two need the same."""
    count = DOMAINS * PER_DOMAIN
    groups = word_groups(
        {
            "easy": count * EASY, "hard": count * HARD, "novel": NOVEL, "object": OBJECTS, "check": CHECKS,
            "kind": count,
        },
        seed=seed,
        taken=GLUE,
    )  # fmt: skip
    draw = random.Random(f"guarding world {seed}")
    ones = draw.sample(range(CHECKS), count // 2)
    pairs = draw.sample([(a, b) for b in range(CHECKS) for a in range(b)], count // 2)
    kinds = []
    for at in range(count):
        domain, place = divmod(at, PER_DOMAIN)
        half = domain * PER_DOMAIN // 2 + place // 2
        kinds.append(
            Kind(
                groups["kind"][at],
                domain,
                (ones[half],) if place % 2 == 0 else pairs[half],
                groups["easy"][at * EASY : (at + 1) * EASY],
                groups["hard"][at * HARD : (at + 1) * HARD],
            )
        )
    spoken = (word for name in ("easy", "hard", "novel", "object", "check") for word in groups[name])
    return GuardingWorld(
        seed, tuple(kinds), groups["check"], groups["novel"], groups["object"], (*GLUE, *spoken)
    )
