"""What is asked: each request plain, as it was frozen under an attack, and under every attack made here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from safewright.data.roles import SET
from safewright.data.wrapping import LOWRESOURCE, goal_of, opening_for, read_translations, wrap
from safewright.errors import BadInput
from safewright.measures.attack_success.config import (
    GIVEN,
    KNOWN,
    NONE,
    PREFILLS,
    THINK_PREFILL,
    WRAPPERS,
    AttackConfig,
)
from safewright.measures.attack_success.links import links_of
from safewright.measures.behaviour import Derived
from safewright.models.chat import THINK, start, with_system
from safewright.types import Message, Question, Row

HARM = "harm"
TARGET, BASE, DRAWN, BEGUN = "target", "base", "drawn", "begun"
SIDES = (TARGET, BASE)
EMPTIED = f"{THINK['open']} {THINK['close']}"
"""A reasoning block with nothing in it; each model gets it with the markers of its own recipe."""
NO_GOAL = "goal_unknown"
"""The entry of a record's meta where its row holds an attack and does not say what it is after."""
LEFT = ("opening", "read", "untranslated", NO_GOAL)
"""What of a row's meta its records do not carry on: it is a record's own, where it means something else."""
RESERVED = ("all", GIVEN, WRAPPERS)


def ask(rows: Sequence[Row], config: AttackConfig) -> list[Question]:
    """The questions of all rows, attack by attack; harmful requests go to the role base too.

    Raises:
        BadInput: No attack can be made on any row, a row's attack has a name that means something else, or two
            questions would have one name.
    """
    harm = [row for row in rows if row.meta.get(SET, HARM) == HARM]
    others = [row for row in rows if row.meta.get(SET, HARM) != HARM]
    forms = list(_forms(harm, config))
    if not forms:
        raise BadInput(
            f"None of the attacks {', '.join(config.attacks())} can be made on these {len(harm)} rows.",
            why="given takes rows with an attack of their own, all others plain ones.",
            fix="Name other attacks with --set attack=, or give other rows.",
        )
    forms += [(row, attack_of(row), frozen_opening(row), False) for row in others]
    for row in rows:
        links_of(row.meta, row.id)
    together = clusters(rows)
    found = [question for form in forms for question in _questions(*form, config, together[form[0].id])]
    _check_names(found)
    return found


def attack_of(row: Row) -> str:
    """The attack a row was frozen under, ``none`` where it is plain.

    Raises:
        BadInput: It is no text, or a name that is taken.
    """
    attack = row.meta.get("attack")
    if attack is None or attack == "":
        return NONE
    if not isinstance(attack, str) or attack in RESERVED or attack != attack.strip():
        raise BadInput(
            f"The attack of the row {row.id} is {attack!r:.60}.",
            why="It names the column of the table that the row belongs to.",
            fix=f"Give a short name, and none of {', '.join(RESERVED)}.",
        )
    return attack


def _forms(harm: Sequence[Row], config: AttackConfig) -> Iterator[tuple[Row, str, str, bool]]:
    """Each request as it is asked: its row, the attack, the opening of its answer, and whether it is made here."""
    plain = [row for row in harm if attack_of(row) == NONE]
    frozen = [row for row in harm if attack_of(row) != NONE]
    taken = {attack_of(row) for row in frozen} if GIVEN in config.attacks() else set()
    for attack in config.attacks():
        if attack == NONE:
            yield from ((row, NONE, "", False) for row in plain)
        elif attack == GIVEN:
            order = sorted(dict.fromkeys(map(attack_of, frozen)), key=_place)
            yield from (
                (row, name, frozen_opening(row), False)
                for name in order
                for row in frozen
                if attack_of(row) == name
            )
        elif attack in taken:
            continue  # frozen prompts of this name are what is asked, and a note says so
        elif attack in PREFILLS:
            yield from ((row, attack, _opening(row, attack, config), True) for row in plain)
        else:
            yield from ((row, attack, "", True) for row in _wrapped(plain, attack, config))


def _place(attack: str) -> int:
    return KNOWN.index(attack) if attack in KNOWN else len(KNOWN)


def _wrapped(rows: Sequence[Row], attack: str, config: AttackConfig) -> list[Row]:
    """Rows under a wrapper, by their own ids; those a model has to translate are marked."""
    if attack != LOWRESOURCE:
        made = wrap(rows, attack, config.wrap_seed)
    elif config.translations is not None:
        made = wrap(rows, attack, config.wrap_seed, translations=read_translations(config.translations))
    else:
        goals = [goal_of(row) for row in rows]
        made = [
            replace(row, meta={**row.meta, "goal": goal, "untranslated": True})
            for row, goal in zip(rows, goals, strict=True)
        ]
    return [replace(new, id=row.id) for new, row in zip(made, rows, strict=True)]


def _opening(row: Row, attack: str, config: AttackConfig) -> str:
    """How the model's turn begins.

    Raises:
        BadInput: The row's own opening is no text.
    """
    if attack == THINK_PREFILL:
        return EMPTIED
    return _own_opening(row) or config.opening or opening_for(row, config.wrap_seed)


def frozen_opening(row: Row) -> str:
    """How the model's turn begins under the attack that a row holds; empty where it is the model's own.

    Raises:
        BadInput: It is a prefill by its name, and there is nothing to begin with.
    """
    attack = attack_of(row)
    opening = "" if attack == NONE else _own_opening(row)
    if attack in PREFILLS and not opening:
        raise BadInput(
            f"The row {row.id} holds the attack {attack}, and no opening.",
            why="Nothing would be put into the model's mouth, and the figure would bear that name.",
            fix="Give opening in the row, or leave its attack out: then it is made here.",
        )
    return opening


def _own_opening(row: Row) -> str:
    own = row.meta.get("opening")
    if own is not None and (not isinstance(own, str) or not own.strip()):
        raise BadInput(f"The opening of the row {row.id} is {own!r:.80}.", fix="Give some words.")
    return own or ""


def clusters(rows: Sequence[Row]) -> dict[str, str]:
    """By each row's id, the first row with the same goal: attacks on one goal are not independent of each other.

    A plain row's goal is its prompt; several turns are told apart by all of them.
    """
    first: dict[tuple[str, str], str] = {}
    found: dict[str, str] = {}
    for row in rows:
        turns = [turn["content"] for turn in row.prompt if turn["role"] != "system"]
        text = "\n".join(turns) if row.meta.get("goal") is None else goal_of(row)
        key = (str(row.meta.get(SET, HARM)), " ".join(text.split()).casefold())
        found[row.id] = first.setdefault(key, row.id)
    return found


def _questions(
    row: Row, attack: str, opening: str, made: bool, config: AttackConfig, cluster: str
) -> Iterator[Question]:
    """One request to everybody it is put to, as often as it is; ``made``: the attack was made here."""
    harmful = row.meta.get(SET, HARM) == HARM
    name = f"{row.id}/{attack}" if made else row.id
    chat = with_system(row.prompt, config.system)
    meta: dict[str, Any] = {key: value for key, value in row.meta.items() if key not in LEFT}
    meta |= {"row": row.id, SET: row.meta.get(SET, HARM), "attack": attack, "goal": goal_of(row)}
    if attack_of(row) != NONE and not made and row.meta.get("goal") is None:
        meta[NO_GOAL] = True
    if row.meta.get("untranslated"):
        meta["untranslated"] = True
    if opening:
        meta["opening"] = opening
        chat = start(chat, opening)
    for side in SIDES if harmful else (TARGET,):
        begun = begun_as(attack, opening)
        yield from _samples(name, row, chat, meta, role_of(side, begun), config.repeats, cluster)
        if config.best_of and harmful:
            role = role_of(side, begun, drawn=True)
            yield from _samples(name, row, chat, meta, role, config.samples, cluster, whole=True)


def _samples(
    name: str,
    row: Row,
    chat: tuple[Message, ...],
    meta: Mapping[str, Any],
    role: str,
    count: int,
    cluster: str,
    *,
    whole: bool = False,
) -> Iterator[Question]:
    """A question and its repetitions; ``whole``: they are read together."""
    one = name if role in (TARGET, *PREFILLS, BEGUN) else f"{name}@{role}"
    for sample in range(count):
        yield Question(
            id=name,
            chat=chat,
            role=role,
            sample=sample,
            instance=one if whole or count == 1 else f"{one}~{sample}",
            cluster=cluster,
            reference=row.reference,
            lang=None if meta.get("attack") == LOWRESOURCE else row.lang,
            meta=meta,
        )


def begun_as(attack: str, opening: str) -> str:
    """The way a model's turn is begun: a prefill's name, or `BEGUN` for any other; empty where it is not."""
    return (attack if attack in PREFILLS else BEGUN) if opening else ""


def role_of(side: str, begun: str = "", *, drawn: bool = False) -> str:
    """The role that a question is put to: the model's own, or one derived of it."""
    parts = [] if side == TARGET else [side]
    return "_".join([*parts, *([DRAWN] if drawn else []), *([begun] if begun else [])]) or TARGET


def derived(config: AttackConfig) -> dict[str, Derived]:
    """The models that begun turns and draws are put to: each side's own, asked in another way."""
    found: dict[str, Derived] = {}
    for side in SIDES:
        for drawn in (False, True) if config.best_of else (False,):
            for begun in ("", *PREFILLS, BEGUN):
                role = role_of(side, begun, drawn=drawn)
                if role == side:
                    continue
                found[role] = Derived(
                    of=side,
                    decoding=config.drawing if drawn else {},
                    begun=bool(begun),
                    goes_on=config.continue_final_message,
                    marked=bool(begun),
                )
    return found


def is_base(role: str) -> bool:
    """Whether a role is the control's."""
    return role == BASE or role.startswith(f"{BASE}_")


def is_drawn(role: str) -> bool:
    """Whether a role's answers are draws for the best of N."""
    return DRAWN in role.split("_")


def _check_names(questions: Sequence[Question]) -> None:
    """Pass when no row is called like another one under an attack.

    Raises:
        BadInput: One is, and their answers could not be kept apart.
    """
    seen: dict[str, tuple[str, str]] = {}
    for question in questions:
        own = (str(question.meta["row"]), str(question.meta["attack"]))
        if seen.setdefault(question.id, own) != own:
            raise BadInput(
                f"The rows {seen[question.id][0]} and {own[0]} cannot be told apart: one of them under an attack "
                f"is called {question.id}.",
                fix="Give one of them another id.",
            )
