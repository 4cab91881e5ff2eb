"""How a text is written, without a look at what it says: richness of words, repetition, linguistic score.

Source: ReLearn (arXiv:2502.11190), section on metrics. All arithmetic is in float64.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from safewright.errors import BadInput, need_extra

EPSILON = 0.1
"""Added to the denominator of HS, as in the authors' code; the paper's formula omits it, its figures do not."""
EMPTY_BI = 1000.0
"""BI of a text without tokens."""
MOST_HS = 1e6
_BRUNET = -0.165

_SENTENCE_END = re.compile(r"(?<=[.!?])['\")\]]*\s+")
_CJK = re.compile(
    r"([\u3000-\u303f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uff0f\uff1a-\uff20])"
)


@dataclass(frozen=True)
class Lexical:
    """The statistics of one text.

    ``tokens`` N, ``types`` V and ``once`` V1 (types seen once) count lower-case tokens, punctuation included.
    ``distinct1`` to ``distinct3`` are the shares of n-grams that differ, None where the text has none;
    ``longest_repeat`` is the length of the longest run of tokens that stands there twice. ``empty`` flags a
    text without tokens: its BI and HS are set, not measured.
    """

    tokens: int
    types: int
    once: int
    bi: float
    hs: float
    rttr: float
    distinct1: float | None
    distinct2: float | None
    distinct3: float | None
    longest_repeat: int
    empty: bool


@dataclass(frozen=True)
class Linguistic:
    """The linguistic score of a set of texts.

    ``ls`` is the official one: the harmonic mean over the means of PPL, BI and HS. One text of PPL 1e9 sets it
    to 0 for the whole set, so two robust ones stand beside it: ``ls_median_ppl`` (the median in the place of
    the mean PPL) and ``ls_mean`` (the mean of each text's own score). ``n`` texts have a PPL, ``dropped`` have
    none, or one that is not a number, and are in no figure.
    """

    n: int
    dropped: int
    ppl: float
    ppl_median: float
    bi: float
    hs: float
    ls: float
    arithmetic: float
    ls_median_ppl: float
    ls_mean: float


@functools.cache
def _tokenizer() -> Any:
    try:
        # The module itself: the package's own top imports much more.
        from nltk.tokenize.destructive import NLTKWordTokenizer
    except ImportError as error:
        raise need_extra("nltk", "models") from error
    return NLTKWordTokenizer()


def lexical_tokens(text: str) -> list[str]:
    """The lower-case tokens of a text: NLTK's Treebank rules sentence by sentence; Chinese by characters.

    NLTK's ``word_tokenize`` cuts sentences by a trained model that has to be downloaded; here they end at
    ``.``, ``!`` or ``?`` before a space, which differs after abbreviations ("st. paul").

    Raises:
        Missing: nltk is not installed.
    """
    spaced = _CJK.sub(r" \1 ", text.lower())
    found: list[str] = []
    for sentence in _sentences(spaced):
        found += _tokenizer().tokenize(sentence)
    return found


def _sentences(text: str) -> list[str]:
    """The sentences of a text, closing quotes with the sentence they end."""
    parts: list[str] = []
    start = 0
    for end in _SENTENCE_END.finditer(text):
        parts.append(text[start : end.end()])
        start = end.end()
    parts.append(text[start:])
    return [stripped for part in parts if (stripped := part.strip())]


def brunet(tokens: int, types: int) -> float:
    """Brunet's index ``N ** (V ** -0.165)``; lower is richer. `EMPTY_BI` without tokens."""
    _check_counts(tokens, types)
    return float(tokens) ** (float(types) ** _BRUNET) if tokens else EMPTY_BI


def honore(tokens: int, types: int, once: int, epsilon: float = EPSILON) -> float:
    """Honore's statistic ``100 ln N / (1 - V1 / V + epsilon)``, at most `MOST_HS`; higher is richer.

    0 for one token or none.
    """
    _check_counts(tokens, types)
    if not 0 <= once <= types:
        raise BadInput(f"{once} types seen once of {types} types.", fix="It must be between 0 and the types.")
    if not epsilon >= 0.0:
        raise BadInput(f"epsilon is {epsilon}.", fix="It must be at least 0.")
    if tokens <= 1:
        return 0.0
    below = 1.0 - once / types + epsilon
    return min(100.0 * math.log(tokens) / below, MOST_HS) if below > 0.0 else MOST_HS


def root_ttr(tokens: int, types: int) -> float:
    """Root type-token ratio ``V / sqrt(N)`` (the release calls it TTR); 0 without tokens."""
    _check_counts(tokens, types)
    return types / math.sqrt(tokens) if tokens else 0.0


def _check_counts(tokens: int, types: int) -> None:
    if not 0 <= types <= tokens or (tokens > 0) != (types > 0):
        raise BadInput(f"{types} types among {tokens} tokens cannot be.", fix="Count the tokens again.")


def distinct(tokens: Sequence[str], n: int) -> float | None:
    """Share of the n-grams of a text that differ from each other; None where it has fewer tokens than n."""
    if n < 1:
        raise BadInput(f"distinct-n with n = {n}.", fix="n must be at least 1.")
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def longest_repeat(tokens: Sequence[str]) -> int:
    """Length in tokens of the longest n-gram that occurs twice; the two may overlap. 0 where none does."""

    def repeats(n: int) -> bool:
        return len({tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}) < len(tokens) - n + 1

    low, high = 0, max(len(tokens) - 1, 0)
    while low < high:  # what holds for n holds for every shorter one
        middle = (low + high + 1) // 2
        low, high = (middle, high) if repeats(middle) else (low, middle - 1)
    return low


def lexical(text: str, *, epsilon: float = EPSILON) -> Lexical:
    """All statistics of one text.

    Raises:
        Missing: nltk is not installed.
    """
    tokens = lexical_tokens(text)
    counts = Counter(tokens)
    n, v = len(tokens), len(counts)
    once = sum(count == 1 for count in counts.values())
    return Lexical(
        tokens=n,
        types=v,
        once=once,
        bi=brunet(n, v),
        hs=honore(n, v, once, epsilon),
        rttr=root_ttr(n, v),
        distinct1=distinct(tokens, 1),
        distinct2=distinct(tokens, 2),
        distinct3=distinct(tokens, 3),
        longest_repeat=longest_repeat(tokens),
        empty=not tokens,
    )


def linguistic_score(ppl: float, bi: float, hs: float) -> float:
    """The harmonic mean of ``sigma(-ln PPL)``, ``sigma(-ln BI)`` and ``sigma(ln HS)``, in closed form.

    ``3 / (3 + PPL + BI + 1 / HS)``: since ``sigma(-ln x) = 1 / (1 + x)``. 0 at HS = 0 or an infinite PPL.
    """
    _check_scores(ppl, bi, hs)
    return 3.0 / (3.0 + ppl + bi + 1.0 / hs) if hs > 0.0 else 0.0


def arithmetic_score(ppl: float, bi: float, hs: float) -> float:
    """The arithmetic mean of the three sigmoids of `linguistic_score`."""
    _check_scores(ppl, bi, hs)
    rich = 1.0 / (1.0 + 1.0 / hs) if hs > 0.0 else 0.0
    return (1.0 / (1.0 + ppl) + 1.0 / (1.0 + bi) + rich) / 3.0


def _check_scores(ppl: float, bi: float, hs: float) -> None:
    if not (ppl > 0.0 and bi > 0.0 and hs >= 0.0):
        raise BadInput(
            f"There is no linguistic score of PPL {ppl}, BI {bi}, HS {hs}.",
            fix="PPL and BI must be above 0, HS at least 0, and none of them NaN.",
        )


def linguistic(ppl: Sequence[float | None], texts: Sequence[Lexical]) -> Linguistic | None:
    """The linguistic score of texts and their perplexities; None where no text has one.

    Args:
        ppl: Perplexity of each text under the fluency model; None or NaN where there is none: such texts are
            counted, and left out of all three means.
        texts: Their statistics.

    Raises:
        BadInput: The lengths differ, or a perplexity is 0 or negative.
    """
    if len(ppl) != len(texts):
        raise BadInput(f"There are {len(ppl)} perplexities of {len(texts)} texts.")
    kept = [
        (value, text)
        for value, text in zip(ppl, texts, strict=True)
        if value is not None and not math.isnan(value)
    ]
    if not kept:
        return None
    own = [linguistic_score(value, text.bi, text.hs) for value, text in kept]
    values = np.array([value for value, _ in kept], dtype=np.float64)
    bi = float(np.mean([text.bi for _, text in kept]))
    hs = float(np.mean([text.hs for _, text in kept]))
    mean, median = float(values.mean()), float(np.median(values))
    return Linguistic(
        n=len(kept),
        dropped=len(ppl) - len(kept),
        ppl=mean,
        ppl_median=median,
        bi=bi,
        hs=hs,
        ls=linguistic_score(mean, bi, hs),
        arithmetic=arithmetic_score(mean, bi, hs),
        ls_median_ppl=linguistic_score(median, bi, hs),
        ls_mean=float(np.mean(own)),
    )


def harmonic(first: float, second: float) -> float:
    """Harmonic mean of two rates, 0 where one of them is: of KFR and 1 - ROUGE-L, or of KRR and ROUGE-L."""
    for value in (first, second):
        if not 0.0 <= value <= 1.0:
            raise BadInput(f"{value} is no rate.", fix="It must be between 0 and 1.")
    return 2.0 * first * second / (first + second) if first and second else 0.0
