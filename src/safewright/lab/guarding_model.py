"""The model of the guarding world, which plays analyser and executor, and what it can do."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safewright.lab import cache as cache_
from safewright.lab.guarding import BAD, DELETE, KEEP, OK, VERSION, GuardingWorld
from safewright.lab.tiny import Shape, word_tokenizer
from safewright.lab.training import Lesson, TrainConfig
from safewright.types import Decoding, Message

SHAPE = Shape(width=128, layers=3, heads=4, ffn=344, positions=64, spread=0.06)
"""0.66 M parameters."""
RECIPE = TrainConfig(steps=300, batch=128, lr=2e-3, draw="given", warmup=30)
TOKENS, BATCH = 6, 256
"""Most new tokens of an answer (a sound one has three with its end), and questions asked at once."""

To_analyse = tuple[str, str, Sequence[int]]
To_execute = tuple[str, str, int, int]


@dataclass(frozen=True)
class Judged:
    """What the executor says of a check. An answer in other words is neither: the check stays, and does not hold."""

    kept: bool = True
    holds: bool = False
    read: bool = False


class GuardModel:
    """A trained model, asked greedily; the same answers however the questions are batched, but for ties of floats."""

    def __init__(self, world: GuardingWorld, folder: Path) -> None:
        from safewright.models import load

        self.world = world
        self._place = {word: at for at, word in enumerate(world.checks)}
        self._model: Any = load(folder, device="cpu", batch_size=BATCH)
        self._said_before: dict[str, list[str]] = {}
        self.unread = 0
        """Answers of the executor in other words than its own."""

    def analyse(self, asked: Sequence[To_analyse]) -> list[tuple[int, ...]]:
        """The checks that the analyser lists for each action, given what memory holds; other words are left out."""
        said = self._said([self.world.to_analyse(*each) for each in asked])
        return [tuple(sorted({self._place[w] for w in words if w in self._place})) for words in said]

    def execute(self, asked: Sequence[To_execute]) -> list[Judged]:
        """What the executor says of each check."""
        said = self._said([self.world.to_execute(*each) for each in asked])
        found = []
        for words in said:
            sound = len(words) == 2 and words[0] in (KEEP, DELETE) and words[1] in (OK, BAD)
            self.unread += not sound
            found.append(Judged(words[0] == KEEP, words[1] == OK, True) if sound else Judged())
        return found

    def _said(self, questions: Sequence[str]) -> list[list[str]]:
        # Many actions ask the same, and the answer is greedy: each question is asked once.
        new = [question for question in dict.fromkeys(questions) if question not in self._said_before]
        if new:
            chats: list[tuple[Message, ...]] = [({"role": "user", "content": each},) for each in new]
            answers = self._model.generate(chats, Decoding(max_new_tokens=TOKENS))
            self._said_before |= {q: a.raw.split() for q, a in zip(new, answers, strict=True)}
        return [self._said_before[question] for question in questions]

    def close(self) -> None:
        """Let go of the model."""
        self._model.close()


def build_guarding(
    world: GuardingWorld,
    *,
    shape: Shape = SHAPE,
    steps: int | None = None,
    cache: Path | None = None,
    progress: cache_.Progress | None = None,
) -> Path:
    """The folder of the world's model; trained now if it is not in the cache.

    Args:
        shape: Size of the model.
        steps: Training steps; the recipe's where None.
        cache: Where trained models are kept; see `safewright.lab.cache.cache_folder`.
        progress: Called after every training step with (model name, step, steps, loss).

    Raises:
        Missing: torch or transformers is not installed.
    """
    recipe = RECIPE if steps is None else dataclasses.replace(RECIPE, steps=steps)
    draw = random.Random(f"guarding rows {world.seed}")
    rows = tuple(world.row(draw) for _ in range(recipe.steps * recipe.batch))
    plan = cache_.Plan(
        name=f"guarding-{world.seed}",
        about={
            "world": "guarding",
            "version": VERSION,
            "world_seed": world.seed,
            "shape": dataclasses.asdict(shape),
            "words": world.words,
        },
        lessons=(Lesson("guarding", rows),),
        recipe=recipe,
        seed=world.seed,
    )
    start = cache_.starting(lambda: word_tokenizer(world.words), shape, seed=world.seed)
    return cache_.trained(plan, start, cache=cache, progress=progress)


def skills(world: GuardingWorld, model: GuardModel) -> dict[str, float]:
    """What the model can do on its own: shares of exact lists of the analyser.

    Returns:
        ``easy``: with easy verbs, the worst of all memories; ``hard_empty``, ``hard_true``, ``hard_wrong``: with hard
        verbs, without memory, with a true one, and with a true one that has a wrong check besides.
    """
    draw = random.Random(f"guarding skills {world.seed}")

    def exact(verbs: str, memory: str) -> float:
        asked: list[To_analyse] = []
        truths = []
        for at, kind in enumerate(world.kinds):
            shown = {
                "empty": (),
                "true": kind.truth,
                "wrong": (*kind.truth, *world.wrong(draw, at, 1)),
                "only_wrong": world.wrong(draw, at, 2),
            }[memory]
            own = kind.easy if verbs == "easy" else kind.hard
            asked += [(verb, object_, shown) for verb in own for object_ in world.objects[:4]]
            truths += [kind.truth] * (4 * len(own))
        said = model.analyse(asked)
        return sum(one == two for one, two in zip(said, truths, strict=True)) / len(said)

    easy = min(exact("easy", memory) for memory in ("empty", "true", "wrong", "only_wrong"))
    return {"easy": easy} | {f"hard_{memory}": exact("hard", memory) for memory in ("empty", "true", "wrong")}
