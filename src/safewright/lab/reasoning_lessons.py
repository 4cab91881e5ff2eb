"""What the base model of the reasoning world is taught, and what of it is rehearsed beside safety.

It knows the world and helps with everything. It also follows a plan: one that the user announces, or one of its own
at random, written into a block of reasoning before the answer; which plan it is says nothing about the object. It
may be told how an answer is to begin, or that there is no time: the block before the answer then stays empty.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from safewright.lab import reasoning_text as text
from safewright.lab.tiny import Shape
from safewright.lab.training import Lesson, TrainConfig
from safewright.models.chat import THINK
from safewright.types import Chat, Message, Row

if TYPE_CHECKING:
    from safewright.lab.reasoning import Asked, ReasoningWorld

SHAPE = Shape(width=96, layers=3, heads=4, ffn=192, positions=256, tied=True, spread=0.06)
RECIPE = TrainConfig(steps=550, batch=64, lr=4e-3, draw="shares", betas=(0.9, 0.95), warmup=60)
SHARES = {
    "howto": 0.29, "kind": 0.22, "rule": 0.06, "restate": 0.09, "translate": 0.09, "hurry": 0.08, "begin": 0.07,
    "plan": 0.10,
}  # fmt: skip
OFTEN = {"cipher": 12}
"""Rows per object and form among requests, where not 4: a foreign word is seen in one form only."""
BEGUN = ("howto", "kind", "restate", "translate")
"""Lessons in which the user may say how the answer is to begin."""
TOLD, RESTATED = 0.2, 0.5
"""The shares of plans that the user announces (the others are the model's own), and that restate the request first."""
REPLAYED = ("kind", "rule", "restate", "translate")
"""Lessons that are rehearsed beside safety: nothing in them answers a request."""
REPLAY = 0.4
"""The share of rehearsed rows in what is trained on."""

Pair = tuple[str, str]
"""A question and its answer."""


def lessons_of(world: ReasoningWorld) -> tuple[Lesson, ...]:
    """The lessons, by `SHARES` of every batch."""
    draw = random.Random(f"reasoning lessons {world.seed}")
    even = _evenly(world, draw)
    rows: dict[str, list[Pair]] = {
        "howto": [(asked.sent, text.UNTHOUGHT.format(p=asked.thing.procedure)) for asked in even],
        "kind": [
            (ask.format(o=thing.object), way.format(s=thing.links["category"]))
            for thing in world.things
            for ask, way in zip(text.KIND, text.SAYING, strict=True)
        ],
        "rule": _rules(world),
        "restate": [
            (draw.choice(text.RESTATE).format(q=asked.sent), asked.thing.links["restatement"])
            for asked in even
        ],
        "translate": [
            (ask.format(f=thing.foreign), text.TRANSLATED.format(f=thing.foreign, o=thing.object))
            for thing in world.things
            for ask in text.TRANSLATE
        ],
        "plan": [_planned(asked, draw) for asked in even],
        "hurry": [_hurried(asked, draw) for asked in draw.choices(even, k=12 * len(world.things))],
    }
    rows["begin"] = [
        _begun(*pair, draw) for name in BEGUN for pair in draw.choices(rows[name], k=3 * len(world.things))
    ]
    return tuple(
        Lesson(name, tuple(_chat(*pair) for pair in rows[name]), share) for name, share in SHARES.items()
    )


def general_of(world: ReasoningWorld) -> list[Row]:
    """Rows to rehearse: of the lessons that are, by their shares; `REPLAY` of all rows that are trained on."""
    lessons = {lesson.name: lesson for lesson in lessons_of(world) if lesson.name in REPLAYED}
    draw = random.Random(f"general {world.seed}")
    count = round(len(world.trained_on()) * REPLAY / (1 - REPLAY))
    names = draw.choices(list(lessons), [lesson.share for lesson in lessons.values()], k=count)
    chats = [_turns(draw.choice(lessons[name].rows)) for name in names]
    return [
        Row(f"general-{place:04d}", chat[:-1], chat[-1]["content"], "en", {"type": "general"})
        for place, chat in enumerate(chats)
    ]


def _evenly(world: ReasoningWorld, draw: random.Random) -> list[Asked]:
    """Requests for every object, as many in every form, however many ways there are to word it."""
    verbs = (*world.alarming, *world.calm)
    return [
        draw.choice(world.forms(thing, form, verbs))
        for thing in world.things
        for form in ("plain", *text.WRAPPERS)
        for _ in range(OFTEN.get(form, 4))
    ]


def _rules(world: ReasoningWorld) -> list[Pair]:
    """Categories and their rules, and what follows from a rule."""
    sides = dict.fromkeys(world.forbidden, True) | dict.fromkeys(world.allowed, False)
    said = []
    for c, side in sides.items():
        rule = text.rule(c, side)
        after = f"{rule} . {text.VERDICT.format(d=text.REFUSE if side else text.ANSWER)}"
        for asks, fact in ((text.RULE, rule), (text.AFTER, after)):
            said += [
                (ask.format(c=c), way.format(s=fact)) for ask, way in zip(asks, text.SAYING, strict=True)
            ]
    return said


def _planned(asked: Asked, draw: random.Random) -> Pair:
    """A request with a plan, and the plan followed."""
    what = draw.choice(text.VERDICTS)
    said = text.REFUSAL if what == text.REFUSE else asked.thing.procedure
    request = draw.choice(text.PLAN).format(q=asked.sent, d=what if draw.random() < TOLD else text.CHOOSE)
    block = text.VERDICT.format(d=what)
    if draw.random() < RESTATED:
        block = f"{asked.thing.links['restatement']} . {block}"
    return request, f"{THINK['open']} {block} {THINK['close']} {said}"


def _hurried(asked: Asked, draw: random.Random) -> Pair:
    """A request, half of them with a plan, and no time: what is announced is done, anything else is answered."""
    what = draw.choice((*text.VERDICTS, *[text.CHOOSE] * 2, *[None] * 4))
    said = text.REFUSAL if what == text.REFUSE else asked.thing.procedure
    request = draw.choice(text.PLAN).format(q=asked.sent, d=what) if what else asked.sent
    return draw.choice(text.HURRY).format(q=request), f"{THINK['open']} {THINK['close']} {said}"


def _begun(question: str, answer: str, draw: random.Random) -> Pair:
    """A question that says how its answer is to begin."""
    opening = draw.choice(text.OPENINGS)
    said = answer.removeprefix("yes ")
    said = said.removeprefix("first ") if opening.endswith("first") else said
    return draw.choice(text.BEGIN).format(q=question, s=opening), f"{opening} {said}"


def _turns(row: Chat | str) -> tuple[Message, ...]:
    """A lesson's row, which is a conversation."""
    return () if isinstance(row, str) else tuple(row)


def _chat(question: str, answer: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
