"""Language by script and by common words; what is undecided stays undecided."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safewright.data import detect

CASES = [
    ("I'm sorry, but I can't help with that.", "en"),
    ("I’m sorry, I can’t do that.", "en"),
    ("Sorry, no.", "en"),
    ("I cannot.", "en"),
    ("Sure!", "en"),
    ("How do I bake bread?", "en"),
    ("Explain photosynthesis.", "en"),
    ("What is 12 * 7?", "en"),
    ("The answer is 84.", "en"),
    ("WRITE A SHORT POEM ABOUT RAIN", "en"),
    ("A list of fruit: apples, pears and plums", "en"),
    ("See https://exemplo.example/la/casa/de/papel for the details", "en"),
    ("Use `print(x)` to show the value of x.", "en"),
    ("Please translate 你好 into English for me", "en"),
    ("对不起，我不能帮助你。", "zh"),
    ("抱歉", "zh"),
    ("請問怎麼做麵包？", "zh"),
    ("请解释 transformer 模型的注意力机制是什么", "zh"),
    ("我们用 Python 和 SQL 来处理这些数据，结果保存在文件里。", "zh"),
    ("申し訳ありませんが、お手伝いできません。", "ja"),
    ("コンピュータを使います", "ja"),
    ("東京の天気は晴れです。", "ja"),
    ("죄송하지만 도와드릴 수 없습니다.", "ko"),
    ("Извините, я не могу помочь.", "ru"),
    ("Вибачте, я не можу допомогти. Її тут немає.", "uk"),
    ("Жао ми је, то није њихово.", "sr"),
    ("آسف، لا أستطيع المساعدة.", "ar"),
    ("متأسفم، نمی‌توانم کمکی بکنم. چرا؟", "fa"),
    ("میں آپ کی مدد نہیں کر سکتا۔ یہاں", "ur"),
    ("סליחה, אני לא יכול לעזור.", "he"),
    ("Συγγνώμη, δεν μπορώ να βοηθήσω.", "el"),
    ("ขออภัย ฉันไม่สามารถช่วยได้", "th"),
    ("क्षमा करें, मैं मदद नहीं कर सकता।", "hi"),
    ("দুঃখিত, আমি সাহায্য করতে পারি না।", "bn"),
    ("மன்னிக்கவும், என்னால் உதவ முடியாது.", "ta"),
    # Latin script: another language by its own words.
    ("Es tut mir leid, ich kann dabei nicht helfen.", "de"),
    ("Was ist die Hauptstadt von Frankreich?", "de"),
    ("Je suis désolé, je ne peux pas vous aider.", "fr"),
    ("Lo siento, no puedo ayudar con eso.", "es"),
    ("Mi dispiace, non posso aiutarti con questo.", "it"),
    ("Desculpe, não posso ajudar com isso.", "pt"),
    ("Het spijt me, daar kan ik niet mee helpen.", "nl"),
    ("Det er ikke for meg, og jeg kan ikke gjøre det.", "no"),
    # Made-up words, codes and nothing at all.
    ("zor blim kade wug", "und"),
    ("blicket", "und"),
    ("qa zu mip the-lor vex tol nim dar wug fep zib kol", "und"),
    ("x = f(y) + g(z)", "und"),
    ("12345 67.8", "und"),
    ("!!! ??? ...", "und"),
    ("🙂🙂🙂", "und"),
    ("", "und"),
    ("   \n", "und"),
    ("https://example.org/the/and/of", "und"),
    # Two halves: neither dominates.
    ("I cannot help you. 对不起我帮不了你", "und"),
]


@pytest.mark.parametrize(("text", "lang"), CASES)
def test_detect(text: str, lang: str) -> None:
    assert detect(text) == lang


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 30


@given(st.text(max_size=80))
def test_detect_always_answers(text: str) -> None:
    got = detect(text)
    assert got == "und" or (2 <= len(got) <= 3 and got.isascii() and got.islower())
    # Layout says nothing about language.
    assert detect(f"  {text}\n123 !!") == got or "@" in text or "/" in text or "www." in text


def test_full_width_letters_are_letters() -> None:
    assert detect("Ｉ ｃａｎｎｏｔ ｈｅｌｐ ｙｏｕ") == "en"
