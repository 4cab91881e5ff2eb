"""Questions and vague answers by the augmenter: written, checked, examined, and written again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from safewright.data.mentions import mentioned, units
from safewright.judges.asking import Unreadable
from safewright.judges.entities import extraction_prompt, parse_entities
from safewright.treatments.asking import Asker, filled
from safewright.treatments.relearn.augmenting.asking import Ask, settle
from safewright.treatments.relearn.augmenting.config import AugmentOptions
from safewright.treatments.relearn.augmenting.items import Item, Wording
from safewright.treatments.relearn.augmenting.leaks import Guard
from safewright.treatments.relearn.augmenting.replies import (
    Problem,
    bare,
    declined,
    read_texts,
    verdict_of,
)
from safewright.treatments.relearn.augmenting.rows import Dropped


@dataclass(frozen=True)
class Vague:
    """A usable vague answer to one wording of one forget row's question."""

    item: Item
    wording: Wording
    text: str
    round: int
    verdict: str


async def list_entities(
    asker: Asker, items: Sequence[Item], options: AugmentOptions
) -> tuple[dict[str, list[str]], list[Dropped]]:
    """The entities of each answer as the model lists them; what the answer does not name is left out."""
    prompts = [extraction_prompt(item.question, item.answer) for item in items]
    heard = await asker.strictly(
        "entities", prompts, parse_entities, "coverage_entities_again", options.verify_tries
    )
    found: dict[str, list[str]] = {}
    dropped: list[Dropped] = []
    for item, one in zip(items, heard, strict=True):
        if one.status == "ok":
            found[item.id] = mentioned(item.answer, one.value)
        else:
            reason = "failed" if one.status == "error" else one.status
            dropped.append(Dropped(item.id, "all", "entities", reason, 0, one.why))
    return found, dropped


async def write_questions(
    asker: Asker, items: Sequence[Item], guard: Guard, options: AugmentOptions
) -> tuple[dict[str, list[Wording]], list[Dropped]]:
    """The rewrites of each question that can be used, in the order asked for."""
    made: dict[str, dict[str, str]] = {item.id: {} for item in items}
    dropped: list[Dropped] = []
    if options.one_call and options.kinds:
        asks = [
            Ask((item, ""), filled("relearn_variants", question=item.question, kinds=list(options.kinds)))
            for item in items
        ]
    else:
        asks = [
            Ask((item, kind), filled(f"relearn_variant_{kind}", question=item.question))
            for item in items
            for kind in options.kinds
        ]

    async def check(heard: Sequence[Ask]) -> None:
        for ask in heard:
            item, kind = ask.key
            try:
                said = {kind: bare(ask.text)} if kind else read_texts(ask.text, options.kinds)
            except Unreadable as error:
                ask.refuse(Problem("unparsed", str(error), why=str(error)))
                continue
            problems = {name: unusable_question(item, text, guard) for name, text in said.items()}
            made[item.id] |= {name: text for name, text in said.items() if problems[name] is None}
            wrong = next((problem for problem in problems.values() if problem is not None), None)
            if wrong is not None:
                ask.refuse(wrong)

    await settle(asker, "question", asks, options.answer_rounds, check)
    for ask in asks:
        if ask.problem is not None:
            item, kind = ask.key
            for name in [kind] if kind else [k for k in options.kinds if k not in made[item.id]]:
                dropped.append(_dropped(ask, item.id, name, "question"))
    wordings: dict[str, list[Wording]] = {}
    for item in items:
        kept, repeated = distinct(
            item, [Wording(k, made[item.id][k]) for k in options.kinds if k in made[item.id]]
        )
        wordings[item.id] = kept
        dropped += repeated
    return wordings, dropped


def unusable_question(item: Item, text: str, guard: Guard) -> Problem | None:
    """Why a wording of a question cannot be used, None where it can."""
    problem = Problem("empty", "it was empty") if not text.strip() else declined(text)
    if problem is not None:
        return problem
    leaks = guard.found(item.id, text)
    if leaks:
        return Problem("leak", f"it says {_quoted(leaks)}, which the question does not", why=_count(leaks))
    return None


def distinct(item: Item, wordings: Sequence[Wording]) -> tuple[list[Wording], list[Dropped]]:
    """Wordings that differ from the question and from each other."""
    seen = {units(item.question)}
    kept, dropped = [], []
    for wording in wordings:
        words = units(wording.text) or (wording.text,)
        if words in seen:
            dropped.append(Dropped(item.id, wording.kind, "question", "duplicate"))
        else:
            kept.append(wording)
        seen.add(words)
    return kept, dropped


async def write_answers(
    asker: Asker,
    items: Sequence[Item],
    wordings: Mapping[str, Sequence[Wording]],
    guard: Guard,
    options: AugmentOptions,
) -> tuple[list[Vague], list[Dropped]]:
    """A vague answer to each wording, of which every chunk was found usable; the others are dropped whole."""
    asks: list[Ask] = []
    parts: list[tuple[Item, Wording, list[Ask]]] = []
    for item in items:
        pieces = chunks(item.answer, options.chunk)
        for wording in wordings[item.id]:
            own = [
                Ask((item, wording, piece), filled("relearn_answer", question=wording.text, answer=piece))
                for piece in pieces
            ]
            parts.append((item, wording, own))
            asks += own

    async def check(heard: Sequence[Ask]) -> None:
        clean = []
        for ask in heard:
            ask.text = bare(ask.text)
            item, wording, _ = ask.key
            leaks, refusal = guard.found(item.id, wording.text, ask.text), declined(ask.text)
            if refusal is not None:
                ask.refuse(refusal)
            elif leaks:
                ask.refuse(Problem("leak", f"it still says {_quoted(leaks)}", why=f"rules: {_count(leaks)}"))
            else:
                clean.append(ask)
        if options.verify:
            await verify(asker, clean, options)

    await settle(asker, "answer", asks, options.answer_rounds, check)
    verdict = "safe" if options.verify else "rules"
    made, dropped = [], []
    for item, wording, own in parts:
        failed = [ask for ask in own if ask.problem is not None]
        if failed:
            more = f"{len(failed)} of {len(own)} chunks; " if len(own) > 1 else ""
            dropped.append(_dropped(failed[0], item.id, wording.kind, "answer", more))
            continue
        text = join([ask.text for ask in own])
        leaks = guard.found(item.id, wording.text, text)
        if leaks:  # an entity may end in one chunk and go on in the next
            dropped.append(Dropped(item.id, wording.kind, "answer", "leak", own[0].round, "chunks together"))
            continue
        made.append(Vague(item, wording, text, max(ask.round for ask in own), verdict))
    return made, dropped


async def verify(asker: Asker, answers: Sequence[Ask], options: AugmentOptions) -> None:
    """Let the model examine vague answers; refuses those that leak, and those it says nothing readable about."""
    prompts = [
        filled("relearn_verify", question=answer.key[1].text, answer=answer.key[2], text=answer.text)
        for answer in answers
    ]
    heard = await asker.strictly("verdict", prompts, verdict_of, "relearn_verify_again", options.verify_tries)
    for answer, one in zip(answers, heard, strict=True):
        if one.status == "ok" and one.value.word == "safe":
            continue
        if one.status == "ok":
            spans = f": {_quoted(one.value.spans)}" if one.value.spans else ""
            answer.refuse(Problem("leak", f"it gives private details away{spans}", why="the model"))
            continue
        failed = one.status == "error"
        answer.refuse(
            Problem(
                "failed" if failed else "unparsed",
                "nobody could tell whether it gives private details away",
                final=failed,
                why=f"its verdict: {one.why}",
            )
        )


def chunks(text: str, size: int) -> list[str]:
    """A text in pieces of at most ``size`` characters, cut at the end of a sentence or word where there is one."""
    found, rest = [], text.strip()
    while len(rest) > size:
        window = rest[: size + 1]
        ends = [window.rfind(sign) + 1 for sign in (". ", "! ", "? ", "\n", "。", "！", "？")]
        place = max(end for end in ends)
        if place <= size // 2:
            place = window.rfind(" ")
        place = place if 0 < place <= size else size
        found.append(rest[:place].strip())
        rest = rest[place:].strip()
    return [*found, rest] if rest else found


def join(pieces: Sequence[str]) -> str:
    """Pieces as one text, with a space where the script has them."""
    text = pieces[0]
    for piece in pieces[1:]:
        text += piece if text[-1:] >= "\u2e80" or piece[:1] >= "\u2e80" else f" {piece}"
    return text


def _dropped(ask: Ask, source_id: str, variant: str, step: str, more: str = "") -> Dropped:
    assert ask.problem is not None
    return Dropped(source_id, variant, step, ask.problem.reason, ask.round, more + ask.problem.why)


def _quoted(spans: Sequence[str]) -> str:
    return ", ".join(f'"{span}"' for span in spans[:5])


def _count(leaks: Sequence[str]) -> str:
    return f"{len(leaks)} secret{'s' * (len(leaks) > 1)}"
