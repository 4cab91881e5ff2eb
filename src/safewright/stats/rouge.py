"""ROUGE by rouge_score, in the two forms methods ask for."""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Any

from safewright.errors import need_extra

KINDS = ("rouge1", "rougeL")

_WORD = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3040-\u30ff]|[^\W_]+", re.UNICODE)
_ASCII = re.compile(r"[a-z0-9]+")


def words(text: str) -> list[str]:
    """The words of a text in lower case; each Chinese character or kana is a word."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def rouge(reference: str, answer: str) -> dict[str, float]:
    """ROUGE-1 and ROUGE-L F1 over `words`, without stemming.

    Raises:
        Missing: rouge_score is not installed.
    """
    found = _scorer(False).score(reference, answer)
    return {name: float(score.fmeasure) for name, score in found.items()}


def rouge_recall(reference: str, answer: str) -> dict[str, float]:
    """ROUGE-1 and ROUGE-L recall of the reference, with rouge_score's Porter stemmer.

    Texts in Latin script are cut into words as rouge_score does, so that published figures can be compared;
    it would drop every letter of another script, and such texts are cut by `words`.

    Raises:
        Missing: rouge_score is not installed.
    """
    found = _scorer(True).score(reference, answer)
    return {name: float(score.recall) for name, score in found.items()}


class _Words:
    """The tokenizer rouge_score asks for: `words`, so that Chinese is not dropped."""

    def __init__(self, stemmed: bool) -> None:
        self._stem: Any = None
        if stemmed:
            from nltk.stem.porter import PorterStemmer
            from rouge_score import tokenizers

            self._stem = PorterStemmer()
            self._latin = tokenizers.DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        if self._stem is None:
            return words(text)
        if not any(character.isalpha() and character > "\u024f" for character in text):
            tokens: list[str] = self._latin.tokenize(text)
            return tokens
        # As rouge_score: short words are not stemmed.
        return [
            self._stem.stem(word) if len(word) > 3 and _ASCII.fullmatch(word) else word
            for word in words(text)
        ]


@functools.cache
def _scorer(stemmed: bool) -> Any:
    try:
        from rouge_score import rouge_scorer
    except ImportError as error:
        raise need_extra("rouge-score", "models") from error
    return rouge_scorer.RougeScorer(list(KINDS), tokenizer=_Words(stemmed))
