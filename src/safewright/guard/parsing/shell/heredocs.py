"""Here-documents whose lines begin with the word that ends them: the grammar would end them too early."""

from __future__ import annotations

import re

_BEGINS = re.compile(r"(?<!<)<<(-?)[ \t]*(['\"]?)([A-Za-z_]\w*)\2")
_MOST = 64


def plain_ends(text: str) -> str:
    """A text in which no line of a here-document begins with its end's word, unless it is the end."""
    if "<<" not in text:
        return text
    lines = text.split("\n")
    at = 0
    for number in range(_MOST):
        while at < len(lines) and not _BEGINS.search(lines[at]):
            at += 1
        if at >= len(lines):
            break
        match = _BEGINS.search(lines[at])
        if match is None:
            break
        word, tabs = match[3], bool(match[1])
        end = next(
            (i for i in range(at + 1, len(lines)) if (lines[i].lstrip("\t") if tabs else lines[i]) == word),
            None,
        )
        if end is None:
            at += 1
            continue
        if any(line.lstrip("\t ").startswith(word) for line in lines[at + 1 : end]):
            new = f"END_OF_TEXT_{number}_{len(text)}"
            lines[at] = lines[at][: match.start(3)] + new + lines[at][match.end(3) :]
            lines[end] = lines[end].replace(word, new)
        at = end if _BEGINS.search(lines[at], match.end()) is None else at + 1
        at = max(at, 1)
        if at == end:
            at += 1
    return "\n".join(lines)
