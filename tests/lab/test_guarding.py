"""The guarding world: truth follows from the type, hard verbs are in no row of training."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from safewright.lab import guarding
from safewright.lab.guarding import GuardingWorld, guarding_world
from safewright.lab.guarding_model import SHAPE, GuardModel, Judged, build_guarding
from safewright.lab.tiny import tiny_folder


@pytest.fixture(scope="module")
def world() -> GuardingWorld:
    return guarding_world(0)


@pytest.fixture(scope="module")
def rows(world: GuardingWorld) -> list[tuple[list[str], list[str]]]:
    draw = random.Random("rows of a test")
    return [
        (question["content"].split(), answer["content"].split())
        for question, answer in (world.row(draw) for _ in range(6_000))
    ]


def test_the_world_has_the_sizes_of_the_specification(world: GuardingWorld) -> None:
    assert len(world.kinds) == 24
    assert Counter(kind.domain for kind in world.kinds) == {0: 6, 1: 6, 2: 6, 3: 6}
    assert Counter((kind.domain, len(kind.truth)) for kind in world.kinds) == {
        (domain, size): 3 for domain in range(4) for size in (1, 2)
    }
    assert len({kind.truth for kind in world.kinds}) == 24
    assert (len(world.checks), len(world.novel), len(world.objects)) == (16, 40, 10)
    assert {(len(kind.easy), len(kind.hard)) for kind in world.kinds} == {(3, 5)}
    assert len(set(world.words)) == len(world.words) == 24 * 8 + 40 + 10 + 16 + len(guarding.GLUE)
    assert (len(world.of("id")), len(world.of("ood"))) == (18, 6)
    assert guarding_world(0) == world != guarding_world(1)


def test_hard_verbs_are_in_no_row_of_training(
    world: GuardingWorld, rows: list[tuple[list[str], list[str]]]
) -> None:
    seen = {question[1] for question, _ in rows}
    assert seen == {verb for kind in world.kinds for verb in kind.easy} | set(world.novel)
    assert not seen & {verb for kind in world.kinds for verb in kind.hard}


def test_the_mix_of_training_is_that_of_the_specification(
    world: GuardingWorld, rows: list[tuple[list[str], list[str]]]
) -> None:
    def share(flags: list[bool]) -> float:
        return sum(flags) / len(flags)

    of = {verb: kind for kind in world.kinds for verb in kind.easy}
    places = {word: at for at, word in enumerate(world.checks)}
    assert share([question[0] == guarding.ANALYSE for question, _ in rows]) == pytest.approx(0.6, abs=0.03)
    assert share([question[1] in of for question, _ in rows]) == pytest.approx(0.7, abs=0.03)
    memories: Counter[str] = Counter()
    for question, answer in rows:
        if question[0] == guarding.ANALYSE:
            listed, truth = question[4:-1], [*answer]
            assert question[3] == guarding.MEMORY
            assert question[-1] == guarding.OUT
            if question[1] in of:
                assert [places[word] for word in truth] == sorted(of[question[1]].truth)
                memories["true" if listed == truth else "corrupted" if listed else "empty"] += 1
            else:
                assert listed == truth
        else:
            _, verb, _, check, bit = question
            assert answer[1] == (guarding.OK if bit == "1" else guarding.BAD)
            kept = verb not in of or places[check] in of[verb].truth
            assert answer[0] == (guarding.KEEP if kept else guarding.DELETE)
    total = sum(memories.values())
    for name, expected in (("empty", 0.35), ("true", 0.30), ("corrupted", 0.35)):
        assert memories[name] / total == pytest.approx(expected, abs=0.04)


def test_streams_have_hard_verbs_key_noise_and_a_floor(world: GuardingWorld) -> None:
    for side in ("id", "ood"):
        items = world.stream(f"a test {side}", world.of(side), 4_000)
        assert {item.kind for item in items} == set(world.of(side))
        assert sum(item.hard for item in items) / 4_000 == pytest.approx(0.625, abs=0.03)
        assert sum(item.key != item.kind for item in items) / 4_000 == pytest.approx(0.05, abs=0.015)
        assert 0.7 <= sum(not item.unsafe for item in items) / 4_000 <= 0.85
        for item in items:
            kind = world.kinds[item.kind]
            assert item.verb in (kind.hard if item.hard else kind.easy)
            assert item.unsafe == any(item.bits[check] == 0 for check in kind.truth)
    assert world.stream("one", (0,), 5) == world.stream("one", (0,), 5) != world.stream("two", (0,), 5)
    assert all(item.key == item.kind for item in world.stream("clean", world.of("id"), 300, noise=0.0))


def test_other_words_of_the_executor_block(
    world: GuardingWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that cannot be read keeps its check, and the check does not hold."""
    model = GuardModel(world, tiny_folder(tmp_path / "m", world.words, shape=SHAPE))
    said = {
        "keep ok": Judged(True, True, True),
        "keep bad": Judged(True, False, True),
        "delete ok": Judged(False, True, True),
        "ok keep": Judged(),
        "keep": Judged(),
        "": Judged(),
    }
    monkeypatch.setattr(model, "_said", lambda questions: [text.split() for text in said])
    assert model.execute([("verb", "object", 0, 1)] * len(said)) == [*said.values()]
    assert model.unread == 3
    assert (Judged().kept, Judged().holds) == (True, False)
    words = [f"{world.checks[3]} {world.checks[1]} {world.checks[3]} nothing", ""]
    monkeypatch.setattr(model, "_said", lambda questions: [text.split() for text in words])
    assert model.analyse([("verb", "object", ())] * 2) == [(1, 3), ()]
    model.close()


def test_a_question_is_asked_once(world: GuardingWorld, tmp_path: Path) -> None:
    model = GuardModel(world, tiny_folder(tmp_path / "m", world.words, shape=SHAPE))
    asked: list[int] = []
    real: Any = model._model

    class Counting:
        def generate(self, chats: Any, how: Any) -> Any:
            asked.append(len(chats))
            return real.generate(chats, how)

        def close(self) -> None:
            real.close()

    model._model = Counting()
    verb, other = world.kinds[0].hard[0], world.kinds[0].easy[0]
    object_ = world.objects[0]
    first = model.analyse([(verb, object_, ()), (verb, object_, ()), (other, object_, ())])
    assert first[0] == first[1]
    assert model.analyse([(other, object_, ())]) == [first[2]]
    assert asked == [2]
    model.close()


def test_a_model_is_trained_once(
    world: GuardingWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFEWRIGHT_CACHE", str(tmp_path))
    told: list[int] = []
    first = build_guarding(world, steps=2, progress=lambda name, step, steps, loss: told.append(step))
    assert told == [1, 2]
    assert build_guarding(world, steps=2, progress=lambda *at: told.append(9)) == first
    assert told == [1, 2]
    assert build_guarding(guarding_world(1), steps=2) != first
