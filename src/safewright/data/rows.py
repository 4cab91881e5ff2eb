"""The public record formats: one JSON object in, one row that every measure can read out."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safewright.errors import BadInput, nearest
from safewright.runs import digest_bytes, digest_json, write_text
from safewright.types import Message, Row

ROLES = ("system", "user", "assistant")
FORMATS = (
    "`messages` (a list of {role, content}), `prompt` (with `response` where the answer is known), "
    "`instruction` (with `input` and `output`), `question` with `answer`, or `text` with `labels`"
)
_LANG = re.compile(r"[a-z]{2,3}")
_USED = {
    "messages": ("messages",),
    "prompt": ("prompt", "response"),
    "instruction": ("instruction", "input", "output"),
    "question": ("question", "answer"),
    "text": ("text", "labels"),
}
_ANSWERS = {"question": "answer", "text": "labels"}
"""Formats that are one only with their answer: `question` and `text` alone are common names of anything."""
_KNOWN_AS = {
    "paraphrased_question": "paraphrases",
    "paraphrased_answer": "paraphrased_answer",
    "perturbed_answer": "wrong",
}
"""Fields of TOFU's perturbed sets beside `question` and `answer`, and their names in a row's meta."""


@dataclass(frozen=True)
class Draft:
    """A row before ids are given to those that came without; ``where`` says which file and line."""

    row: Row
    where: str


def read_object(obj: Any, where: str, *, need_reference: bool = False) -> Draft:
    """The row of one object in a public format; fields that no format uses go to ``meta``.

    ``messages`` wins over ``prompt``, which wins over ``instruction``, ``question`` with ``answer`` (TOFU) and
    ``text`` with ``labels`` (KnowUnDo). Messages that end in an assistant turn end in the reference, and the
    turns before are the prompt. A null field is an absent one. TOFU's ``paraphrased_question`` and
    ``perturbed_answer`` (a text or a list of texts) become ``paraphrases`` and ``wrong`` of the meta, as lists;
    its ``paraphrased_answer`` keeps its name. A whole number as the ``answer`` of a question with ``choices`` (MMLU,
    WMDP) is the place of the right one: it stays in the meta, and there is no reference.

    Args:
        obj: One parsed object.
        where: File and line, for the errors.
        need_reference: Also demand a known answer.

    Raises:
        BadInput: A needed field is absent, a value has the wrong type, a role is unknown, or there is no
            user turn to answer.
    """
    if not isinstance(obj, Mapping):
        raise BadInput(f"{where}: the row is {_kind(obj)}, not an object.", fix=f"Give {FORMATS}.")
    fields = {str(key): value for key, value in obj.items() if value is not None}
    shape = next((name for name in _USED if name in fields and _ANSWERS.get(name, name) in fields), None)
    if shape is None:
        found = ", ".join(sorted(map(str, obj))) or "none"
        raise BadInput(f"{where}: the row has no prompt (fields found: {found}).", fix=f"Needed: {FORMATS}.")
    used = set(_USED[shape])
    if shape == "messages":
        prompt, reference = _conversation(fields["messages"], where)
        if reference is None and "response" in fields:
            used.add("response")
            reference = _text(fields["response"], "response", where, empty=True)
    elif shape == "prompt":
        prompt = [_turn("user", _text(fields["prompt"], "prompt", where))]
        reference = _optional(fields, "response", where)
    elif shape == "question" and "choices" in fields and isinstance(fields["answer"], int):
        prompt = [_turn("user", _text(fields["question"], "question", where))]
        reference = None
        used.remove("answer")
    elif shape in _ANSWERS:
        prompt = [_turn("user", _text(fields[shape], shape, where))]
        reference = _optional(fields, _ANSWERS[shape], where)
    else:
        asked = _text(fields["instruction"], "instruction", where)
        extra = _optional(fields, "input", where)
        prompt = [_turn("user", f"{asked}\n\n{extra}" if extra and extra.strip() else asked)]
        reference = _optional(fields, "output", where)
    prompt = _with_system(prompt, fields, where)
    if need_reference and not (reference or "").strip():
        answer = {
            "messages": "a last turn by the assistant",
            "prompt": "`response`",
            "instruction": "`output`",
            "question": "`answer`",
            "text": "`labels`",
        }
        raise BadInput(
            f"{where}: the row has no reference answer (fields found: {', '.join(sorted(map(str, obj)))}).",
            why="The answers are compared with it.",
            fix=f"Needed beside `{shape}`: {answer[shape]}.",
        )
    used |= {"id", "lang", "system"}
    meta = {key: _plain(value) for key, value in fields.items() if key not in used}
    if shape == "question":
        meta = _tofu(meta, where)
    row = Row(_identity(fields, where), tuple(prompt), reference, _language(fields, where), meta)
    return Draft(row, where)


def with_ids(drafts: Sequence[Draft], *, prefix: str = "row") -> list[Row]:
    """The rows, each with an id: its own, else a digest of its content.

    A content id is the same wherever the row stands in the file; the second and later copies of the same
    content get ``-2``, ``-3`` and so on.

    Raises:
        BadInput: An id occurs twice; both places are named.
    """
    places: dict[str, str] = {}
    copies: dict[str, int] = {}
    rows = []
    for draft in sorted(drafts, key=lambda d: not d.row.id):  # given ids first: they are never renamed
        row = draft.row
        if not row.id:
            row = replace(row, id=_numbered(f"{prefix}-{content_digest(row)[7:23]}", copies))
        if row.id in places:
            raise BadInput(
                f"{draft.where}: the id {row.id!r} was already given at {places[row.id]}.",
                why="Records are paired and resumed by their id.",
                fix="Make the ids distinct, or leave them out.",
            )
        places[row.id] = draft.where
        rows.append((draft.where, row))
    order = {draft.where: place for place, draft in enumerate(drafts)}
    return [row for _, row in sorted(rows, key=lambda pair: order[pair[0]])]


def content_digest(row: Row) -> str:
    """The digest of what a row asks and expects, whatever its id and meta."""
    return digest_json({"prompt": row.prompt, "reference": row.reference})


def rows_digest(rows: Sequence[Row]) -> str:
    """The digest of rows in their order, ids and meta included."""
    return digest_json(list(rows))


def write_rows(path: Path | str, rows: Iterable[Row]) -> None:
    """Write rows as JSONL in the ``messages`` format, whole or not at all; `load_rows` reads them back.

    Raises:
        BadInput: A row's meta holds a name that belongs to the format, so that it could not be read back, or
            a value that JSON cannot hold.
    """
    lines = []
    for row in rows:
        reserved = {"id", "lang", "messages", "system"} | ({"response"} if row.reference is None else set())
        clash = sorted(reserved & set(row.meta))
        if clash:
            raise BadInput(
                f"Row {row.id!r} has {clash[0]!r} in its meta.",
                why="In the file that name is part of the format.",
                fix="Rename the entry in meta.",
            )
        messages = [_turn(m["role"], m["content"]) for m in row.prompt]
        if row.reference is not None:
            messages.append(_turn("assistant", row.reference))
        obj: dict[str, Any] = {"id": row.id, "messages": messages}
        if row.lang is not None:
            obj["lang"] = row.lang
        try:
            line = json.dumps({**obj, **row.meta}, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise BadInput(
                f"Row {row.id!r} has something in its meta that JSON cannot hold ({error}).",
                fix="Use null for a missing number, and text for anything else.",
            ) from error
        lines.append(line + "\n")
    write_text(path, "".join(lines))


def _tofu(meta: dict[str, Any], where: str) -> dict[str, Any]:
    """A meta with TOFU's further fields under the names every method reads."""
    for name, known in _KNOWN_AS.items():
        if name not in meta:
            continue
        value = meta.pop(name)
        if known in meta:
            raise BadInput(
                f"{where}: the row has both `{name}` and `{known}`.",
                why="They are the same thing under two names.",
                fix="Leave one of them out.",
            )
        if known == name:
            meta[known] = _text(value, name, where)
        else:
            texts = value if isinstance(value, list) else [value]
            meta[known] = [_text(text, name, where) for text in texts]
    return meta


def _numbered(name: str, copies: dict[str, int]) -> str:
    copies[name] = copies.get(name, 0) + 1
    return name if copies[name] == 1 else f"{name}-{copies[name]}"


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _conversation(value: Any, where: str) -> tuple[list[Message], str | None]:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise BadInput(
            f"{where}: `messages` is {_kind(value)}, not a list.", fix="Give {role, content} turns."
        )
    turns: list[Message] = []
    for number, turn in enumerate(value, 1):
        spot = f"{where}, message {number}"
        if not isinstance(turn, Mapping):
            raise BadInput(f"{spot}: it is {_kind(turn)}, not an object with `role` and `content`.")
        missing = [key for key in ("role", "content") if turn.get(key) is None]
        if missing:
            found = ", ".join(sorted(map(str, turn))) or "none"
            raise BadInput(
                f"{spot}: `{missing[0]}` is absent (fields found: {found}).", fix="Needed: role, content."
            )
        role = turn["role"]
        if role not in ROLES:
            hint = nearest(role, ROLES) if isinstance(role, str) else f"Valid roles: {', '.join(ROLES)}."
            raise BadInput(f"{spot}: the role {role!r} is unknown.", fix=hint)
        turns.append(_turn(role, _text(turn["content"], "content", spot, empty=role != "user")))
    reference = None
    if turns and turns[-1]["role"] == "assistant":
        reference = turns.pop()["content"]
    if not turns or turns[-1]["role"] != "user":
        said = ", ".join(turn["role"] for turn in turns) or "none"
        raise BadInput(
            f"{where}: `messages` has no user turn to answer (turns before the answer: {said}).",
            fix="The last turn, or the last before the assistant's answer, must be the user's.",
        )
    return turns, reference


def _with_system(prompt: list[Message], fields: Mapping[str, Any], where: str) -> list[Message]:
    if "system" not in fields:
        return prompt
    system = _text(fields["system"], "system", where, empty=True)
    if not system.strip():
        return prompt
    if prompt[0]["role"] == "system":
        if prompt[0]["content"] == system:
            return prompt
        raise BadInput(
            f"{where}: `system` differs from the system turn of `messages`.", fix="Leave one of them out."
        )
    return [_turn("system", system), *prompt]


def _identity(fields: Mapping[str, Any], where: str) -> str:
    """The given id, or nothing where the row has none."""
    value = fields.get("id")
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise BadInput(f"{where}: `id` is {value!r}.", fix="Give a text or a whole number, or leave it out.")
    return _text(str(value), "id", where)


def _language(fields: Mapping[str, Any], where: str) -> str | None:
    value = fields.get("lang")
    if value is None:
        return None
    code = re.split(r"[-_]", value)[0].casefold() if isinstance(value, str) else ""
    if not _LANG.fullmatch(code):
        raise BadInput(
            f"{where}: `lang` is {value!r}.", fix="Give an ISO 639 code such as en or zh, or leave it out."
        )
    return code


def _optional(fields: Mapping[str, Any], name: str, where: str) -> str | None:
    return _text(fields[name], name, where, empty=True) if name in fields else None


def _text(value: Any, name: str, where: str, *, empty: bool = False) -> str:
    if not isinstance(value, str):
        raise BadInput(f"{where}: `{name}` is {_kind(value)}, not a text.")
    if not empty and not value.strip():
        raise BadInput(f"{where}: `{name}` is empty.", why="There is nothing to ask.", fix="Remove the row.")
    return value


def _kind(value: Any) -> str:
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "null" if value is None else f"a {type(value).__name__}")


def _plain(value: Any) -> Any:
    """What a parquet cell becomes in JSON; bytes are represented by their digest."""
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, datetime.timedelta)):
        return str(value)
    if isinstance(value, bytes):
        return digest_bytes(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
