"""Made-up words: different, pronounceable, and the same for the same seed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safewright.errors import BadInput
from safewright.lab.vocabulary import made_up_words, word_groups


@given(count=st.integers(0, 400), seed=st.integers(0, 10**6))
def test_words_differ_and_can_be_said(count: int, seed: int) -> None:
    words = made_up_words(count, seed=seed)
    assert len(set(words)) == len(words) == count
    assert all(re.fullmatch("([bdflmnrtvw][aeiou]){3}", word) for word in words)


def test_the_seed_decides_the_words() -> None:
    assert made_up_words(50, seed=1) == made_up_words(50, seed=1)
    assert made_up_words(50, seed=1) != made_up_words(50, seed=2)


def test_groups_are_disjoint_and_leave_taken_words_alone() -> None:
    taken = made_up_words(30, seed=3)[:10]
    groups = word_groups({"a": 20, "b": 30, "c": 0}, seed=3, taken=taken)
    assert {name: len(words) for name, words in groups.items()} == {"a": 20, "b": 30, "c": 0}
    everything = [*groups["a"], *groups["b"], *taken]
    assert len(set(everything)) == len(everything)


@pytest.mark.parametrize("count", [-1, 10**6])
def test_an_impossible_number_of_words_is_an_error(count: int) -> None:
    with pytest.raises(BadInput, match=str(count)):
        made_up_words(count, seed=0)
