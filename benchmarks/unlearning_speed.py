"""Speed and memory of an unlearning step: ``python benchmarks/unlearning_speed.py``.

One thread, float32, alternated repeats; medians of CPU seconds, since others may use the machine. Every layout
computes the same loss on the same pairs, which is asserted before it is timed:

* ``ours``: one run of the model for forget and retain rows, in lines without padding; only positions with a label
  meet the vocabulary; the reference is the adapter switched off.
* ``two passes``: as TRL pads and runs: one pass over forget rows, one over retain rows, one of the reference, each
  padded to its longest row, with logits at every position.
* ``padded to 512``: the same two passes on rows that are all padded to 512, as the release of ReLearn lays them out.

Then the mask of SURE against the release's dictionary with one entry per row, at the rows of a LoRA of rank 8 on a
7B model; and the peak memory of training with the adapter switched off against a frozen copy as reference.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from safewright.training.encoding import Example, collate
from safewright.training.fitting import with_lora
from safewright.treatments.relearn.config import RelearnConfig
from safewright.treatments.relearn.objectives import Unlearning
from safewright.treatments.relearn.references import Live
from safewright.treatments.relearn.rules import kept_rows, row_norms

VOCABULARY = 4096
AIMS = {"step": 1.25, "mask": 100.0}


def model(layers: int = 4, width: int = 256) -> Any:
    """A random Llama; the default has 6.3 million parameters."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
    )
    made: Any = AutoModelForCausalLM
    return made.from_config(config)


def examples(count: int, seed: int) -> list[Example]:
    """Sequences as long as rows of KnowUnDo's privacy set in a short chat template, 47 tokens in the mean.

    Their questions have 8.2 words (standard deviation 2.7), their answers 22.7 (7.6), at 4/3 tokens a word.
    """
    draw = random.Random(seed)
    found = []
    for place in range(count):
        asked = round(4 / 3 * min(19.0, max(4.0, draw.gauss(8.2, 2.7)))) + 5
        answered = round(4 / 3 * min(52.0, max(6.0, draw.gauss(22.7, 7.6)))) + 1
        ids = tuple(draw.randrange(3, VOCABULARY) for _ in range(asked + answered))
        found.append(Example(f"{seed}-{place}", ids, asked))
    return found


def ours(run: Any, before: Live, forget: list[Example], retain: list[Example]) -> torch.Tensor:
    """The loss of a step as `relearn` computes it."""
    settings = RelearnConfig(method="relearn_klr_gdr").resolved()
    made = Unlearning(settings, pad=0, vocabulary=VOCABULARY, reference=before)
    batch = {"forget": collate(forget, 0), "retain": collate(retain, 0), "index": {}}
    counts = made.counts(batch)
    total = torch.zeros(())
    for part in made.parts:
        found, by, _ = made.part(None, run, batch, part)
        total = total + found / counts[by]
    return total


def two_passes(
    run: Any, before: Live, forget: list[Example], retain: list[Example], width: int = 0
) -> torch.Tensor:
    """The same loss in one pass per part, with logits at every position."""
    parts = [collate(rows, 0, width=width) for rows in (forget, retain)]
    total = torch.zeros(())
    for part in parts:
        logits = run(**part, use_cache=False).logits.float()
        labels = part["labels"][:, 1:]
        total = total + torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels.flatten(), ignore_index=-100
        )
    inputs = {name: value for name, value in parts[1].items() if name != "labels"}
    reference = before.copy or run
    with torch.no_grad(), contextlib.nullcontext() if before.copy else run.disable_adapter():
        wanted = reference(**inputs, use_cache=False).logits.float().log_softmax(-1)
    gap = torch.nn.functional.kl_div(logits.log_softmax(-1), wanted, reduction="none", log_target=True)
    kept = labels != -100
    return total + (gap.sum(-1)[:, :-1] * kept).sum() / kept.sum()


def steps(pairs: int, repeats: int, rank: int = 8) -> dict[str, Any]:
    """Seconds of one step over so many pairs, by layout; all weights are trained at rank 0."""
    import copy

    base = model()
    before = Live(0) if rank else Live(0, copy.deepcopy(base).requires_grad_(False))
    run = with_lora(base, rank, 2 * rank, 0.0) if rank else base
    with torch.no_grad():
        for name, parameter in run.named_parameters():
            if "lora_B" in name or not rank:
                parameter += 0.02 * torch.randn_like(parameter)
    run.train()
    optimiser = torch.optim.AdamW([p for p in run.parameters() if p.requires_grad], lr=0.0)
    layouts: dict[str, Callable[..., torch.Tensor]] = {
        "ours": ours,
        "two passes": two_passes,
        "padded to 512": lambda *given: two_passes(*given, width=512),
    }
    batches = [(examples(pairs, 2 * k), examples(pairs, 2 * k + 1)) for k in range(repeats)]
    said = {name: float(loss(run, before, *batches[0]).detach()) for name, loss in layouts.items()}
    if max(said.values()) - min(said.values()) > 1e-4:
        raise SystemExit(f"the layouts differ in their loss: {said}")
    taken: dict[str, list[float]] = {name: [] for name in layouts}
    for number, (forget, retain) in enumerate(batches):
        for name, loss in layouts.items():
            if name == "padded to 512" and number >= max(2, repeats // 5):
                continue  # it takes as long as all others together
            start = time.process_time()
            optimiser.zero_grad()
            loss(run, before, forget, retain).backward()
            optimiser.step()
            taken[name].append(time.process_time() - start)
    median = {name: statistics.median(seconds) for name, seconds in taken.items()}
    ratio = median["two passes"] / median["ours"]
    return {
        "step over pairs": pairs,
        "trained": f"LoRA of rank {rank}" if rank else "all weights",
        "loss": round(said["ours"], 4),
        "seconds": {name: round(seconds, 4) for name, seconds in median.items()},
        "times faster than two passes": round(ratio, 2),
        "aim met": ratio >= AIMS["step"],
        "footnote: times faster than padded to 512": round(median["padded to 512"] / median["ours"], 1),
    }


def by_dictionary(gradients: dict[str, torch.Tensor], threshold: float) -> dict[str, torch.Tensor]:
    """The mask by one dictionary entry per row, written anew from the release's description."""
    import numpy as np

    norms = {}
    for name, gradient in gradients.items():
        for place in range(gradient.shape[0]):
            norms[f"{name}.{place}"] = torch.norm(gradient[place]).item()
    least = np.percentile(list(norms.values()), threshold)
    return {
        name: torch.tensor([norms[f"{name}.{place}"] >= least for place in range(gradient.shape[0])])
        for name, gradient in gradients.items()
    }


def mask(repeats: int) -> dict[str, Any]:
    """Seconds of SURE's mask over the rows of a LoRA of rank 8 on Llama-2-7b."""
    draw = torch.Generator().manual_seed(0)
    gradients = {}
    for layer in range(32):
        for name, (out, width) in {
            **dict.fromkeys(("q", "k", "v", "o"), (4096, 4096)),
            **dict.fromkeys(("gate", "up"), (11008, 4096)),
            "down": (4096, 11008),
        }.items():
            gradients[f"{layer}.{name}.A"] = torch.randn(8, width, generator=draw)
            gradients[f"{layer}.{name}.B"] = torch.randn(out, 8, generator=draw)
    rows = sum(len(gradient) for gradient in gradients.values())
    tensors = list(gradients.values())
    kept_rows(tensors, 99.0)
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        ours = kept_rows(tensors, 99.0)
        taken.append(time.process_time() - start)
    start = time.process_time()
    theirs = by_dictionary(gradients, 99.0)
    slow = time.process_time() - start
    differing = sum(int((a != b).sum()) for a, b in zip(ours, theirs.values(), strict=True))
    ratio = slow / statistics.median(taken)
    return {
        "mask over rows": rows,
        "rows kept": int(sum(int(kept.sum()) for kept in ours)),
        "rows the two differ in (a norm on the threshold)": differing,
        "seconds": {"ours": round(statistics.median(taken), 4), "dictionary": round(slow, 3)},
        "seconds of the norms alone": round(_timed(lambda: row_norms(tensors)), 4),
        "times faster": round(ratio, 1),
        "aim met": ratio >= AIMS["mask"] and differing <= 1,
    }


def _timed(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def memory(copied: bool) -> dict[str, float]:
    """Peak memory of three steps in a process of its own, above what the libraries take."""
    import copy

    before = _peak_mib()
    base = model(8, 768)
    weights = sum(p.numel() for p in base.parameters()) * 4 / 2**20
    reference = Live(0, copy.deepcopy(base).requires_grad_(False) if copied else None)
    run = with_lora(base, 8, 16, 0.0)
    optimiser = torch.optim.AdamW([p for p in run.parameters() if p.requires_grad], lr=1e-4)
    settings = RelearnConfig(method="relearn_klr_gdr").resolved()
    made = Unlearning(settings, pad=0, vocabulary=VOCABULARY, reference=reference)
    for k in range(3):
        batch = {"forget": collate(examples(2, k), 0), "retain": collate(examples(2, k + 9), 0), "index": {}}
        counts = made.counts(batch)
        optimiser.zero_grad()
        total = torch.zeros(())
        for part in made.parts:
            found, by, _ = made.part(None, run, batch, part)
            total = total + found / counts[by]
        total.backward()
        optimiser.step()
    return {"weights_mib": round(weights, 1), "peak_mib": round(_peak_mib() - before, 1)}


def _peak_mib() -> float:
    """The most memory this process has held; unlike getrusage's, not that of the process it came from."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("this system does not say how much memory a process has held (VmHWM)")


def in_its_own_process(copied: bool) -> dict[str, float]:
    """`memory` where nothing else has raised the peak."""
    how = "copy" if copied else "adapter"
    done = subprocess.run(
        [sys.executable, __file__, "--memory", how], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--memory", choices=["copy", "adapter"], help="Only this, in this process.")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.memory:
        print(json.dumps(memory(given.memory == "copy")))
        return
    for rank in (8, 0):
        for pairs in given.pairs:
            print(json.dumps(steps(pairs, given.repeats, rank)), flush=True)
    print(json.dumps(mask(given.repeats)), flush=True)
    off, copied = in_its_own_process(False), in_its_own_process(True)
    line = {
        "peak memory above the libraries, MiB": {
            "adapter switched off": off["peak_mib"],
            "frozen copy": copied["peak_mib"],
        },
        "weights of one model, MiB": off["weights_mib"],
        "saved, in models": round((copied["peak_mib"] - off["peak_mib"]) / off["weights_mib"], 2),
        "times less": round(copied["peak_mib"] / off["peak_mib"], 2),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
