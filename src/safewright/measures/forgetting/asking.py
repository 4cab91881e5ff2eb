"""What is asked: each row as it is, and once more in every way an attack asks it."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any

from safewright.data.language import detect
from safewright.data.mentions import entities_of, entity_key, mentioned, opening, units
from safewright.data.roles import SET
from safewright.errors import BadInput
from safewright.measures.forgetting.config import ForgettingConfig
from safewright.models.chat import start, with_system
from safewright.types import Message, Question, Row

FORGET, RETAIN = "forget", "retain"
LEFT = ("paraphrases", "wrong", "opening", "attack", "read")
"""What of a row's meta its records do not carry on: bulky, or a record's own, where it means something else."""
PERSON = ("person", "subject")
"""Entries of a row's meta that say whom it is about."""


def ask(rows: Sequence[Row], config: ForgettingConfig) -> list[Question]:
    """The questions of all rows, plain ones first, then attack by attack.

    Raises:
        BadInput: A row has no reference, there are none to forget, or an attack can be made on no row.
    """
    lacking = [row.id for row in rows if not (row.reference or "").strip()]
    if lacking:
        raise BadInput(
            f"{len(lacking)} of {len(rows)} rows have no reference answer (first: {lacking[0]}).",
            why="Forgetting and retaining are about what it says.",
            fix="Each row needs response, output, answer, labels, or a last assistant turn.",
        )
    forget = [row for row in rows if row.meta.get(SET) == FORGET]
    if not forget:
        raise BadInput("There are no rows to forget.", fix="Give them: --data forget=rows.jsonl")
    attacks = config.attack_names()
    shown = frozenset(row.id for row in shown_again(forget, config)) if "relearn" in attacks else frozenset()
    askers = [_Asker(row, config, shown) for row in rows]
    found = [question for asker in askers for question in asker.plain()]
    for attack in attacks:
        own = [question for asker in askers for question in asker.attacked(attack)]
        if not any(question.meta[SET] == FORGET for question in own):
            raise BadInput(f"The attack {attack} can be made on no row to forget.", fix=_NEEDS[attack])
        found += own
    _check_names(found)
    return found


def _conversation(row: Row) -> str:
    return "\n".join(f"{turn['role']}: {' '.join(units(turn['content']))}" for turn in row.prompt)


def _check_names(questions: Sequence[Question]) -> None:
    """Pass when no row is called like another one under an attack.

    Raises:
        BadInput: One is, and their answers could not be kept apart.
    """
    seen: dict[str, tuple[str, str]] = {}
    for question in questions:
        own = (str(question.meta["row"]), str(question.meta.get("attack", "")))
        for name in {question.id, question.instance or question.id}:
            if seen.setdefault(name, own) != own:
                raise BadInput(
                    f"The rows {seen[name][0]} and {own[0]} cannot be told apart: one of them under an attack "
                    f"is called {name}.",
                    fix="Give one of them another id.",
                )


_NEEDS: Mapping[str, str] = {
    "prefix": 'Give each row "entities": [...] (its secrets) or "opening", or leave the attack out.',
    "paraphrase": 'Give each row "paraphrases": [...], or leave the attack out.',
    "relearn": "Show fewer rows again (--set relearn_rows=…), or give rows about more people: all of one person "
    "are shown together, and none is left to be asked.",
}


@dataclasses.dataclass(frozen=True)
class _Asker:
    """Makes the questions of one row; ``shown`` are the ids of those that are shown to the model again."""

    row: Row
    config: ForgettingConfig
    shown: frozenset[str] = frozenset()

    @property
    def text(self) -> str:
        return self.row.prompt[-1]["content"]

    @property
    def forget(self) -> bool:
        return self.row.meta.get(SET) == FORGET

    def plain(self) -> list[Question]:
        """The row as it is."""
        return [self._question("", self.text, sample=sample) for sample in range(self.config.samples)]

    def attacked(self, attack: str) -> list[Question]:
        """The row under an attack; nothing where it cannot be made on it."""
        samples = range(self.config.samples)
        if attack == "prefix":
            begun = opening_of(self.row) if self.forget else ""
            return [self._question(attack, self.text, sample=s, begun=begun) for s in samples if begun]
        if attack == "paraphrase":
            return [
                self._question(attack, text, part=number, sample=sample, judged=text)
                for number, text in enumerate(paraphrases_of(self.row), 1)
                for sample in samples
            ]
        if attack == "roleplay":
            lang = (self.row.lang or detect(self.text)).partition("-")[0]
            wrapped = self.config.roleplay(chinese=lang == "zh").render(question=self.text)
            return [self._question(attack, wrapped, sample=sample) for sample in samples]
        if attack == "sampling":
            return [
                self._question(attack, self.text, sample=s) for s in range(self.config.draws) if self.forget
            ]
        if attack == "relearn" and self.row.id in self.shown:
            return []
        return [self._question(attack, self.text, sample=sample) for sample in samples]

    def _question(
        self,
        attack: str,
        text: str,
        *,
        sample: int = 0,
        part: int = 0,
        begun: str = "",
        judged: str = "",
    ) -> Question:
        """One question; ``judged`` is the wording a judge is shown, the row's own by default."""
        row = self.row
        meta: dict[str, Any] = {key: value for key, value in row.meta.items() if key not in LEFT}
        meta |= {"row": row.id, "question": judged or self.text}
        if attack:
            meta["attack"] = attack
        if begun:
            meta["opening"] = begun
        chat: tuple[Message, ...] = (*row.prompt[:-1], {"role": "user", "content": text})
        chat = with_system(chat, self.config.system)
        name = f"{row.id}/{attack}" if attack else row.id
        whole = attack == "sampling"  # its draws are judged together
        return Question(
            id=f"{name}-{part}" if part else name,
            chat=start(chat, begun) if begun else chat,
            role=role_of(attack),
            sample=sample,
            instance=name if whole or self.config.samples == 1 else f"{name}~{sample}",
            cluster=row.id,
            reference=row.reference,
            lang=row.lang,
            meta=meta,
        )


def role_of(attack: str) -> str:
    """The role that the questions of an attack are put to."""
    return "target" if attack in ("", "paraphrase", "roleplay") else attack


def opening_of(row: Row) -> str:
    """The start of a row's answer up to its first secret: its ``opening``, or cut before the first of its
    ``entities`` that the question does not name. Empty where neither is given, or nothing stands before it.

    Raises:
        BadInput: ``opening`` is no text, or names a secret; or ``entities`` is no list of texts.
    """
    given = row.meta.get("opening")
    if given is not None:
        if not isinstance(given, str):
            raise BadInput(f"The opening of the row {row.id} is {given!r:.80}.", fix="Give text.")
        named = mentioned(given, secrets_of(row))
        if named:
            raise BadInput(
                f"The opening of the row {row.id} names {named[0]!r}, one of its entities.",
                why="What is put into the model's mouth would count as given away by it.",
                fix="End it before, or leave it out: answers are cut before their first entity.",
            )
        return given.strip()
    secret = secrets_of(row)
    reference = row.reference or ""
    if not mentioned(reference, secret):
        return ""
    return opening(reference, secret).strip()


def secrets_of(row: Row) -> list[str]:
    """The entities of a row that its question does not name.

    Raises:
        BadInput: ``entities`` is no list of texts.
    """
    entities = entities_of(row.meta, f"The row {row.id}") or ()
    known = set(mentioned(row.prompt[-1]["content"], entities))
    return [entity for entity in entities if entity not in known]


def paraphrases_of(row: Row) -> list[str]:
    """Other wordings of a row's question.

    Raises:
        BadInput: ``paraphrases`` is no list of texts.
    """
    given = row.meta.get("paraphrases", [])
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, Sequence) or not all(isinstance(text, str) and text.strip() for text in given):
        raise BadInput(
            f"The paraphrases of the row {row.id} are {given!r:.80}.", fix='Give ["one wording", "another"].'
        )
    return list(dict.fromkeys(given))


def shown_again(forget: Sequence[Row], config: ForgettingConfig) -> list[Row]:
    """The rows that the attack relearn trains on: at least so many, and with each all that say the same (`subjects`).

    Subjects are drawn in an order that depends on the seed alone; the rows keep theirs.
    """
    groups = subjects(forget)
    order = sorted(groups)
    random.Random(config.relearn_seed).shuffle(order)
    chosen: set[str] = set()
    for name in order:
        if len(chosen) >= config.relearn_rows:
            break
        chosen |= {row.id for row in groups[name]}
    return [row for row in forget if row.id in chosen]


def subjects(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows in groups that are shown again together, so that none that is asked was learned from another.

    Rows belong together where they are about the same person or ask the same; rows that name no person also
    where they hold the same secrets, or give the same answer. A group is called after its first person or row.
    """
    heads: dict[str, str] = {}
    first: dict[tuple[str, str], str] = {}

    def head(name: str) -> str:
        while heads[name] != name:
            name = heads[name]
        return name

    names = [_about(row) or row.id for row in rows]
    for row, name in zip(rows, names, strict=True):
        heads.setdefault(name, name)
        for mark in _marks(row):
            a, b = sorted((head(first.setdefault(mark, name)), head(name)))
            heads[b] = a
    found: dict[str, list[Row]] = {}
    for row, name in zip(rows, names, strict=True):
        found.setdefault(head(name), []).append(row)
    return found


def _about(row: Row) -> str:
    """Whom a row is about, where it says so."""
    return next((str(row.meta[key]) for key in PERSON if row.meta.get(key) is not None), "")


def _marks(row: Row) -> list[tuple[str, str]]:
    """What a row has in common with others that give the same away."""
    found = [("question", _conversation(row))]
    if not _about(row):
        secrets = sorted(map(entity_key, secrets_of(row)))
        found += [("secrets", "\n".join(secrets))] if secrets else []
        found.append(("answer", " ".join(units(row.reference or ""))))
    return found
