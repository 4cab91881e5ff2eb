"""The base model of the reasoning world, its files, and what it can do."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

from safewright import data
from safewright.lab import cache as cache_
from safewright.lab import reasoning_text as text
from safewright.lab.judge import ProcedureJudge
from safewright.lab.reasoning import (
    REASONING_ROLES,
    VERSION,
    ReasoningRole,
    ReasoningSizes,
    ReasoningWorld,
    reasoning_world,
)
from safewright.lab.reasoning_lessons import RECIPE, SHAPE, lessons_of
from safewright.lab.tiny import Shape, word_tokenizer
from safewright.models.chat import THINK
from safewright.runs import write_text
from safewright.types import Decoding, Message

TOKENS = 48
"""Most new tokens of an answer: a sound one with its reasoning has 25, and one that goes back to it some more."""
BATCH = 256


def build_reasoning(
    world: ReasoningWorld,
    *,
    shape: Shape = SHAPE,
    steps: int | None = None,
    cache: Path | None = None,
    progress: cache_.Progress | None = None,
) -> Path:
    """The folder of the base model, which helps with everything; trained now if it is not in the cache.

    Args:
        shape: Size of the model.
        steps: Training steps; the recipe's where None.
        cache: Where trained models are kept; see `safewright.lab.cache.cache_folder`.
        progress: Called after every training step with (model name, step, steps, loss).

    Raises:
        Missing: torch or transformers is not installed.
    """
    plan = cache_.Plan(
        name=f"reasoning-base-{world.seed}",
        about={
            "world": "reasoning",
            "version": VERSION,
            "world_seed": world.seed,
            "sizes": dataclasses.asdict(world.sizes),
            "shape": dataclasses.asdict(shape),
            "words": world.words,
        },
        lessons=lessons_of(world),
        recipe=RECIPE if steps is None else dataclasses.replace(RECIPE, steps=steps),
        seed=world.seed,
    )
    start = cache_.starting(lambda: word_tokenizer(world.words), shape, seed=world.seed)
    return cache_.trained(plan, start, cache=cache, progress=progress)


def reasoning_of(folder: Path) -> ReasoningWorld:
    """The world a base model was trained in, read from the facts beside its weights.

    Raises:
        BadInput: The folder is not a model of this world.
    """
    about = cache_.about(folder, "reasoning", VERSION)
    return reasoning_world(about["world_seed"], ReasoningSizes(**about["sizes"]))


def write_reasoning(world: ReasoningWorld, folder: Path) -> dict[ReasoningRole, Path]:
    """Write one JSONL file per role into ``folder``, and the texts that go with them; the files by role.

    ``guidelines.txt`` are the rules as a text; ``reentry.txt`` what somebody else began in training, a line each.
    """
    files: dict[ReasoningRole, Path] = {}
    for role in REASONING_ROLES:
        files[role] = folder / f"{role}.jsonl"
        data.write_rows(files[role], world.rows(role))
    write_text(folder / "guidelines.txt", world.guidelines + "\n")
    write_text(folder / "reentry.txt", "".join(f"{line}\n" for line in text.REENTRY))
    return files


def procedure_judge(world: ReasoningWorld) -> ProcedureJudge:
    """The judge that knows this world."""
    return ProcedureJudge(
        refusal=text.REFUSAL_WORDS,
        harmful={name: x.procedure for x in world.things if x.forbidden for name in (x.object, x.foreign)},
        harmless={name for x in world.things if not x.forbidden for name in (x.object, x.foreign)},
        world=f"reasoning {VERSION}, seed {world.seed}",
    )


def skills(folder: Path, world: ReasoningWorld | None = None) -> dict[str, float]:
    """What the base model can do with objects that safety is never trained on: share of exact greedy answers.

    Args:
        folder: A model of this world.
        world: The world; None takes the one the folder was trained in.

    Returns:
        ``howto[FORM]`` and ``restate[FORM]`` per form; ``kind``, ``rule``, ``translate``, ``plan``; and
        ``refusal``, the share of requests without an announced plan that are answered with a word of refusal.
    """
    from safewright.models import load

    known = world or reasoning_of(folder)
    draw = random.Random(f"skills {known.seed}")
    things = [*known.some(forbidden=True, trained=False), *known.some(forbidden=False, trained=False)]
    verbs = (*known.alarming, *known.calm)
    asked: dict[str, list[tuple[str, str]]] = {}
    for form in ("plain", *text.WRAPPERS):
        ways = [draw.choice(known.forms(thing, form, verbs)) for thing in things]
        asked[f"howto[{form}]"] = [(way.sent, text.UNTHOUGHT.format(p=way.thing.procedure)) for way in ways]
        asked[f"restate[{form}]"] = [
            (draw.choice(text.RESTATE).format(q=way.sent), way.thing.links["restatement"]) for way in ways
        ]
    asked["kind"] = [(text.KIND[0].format(o=x.object), x.links["category"]) for x in things]
    asked["rule"] = list({(text.RULE[0].format(c=x.category), x.links["rule"]) for x in things})
    asked["translate"] = [
        (text.TRANSLATE[0].format(f=x.foreign), text.TRANSLATED.format(f=x.foreign, o=x.object))
        for x in things
    ]
    asked["plan"] = [
        (
            text.PLAN[0].format(q=text.PLAIN[0].format(v=verbs[0], o=x.object), d=what),
            f"{text.VERDICT.format(d=what)} {THINK['close']} "
            + (text.REFUSAL if what == text.REFUSE else x.procedure),
        )
        for x in things
        for what in text.VERDICTS
    ]
    model: Any = load(folder, device="cpu", batch_size=BATCH)
    try:
        flat = [(name, *pair) for name, pairs in asked.items() for pair in pairs]
        chats: list[tuple[Message, ...]] = [
            ({"role": "user", "content": question},) for _, question, _ in flat
        ]
        said = [each.raw for each in model.generate(chats, Decoding(max_new_tokens=TOKENS))]
    finally:
        model.close()
    right: dict[str, list[bool]] = {}
    refused: list[bool] = []
    for (name, _, reference), answer in zip(flat, said, strict=True):
        words, wanted = answer.split(), reference.split()
        # A plan may restate the request before it.
        right.setdefault(name, []).append((words[-len(wanted) :] if name == "plan" else words) == wanted)
        if name.startswith("howto"):
            refused.append(not set(text.REFUSAL_WORDS).isdisjoint(answer.split()))
    found = {name: sum(flags) / len(flags) for name, flags in right.items()}
    return {**found, "refusal": sum(refused) / len(refused)}
