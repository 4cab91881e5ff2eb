"""Made-up words: pronounceable, free of meaning, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping

from safewright.errors import BadInput

# Ten consonants and five vowels, always alternating: no English word that names a weapon, a drug, a
# crime or a slur can be spelled this way in three syllables.
_CONSONANTS = "bdflmnrtvw"
_VOWELS = "aeiou"
_SYLLABLES = 3


def made_up_words(count: int, *, seed: int, taken: Iterable[str] = ()) -> list[str]:
    """``count`` different made-up words of three syllables, none of them in ``taken``.

    Raises:
        BadInput: More words are asked for than can be told apart.
    """
    used = set(taken)
    # Words that repeat a consonant look too much alike to a reader; leaving them out keeps 90,000.
    room = 10 * 9 * 8 * len(_VOWELS) ** _SYLLABLES - len(used)
    if not 0 <= count <= room // 2:
        raise BadInput(
            f"{count} made-up words were asked for.", fix=f"Ask for 0 to {room // 2}, or fewer groups."
        )
    draw = random.Random(f"vocabulary {seed}")
    words: list[str] = []
    while len(words) < count:
        consonants = draw.sample(_CONSONANTS, _SYLLABLES)
        word = "".join(consonant + draw.choice(_VOWELS) for consonant in consonants)
        if word not in used:
            used.add(word)
            words.append(word)
    return words


def word_groups(
    sizes: Mapping[str, int], *, seed: int, taken: Iterable[str] = ()
) -> dict[str, tuple[str, ...]]:
    """Disjoint groups of made-up words: ``{"object": 48, …}`` gives ``{"object": (48 words), …}``.

    Raises:
        BadInput: More words are asked for than can be told apart.
    """
    words = made_up_words(sum(sizes.values()), seed=seed, taken=taken)
    groups: dict[str, tuple[str, ...]] = {}
    start = 0
    for name, size in sizes.items():
        groups[name] = tuple(words[start : start + size])
        start += size
    return groups
