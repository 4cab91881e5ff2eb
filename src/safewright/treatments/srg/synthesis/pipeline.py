"""From requests to training records: candidates are drawn, filtered in order, and the best of each request is kept.

Source: Safety Reasoning with Guidelines (arXiv 2502.04040), guided synthesis and rejection sampling; what the paper
does not print is ours, see `docs/srg.md`. Every received reply is journalled under its question: nothing is asked
twice, and a run that was killed ends with the bytes of one that was not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from safewright.errors import BadInput, GateFailed
from safewright.prompts import digests as prompt_digests
from safewright.runs import digest_json, run_sync, versions, write_json
from safewright.runs.atomic import write_lines
from safewright.runs.progress import Progress, silent
from safewright.treatments.asking import deciding, journalled, user
from safewright.treatments.job import Job
from safewright.treatments.srg.guidelines import Guidelines
from safewright.treatments.srg.records import Reasoned
from safewright.treatments.srg.synthesis import filters, scoring
from safewright.treatments.srg.synthesis.config import SynthesisOptions, options_of
from safewright.treatments.srg.synthesis.drafts import PROMPT as DRAFT
from safewright.treatments.srg.synthesis.drafts import Drafts, write_drafts
from safewright.treatments.srg.synthesis.estimating import least_calls
from safewright.treatments.srg.synthesis.filters import Candidate, Leaks
from safewright.treatments.srg.synthesis.pool import Prompt, PromptPool, from_job
from safewright.treatments.srg.synthesis.reporting import about_yield, record_of, summary, yield_words
from safewright.treatments.srg.synthesis.voices import Voices, drawing, synthesis_prompt, voices

FILE = "reasoned.jsonl"
DROPPED = "dropped.jsonl"
MANIFEST = "manifest.json"
YIELD = "yield.json"
PROMPTS = ("srg_synthesis", *scoring.PROMPTS, DRAFT)


@dataclass
class State:
    """One request on its way to a trace: who writes for it now, how many draws it has had from whom."""

    prompt: Prompt
    role: str = "teacher"
    drawn: int = 0
    candidates: list[Candidate] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether a candidate got through."""
        return any(one.open for one in self.candidates)

    @property
    def refused(self) -> bool:
        """Whether whoever writes for it now has only declined to write so far."""
        own = [one for one in self.candidates if one.teacher == self.role]
        return bool(own) and all(one.reason.startswith("refused") for one in own)


@dataclass(frozen=True)
class Synthesis:
    """What a synthesis made: records in the order of their requests, the requests without one, the manifest."""

    records: tuple[Reasoned, ...]
    dropped: tuple[dict[str, Any], ...]
    manifest: dict[str, Any]


def synthesise(
    pool: PromptPool,
    speakers: Voices,
    *,
    guidelines: Guidelines | None = None,
    options: SynthesisOptions | None = None,
    seed: int = 0,
    progress: Progress = silent,
    data: dict[str, Any] | None = None,
) -> Synthesis:
    """The records of a pool's requests; see `require_yield` for the gate that `synthesize` puts behind it.

    Args:
        pool: The requests.
        speakers: Who is asked, see `voices.voices`.
        guidelines: What the teacher reasons by; else those that ``options`` name.
        options: Of the synthesis.
        seed: Of everything drawn.
        progress: Called after each round.
        data: What the manifest says about the data.

    Raises:
        BadInput: The guidelines have no set for a kind of request.
        GateFailed: The teacher refuses to write for too many requests, and nobody else can.
    """
    options = options or SynthesisOptions()
    guidelines = guidelines or Guidelines.load(options.guidelines)
    for kind in pool.counts():
        guidelines.require(kind)
    states = [State(prompt) for prompt in pool.prompts]
    work = _Work(states, speakers, guidelines, options, seed, progress)
    run_sync(work.write())
    about = {
        "format": "srg-reasoned/1",
        "options": deciding(options),
        "guidelines": {"version": guidelines.version, "digest": guidelines.hash},
        "seed": seed,
        "models": speakers.conventions(),
        "prompts": prompt_digests(PROMPTS),
        "versions": versions(("safewright",)),
        "data": data or {},
    }
    made = [
        (
            state,
            best,
            record_of(
                state.prompt,
                best,
                state.candidates,
                guidelines,
                speakers,
                options,
                draft=work.noted.texts.get(state.prompt.id),
            ),
        )
        for state in states
        for best in (filters.chosen(state.candidates, options.prefer),)
        if best is not None
    ]
    records = tuple(record for _, _, record in made)
    lost = tuple(_dropped(state) for state in states if not state.passed)
    told = summary(pool, states, [(state.prompt, best, record) for state, best, record in made])
    if options.drafts:
        told["drafts"] = {"written": len(work.noted.texts), **dict(sorted(work.noted.lost.items()))}
        if work.noted.lost:
            told["warnings"].append(
                f"{work.noted.lost.total()} of {told['counts'].get('harmful', 0)} harmful records have no draft "
                f"({', '.join(f'{why} {n}' for why, n in sorted(work.noted.lost.items()))}): "
                "target=answer_then_check cannot be trained on them"
            )
    guard = speakers.guard
    if guard is not None and not scoring.reads_reasoning(guard) and speakers.scorer is None:
        told["warnings"].append(f"guard={options.guard}: nobody looked for harm inside the reasoning")
    manifest = {
        **about,
        **told,
        "calls": speakers.counts(),
        "digest": digest_json([record.plain() for record in records]),
    }
    return Synthesis(records, lost, manifest)


@dataclass
class _Work:
    """The rounds of drawing and filtering."""

    states: Sequence[State]
    speakers: Voices
    guidelines: Guidelines
    options: SynthesisOptions
    seed: int
    progress: Progress
    leaks: Leaks = field(init=False)
    noted: Drafts = field(default_factory=Drafts)

    def __post_init__(self) -> None:
        self.leaks = Leaks(self.guidelines)

    async def write(self) -> None:
        """Draw for every request; a second time with the label told, for those of which nothing passed."""
        await self._phase(self.states, hinted=self.options.hinted == "always")
        if self.options.hinted == "second":
            again = [state for state in self.states if not state.passed and not state.refused]
            for state in again:
                state.drawn = 0
            await self._phase(again, hinted=True)
        self._require_willing(self.states)
        if self.options.drafts:
            self.noted = await self._drafts()

    async def _drafts(self) -> Drafts:
        """Drafts for the harmful requests that have a trace; of an answer that may be given its beginning is one."""
        done = Drafts()
        for role, asker in self.speakers.teachers.items():
            passed = (one for one in self.states if one.passed and one.role == role)
            own = [one.prompt for one in passed if one.prompt.kind == "harmful"]
            made = await write_drafts(asker, own, self.speakers.guard, self.leaks, self.speakers.judged)
            done.texts |= made.texts
            done.lost += made.lost
        return done

    async def _phase(self, states: Sequence[State], hinted: bool) -> None:
        most = self.options.k
        step = min(self.options.draws, most) if self.options.adaptive_k else most
        first = True
        while True:
            open_ = [
                one for one in states if one.drawn < most and not (self.options.adaptive_k and one.passed)
            ]
            if not open_:
                return
            drawn = await self._draw(open_, min(step, most), hinted)
            await self._filter(drawn)
            for state in open_:
                if state.refused and state.role == "teacher" and "fallback" in self.speakers.teachers:
                    state.role, state.drawn = "fallback", 0
            self.progress("requests with reasoning", sum(one.passed for one in self.states), len(self.states))
            if first and len(states) == len(self.states) and "fallback" not in self.speakers.teachers:
                self._require_willing(states)  # before a refusing teacher is asked all the rest
            first = False

    async def _draw(self, states: Sequence[State], count: int, hinted: bool) -> list[Candidate]:
        """``count`` further candidates of each request, or as many as are left; equal draws of all are one call."""
        calls: dict[tuple[str, int], list[State]] = {}
        for state in states:
            for draw in range(state.drawn, min(state.drawn + count, self.options.k)):
                calls.setdefault((state.role, draw), []).append(state)
        asked = await asyncio.gather(
            *(self._call(role, draw, own, hinted) for (role, draw), own in calls.items())
        )
        for state in states:
            state.drawn = min(state.drawn + count, self.options.k)
        return [candidate for own in asked for candidate in own]

    async def _call(self, role: str, draw: int, states: Sequence[State], hinted: bool) -> list[Candidate]:
        asker = self.speakers.teachers[role]
        chats = [
            [user(synthesis_prompt(one.prompt, self.guidelines, self.options, hinted=hinted))]
            for one in states
        ]
        how = drawing(asker.model, self.options, self.seed, draw, hinted)
        kind = f"{role}{', hinted' * hinted}"
        made = []
        for state, reply in zip(states, await asker.generate(kind, chats, how), strict=True):
            candidate = Candidate(state.prompt, draw, hinted, role, reply)
            state.candidates.append(candidate)
            made.append(candidate)
        return made

    async def _filter(self, drawn: Sequence[Candidate]) -> None:
        """The filters in their order, from (a) to (e); each sees what the ones before it let through."""
        options, speakers = self.options, self.speakers
        for one in drawn:
            filters.read_format(one, options.longest)
        if speakers.guard is not None:
            tell = options.agree and speakers.scorer is None
            await scoring.judge_outcomes(speakers.guard, _open(drawn), speakers.judged, tell=tell)
        if speakers.scorer is not None and _open(drawn):
            await scoring.score(
                speakers.scorer, _open(drawn), self.guidelines, options.score_tries, options.min_score
            )
        if options.agree:
            if speakers.guard is None:
                await scoring.judge_refusals(None, _open(drawn), speakers.judged)
            for one in _open(drawn):
                filters.agrees(one, self.guidelines.verdict)
        for one in _open(drawn):
            self.leaks.check(one)

    def _require_willing(self, states: Sequence[State]) -> None:
        """Pass when no more than ``max_refusing`` of the requests met nothing but refusals to write.

        Raises:
            GateFailed: More did.
        """
        refused = [state.prompt.id for state in states if state.refused and not state.passed]
        share = len(refused) / len(states) if states else 0.0
        if share <= self.options.max_refusing:
            return
        raise GateFailed(
            f"The teacher declined to write reasoning for {len(refused)} of {len(states)} requests (share "
            f"{share:.3f}, at most {self.options.max_refusing:g}; first: {refused[0]}).",
            why="Only what it is willing to think about would be learned.",
            fix="Give a teacher that writes such demonstrations, or a second one: --model fallback=MODEL.",
        )


def _open(candidates: Iterable[Candidate]) -> list[Candidate]:
    return [one for one in candidates if one.open]


def _dropped(state: State) -> dict[str, Any]:
    """A request without a trace, with all its candidates and what was wrong with each."""
    last = state.candidates[-1] if state.candidates else None
    return {
        "id": state.prompt.id,
        "type": state.prompt.kind,
        "categories": list(state.prompt.categories),
        "reason": last.reason if last else "",
        "failed_calls": sum(one.failed for one in state.candidates),
        "candidates": [
            {
                "name": one.name,
                "reason": one.reason,
                "why": one.why,
                "reasoning": one.trace.reasoning if one.trace else "",
                "answer": one.trace.answer if one.trace else one.reply.raw,
            }
            for one in state.candidates
        ],
    }


def require_yield(made: Synthesis, options: SynthesisOptions) -> None:
    """Pass when enough requests have a record.

    Raises:
        GateFailed: Too few have, with the yield of each category.
    """
    prompts, kept = made.manifest["yield"][0]["prompts"], len(made.records)
    if kept and kept / prompts >= options.min_yield:
        return
    failed = sum(one["failed_calls"] > 0 for one in made.dropped)
    calls = f" {failed} are missing because calls failed." if failed else ""
    raise GateFailed(
        f"{kept} of {prompts} requests have reasoning that passed (yield {kept / prompts:.3f}, needed "
        f"{options.min_yield:g}).{calls}\n{yield_words(made.manifest['yield'])}\n"
        f"Rejected candidates: {', '.join(f'{reason} {n}' for reason, n in made.manifest['rejected'].items())}.",
        why="What is left would be a selection of easy requests.",
        fix=(
            "Give the same command again: only failed calls are asked again."
            if failed
            else "See the run's yield.json; another teacher, a larger k, a lower min_score or min_yield may help."
        ),
    )


def made_for(job: Job) -> Synthesis:
    """The records of a job's ``harmful``, ``helpful`` and ``contrast`` rows.

    Raises:
        BadInput: See `pool.prompt_pool` and `voices.voices`.
        GateFailed: See `synthesise` and `require_yield`; the run keeps the table in ``yield.json``.
    """
    options = options_of(job.config)
    pool = from_job(job, options)
    guidelines = Guidelines.load(options.guidelines)
    speakers = voices(job.models, options)
    roles = ("harmful", "helpful", "contrast", "evaluation")
    data = {
        role: {"digest": job.data[role].digest, "rows": len(job.rows(role))}
        for role in roles
        if role in job.data
    }
    with journalled(job, speakers.models, "replies", least_calls(pool, options)):
        made = synthesise(
            pool,
            speakers,
            guidelines=guidelines,
            options=options,
            seed=job.seed,
            progress=job.progress,
            data=data,
        )
        asked = {id(model.calls): model.calls.asked for model in speakers.models}
    job.run.event("synthesised", records=len(made.records), asked=sum(asked.values()))
    job.run.write(YIELD, about_yield(made.manifest, made.dropped))
    require_yield(made, options)
    return made


def build(job: Job) -> list[Reasoned]:
    """The records that a training of the job learns, made now; see `made_for`.

    Raises:
        BadInput: Several processes would ask the teacher at once; else see `made_for`.
    """
    from safewright.training import processes

    if processes.world_size() > 1:
        raise BadInput(
            "A teacher would be asked by several processes at once.",
            fix="Make the records first (safewright treat srg synthesize), and give them: --data reasoned=FILE",
        )
    return list(made_for(job).records)


def synthesize(job: Job) -> dict[str, Any]:
    """Let a teacher write reasoning and answers along the guidelines, and filter them (reasoned.jsonl in --out)."""
    from safewright.data.rows import write_rows

    made = made_for(job)
    write_rows(job.draft / FILE, [record.row() for record in made.records])
    write_lines(job.draft / DROPPED, made.dropped)
    write_json(job.draft / MANIFEST, made.manifest)
    manifest = made.manifest
    return {
        "records": manifest["counts"],
        "yield": manifest["yield"],
        "rejected": manifest["rejected"],
        "left_out": manifest["left_out"],
        "tokens": manifest["tokens"],
        "calls": manifest["calls"],
        "warnings": manifest["warnings"],
        "file": FILE,
    }
