"""From a shell text to a script: the syntax tree is walked as a shell would run it, and nothing is run."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from safewright.errors import need_extra
from safewright.guard.parsing.shell.calls import Call, carry_out
from safewright.guard.parsing.shell.exhausting import (
    CHANGING,
    MANY,
    count_of,
    many_ids,
    of_input,
    of_pipeline,
)
from safewright.guard.parsing.shell.heredocs import plain_ends
from safewright.guard.parsing.shell.launching import does_environment, searched
from safewright.guard.parsing.shell.model import SCALAR, UNKNOWN, Command, Effect, Script
from safewright.guard.parsing.shell.positional import MOST_READINGS, readings, rounds_of
from safewright.guard.parsing.shell.scripts import text_of, wrote
from safewright.guard.parsing.shell.state import (
    MARKERS,
    MOST_INNER,
    Found,
    State,
    TooMuch,
    has_glob,
    place,
    settled,
)
from safewright.guard.parsing.shell.touching import BOTTOMLESS
from safewright.guard.parsing.shell.trees import common, depth, last_command, leaves, stray, unticked
from safewright.guard.parsing.shell.words import Words

MOST_BYTES = 16 * 1024
MOST_DEPTH = 200
ENDLESS = ("true", ":", "[ 1 ]", "[[ 1 ]]", "((1))", "test 1", "(( 1 ))", "[ true ]", "/bin/true")


@functools.cache
def _language() -> Any:
    try:
        import tree_sitter
        import tree_sitter_bash
    except ImportError as error:
        raise need_extra("tree-sitter", "guard") from error
    return tree_sitter.Language(tree_sitter_bash.language())


def read(command: str | None) -> Script:
    """What a shell text is read as.

    Raises:
        Missing: The parser is not installed.
    """
    if command is None or not command.strip():
        return Script(command or "", unparsed=("no command is given",))
    if len(command.encode("utf-8", "replace")) > MOST_BYTES:
        return Script(command, unparsed=(f"longer than {MOST_BYTES:,} bytes",))
    if any(0xE000 <= ord(mark) <= 0xF8FF or mark in MARKERS or mark == "\0" for mark in command):
        return Script(command, unparsed=("private characters",))
    language = _language()
    found = Found()
    try:
        walk = _Walk(found, language)
        walk.inner(command, State(found))
        searched(walk)
    except TooMuch as error:
        found.unparsed.append(str(error))
    except RecursionError:
        found.unparsed.append("nested too deeply")
    return Script(
        command,
        tuple(found.commands),
        tuple(dict.fromkeys(found.unparsed)),
        tuple(found.unresolved),
        tuple(sorted(found.names)),
    )


_BEYOND = re.compile("[\U00010000-\U0010ffff]")


class _Walk:
    """One reading of a script and of the scripts in it."""

    def __init__(self, found: Found, language: Any) -> None:
        self.found, self.language = found, language
        self.strays: dict[int, list[Any]] = {}

    def inner(self, text: str, state: State) -> str | None:
        """Read a whole text under a state; what it prints, where that can be told."""
        import tree_sitter

        if state.inner > MOST_INNER:
            raise TooMuch("scripts within scripts within scripts")
        state.inner += 1
        # The grammar's C code looks characters up in a table that ends long before these: it would crash.
        text = _BEYOND.sub("\ufffd", plain_ends(text if text.endswith("\n") else text + "\n"))
        root = tree_sitter.Parser(self.language).parse(text.encode("utf-8", "replace")).root_node
        if root.has_error:
            self.found.unparsed.append("no valid shell syntax")
        if depth(root) > MOST_DEPTH:
            raise TooMuch(f"nested deeper than {MOST_DEPTH}")
        printed = self._all(root, state, None)
        state.inner -= 1
        return printed

    def _all(self, node: Any, state: State, stdin: str | None) -> str | None:
        """Walk a node's statements in order."""
        printed: list[str | None] = []
        children = node.children
        for index, child in enumerate(children):
            if not child.is_named or child.type in ("comment", "heredoc_body", "variable_name"):
                continue
            after = children[index + 1] if index + 1 < len(children) else None
            background = after is not None and after.type == "&"
            printed.append(self._one(child, self._behind(state) if background else state, stdin))
        return None if None in printed else "".join(text or "" for text in printed)

    def _behind(self, state: State) -> State:
        new = state.copy()
        new.background = True
        return new

    def _one(self, node: Any, state: State, stdin: str | None) -> str | None:
        self.found.step()
        handler = getattr(self, f"_on_{node.type}", self._all)
        printed = handler(node, state, stdin) if node.type != "comment" else ""
        return None if node.type == "ERROR" else printed

    # Statements.

    def _on_command(self, node: Any, state: State, stdin: str | None) -> str | None:
        before = len(self.found.commands)
        outputs = {self._command(node, state, stdin, chosen) for chosen in self._readings(node, state)}
        many = re.search(rb"\{\d+\.\.(\d{4,12})\}", node.text)
        made = [effect for each in self.found.commands[before:] for effect in each.effects]
        many_ids(self.found.commands, before, node.text.decode("utf-8", "replace"))
        if many and any(effect.kind in ("create", "write", "append") for effect in made):
            effect = Effect("exhaust", "disk", "system", "braces", detail=f"{int(many[1])} times")
            self.emit(Command("braces"), [effect], state)
        return outputs.pop() if len(outputs) == 1 else None

    def _readings(self, node: Any, state: State) -> Iterator[dict[str, str]]:
        """The ways in which a node can be read, where variables in it may have several values."""
        return readings(state, node.text.decode("utf-8", "replace"))

    def _words(self, state: State, chosen: dict[str, str]) -> Words:
        return Words(state, chosen, self._substitute, self.inner)

    def _substitute(self, node: Any, state: State) -> str | None:
        nested = unticked(node)
        return self._all(node, state.copy(), None) if nested is None else self.inner(nested, state.copy())

    def _command(self, node: Any, state: State, stdin: str | None, chosen: dict[str, str]) -> str | None:
        words = self._words(state, chosen)
        fields: list[str] = []
        assigned: list[tuple[str, str]] = []
        for child in node.named_children:
            if child.type == "variable_assignment":
                assigned.append(self._value_of(child, words))
            elif child.type == "herestring_redirect":
                stdin = "".join(words.text(each) for each in child.named_children) + "\n"
            elif child.type == "file_redirect":
                self._redirect(child, words, state)
                fields += [each for word in stray(child) for each in words.fields(word)]
            elif child.type not in ("comment", "heredoc_redirect"):
                fields += words.fields(child)
        fields += [each for word in self.strays.get(node.id, ()) for each in words.fields(word)]
        if not fields:
            for name, value in assigned:
                does_environment(self, name, value, state)
                state.assign(name, value)
            return ""
        for name, value in assigned:
            does_environment(self, name, value, state)
            self.found.names.add(name)
        call = Call(self, state, fields, stdin)
        return carry_out(call)

    def _value_of(self, node: Any, words: Words) -> tuple[str, str]:
        name = node.child_by_field_name("name")
        value = node.child_by_field_name("value")
        text = name.text.decode("utf-8", "replace") if name is not None else ""
        if name is not None:
            words.within(name)
        return text, words.text(value) if value is not None else ""

    def _on_variable_assignment(self, node: Any, state: State, stdin: str | None) -> str | None:
        value = node.child_by_field_name("value")
        values: list[str] = []
        name = ""
        for chosen in self._readings(node, state):
            words = self._words(state, chosen)
            if value is not None and value.type == "array":
                name = self._value_of(node, words)[0]
                fields = [field for child in value.named_children for field in words.fields(child)]
                name = state.named(name)
                does_environment(self, name, "; ".join(fields), state)
                state.arrays[name] = tuple(fields)
                state.values.pop(name, None)
                continue
            name, text = self._value_of(node, words)
            if "+=" in node.text.decode("utf-8", "replace").split("=", 1)[0] + "=":
                text = (state.values.get(state.named(name), (UNKNOWN,))[0]) + text
            values.append(text)
        if value is not None and value.type == "array":
            return ""
        self.found.names.add(name)
        for text in dict.fromkeys(values):
            does_environment(self, name, text, state)
        if not re.fullmatch(r"\w+", name):
            return ""
        name = state.named(name)
        state.values[name] = tuple(dict.fromkeys(values))[:8]
        state.arrays.pop(name, None)
        return ""

    def _on_declaration_command(self, node: Any, state: State, stdin: str | None) -> str | None:
        verb = node.children[0].type if node.children else ""
        words = [
            child.text.decode("utf-8", "replace") for child in node.named_children if child.type == "word"
        ]
        flags = "".join(each[1:] for each in words if each.startswith("-")) if verb != "export" else ""
        if re.search(r"[luc]", flags):
            self.found.unclear("a variable that changes what it is given")
        for child in node.named_children:
            if child.type == "variable_assignment" and "n" in flags:
                self._refer(child, state)
            elif child.type == "variable_name" and "n" in flags:
                self.found.unclear("a name that stands for a variable that cannot be told")
            elif child.type == "variable_assignment":
                self._on_variable_assignment(child, state, stdin)
            elif child.type in ("string", "raw_string", "concatenation", "ansi_c_string"):
                for chosen in self._readings(child, state):
                    name, equals, value = self._words(state, chosen).text(child).partition("=")
                    if equals and re.fullmatch(r"\w+", name):
                        does_environment(self, name, value, state)
                        state.assign(name, value)
        return ""

    def _refer(self, node: Any, state: State) -> None:
        """A name that stands for another variable."""
        for chosen in self._readings(node, state):
            name, target = self._value_of(node, self._words(state, chosen))
            if not re.fullmatch(r"\w+", target) or state.references.get(name, target) != target:
                self.found.unclear("a name that stands for a variable that cannot be told")
            elif target != name:
                state.references[name] = target

    def _on_unset_command(self, node: Any, state: State, stdin: str | None) -> str | None:
        for child in node.named_children:
            name = child.text.decode("utf-8", "replace")
            state.values[name] = ("",)
            if name == "HISTFILE":
                self.emit(
                    Command("unset", ("HISTFILE",)), [Effect("log", "history", "system", "unset")], state
                )
        return ""

    def _on_test_command(self, node: Any, state: State, stdin: str | None) -> str | None:
        self._words(state, {}).within(node)
        return ""

    def _on_subshell(self, node: Any, state: State, stdin: str | None) -> str | None:
        return self._all(node, state.copy(), stdin)

    def _on_function_definition(self, node: Any, state: State, stdin: str | None) -> str | None:
        name = node.child_by_field_name("name")
        if name is not None:
            state.functions[name.text.decode("utf-8", "replace")] = node.child_by_field_name("body")
        return ""

    def call(self, name: str, body: Any, arguments: list[str], state: State, stdin: str | None) -> str | None:
        """Call a function of the script."""
        if name in state.calling:
            if state.background or state.piped:
                effect = Effect(
                    "exhaust", "processes", "system", name, detail="a function that multiplies itself"
                )
                self.emit(Command(name), [effect], state)
            return None
        kept = state.positional, state.others, state.calling
        state.positional, state.others, state.calling = tuple(arguments), (), (*state.calling, name)
        printed = self._one(body, state, stdin)
        state.positional, state.others, state.calling = kept
        return printed

    def _on_list(self, node: Any, state: State, stdin: str | None) -> str | None:
        left, *rest = node.named_children
        is_or = any(child.type == "||" for child in node.children)
        first = self._one(left, state, stdin)
        if left.type != "list" or is_or:
            kept = state.copy()
        else:
            kept = state
        last: str | None = ""
        for right in rest:
            if is_or:
                maybe = state.copy()
                last = self._one(right, maybe, stdin)
                state.merge(maybe)
            else:
                last = self._one(right, state, stdin)
        parent = node.parent
        if not is_or and (parent is None or parent.type != "list") and kept is not state:
            # What the right side of && did may not have happened once the chain is over.
            state.doubt(kept)
        return None if first is None or last is None else first + last

    def _on_pipeline(self, node: Any, state: State, stdin: str | None) -> str | None:
        parts = [child for child in node.named_children if child.type != "comment"]
        text = node.text.decode("utf-8", "replace")
        bounded = re.search(r"\|\s*(?:head|dd\b[^|]*count=|grep\s+-m|sed\s+-n?\s*\S*\d+q)", text) is not None
        printed = stdin
        before = len(self.found.commands)
        after = before
        for index, part in enumerate(parts):
            inside = state.copy()
            inside.piped = True
            inside.paced = inside.paced or bounded
            printed = self._one(part, inside, printed)
            after = len(self.found.commands) if index == 0 else after
        first, made = parts[0].text.decode("utf-8", "replace"), self.found.commands
        if not bounded and (effects := of_pipeline(first, made[before:after], made[after:])):
            self.emit(Command("pipeline"), effects, state)
        return printed

    def _on_redirected_statement(self, node: Any, state: State, stdin: str | None) -> str | None:
        body = node.child_by_field_name("body")
        rest, files = None, []
        for chosen in self._readings(node, state):
            words = self._words(state, chosen)
            for child in node.named_children:
                if child.type == "file_redirect":
                    files.append(child)
                    stdin = self._read_from(child, words, state, stdin)
                elif child.type == "herestring_redirect":
                    stdin = "".join(words.text(each) for each in child.named_children) + "\n"
                elif child.type == "heredoc_redirect":
                    stdin, rest = self._heredoc(child, words, stdin)
                    files += [part for part in child.named_children if part.type == "file_redirect"]
        files = list(dict.fromkeys(files))
        # The grammar hangs the redirection of `a && b > c` on the whole list; it is the last command's.
        late = body is not None and body.type == "list"
        started = len(self.found.commands)
        taken = False if late else self._redirects(files, node, state)
        redirected = self.found.commands[started:]
        kept = state.bottomless
        bottomless = any(each.verb == "<" and BOTTOMLESS.match(each.arguments[0]) for each in redirected)
        state.bottomless = bottomless or kept
        if words_behind := [word for child in node.named_children for word in stray(child)]:
            command = last_command(body)
            if command is None:
                self.found.unclear("words behind a redirection")
            else:
                self.strays[command.id] = words_behind
        printed = self._one(body, state, stdin) if body is not None else stdin
        state.bottomless = kept
        drained = of_input(self.found.commands[started + len(redirected) :])
        if bottomless and not state.paced and drained:
            self.emit(Command("input"), drained, state)
        taken = self._redirects(files, node, state) if late else taken
        self._keep(files, printed, node, state)
        if body is not None and body.type == "pipeline" and redirected:
            made = self.found.commands[started + len(redirected) :]
            if effects := of_pipeline("", made[:1], [*made[1:], *redirected]):
                self.emit(Command("pipeline"), effects, state)
        if rest is not None:
            printed = self._one(rest, state.copy() if rest.type == "pipeline" else state, printed)
        return "" if taken else printed

    def _heredoc(self, node: Any, words: Words, stdin: str | None) -> tuple[str | None, Any]:
        """A here-document's text, and the rest of its line that the grammar puts into it."""
        rest, literal = None, False
        for part in node.named_children:
            if part.type == "heredoc_start":
                literal = part.text[:1] in (b"'", b'"', b"\\")
            elif part.type == "heredoc_body":
                stdin = part.text.decode("utf-8", "replace") if literal else words.body(part)
            elif part.type not in (
                "file_redirect",
                "heredoc_end",
            ) and part not in node.children_by_field_name("argument"):
                rest = part
        return stdin, rest

    def _redirects(self, files: list[Any], node: Any, state: State) -> bool:
        taken = False
        for chosen in self._readings(node, state):
            words = self._words(state, chosen)
            for each in files:
                taken = self._redirect(each, words, state) or taken
        return taken

    def _read_from(self, node: Any, words: Words, state: State, stdin: str | None) -> str | None:
        """The input by ``<``, where the script has written the file or it is a substitution."""
        operator = next((child.type for child in node.children if not child.is_named), ">")
        to = node.child_by_field_name("destination")
        if operator != "<" or to is None:
            return stdin
        written, text = text_of(state, words.text(to))
        return (UNKNOWN if text is None else text) if written else stdin

    def _keep(self, files: list[Any], printed: str | None, node: Any, state: State) -> None:
        """Remember what the files hold that the output goes to."""
        for each in files:
            operator = next((child.type for child in each.children if not child.is_named), ">")
            descriptor = each.child_by_field_name("descriptor")
            to = each.child_by_field_name("destination")
            if to is None or operator not in (">", ">>", ">|", "&>", "&>>"):
                continue
            if descriptor is None or descriptor.text == b"1":
                for chosen in self._readings(node, state):
                    path = self._words(state, chosen).text(to)
                    wrote(state, path, printed, more=">>" in operator)

    def _redirect(self, node: Any, words: Words, state: State) -> bool:
        """Note what a redirection does; whether it takes the output away."""
        operator = next((child.type for child in node.children if not child.is_named), ">")
        destination = node.child_by_field_name("destination")
        if destination is None:
            return False
        target = words.text(destination)
        if target.isdigit() or target == "-" or (operator == "<&" or operator == ">&-"):
            return False
        descriptor = node.child_by_field_name("descriptor")
        if operator.startswith("<") and operator != "<>":
            if destination.type != "process_substitution":
                self.emit(Command("<", (target,)), self.paths("read", target, state, "<"), state)
            return False
        if destination.type == "process_substitution":
            return True
        kind = "append" if ">>" in operator else "write"
        effects = self.paths(kind, target, state, operator)
        if effects:
            self.emit(Command(operator, (target,)), effects, state)
        return descriptor is None or descriptor.text in (b"1", b"&")

    def paths(self, kind: Any, target: str, state: State, verb: str, **more: Any) -> list[Effect]:
        """An effect on a path, under each folder that the script may stand in."""
        if target in ("/dev/null", "/dev/stdout", "/dev/stderr", "/dev/tty", "-", ""):
            return []
        if target.startswith(("/dev/tcp/", "/dev/udp/")):
            return [Effect("send", target, "host", verb, privileged=state.privileged)]
        effects = []
        for cwd in state.cwds:
            path = place(target, cwd)
            if self.found.links:
                path = self.found.followed(path, itself=kind in ("delete", "move", "link", "create"))
            more |= {"resolved": settled(path), "pattern": has_glob(path)}
            effects.append(Effect(kind, path, "path", verb, privileged=state.privileged, **more))
        return effects

    # Control flow.

    def _on_if_statement(self, node: Any, state: State, stdin: str | None) -> str | None:
        branches: list[State] = []
        current: State | None = None
        for child in node.children:
            if child.type == "then":
                current = state.copy()
                branches.append(current)
            elif child.type in ("elif_clause", "else_clause"):
                branch = state.copy()
                branches.append(branch)
                self._all(child, branch, stdin)
            elif child.is_named and child.type != "comment":
                self._one(child, current or state, stdin)
        for branch in branches:
            state.merge(branch)
        return None

    def _on_case_statement(self, node: Any, state: State, stdin: str | None) -> str | None:
        for item in node.named_children:
            if item.type != "case_item":
                self._words(state, {}).text(item)
                continue
            branch = state.copy()
            pattern = item.child_by_field_name("value")
            _ = pattern is None or self._words(state, {}).text(pattern)
            for child in item.named_children:
                if child != pattern and child.type not in ("extglob_pattern", "word"):
                    self._one(child, branch, stdin)
            state.merge(branch)
        return None

    def _on_for_statement(self, node: Any, state: State, stdin: str | None) -> str | None:
        name = node.child_by_field_name("variable")
        text = node.text.decode("utf-8", "replace").split("do", 1)[0]
        values: list[str] = []
        for chosen in self._readings(node, state):
            words = self._words(state, chosen)
            for child in node.named_children:
                if child != name and child.type not in ("do_group", "comment"):
                    values += words.fields(child)
            if not any(child.type == "in" for child in node.children):
                values += (UNKNOWN,) if state.positional is None else state.positional
        times = count_of(text) or (10 if any(UNKNOWN in value for value in values) else len(values))
        values = list(dict.fromkeys(values))
        if len(values) > 8:
            values = values if len(values) <= MOST_READINGS else [common(values)]
        if name is not None:
            state.values[name.text.decode("utf-8", "replace")] = tuple(values) or ("",)
        body = node.child_by_field_name("body")
        told = len(values) == times and not any(UNKNOWN in value for value in values)
        self._loop(body, state, stdin, times, exact=told and body is not None and not leaves(body))
        return None

    def _on_c_style_for_statement(self, node: Any, state: State, stdin: str | None) -> str | None:
        text = node.text.decode("utf-8", "replace").split("do", 1)[0]
        match = re.search(r"[<>]=?\s*(\d+)", text)
        name = re.search(r"(\w+)\s*=", text)
        if name:
            state.values[name[1]] = (SCALAR,)
        endless = re.search(r"\(\(\s*;\s*;", text) is not None
        times = None if endless else int(match[1]) if match else 10
        self._loop(node.child_by_field_name("body"), state, stdin, times)
        return None

    def _on_while_statement(self, node: Any, state: State, stdin: str | None) -> str | None:
        body = node.child_by_field_name("body")
        condition = [
            child for child in node.named_children if child != body and child.type not in ("comment",)
        ]
        said = " ; ".join(child.text.decode("utf-8", "replace").strip() for child in condition)
        until = any(child.type == "until" for child in node.children)
        for child in condition:
            if not child.text.strip().startswith(b"read"):
                self._one(child, state, stdin)
        left = body is not None and leaves(body)
        times: int | None = 10
        limit = re.search(r"-(?:lt|le|ne)\s+(\d+)", said) or re.search(r"[<]=?\s*(\d+)", said)
        if limit:
            times = int(limit[1])
        if (said == "false" if until else said in ENDLESS) and not left:
            times = None
        for name in re.findall(r"\bread\b((?:\s+-\w+)*)((?:\s+[A-Za-z_]\w*)+)", said):
            lines = stdin.split("\n") if stdin is not None else []
            kept = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
            usable = 0 < len(kept) <= 8 and len(name[1].split()) == 1
            for each in name[1].split():
                state.values[each] = kept if usable else (UNKNOWN,)
        self._loop(body, state, stdin, times)
        return None

    def _loop(
        self, body: Any, state: State, stdin: str | None, times: int | None, *, exact: bool = False
    ) -> None:
        if body is None:
            return
        inside = state.copy()
        inside.loops = None if times is None or state.loops is None else max(1, state.loops * max(times, 1))
        text = body.text.decode("utf-8", "replace")
        paced = re.search(r"\b(sleep|inotifywait|wait|read)\b", text) is not None
        inside.paced = state.paced or paced
        before = len(self.found.commands)
        rounds, shifts = rounds_of(inside, text, times, exact)
        left: list[Any] = []
        for _ in range(rounds):
            self._all(body, inside, stdin)
            left += [inside.positional, *inside.others]
        if shifts == "some":  # after some round it has ended
            inside.stand(left)
        made = self.found.commands[before:]
        changing = any(effect.kind in CHANGING for each in made for effect in each.effects)
        spawning = (
            any(each.background for each in made) or re.search(r"&\s*(?:done|$|;|\n|})", text) is not None
        )
        spawning = spawning and text.strip()[-2:] != "&&"
        endless = times is None and (spawning or not inside.paced)
        if endless or (times is not None and times >= MANY and (changing or spawning)):
            what = "processes" if spawning else "disk" if changing else "cpu"
            detail = "without end" if times is None else f"{times} times"
            effect = Effect("exhaust", what, "system", "loop", privileged=state.privileged, detail=detail)
            self.emit(Command("loop", (), loops=times), [effect], state)
        state.merge(inside)
        if shifts == "all":
            state.positional, state.others = inside.positional, inside.others

    def emit(self, command: Command, effects: list[Effect], state: State) -> None:
        """Note a command with its effects."""
        self.found.commands.append(
            replace(
                command,
                privileged=state.privileged,
                wrappers=(*state.wrappers, *command.wrappers),
                effects=tuple(effects),
                loops=state.loops if command.loops == 1 else command.loops,
                cwd=state.cwds[0] if state.cwds else ".",
                background=state.background,
            )
        )
