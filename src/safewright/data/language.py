"""Which language a text is in, as far as its letters and its commonest words say so.

The rule is small on purpose. Scripts decide first; only Latin script needs words, and it is English or
undecided: a wrong guess would send an answer to a keyword list of another language, while an undecided
one is counted as unscored. Made-up words are undecided.
"""

from __future__ import annotations

import re
import unicodedata

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
    "latin": re.compile(r"[A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ]+(?:'[A-Za-z]+)?"),
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
_WEAK_TEXT = "i my me an at by as so a in on no am do he us list name all over under others has"
# Common words of ten other languages in Latin script.
_NEIGHBOUR_TEXT = """
der die das und ist nicht ein eine einen dem den mit für auf von zu im ich sie wir auch wie sind
le la les des du de et est une un pas que qui dans pour sur avec ce cette il elle nous vous je au aux
el los las y en es una con por para como del al se lo su pero más sono che di il non per della gli
sei sua suo i e o os um uma não em com do da no na dos das mais foi ser
het een van niet op te dat zijn voor met aan er ook maar naar bij
och att det som på är inte av till og ikke til af jeg du kan har vi
nie się jest na to w z że jak ale tak co
ve bir bu için ile yang dan itu tidak dengan untuk ini ada
"""
_ENGLISH = frozenset(_ENGLISH_TEXT.split())
_NEIGHBOURS = frozenset(_NEIGHBOUR_TEXT.split())
_STRONG = _ENGLISH - _NEIGHBOURS - frozenset(_WEAK_TEXT.split())


def detect(text: str) -> str:
    """The ISO 639 code of a text's language: by script, English by its words, ``und`` when undecided.

    The script with at least 60 % of the words decides (two letters count as a word where a script has
    no spaces): Chinese characters are ``zh``, with a tenth of kana ``ja``; Hangul ``ko``; Cyrillic
    ``ru`` (``uk`` or ``sr`` by their own letters); Arabic ``ar`` (``fa``, ``ur``); Greek, Hebrew, Thai,
    Devanagari and others likewise. Latin script is ``en`` where at least a tenth of the words are common
    English ones, one of them not shared with its neighbours, and more are English than are common words
    of ten other languages; otherwise ``und``. URLs and mail addresses are not counted.

    Args:
        text: Any text; empty is undecided.
    """
    plain = _NOISE.sub(" ", unicodedata.normalize("NFKC", text).replace("’", "'"))
    weights = {script: float(len(pattern.findall(plain))) for script, pattern in _WORDS.items()}
    for script, pattern in _LETTERS.items():
        weights[script] = len(pattern.findall(plain)) / _LETTERS_PER_WORD
    kana = weights.pop("kana")
    chinese = weights.pop("han")
    # Japanese mixes both, so they are one script here and kana tells them apart.
    weights["zh"] = chinese + kana
    total = sum(weights.values())
    if not total:
        return UNDECIDED
    script = max(weights, key=lambda name: weights[name])
    if weights[script] < DOMINANT * total:
        return UNDECIDED
    if script == "latin":
        return "en" if _is_english(plain) else UNDECIDED
    if script == "zh" and kana >= KANA_SHARE * weights["zh"]:
        return "ja"
    lower = plain.casefold()
    for language, letters in _TELLTALE.get(script, ()):
        if any(letter in lower for letter in letters):
            return language
    return script


def _is_english(text: str) -> bool:
    words = [word.casefold() for word in _WORDS["latin"].findall(text)]
    strong = sum(word in _STRONG for word in words)
    english = sum(word in _ENGLISH for word in words)
    foreign = sum(word in _NEIGHBOURS for word in words)
    return strong >= 1 and english >= ENGLISH_SHARE * len(words) and english > foreign
