"""Which rows meet: a pure function of the seed, the epoch and the place."""

from __future__ import annotations

from collections import Counter

import pytest

from safewright.errors import BadInput
from safewright.training.pairing import Pairs, collate_pairs
from tests.training import simple


def met(pairs: Pairs, epoch: int) -> list[tuple[str, str]]:
    items = [pairs.item(epoch, place) for place in range(len(pairs))]
    return [(item["forget"].id, item["retain"].id) for item in items]


def test_an_item_depends_on_nothing_but_its_place() -> None:
    one, other = simple.pairs(seed=5), simple.pairs(seed=5)
    forward = [met(one, epoch) for epoch in range(3)]
    backward = [met(other, epoch) for epoch in (2, 1, 0)][::-1]
    assert forward == backward
    assert [other.item(1, place) for place in (7, 2, 7)] == [one.item(1, place) for place in (7, 2, 7)]
    assert forward[0] != forward[1]
    assert met(simple.pairs(seed=6), 0) != forward[0]
    one.set_epoch(2)
    assert one[3] == other.item(2, 3)


def test_every_row_is_seen_equally_often() -> None:
    """Retained rows come in whole passes over all of them, however few the forget rows are."""
    pairs = simple.pairs(forget=12, retain=20)
    seen = [pair for epoch in range(5) for pair in met(pairs, epoch)]
    assert set(Counter(name for name, _ in seen).values()) == {5}
    assert set(Counter(name for _, name in seen).values()) == {3}
    assert len({name for _, name in seen[:20]}) == 20


def test_cycling_pairs_are_those_of_the_release() -> None:
    pairs = simple.pairs(forget=12, retain=5, pairing="cycle")
    for epoch in range(2):
        assert sorted(met(pairs, epoch)) == sorted((f"f{i}", f"r{i % 5}") for i in range(12))
    assert met(pairs, 0) != met(pairs, 1)  # in another order
    fixed = simple.pairs(forget=12, retain=5, pairing="cycle", shuffle=False)
    assert met(fixed, 0) == met(fixed, 1) == [(f"f{i}", f"r{i % 5}") for i in range(12)]


def test_parts_beside_the_leading_one_follow_it() -> None:
    rejected = simple.examples(12, "no", shift=2)
    pairs = Pairs(simple.examples(12, "yes"), beside={"rejected": rejected}, lead="chosen", seed=1)
    items = [pairs.item(0, place) for place in range(12)]
    assert all(item["rejected"].id == item["chosen"].id.replace("yes", "no") for item in items)
    assert set(items[0]) == {"chosen", "rejected", "index"}
    batch = collate_pairs(0)(items[:3])
    assert set(batch) == {"chosen", "rejected", "index"}
    assert batch["chosen"]["input_ids"].shape[0] == 3
    names = [f"{part}:{item[part].id}" for part in ("chosen", "rejected") for item in items[:3]]
    assert pairs.names(batch["index"]) == names


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(BadInput, match="no forget rows are left"):
        Pairs([])
    with pytest.raises(BadInput, match="pairing is 'random'"):
        Pairs(simple.examples(2, "f"), pairing="random")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 rejected examples beside 2 forget"):
        Pairs(simple.examples(2, "f"), beside={"rejected": simple.examples(1, "r")})
    with pytest.raises(IndexError):
        simple.pairs().item(0, 12)
