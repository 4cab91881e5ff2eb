"""Splits keep what belongs together on one side; overlap finds what is on both."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safewright.data import normalise, overlap, require_disjoint, split
from safewright.data.splits import words
from safewright.errors import BadInput
from safewright.types import Row


def row(name: str, text: str, *more: str) -> Row:
    turns = [{"role": "user", "content": t} for t in (text, *more)]
    return Row(name, tuple(turns))


def rows(*texts: str) -> list[Row]:
    return [row(f"r{i}", text) for i, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("How do I zor a blim?", "how do i  ZOR a blim"),
        ("don't zor", "don’t\nzor"),
        ("Ｚｏｒ， blim！", "zor blim"),
        ("请问，怎么 做面包？", "请问怎么做面包"),
        ("straße", "STRASSE"),
        ("cafe\u0301", "caf\u00e9"),
        ("zor_blim", "zor blim"),
        ("❤️ zor", "❤ zor"),
        ("???", " ? ? ? "),
        ("zor\u00adblat w\u200bug", "zorblat wug"),
        ("\ufeffzor \u202eblim\u202c", "zor blim"),
        (
            "\u0646\u0645\u06cc\u200c\u062a\u0648\u0627\u0646\u0645",
            "\u0646\u0645\u06cc \u062a\u0648\u0627\u0646\u0645",
        ),
    ],
)
def test_normalised_texts_are_the_same(a: str, b: str) -> None:
    assert normalise(a) == normalise(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [("zor", "zorn"), ("▲ ◆", "▲ ●"), ("???", "!!!"), ("你好", "你们好"), ("की", "का"), ("2 3", "23")],
)
def test_normalised_texts_that_differ(a: str, b: str) -> None:
    assert normalise(a) != normalise(b)


def test_words() -> None:
    assert words("Zor-blim 你好 3.5 ▲") == ["zor", "blim", "你", "好", "3", "5", "▲"]
    assert words("한국어 텍스트") == ["한국어", "텍스트"]
    assert words("ภาษา") == ["ภ", "า", "ษ", "า"]


def sentence(n: int, start: int = 0) -> str:
    return " ".join(f"w{i}" for i in range(start, start + n))


def test_overlap_kinds() -> None:
    a = rows("How is a zor?", sentence(20), "unlike " + sentence(12), "nothing shared")
    b = rows("other", "HOW is a zor", "before " + sentence(15) + " after", sentence(12))
    found = overlap(a, b)
    assert [(o.a, o.b, o.kind, o.shared) for o in found] == [
        ("r0", "r1", "exact", 0),
        ("r1", "r2", "13-gram", 3),
    ]


def test_overlap_needs_thirteen_in_a_row() -> None:
    assert overlap(rows("x " + sentence(12) + " y"), rows("p " + sentence(12) + " q")) == []
    assert len(overlap(rows("x " + sentence(13) + " y"), rows("p " + sentence(13) + " q"))) == 1
    # In another order they are other grams.
    assert overlap(rows(sentence(20)), rows(" ".join(sentence(20).split()[::-1]))) == []


def test_overlap_of_chinese_is_by_characters() -> None:
    shared = "请问怎么样才能把这个面包做得更好吃"
    assert overlap(rows("你好，" + shared), rows(shared + "呢？"))[0].kind == "13-gram"
    assert overlap(rows("你好，" + shared[:12]), rows(shared[:12] + "呢？")) == []


def test_grams_do_not_cross_rows() -> None:
    assert overlap(rows(sentence(7), sentence(7, 7)), rows(sentence(14))) == []


def test_overlap_compares_all_user_turns() -> None:
    assert overlap([row("a", "zor", "blim")], [row("b", "zor blim")])[0].kind == "exact"
    system = Row("s", ({"role": "system", "content": sentence(30)}, {"role": "user", "content": "zor"}))
    assert overlap([system], rows(sentence(30))) == []
    assert overlap([], rows("a")) == []
    assert overlap(rows("a"), []) == []


def test_require_disjoint_names_pairs_and_counts() -> None:
    sets = {
        "train": rows("a zor", "b zor", sentence(14)),
        "val": rows("A ZOR!"),
        "test": rows("x " + sentence(14)),
    }
    with pytest.raises(BadInput) as error:
        require_disjoint(sets)
    said = str(error.value)
    assert error.value.exit_code == 2
    assert "1 of 3 rows of 'train' are also in 'val' (1 exact, 0 by 13 words" in said
    assert "1 of 3 rows of 'train' are also in 'test' (0 exact, 1 by 13 words" in said
    assert "'val' are also in 'test'" not in said
    require_disjoint({"train": rows("a"), "test": rows("b")})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 25), min_size=4, max_size=60), st.integers(0, 5))
def test_split_properties(codes: list[int], seed: int) -> None:
    data = [row(f"r{i}", f"zor {code} {'!' * (i % 3)}") for i, code in enumerate(codes)]
    try:
        parts = split(data, {"train": 0.5, "val": 0.25, "test": 0.25}, seed=seed)
    except BadInput:
        assert max(codes.count(c) for c in codes) > 1  # only a group of duplicates can fail to fit
        return
    taken = [r.id for part in parts.values() for r in part]
    assert sorted(taken) == sorted(r.id for r in data)
    assert abs(len(parts["train"]) - len(data) / 2) <= 1
    require_disjoint(parts)
    for part in parts.values():
        assert [int(r.id[1:]) for r in part] == sorted(int(r.id[1:]) for r in part)


def test_split_is_exact_and_seeded() -> None:
    data = rows(*(f"zor {i}" for i in range(100)))
    parts = split(data, {"train": 60, "test": 25}, seed=1)
    assert {name: len(part) for name, part in parts.items()} == {"train": 60, "test": 25}
    assert parts == split(data, {"train": 60, "test": 25}, seed=1)
    assert parts != split(data, {"train": 60, "test": 25}, seed=2)
    shuffled = random.Random(0).sample(data, len(data))
    again = split(shuffled, {"train": 60, "test": 25}, seed=1)
    assert {r.id for r in again["train"]} == {r.id for r in parts["train"]}
    mixed = split(data, {"train": 0.8, "test": 5}, seed=1)
    assert (len(mixed["train"]), len(mixed["test"])) == (80, 5)
    assert len(split(data, {"all": 1.0}, seed=0)["all"]) == 100


def test_split_keeps_shared_grams_together() -> None:
    data = rows(*(f"{sentence(13, 100 * (i // 2))} tail {i}" for i in range(40)))
    together = split(data, {"a": 20, "b": 20}, seed=0)
    require_disjoint(together)
    apart = split(data, {"a": 20, "b": 20}, seed=0, disjoint=False)
    with pytest.raises(BadInput):
        require_disjoint(apart)


def test_split_that_cannot_be_disjoint_says_so() -> None:
    data = rows(*(f"{sentence(13)} tail {i}" for i in range(10)))
    with pytest.raises(BadInput, match="10 rows belong together") as error:
        split(data, {"a": 5, "b": 5}, seed=0)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("sizes", "match"),
    [
        ({}, "No parts"),
        ({"a": 0}, "size of part 'a' is 0"),
        ({"a": -1}, "is -1"),
        ({"a": 1.5}, r"is 1\.5"),
        ({"a": True}, "is True"),
        ({"a": float("nan")}, "is nan"),
        ({"a": "half"}, "is 'half'"),
        ({"": 1}, "part ''"),
        ({"a": 8, "b": 3}, "need 11 rows, but there are 10"),
        ({"a": 0.8, "b": 0.3}, "need 11 rows"),
        ({"a": 0.01}, "'a' would be empty"),
    ],
)
def test_split_sizes(sizes: dict[str, float], match: str) -> None:
    with pytest.raises(BadInput, match=match) as error:
        split(rows(*map(str, range(10))), sizes, seed=0)
    assert error.value.exit_code == 2


def test_overlap_of_many_rows_is_quick() -> None:
    rng = random.Random(0)
    vocabulary = [f"w{i}" for i in range(5000)]
    many = [row(f"r{i}", " ".join(rng.choices(vocabulary, k=30))) for i in range(20_000)]
    start = time.process_time()
    found = overlap(many, many[-5:])
    assert time.process_time() - start < 10
    assert [o.a for o in found] == [r.id for r in many[-5:]]
