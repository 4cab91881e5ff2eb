"""What is asked: each row as it is, and once more in every way an attack asks it."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any

from safewright.data.language import detect
from safewright.data.mentions import entities_of, mentioned, opening
from safewright.data.roles import SET
from safewright.errors import BadInput
from safewright.measures.forgetting.config import ForgettingConfig
from safewright.models.chat import start, with_system
from safewright.types import Message, Question, Row

FORGET, RETAIN = "forget", "retain"
BULKY = ("paraphrases", "wrong")
"""What of a row's meta its records do not carry on."""
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
    return found


_NEEDS: Mapping[str, str] = {
    "prefix": 'Give each row "entities": [...] (its secrets) or "opening", or leave the attack out.',
    "paraphrase": 'Give each row "paraphrases": [...], or leave the attack out.',
    "relearn": "Show fewer rows again (--set relearn_rows=…): none is left to be asked.",
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
        meta: dict[str, Any] = {key: value for key, value in row.meta.items() if key not in BULKY}
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
        BadInput: ``opening`` is no text, or ``entities`` no list of texts.
    """
    given = row.meta.get("opening")
    if given is not None:
        if not isinstance(given, str):
            raise BadInput(f"The opening of the row {row.id} is {given!r:.80}.", fix="Give text.")
        return given.strip()
    entities = entities_of(row.meta, f"The row {row.id}") or ()
    question = row.prompt[-1]["content"]
    known = set(mentioned(question, entities))
    secret = [entity for entity in entities if entity not in known]
    reference = row.reference or ""
    if not mentioned(reference, secret):
        return ""
    return opening(reference, secret).strip()


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
    """The rows that the attack relearn trains on: at least so many, whole persons where the rows name them.

    Persons are drawn in an order that depends on the seed alone; the rows keep theirs.
    """
    groups: dict[str, list[Row]] = {}
    for row in forget:
        about = next((str(row.meta[key]) for key in PERSON if row.meta.get(key) is not None), row.id)
        groups.setdefault(about, []).append(row)
    order = sorted(groups)
    random.Random(config.relearn_seed).shuffle(order)
    chosen: set[str] = set()
    for name in order:
        if len(chosen) >= config.relearn_rows:
            break
        chosen |= {row.id for row in groups[name]}
    return [row for row in forget if row.id in chosen]
