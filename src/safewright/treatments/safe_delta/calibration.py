"""The stage ``prepare``: what the aligned model's layers see when it refuses, kept as H of every input."""

from __future__ import annotations

import inspect
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright.data import require_disjoint
from safewright.errors import BadInput, Incomplete, NumericalFailure
from safewright.models import load
from safewright.models.blocks import chosen, linear_modules
from safewright.models.chat import encode, with_system
from safewright.runs import digest_file, digest_json, run_sync, write_json
from safewright.treatments.job import Job
from safewright.treatments.safe_delta.config import SafeDeltaConfig
from safewright.treatments.safe_delta.prepared import FACTS, Group, group_file
from safewright.treatments.safe_delta.seen import SEEN, digests
from safewright.types import Decoding, JudgeItem, Row

if TYPE_CHECKING:
    import torch

BATCH_TOKENS = 4096
"""Tokens of one forward pass, padding included."""

TOKENS_PER_CHANNEL = 4
"""Tokens per input channel below which H is thin; the report says so."""


@dataclass
class Moments:
    """``2/N sum x x^T`` of one layer input while it is summed; N counts sequences, as the release does."""

    modules: list[str]
    layer: int
    total: torch.Tensor | None = None
    tokens: int = 0

    def add(self, x: torch.Tensor) -> None:
        """Add tokens (n, in): in float64 on the CPU, float32 elsewhere."""
        import torch

        wide = torch.float64 if x.device.type == "cpu" else torch.float32
        x = x.to(wide)
        if self.total is None:
            self.total = torch.zeros(x.shape[1], x.shape[1], dtype=wide, device=x.device)
        self.total.addmm_(x.T, x)
        self.tokens += x.shape[0]

    def matrix(self, sequences: int) -> torch.Tensor:
        """H after so many sequences."""
        if self.total is None or not sequences:
            raise BadInput("No calibration token reached a layer.", fix="Give more calibration rows.")
        return 2.0 / sequences * self.total


def second_moments(
    model: Any, batches: Sequence[Mapping[str, torch.Tensor]], modules: Sequence[str]
) -> dict[str, Moments]:
    """The summed moments of every distinct input of the named linear maps, by the first of its modules.

    Args:
        model: A ``PreTrainedModel`` in evaluation mode.
        batches: ``input_ids`` and ``attention_mask`` (batch, tokens); padding is left out.
        modules: Names from `safewright.models.blocks.linear_modules`. Maps that read the same tensor (the
            queries, keys and values of a block) share one H.

    Raises:
        NumericalFailure: An activation is not finite; layer and count are named.
    """
    import torch

    owners = {name: (module, layer) for name, module, layer in linear_modules(model) if module is not None}
    found: dict[str, Moments] = {}
    leader: dict[str, str] = {}
    seen: dict[int, tuple[Any, str]] = {}
    mask: torch.Tensor | None = None

    def hook(name: str) -> Any:
        def before(module: Any, inputs: Any) -> None:
            x = inputs[0]
            if name not in leader:
                # Holding the tensor keeps its identity from being given to another one.
                _, first = seen.setdefault(id(x), (x, name))
                leader[name] = first
                if first == name:
                    found[name] = Moments([name], owners[name][1])
                else:
                    found[first].modules.append(name)
            if leader[name] != name:
                return
            assert mask is not None
            tokens = x.reshape(-1, x.shape[-1])[mask.reshape(-1)]
            if not bool(torch.isfinite(tokens.sum())):
                bad = int((~torch.isfinite(tokens)).sum())
                if bad:
                    raise NumericalFailure(
                        f"{bad} inputs of {name} are not finite.",
                        why="H would be, and with it every edited weight.",
                        fix="Prepare in another dtype (bfloat16 or float32), or repair the aligned model.",
                    )
            found[name].add(tokens)

        return before

    placed = "position_ids" in inspect.signature(model.forward).parameters
    handles = [owners[name][0].register_forward_pre_hook(hook(name)) for name in modules]
    try:
        for batch in batches:
            mask = batch["attention_mask"].bool()
            more: dict[str, Any] = {"use_cache": False}
            if placed:
                # Padding counts no position, on whichever side it stands.
                more["position_ids"] = (mask.long().cumsum(1) - 1).clamp_min(0)
            with torch.inference_mode():
                model(**batch, **more)
            seen.clear()
    finally:
        for handle in handles:
            handle.remove()
    return found


def padded(lines: Sequence[Sequence[int]], pad: int, device: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of sequences of like length, padded on the right, longest first."""
    import torch

    order = sorted(range(len(lines)), key=lambda i: (-len(lines[i]), i))
    start = 0
    while start < len(order):
        width = len(lines[order[start]])
        count = max(1, BATCH_TOKENS // width)
        group = [lines[i] for i in order[start : start + count]]
        start += count
        ids = torch.tensor([[*line, *[pad] * (width - len(line))] for line in group], device=device)
        mask = torch.tensor([[1] * len(line) + [0] * (width - len(line)) for line in group], device=device)
        yield {"input_ids": ids, "attention_mask": mask}


@dataclass
class Counts:
    """What became of the calibration rows.

    Of ``answered`` rows with an answer, ``answered_not_refused`` hold none the judge calls a refusal. Of
    ``asked`` ones, only those ``refused`` are used.
    """

    given: int = 0
    used: int = 0
    answered: int = 0
    answered_not_refused: int = 0
    asked: int = 0
    refused: int = 0
    not_refused: int = 0
    unjudged: int = 0
    truncated: int = 0
    duplicates: int = 0
    tokens: int = 0
    fitted: int = 0
    held_out: int = 0
    notes: list[str] = field(default_factory=list)


def prepare(job: Job) -> dict[str, Any]:
    """Write H of every layer input of the aligned model into ``job.draft``.

    Calibration rows with an answer are taken as they are, and the report says how many of the answers are no
    refusals. Rows without one, and all rows of the role ``harmful``, get the aligned model's own greedy answer
    and stay only if it is a refusal. Part of the sequences is held out: its H is kept apart, to say what an
    edit costs on refusals it was not made from.

    Raises:
        BadInput: No rows, none that is refused, or rows that are also test rows.
        NumericalFailure: A non-finite activation.
    """
    return prepare_folder(job, job.draft)


def prepare_folder(job: Job, folder: Path) -> dict[str, Any]:
    """`prepare` into a folder of the caller's choice."""

    config: SafeDeltaConfig = job.config
    counts = Counts()
    rows = _calibration_rows(job, counts)
    loaded: Any = load(job.models["aligned"], device=job.device, need=frozenset({"weights", "generate"}))
    try:
        rows = _answered(rows, loaded, config, counts)
        lines = _lines(rows, loaded.tokenizer, config, counts)
        fitted, held = _split(lines, config.holdout, job.seed)
        counts.fitted, counts.held_out = len(fitted), len(held)
        modules = _modules(loaded.model, config)
        pad = loaded.pad
        parts = {"fitted": fitted, "held": held}
        if config.utility == "task":
            parts["task"] = _task_lines(job, loaded.tokenizer, config)
        _require_space(loaded, modules, [part for part, some in parts.items() if some], config, folder)
        sums = {}
        for place, (part, some) in enumerate(parts.items()):
            batches = list(padded(some, pad, loaded.model.device))
            job.progress("calibration", place, len(parts))
            sums[part] = second_moments(loaded.model, batches, modules) if some else {}
        job.progress("calibration", len(parts), len(parts))
        counts.tokens = sum(map(len, fitted))
    finally:
        loaded.close()
    seen = digests(rows)
    return _write(job, folder, sums, {name: len(some) for name, some in parts.items()}, counts, seen)


def _require_space(
    loaded: Any, modules: Sequence[str], parts: Sequence[str], config: SafeDeltaConfig, folder: Path
) -> None:
    """Pass when the disk holds H of every layer input; one token shows which inputs there are.

    Raises:
        Incomplete: It does not.
    """
    import torch

    token = torch.full((1, 1), loaded.pad, device=loaded.model.device)
    inputs = second_moments(
        loaded.model, [{"input_ids": token, "attention_mask": torch.ones_like(token)}], modules
    )
    widths = [moments.total.shape[0] for moments in inputs.values() if moments.total is not None]
    # H of every part of the rows, and the eigenvectors of the first.
    needed = sum((len(parts) + 1) * width**2 for width in widths) * getattr(torch, config.store).itemsize
    folder.mkdir(parents=True, exist_ok=True)
    there = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    free = shutil.disk_usage(folder).free
    if free + there < needed:
        raise Incomplete(
            f"H of {len(widths)} layer inputs takes {needed / 2**30:.2f} GiB, {free / 2**30:.2f} GiB are free.",
            fix="Free some space and give the same command again.",
        )


def _calibration_rows(job: Job, counts: Counts) -> list[Row]:
    """The rows given; those of the role ``harmful`` are prompts only, whatever answers they carry."""
    import dataclasses

    harmful = job.rows("harmful")
    rows = [*job.rows("calibration"), *(dataclasses.replace(row, reference=None) for row in harmful)]
    counts.given = len(rows)
    dropped = sum(bool((row.reference or "").strip()) for row in harmful)
    if dropped:
        counts.notes.append(
            f"the answers of {dropped} rows of the role harmful were not used: the aligned model was asked"
        )
    if not rows:
        raise BadInput(
            "There are no calibration rows.",
            fix="Give requests the aligned model refuses: --data calibration=rows.jsonl",
        )
    if job.rows("test"):
        require_disjoint({"calibration": rows, "test": list(job.rows("test"))})
    return rows


def _answered(rows: Sequence[Row], loaded: Any, config: SafeDeltaConfig, counts: Counts) -> list[Row]:
    """Rows with answers: given ones, and the aligned model's own where they are refusals."""
    import dataclasses

    systems = config.system_prompts()
    if systems:
        rows = [
            dataclasses.replace(row, prompt=with_system(row.prompt, systems[i % len(systems)]))
            for i, row in enumerate(rows)
        ]
    unique: dict[str, Row] = {}
    for row in rows:
        unique.setdefault(digest_json([row.prompt, row.reference]), row)
    counts.duplicates = len(rows) - len(unique)
    kept = list(unique.values())[: config.rows]
    # By place and not by id: rows of two roles may share an id.
    silent = [place for place, row in enumerate(kept) if not (row.reference or "").strip()]
    _judge_given([row for row in kept if (row.reference or "").strip()], config.judge, counts)
    if silent:
        how = Decoding(max_new_tokens=config.answer_tokens)
        asked = [kept[place] for place in silent]
        said = [generation.answer for generation in loaded.generate([row.prompt for row in asked], how)]
        answers = dict(zip(silent, _refusals(asked, said, config.judge, counts), strict=True))
        kept = [
            dataclasses.replace(row, reference=answers.get(place, row.reference))
            for place, row in enumerate(kept)
            if answers.get(place, row.reference)
        ]
    counts.used = len(kept)
    if not kept:
        raise BadInput(
            f"The aligned model refused none of {counts.asked} calibration requests.",
            why="Safety is measured on its own refusals.",
            fix="Give requests it refuses, or rows with the refusals to keep.",
        )
    return kept


def _judge_given(rows: Sequence[Row], judge: str, counts: Counts) -> None:
    """Count the given answers that are no refusals; they stay, since the user gave them."""
    if not rows:
        return
    verdicts = _verdicts(rows, [row.reference or "" for row in rows], judge)
    counts.answered = len(rows)
    counts.answered_not_refused = sum(not refused for refused in verdicts)
    if counts.answered_not_refused:
        counts.notes.append(
            f"{counts.answered_not_refused} of {counts.answered} given answers are no refusals for the judge "
            f"{judge}: what they rest on is kept as if it were safety"
        )


def _refusals(rows: Sequence[Row], said: Sequence[str], judge: str, counts: Counts) -> list[str | None]:
    """The answers that are refusals, None for the others."""
    answers: list[str | None] = []
    for answer, refused in zip(said, _verdicts(rows, said, judge), strict=True):
        counts.asked += 1
        answers.append(answer if refused else None)
        if refused is None:
            counts.unjudged += 1
        elif refused:
            counts.refused += 1
        else:
            counts.not_refused += 1
    return answers


def _verdicts(rows: Sequence[Row], said: Sequence[str], judge: str) -> list[bool | None]:
    """Whether each answer is a refusal; None where it is empty or the judge has no verdict."""
    from safewright.judges import resolve

    items = [
        JudgeItem(row.prompt[-1]["content"], answer, "refusal", lang=row.lang)
        for row, answer in zip(rows, said, strict=True)
    ]
    return [
        bool(verdict.value) if verdict.status == "ok" and answer.strip() else None
        for answer, verdict in zip(said, run_sync(resolve(judge).judge(items)), strict=True)
    ]


def _lines(rows: Sequence[Row], tokenizer: Any, config: SafeDeltaConfig, counts: Counts) -> list[list[int]]:
    """Token ids of prompt and answer, without an end-of-turn token, cut at the longest length."""
    lines = []
    for row in rows:
        answer = tokenizer(row.reference or "", add_special_tokens=False)["input_ids"]
        line = [*encode(tokenizer, row.prompt), *answer]
        counts.truncated += len(line) > config.max_length
        lines.append(line[: config.max_length])
    return lines


def _task_lines(job: Job, tokenizer: Any, config: SafeDeltaConfig) -> list[list[int]]:
    rows = job.rows("finetune")
    if not rows:
        raise BadInput(
            "utility=task needs the fine-tuning rows.", fix="Give some of them: --data finetune=rows.jsonl"
        )
    return _lines(list(rows)[: config.rows], tokenizer, config, Counts())


def _split(lines: Sequence[list[int]], holdout: float, seed: int) -> tuple[list[list[int]], list[list[int]]]:
    order = list(range(len(lines)))
    random.Random(f"holdout {seed}").shuffle(order)
    held = frozenset(order[: int(holdout * len(lines))])
    return (
        [line for i, line in enumerate(lines) if i not in held],
        [line for i, line in enumerate(lines) if i in held],
    )


def _modules(model: Any, config: SafeDeltaConfig) -> list[str]:
    from safewright.models.blocks import Matrix

    known = [
        Matrix(name, name, layer, False)
        for name, module, layer in linear_modules(model)
        if module is not None
    ]
    return [matrix.module for matrix in chosen(known, config.modules)]


def _write(
    job: Job,
    folder: Path,
    sums: Mapping[str, Mapping[str, Moments]],
    sequences: Mapping[str, int],
    counts: Counts,
    seen: Mapping[str, Any],
) -> dict[str, Any]:
    """One file per group, and the facts; a group that a killed run finished is not factorised again."""
    import torch
    from safetensors.torch import save_file

    from safewright.treatments.safe_delta.curvature import Curvature

    config: SafeDeltaConfig = job.config
    folder.mkdir(parents=True, exist_ok=True)
    dtype = getattr(torch, config.store)
    done = {row["name"]: row for row in job.run.rows("groups")}
    groups: list[Group] = []
    for place, (name, moments) in enumerate(sums["fitted"].items()):
        job.progress("factorising", place, len(sums["fitted"]))
        file = group_file(name, moments.layer)
        known = done.get(name)
        if known and (folder / file).is_file() and digest_file(folder / file) == known["digest"]:
            groups.append(Group(**known))
            continue
        # What is derived from H is derived from H as it is kept.
        H = moments.matrix(sequences["fitted"]).to(dtype).cpu()
        curvature = Curvature(H)
        held = {"H": H}
        values = None
        if config.spectrum == "always" or (config.spectrum == "auto" and curvature.spectral):
            values, vectors, _ = curvature.spectrum
            held |= {"values": values, "vectors": vectors[curvature.live]}
        for part, key in (("held", "H_held"), ("task", "G")):
            if sums.get(part):
                held[key] = sums[part][name].matrix(sequences[part])
        part_file = folder / f".{file}.part"
        save_file({key: value.to(dtype).contiguous().cpu() for key, value in held.items()}, part_file)
        with open(part_file, "rb") as handle:
            import os

            os.fsync(handle.fileno())
        part_file.replace(folder / file)
        group = Group(
            name=name,
            file=file,
            layer=moments.layer,
            width=H.shape[0],
            modules=tuple(moments.modules),
            tokens=moments.tokens,
            rank=None if values is None else curvature.rank(),
            dead=len(curvature.dead),
            condition=None if values is None else _condition(values),
            outlier=_outlier(H),
            digest=digest_file(folder / file),
        )
        job.run.append("groups", {**group.as_json()})
        groups.append(group)
    job.progress("factorising", len(groups), len(groups))
    thin = [group for group in groups if group.tokens < TOKENS_PER_CHANNEL * group.width]
    if thin:
        # No more directions than tokens, where the rank itself is not known.
        reached = {
            group: min(group.tokens, group.width) if group.rank is None else group.rank for group in thin
        }
        worst = min(thin, key=lambda group: reached[group] / group.width)
        counts.notes.append(
            f"{len(thin)} of {len(groups)} inputs saw fewer than {TOKENS_PER_CHANNEL} tokens per channel "
            f"({worst.name}: {worst.tokens} tokens, rank {'at most ' if worst.rank is None else ''}"
            f"{reached[worst]} of {worst.width}): directions no "
            "calibration row reached count as free"
        )
    if counts.truncated:
        counts.notes.append(f"{counts.truncated} sequences were cut at {config.max_length} tokens")
    facts = {
        "format": "safe_delta/1",
        "aligned": {"digest": job.models["aligned"].digest, "where": job.models["aligned"].where},
        "data": {role: loaded.digest for role, loaded in job.data.items() if role != "test"},
        "counts": counts,
        "utility": config.utility,
        "store": config.store,
        "groups": [group.as_json() for group in groups],
    }
    write_json(folder / FACTS, {**facts, SEEN: seen})
    return facts


def _condition(values: torch.Tensor) -> float:
    """Ratio of the largest to the smallest eigenvalue above float32's resolution."""
    import torch

    kept = values[values > values.max() * len(values) * torch.finfo(torch.float32).eps]
    return float(kept.max() / kept.min()) if len(kept) else 1.0


def _outlier(H: torch.Tensor) -> float:
    """The largest diagonal entry over the median one: massive activations show here."""
    diagonal = H.diagonal()[H.diagonal() > 0]
    return float(diagonal.max() / diagonal.median()) if len(diagonal) else 1.0
