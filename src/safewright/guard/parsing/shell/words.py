"""Words of a shell script, resolved: quotes, variables, braces, tildes, substitutions that can be computed."""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Callable
from typing import Any

from safewright.guard.parsing.shell.computing import computed
from safewright.guard.parsing.shell.model import SCALAR, UNKNOWN
from safewright.guard.parsing.shell.state import HOME, MOST_TEXT, State, TooMuch

# A quoted character that would mean something unquoted is moved into a private area while a word is put together.
_SPECIAL = "{},*?[]~ \t\n\\"
_TO = {ord(mark): chr(0xE000 + ord(mark)) for mark in _SPECIAL}
_FROM = {0xE000 + ord(mark): mark for mark in _SPECIAL}
_SPLIT = "\ue200"
_EMPTY = "\ue201"
MOST_FIELDS = 512
MOST_RANGE = 64
MOST_EXPANDED = 2**18
"""Characters that are read while braces expand."""
MOST_CHANGED = 512
"""A longer value is not cut or replaced in: a pattern is tried at every place of it."""

_SCALARS = "$ ? # ! RANDOM SECONDS UID EUID HOSTNAME LINENO BASHPID EPOCHSECONDS USER LOGNAME"
SCALARS = frozenset(_SCALARS.split(" "))
USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BACKTICKS = re.compile(r"(?<!\\)`((?:[^`\\]|\\.)*)`", re.S)
_DEFAULTS = {
    "PATH": USUAL_PATH,
    "HOME": HOME,
    "IFS": " \t\n",
    "TMPDIR": "/tmp",
    "SHELL": "/bin/bash",
    "-": SCALAR,
}
Substitute = Callable[[Any, State], "str | None"]


class Words:
    """Reads words under a state.

    Args:
        state: Variables and working folder.
        chosen: The value taken, in this reading, of each variable that may have several.
        substitute: Walks a command substitution; what it prints, where that can be told.
        inner: Reads a script that stands in a word as text.
    """

    def __init__(
        self,
        state: State,
        chosen: dict[str, str],
        substitute: Substitute,
        inner: Callable[[str, State], str | None],
    ) -> None:
        self.state, self.chosen, self.substitute, self.inner = state, chosen, substitute, inner

    def fields(self, node: Any) -> list[str]:
        """What a word becomes: usually one text; braces and unquoted expansions can make several, or none."""
        return _fields(self._raw(node))

    def text(self, node: Any) -> str:
        """What a word becomes where it is not split: in assignments and redirections."""
        raw = self._raw(node).replace(_SPLIT, " ")
        return _decoded(_tilde(raw))

    def body(self, node: Any) -> str:
        """A here-document's text."""
        # The grammar takes backticks in it for plain text.
        for command in _BACKTICKS.findall(_text(node)):
            self.inner(re.sub(r"\\([$`\\])", r"\1", command), self.state.copy())
        return _decoded(self._gaps(node, lambda text: _quoted(_unescape_double(text)), quoted=True))

    def _raw(self, node: Any) -> str:
        kind, text = node.type, _text(node)
        if kind in ("word", "number", "variable_name", "command_name", "special_variable_name", "regex"):
            if kind == "command_name" or (node.named_child_count and kind in ("word", "number")):
                return self._gaps(node, _unescape_plain)
            return _unescape_plain(text)
        if kind in ("extglob_pattern", "test_operator", "brace_expression"):
            return _unescape_plain(text)
        if kind == "raw_string":
            return _quoted(text[1:-1]) or _EMPTY
        if kind == "ansi_c_string":
            return _quoted(_ansi(text[2:-1])) or _EMPTY
        if kind in ("string", "translated_string"):
            return self._string(node)
        if kind == "concatenation":
            return self._gaps(node, _unescape_plain)
        if kind in ("simple_expansion", "expansion"):
            return self._expansion(text, node, quoted=False)
        if kind == "command_substitution":
            return self._substituted(node, quoted=False)
        if kind == "process_substitution":
            printed = self.substitute(node, self.state)
            texts = self.state.found.texts
            name = f"/dev/fd/{63 + len(texts)}"
            texts[name] = printed if text.startswith("<") else None
            return name
        if kind == "arithmetic_expansion":
            self.within(node)
            return computed(text, self._number)
        if kind == "array":
            return _SPLIT.join(self._raw(child) for child in node.named_children)
        self.within(node)
        return UNKNOWN

    def within(self, node: Any) -> None:
        """Walk what is substituted inside a word that is not read itself."""
        for child in node.named_children:
            if child.type in ("command_substitution", "process_substitution"):
                self.substitute(child, self.state)
            elif child.type == "expansion":
                self._expansion(_text(child), child, quoted=True)
            else:
                self.within(child)

    def _gaps(self, node: Any, plain: Callable[[str], str], *, quoted: bool = False) -> str:
        """A node's text with its expansions replaced."""
        out, source, start = [], node.text, node.start_byte
        at = start
        for child in node.named_children:
            if quoted and child.type in ("string_content", "heredoc_content"):
                continue
            out.append(plain(source[at - start : child.start_byte - start].decode("utf-8", "replace")))
            if quoted and child.type in ("simple_expansion", "expansion"):
                out.append(self._expansion(_text(child), child, quoted=True))
            elif quoted and child.type == "command_substitution":
                out.append(self._substituted(child, quoted=True))
            else:
                out.append(self._raw(child))
            at = child.end_byte
        out.append(plain(source[at - start :].decode("utf-8", "replace")))
        return "".join(out)

    def _string(self, node: Any) -> str:
        raw = self._gaps(node, lambda text: text, quoted=True)
        raw = raw.removeprefix("$")
        inner = raw[1:-1] if len(raw) >= 2 else ""
        return _quoted(_unescape_double(inner)) or _EMPTY

    def _substituted(self, node: Any, *, quoted: bool) -> str:
        printed = self.substitute(node, self.state)
        if printed is None:
            return UNKNOWN
        return _value(printed.rstrip("\n"), quoted)

    def _expansion(self, text: str, node: Any, *, quoted: bool) -> str:
        self.within(node)
        name = text[1:]
        if name.startswith("{"):
            # The grammar takes what stands in backticks here for a plain word.
            for command in _BACKTICKS.findall(text):
                self.inner(re.sub(r"\\([$`\\])", r"\1", command), self.state.copy())
            return self._braced(name[1:-1], quoted)
        return self._variable(name, quoted)

    def _variable(self, name: str, quoted: bool) -> str:
        value = self._looked_up(name, quoted)
        separators = "".join(self.state.values.get("IFS", ("",)))
        if quoted or not separators or name == "IFS":
            return value
        plain = separators.translate(_TO)
        return "".join(_SPLIT if mark in separators or mark in plain else mark for mark in value)

    def _looked_up(self, name: str, quoted: bool) -> str:
        state = self.state
        name = state.named(name)
        if name in ("@", "*"):
            return self._many(state.positional)
        if name.isdigit():
            if name == "0" and state.positional is None:
                return "bash"
            if state.positional is None:
                return UNKNOWN
            given = ("bash", *state.positional)
            return _value(given[int(name)], quoted) if int(name) < len(given) else ""
        if name in self.chosen:
            return _value(self.chosen[name], quoted)
        if name in state.arrays:
            return _value(state.arrays[name][0] if state.arrays[name] else "", quoted)
        if name in state.values:
            return _value(state.values[name][0], quoted)
        if name == "PWD":
            return _value(state.cwds[0] if len(state.cwds) == 1 else UNKNOWN, quoted)
        if name in _DEFAULTS:
            return _value(_DEFAULTS[name], quoted)
        return SCALAR if name in SCALARS else UNKNOWN

    def _many(self, fields: tuple[str, ...] | None) -> str:
        if fields is None:
            return UNKNOWN
        return _SPLIT.join(_quoted(each) or _EMPTY for each in fields)

    def known(self, name: str) -> str | None:
        """A variable's value, where the script gives one."""
        raw = self._variable(name, True)
        return None if raw == UNKNOWN else _decoded(raw)

    def _braced(self, inside: str, quoted: bool) -> str:
        if inside.startswith("#"):
            return SCALAR
        if match := re.fullmatch(r"(!?)(\w+)\[([^\]]*)\]", inside):
            fields = self.state.arrays.get(self.state.named(match[2]))
            if match[1]:
                return SCALAR
            if fields is None:
                return self._variable(match[2], quoted)
            if match[3] in ("@", "*"):
                return self._many(fields)
            index = match[3]
            if re.fullmatch(r"-?\d{1,6}", index) and -len(fields) <= int(index) < len(fields):
                return _value(fields[int(index)], quoted)
            return UNKNOWN
        if match := re.fullmatch(r"!(\w+)", inside):
            name = self.known(match[1])
            return self._variable(name, quoted) if name and re.fullmatch(r"\w+", name) else UNKNOWN
        match = re.match(r"(\w+|[@*?$!#-])", inside)
        if match is None:
            return UNKNOWN
        name, rest = self.state.named(match[1]), inside[match.end() :]
        if not rest:
            return self._variable(name, quoted)
        value = self.known(name)
        assigned = name in self.state.values or name in self.chosen or name in ("HOME", "TMPDIR", "PWD")
        changed = _changed(value if assigned or value is not None else None, rest, self._plain)
        if changed is not None and rest.startswith((":=", "=")) and not assigned:
            self.state.assign(name, changed)
        return UNKNOWN if changed is None else _value(changed, quoted)

    def _number(self, name: str) -> str | None:
        """A variable in an arithmetic expression; in a loop it may change from round to round."""
        return self.known(name) if self.state.loops == 1 else None

    def _plain(self, text: str) -> str | None:
        """The text of a default value: plain, quoted, or one variable."""
        if match := re.fullmatch(r"\$\{?(\w+)\}?(/[\w./-]*)?", text):
            base = self.known(match[1])
            return None if base is None else base + (match[2] or "")
        if re.fullmatch(r"[\w./:@%+,=~-]*", text):
            return _decoded(_tilde(text))
        if re.fullmatch(r"'[^']*'|\"[^\"$`\\]*\"", text):
            return text[1:-1]
        return None


def _changed(value: str | None, rest: str, plain: Callable[[str], str | None]) -> str | None:
    """A parameter expansion with an operator; None where it cannot be told."""
    if match := re.match(r":?[-=]", rest):
        return value if value else plain(rest[match.end() :])
    if match := re.match(r":?\+", rest):
        return plain(rest[match.end() :]) if value is not None else None
    if rest.startswith((":?", "?")):
        return value
    if value is None or UNKNOWN in value or len(value) > MOST_CHANGED:
        return None
    if HOME in value:
        # Where the home is, is not known here: only what is cut off behind it can be told.
        match = re.fullmatch(r"(%%?)([^$`\\]+)", rest)
        cut = _trimmed(value, match[1], match[2]) if match else ""
        return cut if len(cut) > 1 and cut.startswith(HOME + "/") else None
    if match := re.fullmatch(r":\s*(-?\d+)(?::\s*(\d+))?", rest):
        start = int(match[1])
        return value[start:][: int(match[2])] if match[2] else value[start:]
    if rest in ("^^", "^"):
        return value.upper() if rest == "^^" else value[:1].upper() + value[1:]
    if rest in (",,", ","):
        return value.lower() if rest == ",," else value[:1].lower() + value[1:]
    if match := re.fullmatch(r"(//|/)([^/\\$`]+)(?:/([^$`]*))?", rest):
        if any(mark in match[2] for mark in "*?["):
            return None
        return value.replace(match[2], match[3] or "", -1 if match[1] == "//" else 1)
    if match := re.fullmatch(r"(##?|%%?)([^$`\\]+)", rest):
        return _trimmed(value, match[1], match[2])
    return None


def _trimmed(value: str, how: str, pattern: str) -> str:
    cuts = range(len(value) + 1)
    order = cuts if how in ("#", "%%") else reversed(cuts)
    for cut in order:
        part = value[:cut] if how.startswith("#") else value[cut:]
        if fnmatch.fnmatchcase(part, pattern):
            return value[cut:] if how.startswith("#") else value[:cut]
    return value


def _value(value: str, quoted: bool) -> str:
    """An expansion's value in a word: split at blanks where unquoted; it makes no braces, but globs."""
    if len(value) > MOST_TEXT:
        raise TooMuch("an expansion too long")
    if quoted:
        return _quoted(value)
    split = re.sub(r"[ \t\n]+", _SPLIT, value)
    return "".join(mark if mark in "*?[]" else mark.translate(_TO) for mark in split)


def _quoted(text: str) -> str:
    return text.translate(_TO)


def _decoded(text: str) -> str:
    return text.translate(_FROM).replace(_EMPTY, "").replace(_SPLIT, " ")


def _text(node: Any) -> str:
    return str(node.text.decode("utf-8", "replace"))


def _unescape_plain(text: str) -> str:
    if "\\" not in text:
        return text
    text = text.replace("\\\n", "")
    return re.sub(r"\\(.)", lambda match: _quoted(match[1]), text, flags=re.S)


def _unescape_double(text: str) -> str:
    # Quoted characters of expansions have been moved away already, so a backslash here is the string's own.
    return re.sub(r'\\([$`"\\\n])', lambda match: "" if match[1] == "\n" else match[1], text)


_ANSI = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "e": "\x1b", "f": "\f", "v": "\v"}


def _ansi(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] in "xuU":
            return chr(int(code[1:], 16)) if int(code[1:], 16) < 0x110000 else UNKNOWN
        if code[0] in "01234567":
            return chr(int(code, 8) & 0xFF)
        return _ANSI.get(code, code)

    return re.sub(
        r"\\(x[0-9a-fA-F]{1,2}|u[0-9a-fA-F]{1,4}|U[0-9a-fA-F]{1,8}|[0-7]{1,3}|.)", one, text, flags=re.S
    )


def _tilde(raw: str) -> str:
    if not raw.startswith("~"):
        return raw
    match = re.match(r"~([\w.+-]*)(?=/|$)", raw)
    if match is None:
        return raw
    user, rest = match[1], raw[match.end() :]
    if user == "":
        return HOME + rest
    if user in ("+", "-"):
        return UNKNOWN + rest
    return ("/root" if user == "root" else f"/home/{user}") + rest


def _fields(raw: str) -> list[str]:
    fields = []
    for word in _braces(raw):
        # A blank that stands in no quotes came from the parser reading an odd word as one.
        for part in word.split(_SPLIT):
            if part != "":
                fields.append(_decoded(_tilde(part)))
        if len(fields) > MOST_FIELDS:
            raise TooMuch("too many words")
    return fields


def _braces(raw: str) -> list[str]:
    """Brace expansion of the unquoted braces of a word."""
    done: list[str] = []
    todo = [(raw, 0)]
    read = 0
    while todo:
        word, start = todo.pop()
        start, parts = _brace(word, start)
        if parts is None:
            done.append(word)
        else:
            todo.extend((part, start) for part in reversed(parts))
        read += len(word)
        if len(done) + len(todo) > MOST_FIELDS or read > MOST_EXPANDED:
            raise TooMuch("too many words")
    return done


def _brace(word: str, start: int) -> tuple[int, list[str] | None]:
    """The words of the first brace from a place on that expands, and its place; None where none does."""
    opened: list[tuple[int, list[int]]] = []
    closed: list[tuple[int, int, list[int]]] = []
    for match in re.compile("[{},]").finditer(word, start):
        at, mark = match.start(), match[0]
        if mark == "{":
            opened.append((at, [at]))
        elif mark == "," and opened:
            opened[-1][1].append(at)
        elif mark == "}" and opened:
            first, commas = opened.pop()
            closed.append((first, at, commas))
    for first, end, commas in sorted(closed):
        if (parts := _alternatives(word, first, end, commas)) is not None:
            return first, parts
    return start, None


def _alternatives(word: str, start: int, end: int, commas: list[int]) -> list[str] | None:
    if len(commas) == 1 and end - start > 40:
        return None
    head, tail = word[:start], word[end + 1 :]
    if len(commas) > 1:
        edges = [*commas, end]
        return [head + word[one + 1 : two] + tail for one, two in itertools.pairwise(edges)]
    match = re.fullmatch(r"(-?\d{1,9})\.\.(-?\d{1,9})(?:\.\.-?\d{1,9})?", word[start + 1 : end])
    if match:
        low, high = sorted((int(match[1]), int(match[2])))
        if high - low >= MOST_RANGE:
            return [head + SCALAR + tail]
        return [head + str(number) + tail for number in range(low, high + 1)]
    match = re.fullmatch(r"([a-zA-Z])\.\.([a-zA-Z])", word[start + 1 : end])
    if match:
        low, high = sorted((ord(match[1]), ord(match[2])))
        return [head + chr(code) + tail for code in range(low, high + 1)]
    return None
