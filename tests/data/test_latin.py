"""Word lists of languages in Latin script: clean, and of no use to made-up words."""

from __future__ import annotations

import re

from safewright.data import latin
from safewright.data.language import foreign

LAB_WORD = re.compile(r"(?:[bdflmnrtvw][aeiou]){3}")


def test_no_list_holds_a_word_that_a_lab_could_make_up() -> None:
    for language, words in latin.word_lists().items():
        alike = [
            word for word in words.every if LAB_WORD.fullmatch(word) and len({word[0], word[2], word[4]}) == 3
        ]
        assert not alike, language


def test_every_language_has_telling_words_and_no_english_counts() -> None:
    lists = latin.word_lists()
    assert len(lists) >= 30
    assert {"es", "fr", "de", "pt", "it", "nl"} <= set(lists)
    for language, words in lists.items():
        assert max(words.evidence.values()) == latin.EVIDENCE, language
        assert not {"the", "and", "you", "can", "not", "no", "a"} & set(words.evidence), language
        assert all(word == word.casefold() for word in words.every), language


def test_a_margin_over_english_is_needed() -> None:
    said = ["lo", "siento", "no", "puedo"]
    assert latin.foreign_language(said, 1, False) == ("es", 4)
    assert latin.foreign_language(said, 4, False) == (None, 4)
    assert latin.foreign_language(["una", "wug"], 0, False)[0] is not None
    assert latin.foreign_language(["una", "wug"], 0, True)[0] is None
    assert latin.foreign_language([*said, *["wug"] * 40], 1, False)[0] is None
    assert latin.foreign_language([], 0, False) == (None, 0)


def test_letters_of_other_languages_show() -> None:
    assert foreign("Ẹ jọ̀ọ́, mi ò lè ràn yín lọ́wọ́.")
    assert foreign("Привет wug blim")
    assert foreign("こんにちは wug")
    for text in ("zor blim kade wug", "Beyoncé", "I cannot help you. 对不起我帮不了你", "12 + 3", ""):
        assert not foreign(text), text
