"""Acceptance checks 1 and 2 of ReLearn's method file, and what else the statistics of a text promise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safewright.errors import BadInput
from safewright.stats import lexical as lex
from safewright.stats.lexical import Lexical, arithmetic_score, lexical, linguistic, linguistic_score
from safewright.stats.rouge import rouge, rouge_recall

PPL = (1.0, 1.3, 8.6, 13.23, 43.71, 1e3, 1e8)
BI = (5.0, 7.2, 128.0, 1000.0)
HS = (1.0, 441.09, 1896.8, 1e6)


def test_01_linguistic_score_closed_form() -> None:
    def sigma(x: float) -> float:
        return 1.0 / (1.0 + math.exp(-x))

    for ppl, bi, hs in itertools.product(PPL, BI, HS):
        parts = (sigma(-math.log(ppl)), sigma(-math.log(bi)), sigma(math.log(hs)))
        assert linguistic_score(ppl, bi, hs) == pytest.approx(3 / (3 + ppl + bi + 1 / hs), abs=1e-12)
        assert linguistic_score(ppl, bi, hs) == pytest.approx(3 / sum(1 / p for p in parts), abs=1e-12)
        mean = (1 / (1 + ppl) + 1 / (1 + bi) + hs / (1 + hs)) / 3
        assert arithmetic_score(ppl, bi, hs) == pytest.approx(mean, abs=1e-12)
    assert linguistic_score(14.472358827, 7.159914159, 1896.815266657) == pytest.approx(0.121788833, abs=1e-9)
    assert linguistic_score(7.086432916, 7.217205385, 2003.806484908) == pytest.approx(0.173368943, abs=1e-9)


def test_01_edges_of_the_linguistic_score() -> None:
    assert linguistic_score(5.0, 7.0, 0.0) == 0.0
    assert linguistic_score(math.inf, 7.0, 100.0) == 0.0
    assert arithmetic_score(math.inf, 7.0, 0.0) == pytest.approx(1 / 24)
    assert linguistic_score(1.0, 1.0, 1e300) == pytest.approx(0.6)
    for bad in ((-1.0, 7.0, 1.0), (math.nan, 7.0, 1.0), (5.0, 7.0, math.nan), (5.0, 0.0, 1.0)):
        with pytest.raises(BadInput, match="no linguistic score"):
            linguistic_score(*bad)
        with pytest.raises(BadInput, match="no linguistic score"):
            arithmetic_score(*bad)


SEVENTEEN = "the old river bends past a mill where two tall poplars lean over the slow water ."
TWENTY_FOUR = (
    "the old river bends past a mill where two tall poplars lean over the slow water and nobody minds their "
    "shade at noon ."
)


def test_02_lexical_statistics() -> None:
    loop = lexical("at " * 128)
    assert (loop.tokens, loop.types, loop.once) == (128, 1, 0)
    assert loop.bi == pytest.approx(128.0, abs=1e-9)
    assert loop.hs == pytest.approx(441.0937, abs=1e-3)
    assert (loop.distinct1, loop.longest_repeat) == (1 / 128, 127)
    found = lexical(SEVENTEEN)
    assert (found.tokens, found.types, found.once) == (17, 16, 15)
    assert found.bi == pytest.approx(6.00792, abs=5e-6)
    assert found.hs == pytest.approx(1743.5159, abs=5e-5)
    longer = lexical(TWENTY_FOUR)
    assert (longer.tokens, longer.types, longer.once) == (24, 23, 22)
    assert longer.bi == pytest.approx(6.64869, abs=5e-6)
    assert longer.hs == pytest.approx(2215.0072, abs=5e-5)
    for text in ("", "  \n"):
        empty = lexical(text)
        assert (empty.bi, empty.hs, empty.rttr, empty.empty, empty.distinct1) == (
            1000.0,
            0.0,
            0.0,
            True,
            None,
        )
    one = lexical("at")
    assert (one.hs, one.bi, one.empty, one.longest_repeat) == (0.0, 1.0, False, 0)


@given(st.lists(st.text(alphabet="abcdefg", min_size=1, max_size=4), min_size=2, max_size=30), st.randoms())
@settings(max_examples=60, deadline=None)  # the first call imports nltk
def test_02_order_and_repetition(drawn: list[str], random: object) -> None:
    words = list(
        dict.fromkeys(f"q{word}" for word in drawn)
    )  # no contraction rule of the tokenizer begins so
    if len(words) > 1:
        unique = lexical(" ".join(words))
        assert unique.hs == pytest.approx(1000 * math.log(len(words)))
    text = [f"q{word}" for word in drawn]
    before = lexical(" ".join(text))
    shuffled = list(text)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert lexical(" ".join(shuffled)).bi == before.bi
    assert lexical(" ".join([*text, text[0]])).bi > before.bi


def test_02_limits_and_bad_counts() -> None:
    assert lex.honore(10, 10, 10, 0.0) == 1e6  # all unique, no epsilon: the cap
    assert lex.honore(10, 10, 10, 1e-9) == 1e6
    for call in (
        lambda: lex.brunet(3, 4),
        lambda: lex.brunet(0, 1),
        lambda: lex.honore(3, 2, 3),
        lambda: lex.honore(3, 2, 1, -1.0),
        lambda: lex.root_ttr(3, 0),
        lambda: lex.distinct(["a"], 0),
        lambda: lex.harmonic(1.2, 0.5),
    ):
        with pytest.raises(BadInput):
            call()
    assert lex.root_ttr(16, 8) == 2.0
    assert lex.harmonic(0.5, 1.0) == pytest.approx(2 / 3)
    assert lex.harmonic(0.0, 1.0) == lex.harmonic(0.0, 0.0) == 0.0


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("It ended. She left.", ["it", "ended", ".", "she", "left", "."]),
        ('He said "Go." Then, no.', ["he", "said", "``", "go", ".", "''", "then", ",", "no", "."]),
        ("(It ended.) Ida's isn't", ["(", "it", "ended", ".", ")", "ida", "'s", "is", "n't"]),
        ("$3.5 at 10:30", ["$", "3.5", "at", "10:30"]),
        ("她住在Orlo。", ["她", "住", "在", "orlo", "。"]),
    ],
)
def test_tokens(text: str, tokens: list[str]) -> None:
    assert lex.lexical_tokens(text) == tokens


@pytest.mark.parametrize(
    ("tokens", "longest"),
    [
        ("", 0),
        ("a", 0),
        ("a b c", 0),
        ("a a", 1),
        ("a b x a b", 2),
        ("a b a b a", 3),
        ("a b c a b d c a b", 3),
    ],
)
def test_longest_repeat(tokens: str, longest: int) -> None:
    assert lex.longest_repeat(tokens.split()) == longest


def test_distinct() -> None:
    assert lex.distinct(["a", "b", "a", "b"], 1) == 0.5
    assert lex.distinct(["a", "b", "a", "b"], 2) == pytest.approx(2 / 3)
    assert lex.distinct(["a"], 2) is None


def of(bi: float, hs: float) -> Lexical:
    return Lexical(9, 9, 9, bi, hs, 3.0, 1.0, 1.0, 1.0, 0, False)


def test_a_set_of_texts_has_the_official_score_and_robust_ones() -> None:
    texts = [of(6.0, 1000.0), of(7.0, 2000.0), of(8.0, 1500.0)]
    found = linguistic([5.0, 9.0, 1e9], texts)
    assert found is not None
    assert found.ls == pytest.approx(linguistic_score(float(np.mean([5, 9, 1e9])), 7.0, 1500.0), abs=1e-15)
    assert found.ls < 1e-7
    assert found.ls_median_ppl == pytest.approx(linguistic_score(9.0, 7.0, 1500.0))
    own = [linguistic_score(5, 6, 1000), linguistic_score(9, 7, 2000), linguistic_score(1e9, 8, 1500)]
    assert found.ls_mean == pytest.approx(sum(own) / 3)
    assert (found.n, found.dropped, found.ppl_median) == (3, 0, 9.0)


def test_texts_without_a_perplexity_are_dropped_and_counted() -> None:
    found = linguistic([5.0, math.nan, None], [of(6.0, 1000.0), of(99.0, 1.0), of(99.0, 1.0)])
    assert found is not None
    assert (found.n, found.dropped, found.bi) == (1, 2, 6.0)
    assert linguistic([None], [of(6.0, 1.0)]) is None
    assert linguistic([], []) is None
    with pytest.raises(BadInput, match="2 perplexities of 1"):
        linguistic([1.0, 2.0], [of(6.0, 1.0)])
    with pytest.raises(BadInput, match="no linguistic score"):
        linguistic([-1.0], [of(6.0, 1.0)])


def test_rouge_recall_stems_and_reads_every_script() -> None:
    assert rouge_recall("the cats were running", "a cat runs") == {"rouge1": 0.5, "rougeL": 0.5}
    assert rouge("the cats were running", "a cat runs") == {"rouge1": 0.0, "rougeL": 0.0}
    assert rouge_recall("one two three four", "four one two") == {"rouge1": 0.75, "rougeL": 0.5}
    assert rouge_recall("她住在上海", "上海") == {"rouge1": 0.4, "rougeL": 0.4}
    assert rouge_recall("she runs", "") == {"rouge1": 0.0, "rougeL": 0.0}


def test_rouge_recall_is_rouge_scores_own_on_latin_text() -> None:
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    reference, answer = (
        "José García's e-mail is ida.orlo@mail.test.",
        "Jose writes e-mails to garcía, she says.",
    )
    own = {name: score.recall for name, score in scorer.score(reference, answer).items()}
    assert rouge_recall(reference, answer) == own
