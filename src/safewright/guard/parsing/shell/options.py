"""Options and operands of a command line."""

from __future__ import annotations


def options(words: list[str], valued: str = "", named: tuple[str, ...] = ()) -> tuple[set[str], list[str]]:
    """The short letters and long names among some words, and what is left: the operands.

    Args:
        words: After the verb.
        valued: Short options that take a value.
        named: Long options (or old-style single-dash words) that take a value as the next word.
    """
    flags: set[str] = set()
    operands: list[str] = []
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if word == "--":
            operands += words[index:]
            break
        if word.startswith("--") or word in named:
            name, equals, _ = word.partition("=")
            flags.add(name)
            if word in named and not equals:
                index += 1
        elif word.startswith("-") and len(word) > 1:
            for at, letter in enumerate(word[1:], 1):
                flags.add(letter)
                if letter in valued:
                    if at == len(word) - 1:
                        index += 1
                    break
        else:
            operands.append(word)
    return flags, operands


def value_of(words: list[str], *names: str) -> str | None:
    """The value of an option: ``-o X``, ``-oX`` for short ones, ``--out X``, ``--out=X``; None without."""
    for at, word in enumerate(words):
        if word == "--":
            return None
        for name in names:
            if word == name and at + 1 < len(words):
                return words[at + 1]
            if name.startswith("--") and word.startswith(name + "="):
                return word[len(name) + 1 :]
            if len(name) == 2 and not word.startswith("--") and word.startswith(name) and len(word) > 2:
                return word[2:]
    return None


def operands_after(words: list[str], first: str) -> list[str]:
    """What follows a word."""
    return words[words.index(first) + 1 :] if first in words else []
