"""Which language a text is in, as far as its letters and its commonest words say so.

The rule is small on purpose. Scripts decide first; only Latin script needs words, and a language must show
more of them than English does. Made-up words are undecided.
"""

from __future__ import annotations

import re
import unicodedata

from safewright.data import latin

UNDECIDED = "und"
"""ISO 639-2 for an undetermined language."""

DOMINANT = 0.6
"""A script must hold this share of a text's words; a text of two halves is undecided."""

ENGLISH_SHARE = 0.1
"""Share of Latin words that must be English ones: running English has 0.3 to 0.6, a word list none."""

KANA_SHARE = 0.1
"""Share of kana among Chinese characters and kana from which a text is Japanese."""

_NOISE = re.compile(r"https?://\S+|www\.\S+|\S+@\S+\.\S+")

# A Latin or Cyrillic run counts as one word; scripts without spaces have about two letters per word.
_WORDS: dict[str, re.Pattern[str]] = {
    "latin": re.compile(r"[A-Za-zÀ-ÖØ-öø-ʯḀ-ỿ]+(?:'[A-Za-z]+)?"),
    "ru": re.compile(r"[Ѐ-ԯ]+"),
    "el": re.compile(r"[Ͱ-Ͽἀ-῿]+"),
    "hy": re.compile(r"[Ա-֏]+"),
    "he": re.compile(r"[֐-׿]+"),
    "ar": re.compile(r"[؀-ۿݐ-ݿࢠ-ࣿ]+"),
    "hi": re.compile(r"[ऀ-ॿ]+"),
    "bn": re.compile(r"[ঀ-৿]+"),
    "pa": re.compile(r"[਀-੿]+"),
    "gu": re.compile(r"[઀-૿]+"),
    "ta": re.compile(r"[஀-௿]+"),
    "te": re.compile(r"[ఀ-౿]+"),
    "kn": re.compile(r"[ಀ-೿]+"),
    "ml": re.compile(r"[ഀ-ൿ]+"),
    "si": re.compile(r"[඀-෿]+"),
    "ka": re.compile(r"[Ⴀ-ჿ]+"),
    "am": re.compile(r"[ሀ-፿]+"),
    "ko": re.compile(r"[ᄀ-ᇿ가-힯]+"),
}
_LETTERS: dict[str, re.Pattern[str]] = {
    "han": re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f\u3005\u3007]"),
    "kana": re.compile(r"[ぁ-ゖァ-ヺー]"),
    "th": re.compile(r"[ก-ฺเ-ๆ]"),
    "lo": re.compile(r"[ກ-ຽເ-ໆ]"),
    "km": re.compile(r"[ក-ឳ]"),
    "my": re.compile(r"[က-ဪ]"),
}
_LETTERS_PER_WORD = 2.0

# Letters that only one of several languages of a script uses.
_TELLTALE: dict[str, tuple[tuple[str, str], ...]] = {
    "ru": (("uk", "іїєґ"), ("sr", "ђјљњћџ")),
    "ar": (("ur", "ٹڈڑںے"), ("fa", "پچژگ")),
}

# Common words of English, with the first words of requests and refusals.
_ENGLISH_TEXT = """
the and of to is are were been being be am with without that this these those there their they them
for from you your yours it its he his she her we our us i'm i've i'll i'd you're it's that's don't
can't won't isn't doesn't didn't wouldn't couldn't shouldn't let's not but or if then than because
while when where which who whom whose what why how does did do has have had will would should could
can cannot may might must about into onto over under after before between through during against
any some every each other another such only very just also both either neither all most more much
many few here now please thanks thank sorry unfortunately however yes sure okay
i my myself me an at by as so a in on no
write explain describe tell give make list show name find help answer question summarize summarise
translate calculate compute solve create provide discuss compare generate suggest want need know
"""
# Those that other languages share: they count only beside a word that English has alone.
_WEAK_TEXT = "i my me an at by as so a in on no to am do he us list name all over under others has"
_ENGLISH = frozenset(_ENGLISH_TEXT.split())
_STRONG = _ENGLISH - frozenset(_WEAK_TEXT.split())


def detect(text: str) -> str:
    """The ISO 639 code of a text's language: by script, English by its words, ``und`` when undecided.

    The script with at least 60 % of the words decides (two letters count as a word where a script has
    no spaces): Chinese characters are ``zh``, with a tenth of kana ``ja``; Hangul ``ko``; Cyrillic
    ``ru`` (``uk`` or ``sr`` by their own letters); Arabic ``ar`` (``fa``, ``ur``); Greek, Hebrew, Thai,
    Devanagari and others likewise. Latin script is another language's where its common words say so, with
    a margin over English (`latin.foreign_language`); ``en`` where at least a tenth of the words are common
    English ones, one of them not shared with its neighbours, and more are English than are common words
    of any other language; otherwise ``und``. URLs and mail addresses are not counted.

    Args:
        text: Any text; empty is undecided.
    """
    plain = _plain(text)
    weights, kana = _weights(plain)
    total = sum(weights.values())
    if not total:
        return UNDECIDED
    script = max(weights, key=lambda name: weights[name])
    if weights[script] < DOMINANT * total:
        return UNDECIDED
    if script == "latin":
        return _latin(plain)
    if script == "zh" and kana >= KANA_SHARE * weights["zh"]:
        return "ja"
    lower = plain.casefold()
    for language, letters in _TELLTALE.get(script, ()):
        if any(letter in lower for letter in letters):
            return language
    return script


def foreign(text: str) -> bool:
    """Whether an undecided text shows letters that neither English nor Chinese uses, in more than stray words.

    Half of it may be in another script, or it may be in a language of Latin script without a list here. Of
    made-up words, numbers, code and mixtures of English and Chinese this is False.
    """
    plain = _plain(text)
    weights, kana = _weights(plain)
    others = sum(weights.values()) - weights["latin"] - weights["zh"] + kana
    words = _latin_words(plain)
    strong = any(word.casefold() in _STRONG for word in words)
    return others > (1.0 - DOMINANT) / 2 * sum(weights.values()) or latin.accented(words, strong)


def _plain(text: str) -> str:
    return _NOISE.sub(" ", unicodedata.normalize("NFKC", text).replace("’", "'"))


def _weights(plain: str) -> tuple[dict[str, float], float]:
    """How much of a text each script holds, in words; and its kana, which are within ``zh``."""
    weights = {script: float(len(pattern.findall(plain))) for script, pattern in _WORDS.items()}
    for script, pattern in _LETTERS.items():
        weights[script] = len(pattern.findall(plain)) / _LETTERS_PER_WORD
    kana = weights.pop("kana")
    # Japanese mixes both, so they are one script here and kana tells them apart.
    weights["zh"] = weights.pop("han") + kana
    return weights, kana


def _latin_words(plain: str) -> list[str]:
    return _WORDS["latin"].findall(plain)


def _latin(plain: str) -> str:
    words = [word.casefold() for word in _latin_words(plain)]
    english = sum(word in _ENGLISH for word in words)
    strong = any(word in _STRONG for word in words)
    found, rival = latin.foreign_language(words, english, strong)
    if found:
        return found
    return "en" if strong and english >= ENGLISH_SHARE * len(words) and english > rival else UNDECIDED
