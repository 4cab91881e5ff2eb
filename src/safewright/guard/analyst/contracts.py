"""What a model's answer must be: strict pydantic models, and the one way from its text to them.

This module imports pydantic; it is imported when a model is first asked.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, create_model, model_validator

MOST_CHECKS = 24
"""Checks in one answer; a longer list is no answer to one action."""
MOST_TEXT = 64 * 1024
"""Characters of one answer; a longer one is not read."""
MOST_SAID = 2000
MOST_STATEMENT = 400
MOST_NAME = 100

_FENCED = re.compile(r"\A```[ \t]*[A-Za-z0-9_+-]*[ \t]*\r?\n(.*)\n[ \t]*```\Z", re.DOTALL)


class Unreadable(Exception):  # noqa: N818 - caught where the model is asked again
    """A text is no answer of the form asked for; the message says what is wrong, without quoting the text."""


def _line(most: int) -> AfterValidator:
    """A text of one printable line, neither empty nor too long. Not part of the JSON schema, which servers limit."""

    def check(text: str) -> str:
        clean = " ".join("".join(each if each.isprintable() else " " for each in text).split())
        if not any(each.isalnum() for each in clean):
            raise ValueError("has no words")
        if len(clean) > most:
            raise ValueError(f"is longer than {most} characters")
        return clean

    return AfterValidator(check)


def _short(most: int) -> AfterValidator:
    return AfterValidator(lambda text: " ".join(text.split())[:most])


Said = Annotated[str, _short(MOST_SAID)]
Line = Annotated[str, _line(MOST_SAID)]
Name = Annotated[str, _line(MOST_NAME)]
Statement = Annotated[str, _line(MOST_STATEMENT)]


class Strict(BaseModel):
    """Unknown fields, missing fields and other types are errors; a boolean is a boolean."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StepBack(Strict):
    """An action in general words, and as a general command."""

    natural: Line
    command: Line


class Proposal(Strict):
    """A check that should hold; its category is one of the policy's (see `contracts`)."""

    category: str
    name: Name
    statement: Statement


class NewCheck(Strict):
    """A check that is proposed and judged at once. Fields stand in the order in which they are to be written."""

    category: str
    name: Name
    statement: Statement
    thinking: Said
    tool: str | None
    result: bool | None

    @model_validator(mode="after")
    def _decided(self) -> NewCheck:
        if (self.tool is None) == (self.result is None):
            raise ValueError("needs either a tool or a result")
        return self


class Judgement(Strict):
    """What came of a check that was given."""

    check: str
    thinking: Said
    delete: bool
    tool: str | None
    result: bool | None

    @model_validator(mode="after")
    def _decided(self) -> Judgement:
        if self.delete and (self.tool is not None or self.result is not None):
            raise ValueError("is deleted, and so has neither tool nor result")
        if not self.delete and (self.tool is None) == (self.result is None):
            raise ValueError("needs either a tool or a result")
        return self


class Analyzed(Strict):
    """The analyzer's answer: a move, and the list of checks after it."""

    analysis: Said
    move: Literal["add", "revise_merge", "new"]
    in_memory: bool
    action: Line
    checks: Sequence[Proposal]

    @model_validator(mode="after")
    def _consistent(self) -> Analyzed:
        if self.in_memory == (self.move == "new"):
            raise ValueError("in_memory is false exactly when the move is new")
        return self


class Executed(Strict):
    """The executor's answer: every check once."""

    checks: Sequence[Judgement]


class Fused(Strict):
    """Both in one: what becomes of the remembered checks, and which are new."""

    same_kind: bool
    judged: Sequence[Judgement]
    new: Sequence[NewCheck]


class Contracts:
    """The forms of answer under one policy: categories and tools are closed lists."""

    def __init__(self, categories: tuple[str, ...], tools: tuple[str, ...]) -> None:
        category: Any = Literal[categories]
        tool: Any = Literal[tools] | None if tools else None
        proposal = _derived(Proposal, category=category)
        judgement = _derived(Judgement, tool=tool)
        new = _derived(NewCheck, category=category, tool=tool)
        self.step_back: type[StepBack] = StepBack
        self.analyzed: type[Analyzed] = _derived(Analyzed, checks=_listed(proposal))
        self.executed: type[Executed] = _derived(Executed, checks=_listed(judgement))
        self.fused: type[Fused] = _derived(Fused, judged=_listed(judgement), new=_listed(new))


def _derived(base: type[BaseModel], **fields: Any) -> Any:
    """A form with some fields narrowed."""
    make: Any = create_model
    return make(base.__name__, __base__=base, **{name: (kind, ...) for name, kind in fields.items()})


def _listed(kind: Any) -> Any:
    listed: Any = list[kind]
    return Annotated[listed, AfterValidator(_few)]


def _few(values: list[Any]) -> list[Any]:
    if len(values) > MOST_CHECKS:
        raise ValueError(f"has more than {MOST_CHECKS} entries")
    return values


@functools.cache
def contracts(categories: tuple[str, ...], tools: tuple[str, ...]) -> Contracts:
    """The forms of answer for some categories and tools."""
    return Contracts(categories, tools)


T = TypeVar("T", bound=BaseModel)


def read(text: str, form: type[T]) -> T:
    """An answer's text as a form: one bare JSON object, or that in one fence, and nothing else around it.

    Text around a fence is not accepted: an answer that quotes the action could hold a block that is not its own.

    Raises:
        Unreadable: It is anything else, or the object does not fit.
    """
    if len(text) > MOST_TEXT:
        raise Unreadable(f"it has more than {MOST_TEXT} characters")
    bare = text.strip()
    fenced = _FENCED.match(bare)
    if fenced:
        bare = fenced[1]
    try:
        value = json.loads(bare, object_pairs_hook=_once, parse_constant=_no_constant)
    except Unreadable:
        raise
    except (ValueError, RecursionError) as error:
        said = getattr(error, "msg", "nested too deeply")
        raise Unreadable(f"it is not one JSON object ({said})") from error
    if not isinstance(value, dict):
        raise Unreadable("it is JSON, but not an object")
    try:
        return form.model_validate(value)
    except ValidationError as error:
        raise Unreadable(_problems(error)) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Unreadable("an object in it has a field twice")
    return found


def _no_constant(_: str) -> Any:
    raise Unreadable("it holds a number that JSON does not have")


def _problems(error: ValidationError) -> str:
    """What is wrong, by the form's own words: the answer's values are not repeated, nor field names it made up."""
    said = []
    for each in error.errors(include_url=False, include_input=False, include_context=False)[:4]:
        extra = each["type"] == "extra_forbidden"
        place = each["loc"][:-1] if extra else each["loc"]
        where = ".".join(str(part) for part in place) or "the object"
        said.append(f"{where}: {'has a field that is not asked for' if extra else each['msg']}")
    return "; ".join(said)[:600]


@functools.cache
def schema_of(form: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a form, without references, titles and defaults, as servers take it."""
    whole = form.model_json_schema()
    parts = whole.pop("$defs", {})
    found = _plain(whole, parts)
    if not isinstance(found, dict):
        raise TypeError("a form's schema is an object")
    return found


def _plain(value: Any, parts: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_plain(each, parts) for each in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return _plain(parts[value["$ref"].rsplit("/", 1)[1]], parts)
    found: dict[str, Any] = {}
    for name, each in value.items():
        if name == "properties":
            found[name] = {key: _plain(field, parts) for key, field in each.items()}
        elif name == "const":
            found["enum"] = [each]
        elif name not in ("title", "description", "default"):
            found[name] = _plain(each, parts)
    return found
