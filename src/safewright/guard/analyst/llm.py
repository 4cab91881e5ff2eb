"""The LLM analyst: what it asks a model about a call, in the paper's three calls or in one, and what it makes of it."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from safewright.errors import BadInput, Missing
from safewright.guard.analyst.asking import Asked, ask, context, system_of
from safewright.guard.analyst.cache import Cache, question_of
from safewright.guard.analyst.judging import (
    Item,
    Looked,
    check_of,
    look_up,
    matched,
    proposed_items,
    remembered_items,
    tools_of,
)
from safewright.guard.analyst.transport import Client, Failed
from safewright.guard.keys import key_of
from safewright.guard.nouns import NOTHING, Check, Usage
from safewright.guard.parts import Analysis, Found, Key

if TYPE_CHECKING:
    from safewright.guard.analyst.contracts import Contracts
    from safewright.guard.policy import Policy
    from safewright.guard.views import View

Calls = Literal["faithful", "fused"]
Similarity = Callable[[str, str], float]

SAME = 0.80
"""The paper's bound: above it (`faithful`), or from it on (`hardened`), two keys are of one kind."""
MARGIN_SECONDS = 0.25
"""Kept back of a deadline, so that a silent model ends as `llm_timeout` and not as the engine's `timeout`."""
CACHE_SECONDS = 30.0
LONGEST_HALF = 400
"""Characters of either half of a key that the model writes; memory takes keys of at most 1,000."""
MINI_LM = "sentence-transformers/all-MiniLM-L6-v2"


class LLMAnalyst:
    """An `Analyst` that asks a language model. Its failures are returned, never raised.

    Args:
        client: The model.
        policy: Categories, principles, and the rule families that checks can be delegated to.
        preset: `faithful`: the model writes the key, and decides with a flag or by similarity whether an entry is the
            same kind. `hardened`: the key is the deterministic one, and only similarity of keys with an equal effect
            makes two calls one kind; the model can tell them apart, never join them.
        calls: `faithful` asks analyzer and executor one after the other; `fused` asks once. By default as the preset.
        step_back: Whether the model writes the key; by default in the preset `faithful` only.
        similarity: Of two texts, for the preset `faithful`; all-MiniLM-L6-v2 where sentence-transformers and its
            weights are at hand, else the memory's hashed embedding.
        cache_seconds: How long an answer is good for the very same call in the same session; 0 never. By default 30,
            and 0 in the preset `faithful`.
    """

    def __init__(
        self,
        client: Client,
        policy: Policy,
        *,
        preset: Literal["hardened", "faithful"] = "hardened",
        calls: Calls | None = None,
        step_back: bool | None = None,
        similarity: Similarity | None = None,
        cache_seconds: float | None = None,
    ) -> None:
        self.faithful = preset == "faithful"
        self.calls: Calls = calls or ("faithful" if self.faithful else "fused")
        if self.faithful and (self.calls != "faithful" or step_back is False):
            raise BadInput(
                "The preset faithful makes the paper's three calls.",
                fix='calls="fused" is for the preset hardened.',
            )
        self.step_back = self.faithful if step_back is None else step_back
        self.client, self.policy = client, policy
        self.tools = tools_of(policy)
        if cache_seconds is None:
            cache_seconds = 0.0 if self.faithful else CACHE_SECONDS
        self.cache = Cache(cache_seconds)
        self._similarity = similarity
        self._systems: dict[str, str] = {}
        self._before: WeakKeyDictionary[View, Asked] = WeakKeyDictionary()

    async def abstract(self, view: View, seconds: float) -> tuple[Key, Usage] | Analysis | None:
        """The call's key in the model's words; None where the deterministic key holds."""
        if not self.step_back:
            return None
        asked = _asked(seconds)
        try:
            from safewright.guard.analyst.asking import described

            data = {"action": described(view)}
            form = self._contracts().step_back
            said = await ask(self.client, self._system("guard_step_back"), data, form, asked)
            natural = _general(said.natural, view)
            command = _general(said.command, view)
        except Failed as failed:
            return _failure(failed, asked)
        self._before[view] = asked
        key = key_of(view)
        return dataclasses.replace(key, text=f"{natural} | {command}", natural=natural), asked.usage

    async def analyse(
        self, view: View, key: Key, found: Sequence[Found], pinned: Sequence[Check], seconds: float
    ) -> Analysis:
        """Propose and judge checks for a call."""
        question = ""
        if self.cache.seconds > 0:
            question = question_of(view, key, found, pinned, self.calls)
            known = self.cache.get(question)
            if known is not None:
                return dataclasses.replace(known, usage=NOTHING)
        before = self._before.pop(view, None)
        asked = _asked(seconds)
        if before is not None:
            asked.replies = before.replies
        try:
            analysis = await self._analysed(view, key, found, pinned, asked)
        except Failed as failed:
            return _failure(failed, asked)
        if question:
            self.cache.put(question, analysis, pinned)
        return analysis

    def close(self) -> None:
        """Let go of the model."""
        self.client.close()

    async def _analysed(
        self, view: View, key: Key, found: Sequence[Found], pinned: Sequence[Check], asked: Asked
    ) -> Analysis:
        best = found[0] if found else None
        if not self.faithful and best is not None and not _kin(key, best):
            best = None
        known = remembered_items(best.checks, self.policy.criteria, "m") if best is not None else []
        settled = [item for item in known if item.settled]
        about = context(view)
        about["rules"] = [
            {"rule": check.id, "found": check.status} for check in pinned if check.status != "pass"
        ]
        if best is not None and _skips(key, best) and settled and not self.faithful:
            items = [_renamed(item, n) for n, item in enumerate(settled, 1)]
            judged = await self._execute(about, items, asked, "guard_settled")
            belongs = True
        elif self.calls == "fused":
            judged, same = await self._fuse(about, best, known, asked)
            belongs = best is not None and (same or best.key.text == key.text)
        else:
            items, flag, action = await self._analyze(about, best, known, asked)
            belongs = best is not None and (flag or best.key.text == key.text)
            if self.faithful:
                # The paper's rule, before anything is judged: the flag, or the similarity of the descriptions.
                belongs = best is not None and (flag or self._alike(action, best.key.natural, asked))
            else:
                # The analyzer may drop no settled check, nor revise it away: relaxing takes more than one answer, so
                # the wording that settled is judged besides a new one.
                named = {(item.category, item.id, item.statement) for item in items}
                kept = [
                    item
                    for item in known
                    if item.settled and (item.category, item.id, item.statement) not in named
                ]
                items = [_renamed(item, n) for n, item in enumerate([*items, *kept], 1)]
            judged = await self._execute(about, items, asked)
        tools = [each.tool for _, each in judged if each.tool is not None]
        looked = await self._look_up(view, tools, pinned, asked)
        checks = tuple(check_of(item, each, looked) for item, each in judged)
        if not any(check.status != "deleted" for check in checks):
            raise Failed("no_checks", "the model left no check standing")
        return Analysis(checks, belongs, asked.usage, answers=tuple(asked.replies))

    async def _analyze(
        self, about: dict[str, Any], best: Found | None, known: Sequence[Item], asked: Asked
    ) -> tuple[list[Item], bool, str]:
        data = {**about, "memory": _memory(best, known)}
        form = self._contracts().analyzed
        said = await ask(self.client, self._system("guard_analyzer"), data, form, asked)
        items = proposed_items(said.checks, best, "c")
        if not items:
            raise Failed("no_checks", "the model proposed no check")
        return items, said.in_memory, said.action

    async def _execute(
        self,
        about: dict[str, Any],
        items: Sequence[Item],
        asked: Asked,
        prompt: str = "guard_executor",
    ) -> list[tuple[Item, Any]]:
        data = {**about, "checks": [item.shown() for item in items]}
        said = await ask(
            self.client,
            self._system(prompt),
            data,
            self._contracts().executed,
            asked,
            lambda said: matched(items, said.checks),
        )
        answers = {each.check: each for each in said.checks}
        return [(item, answers[item.ref]) for item in items]

    async def _fuse(
        self, about: dict[str, Any], best: Found | None, known: Sequence[Item], asked: Asked
    ) -> tuple[list[tuple[Item, Any]], bool]:
        data = {**about, "memory": _memory(best, known)}
        said = await ask(
            self.client,
            self._system("guard_fused"),
            data,
            self._contracts().fused,
            asked,
            lambda said: matched(known, said.judged),
        )
        answers = {each.check: each for each in said.judged}
        old = [(item, answers[item.ref]) for item in known]
        fresh = proposed_items(said.new, None, "n")
        taken = {(item.category, item.id) for item in known}
        new = [
            # A new check under a remembered name is another check: it must not stand in for the remembered one.
            (item if (item.category, item.id) not in taken else dataclasses.replace(item, id=f"{item.id}-new"), each)
            for item, each in zip(fresh, said.new, strict=True)
        ]  # fmt: skip
        return [*old, *new], said.same_kind

    async def _look_up(
        self, view: View, tools: Iterable[str], pinned: Sequence[Check], asked: Asked
    ) -> dict[str, Looked]:
        """What delegated tools find, in a thread that is left alone where it hangs."""
        wanted = tuple(dict.fromkeys(tools))
        if not wanted:
            return {}
        import anyio

        try:
            with anyio.fail_after(max(asked.left(), 0.0)):
                return await anyio.to_thread.run_sync(
                    look_up, view, wanted, pinned, abandon_on_cancel=True
                )  # fmt: skip
        except TimeoutError as error:
            raise Failed("timeout", "a rule or probe did not finish") from error
        except Exception as error:
            raise Failed("probe_error", f"{type(error).__name__}: {error}"[:400]) from error

    def _alike(self, one: str, two: str, asked: Asked) -> bool:
        if self._similarity is None:
            self._similarity = open_similarity()
        asked.usage += Usage(embedded=2)
        return self._similarity(one, two) > SAME

    def _contracts(self) -> Contracts:
        from safewright.guard.analyst.contracts import contracts

        return contracts(tuple(self.policy.criteria), tuple(self.tools))

    def _system(self, prompt: str) -> str:
        if prompt not in self._systems:
            self._systems[prompt] = system_of(prompt, self.policy, self.tools)
        return self._systems[prompt]


def open_similarity() -> Similarity:
    """The paper's sentence embedding where it is at hand, else the memory's own."""
    import importlib.util

    from safewright.guard.memory.vectors import Embedding, Hashed, open_embedding, similarity

    embedding: Embedding = Hashed()
    if importlib.util.find_spec("sentence_transformers") is not None:
        try:
            embedding = open_embedding(f"st:{MINI_LM}")
        except (Missing, OSError, ValueError):  # its weights are not on this machine
            embedding = Hashed()
    return lambda one, two: similarity(one, two, embedding)


def _kin(key: Key, found: Found) -> bool:
    """Whether an entry's checks may be shown for a key and written back: similar, of the same effect, same criteria."""
    other = found.key
    same = (other.effect, other.criteria) == (key.effect, key.criteria)
    return same and found.score >= SAME


def _skips(key: Key, found: Found) -> bool:
    """Whether nothing new needs to be proposed: the entry has settled, and it is this very key's, not a neighbour's."""
    return found.stable and found.key.text == key.text


def _asked(seconds: float) -> Asked:
    return Asked(time.monotonic() + seconds - min(MARGIN_SECONDS, seconds / 10), [])


def _failure(failed: Failed, asked: Asked) -> Analysis:
    return Analysis(
        usage=asked.usage, failure=failed.failure, detail=failed.detail, answers=tuple(asked.replies)
    )


def _memory(best: Found | None, known: Sequence[Item]) -> dict[str, Any] | None:
    if best is None:
        return None
    return {"action": best.key.natural, "checks": [item.shown() for item in known]}


def _renamed(item: Item, n: int) -> Item:
    return dataclasses.replace(item, ref=f"c{n}")


_PIECE = re.compile(r"[^\s\"'`,;|&()<>=\[\]{}]+")


def _general(line: str, view: View) -> str:
    """A line of a key without markup, and without values of the call that it should not have repeated.

    Raises:
        Failed: Nothing is left that says what the call is.
    """
    from safewright.guard.memory.statements import concrete

    values = set(concrete(view.action.arguments))
    plain = re.sub(r"[*_#`~]{2,}|`", " ", line)
    plain = _PIECE.sub(lambda found: _placed(found[0], values), plain)
    plain = " ".join(plain.split())[:LONGEST_HALF].rstrip()
    if len(re.findall(r"\w", plain)) < 2 or not re.sub(r"\bVALUE\b|[^\w]", "", plain):
        raise Failed("llm_unparsed", "a key without words")
    return plain


def _placed(piece: str, values: set[str]) -> str:
    """A piece of a line, or what stands in its place where it is one of the call's values."""
    word = piece.strip(".:!?")
    return piece.replace(word, "VALUE") if word and word.casefold() in values else piece
