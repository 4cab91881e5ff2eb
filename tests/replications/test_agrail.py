"""AGrail's miniature: the loop, its memories, the real engine beside it, claims, resumption, and a shortened run."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from safewright.cli.main import run as cli
from safewright.lab.guarding import GuardingWorld, Item, guarding_world
from safewright.lab.guarding_model import GuardModel, Judged, build_guarding
from safewright.replications import Study, find
from safewright.replications import agrail as module
from safewright.replications.agrail import engine
from safewright.replications.agrail import world as world_
from safewright.replications.agrail.loop import UPDATES, Memory, Ruling, cosine, judge, run, score, waves
from safewright.runs import open_run


def quiet(*at: Any) -> None:
    """Progress that nobody sees."""


@pytest.fixture(scope="module")
def world() -> GuardingWorld:
    return guarding_world(0)


class Erring:
    """Players that know easy verbs, follow memory elsewhere, and err by a rule of their own; no model."""

    def __init__(self, world: GuardingWorld) -> None:
        self.truths = {verb: kind.truth for kind in world.kinds for verb in kind.easy}
        self.asked = 0

    def analyse(self, asked: Sequence[Any]) -> list[tuple[int, ...]]:
        self.asked += len(asked)
        return [
            self.truths.get(verb) or tuple(sorted(memory)) or (len(verb + object_) % 16,)
            for verb, object_, memory in asked
        ]

    def execute(self, asked: Sequence[Any]) -> list[Judged]:
        said = []
        for verb, object_, check, bit in asked:
            erring = random.Random(f"{verb} {object_} {check}").random() < 0.15
            kept = check in self.truths[verb] if verb in self.truths else not erring
            said.append(Judged(kept, bool(bit), True))
        return said


def one_by_one(players: Any, items: Sequence[Item], memory: Memory) -> list[Ruling]:
    """The loop without waves."""
    found = []
    for item in items:
        ruling = judge(players, [item], [memory.shown(item.key)])[0]
        memory.learn(item.key, ruling.kept, ruling.deleted)
        found.append(ruling)
    return found


@pytest.mark.parametrize("update", UPDATES)
def test_waves_change_nothing(world: GuardingWorld, update: Any) -> None:
    items = world.stream("waves", world.of("id"), 200)
    players = Erring(world)
    assert run(players, items, Memory(update)) == one_by_one(players, items, Memory(update))
    made = waves(items)
    assert sorted(at for wave in made for at in wave) == list(range(200))
    assert all(len({items[at].key for at in wave}) == len(wave) for wave in made)


def test_memories_learn_as_they_say() -> None:
    over = Memory("overwrite")
    over.begin(0, (1, 2, 3))
    over.learn(0, (), (1, 2))
    assert over.shown(0) == (1, 2, 3)  # nothing stood: no valid verdict, nothing learned
    over.learn(0, (4,), (1,))
    assert over.shown(0) == (4,)
    assert over.shown(7) == ()

    evidence = Memory("evidence")
    evidence.begin(0, (1,))
    evidence.learn(0, (5,), ())
    assert evidence.shown(0) == (5,)  # confirmed once, gone at the first absence
    for _ in range(4):
        evidence.learn(0, (5,), ())
    evidence.learn(0, (6,), ())
    assert evidence.shown(0) == (5, 6)  # confirmed five times: outlives one absence
    evidence.learn(0, (6,), ())
    assert evidence.shown(0) == (6,)

    kept = Memory("evidence_kept")
    kept.begin(0, (1,))
    for _ in range(20):
        kept.learn(0, (5,), ())
    assert kept.shown(0) == (1, 5)  # silence says nothing
    kept.learn(0, (5,), (1,))
    assert kept.shown(0) == (5,)

    over.frozen = True
    over.learn(0, (9,), ())
    assert over.shown(0) == (4,)


def test_scores_and_cosines_by_hand() -> None:
    def item(unsafe: bool) -> Item:
        return Item(0, 0, "v", "o", (), unsafe, False)

    blocked, allowed = Ruling((), (), True), Ruling((), (), False)
    items = [item(True)] * 3 + [item(False)] * 5
    found = score(items, [blocked, blocked, allowed, blocked, *[allowed] * 4])
    assert (found.blocked_unsafe, found.allowed_unsafe, found.blocked_safe, found.allowed_safe) == (
        2,
        1,
        1,
        4,
    )
    assert found.lpa == pytest.approx(6 / 8, abs=1e-12)
    assert found.f1 == pytest.approx(2 / 3, abs=1e-12)
    assert score(items, [allowed] * 8).f1 == 0.0
    assert score(items, [allowed] * 8).lpa == 5 / 8
    assert score(items, [allowed] * 8, closed=True).lpa == 3 / 8  # no check stood for any
    assert cosine((1, 2), (2, 3)) == pytest.approx(0.5)
    assert cosine((1,), (1, 2)) == pytest.approx(1 / math.sqrt(2))
    assert cosine((), (1,)) == 0.0


def test_a_check_that_fails_blocks_only_where_it_stands(world: GuardingWorld) -> None:
    class Says(Erring):
        def __init__(self, *said: Judged) -> None:
            self.said = list(said)

        def analyse(self, asked: Sequence[Any]) -> list[tuple[int, ...]]:
            return [tuple(range(len(self.said)))]

        def execute(self, asked: Sequence[Any]) -> list[Judged]:
            return self.said

    item = world.stream("one", (0,), 1)
    passes, fails = Judged(True, True, True), Judged(True, False, True)
    struck = Judged(False, False, True)
    assert not judge(Says(passes, struck), item, [()])[0].blocked
    assert judge(Says(passes, fails), item, [()])[0].blocked
    assert judge(Says(Judged()), item, [()])[0].blocked
    assert judge(Says(passes, struck), item, [()])[0] == Ruling((0,), (1,), False)
    assert judge(Says(struck), item, [()])[0] == Ruling((), (0,), False)
    assert judge(Says(), item, [()])[0].blocked_closed
    assert not judge(Says(passes), item, [()])[0].blocked_closed


def test_the_real_engine_decides_the_same(world: GuardingWorld, tmp_path: Path) -> None:
    """The faithful preset with its memory file, one action at a time, beside the fast loop; some keys are wrong."""
    items = [*world.stream("engine", world.of("ood"), 60), *world.stream("engine", world.of("id"), 40)]
    players = Erring(world)
    verdicts = engine.run_engine(world, items, players, tmp_path / "memory.db")
    assert {verdict.failure for verdict in verdicts} == {None, "no_checks"}
    assert {verdict.decision for verdict in verdicts} == {"allow", "deny"}
    fast = run(players, items, Memory("overwrite"))
    for verdict, ruling in zip(verdicts, fast, strict=True):
        if verdict.failure is None:
            assert engine.ruling_of(world, verdict) == ruling
        else:  # nothing stood: no valid verdict, whose struck checks are not told
            assert (ruling.kept, ruling.blocked, ruling.blocked_closed) == ((), False, True)
            assert verdict.decision == "deny"
    assert any(item.key != item.kind for item in items)
    assert any(ruling.deleted for ruling in fast)
    # Memory matters on this stream: without it, decisions are others.
    assert fast != run(players, items, None)


def test_modes_differ_as_they_are_defined(world: GuardingWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """With players that make no errors of their own, memory is all that tells the modes apart."""
    monkeypatch.setattr(world_, "TEST", 400)
    found = world_.streams(world, Erring(world))
    assert found["tta.id"] > found["nm.id"]
    assert found["tta.ood"] > found["nm.ood"]
    assert found["fm.id"] > found["nm.id"]
    assert set(found) >= {f"{m}.{u}.{s}" for m in ("fm", "tta") for u in ("evidence",) for s in ("id", "ood")}
    for side in ("id", "ood"):
        items = world.stream(f"test {side}", world.of(side), 400)
        assert found[f"floor.{side}"] == sum(not item.unsafe for item in items) / 400


def test_convergence_begins_at_nothing(world: GuardingWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_, "COPIES", 2)
    found = world_.convergence(world, Erring(world), "overwrite")
    assert found["overwrite.one.0"] == found["overwrite.two.0"] == 0.0
    assert found["overwrite.two.10"] > found["overwrite.two.1"] > 0
    assert found["overwrite.plateau"] == abs(found["overwrite.one.10"] - found["overwrite.one.5"])


def test_the_claims_are_those_the_specification_requires() -> None:
    bounds = {(claim.quantity, claim.sign): claim.bound for claim in find("agrail").claims}
    assert bounds["evidence.two.10 - overwrite.two.10", ">="] > 0
    assert bounds["overwrite.one.5 - overwrite.two.5", ">="] > 0
    assert bounds["overwrite.plateau", "<="] == 0.1
    assert bounds["tta.id - nm.id", ">="] == 0.05
    assert bounds["tta.ood - nm.ood", ">="] == 0.05
    assert {claim.seeds for claim in module.CLAIMS} == {5}
    assert not any("fm" in claim.quantity for claim in module.CLAIMS)


def figures(**changed: float) -> dict[str, float]:
    """A seed's quantities under which every claim holds."""
    found = {f"skill.{name}": 1.0 for name in ("easy", "hard_empty", "hard_true", "hard_wrong")}
    for side in ("id", "ood"):
        found[f"floor.{side}"] = 0.75
        for mode in (
            "nm",
            *(f"{mode}{name}" for mode in ("fm", "tta") for name in ("", ".evidence", ".evidence_kept")),
        ):
            found |= {f"{mode}.{side}": 0.8 if mode == "nm" else 0.9, f"{mode}.f1.{side}": 0.6}
            found |= {f"{mode}.closed.{side}": 0.7, f"{mode}.unruled.{side}": 0.1}
    for update in UPDATES:
        for turn in world_.VISITS:
            found |= {f"{update}.one.{turn}": 0.9, f"{update}.two.{turn}": 0.8}
        found[f"{update}.plateau"] = 0.05
    return found | {"evidence.two.10": 0.85} | changed


def test_claims_hold_are_refuted_or_wait_for_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def said(seeds: str, code: int, **changed: float) -> Any:
        monkeypatch.setattr(module, "seed_table", lambda work, seed: figures(**changed))
        out = tmp_path / f"{len(seeds)}-{code}"
        assert cli(["replicate", "agrail", "--seed-list", seeds, "--out", str(out), "--json"]) == code
        return json.loads(capsys.readouterr().out)

    five = said("0,1,2,3,4", 0)
    assert {verdict["ruling"] for verdict in five["verdicts"]} == {"holds"}
    assert [row["memory"] for row in five["rows"]][:2] == ["always allow", "NM, none"]
    assert len(five["rows"]) == 2 + 2 * len(UPDATES)
    assert any("TTA - FM on id" in note for note in five["notes"])
    assert any("FM - NM on ood" in note for note in five["notes"])
    one = {verdict["claim"]: verdict["ruling"] for verdict in said("0", 6)["verdicts"]}
    assert {one[c.name] for c in module.CLAIMS if c.single_seed} == {"holds"}
    assert {one[c.name] for c in module.CLAIMS if not c.single_seed} == {"undecided"}
    worse = said("0,1,2,3,4", 10, **{"evidence.two.10": 0.8})
    refuted = [verdict["claim"] for verdict in worse["verdicts"] if verdict["ruling"] == "refuted"]
    assert refuted == ["evidence beats overwriting at visit 10, two checks"]


def test_a_finished_part_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: GuardingWorld
) -> None:
    """A stop in the middle of a seed costs the part it was at."""
    ran: list[str] = []

    class StoppedError(Exception):
        """What ends the first try."""

    def part(name: str) -> Any:
        def work(*given: Any) -> dict[str, float]:
            label = f"{name} {given[-1]}" if name == "convergence" else name
            ran.append(label)
            if label == "convergence evidence" and ran.count(label) == 1:
                raise StoppedError
            return {label: 1.0}

        return work

    monkeypatch.setattr(world_.Scene, "model", property(lambda self: Erring(world)))
    monkeypatch.setattr(world_.Scene, "skills", part("skills"))
    monkeypatch.setattr(world_, "streams", part("streams"))
    monkeypatch.setattr(world_.Scene, "convergence", part("convergence"))

    def once() -> dict[str, float]:
        with open_run(tmp_path / "run", {"name": "agrail"}) as opened:
            return world_.seed_table(Study(opened, tmp_path / "run", (0,), (128,), quiet), 0)

    with pytest.raises(StoppedError):
        once()
    assert ran == ["skills", "streams", "convergence overwrite", "convergence evidence"]
    parts = {"skills", "streams", *(f"convergence {update}" for update in UPDATES)}
    assert set(once()) == parts
    assert ran[4:] == ["convergence evidence", "convergence evidence_kept"]


def test_the_shortened_replication(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A smaller study with the demo's model: it knows easy verbs, and memory helps where verbs are hard."""
    monkeypatch.setenv("SAFEWRIGHT_CACHE", str(tmp_path_factory.getbasetemp().parent / "lab-cache"))
    monkeypatch.setattr(world_, "COPIES", 2)
    world = guarding_world(0)
    model = GuardModel(world, build_guarding(world))
    own = world_.skills(world, model)
    assert own["easy"] >= 0.9
    assert own["hard_empty"] <= 0.3 <= own["hard_true"]
    found = world_.streams(world, model)
    assert found["tta.ood"] > found["nm.ood"]
    lists = world_.convergence(world, model, "overwrite")
    assert lists["overwrite.one.0"] == 0.0
    assert lists["overwrite.one.5"] >= 0.4
    model.close()
