"""What drawing as needed saves, as ratios of draws and tokens: for reasoning from a teacher, and for best of N.

Synthesis: a made-up teacher whose candidates pass with a chance of each request's own; the real filters. All K
candidates of every request against drawing two, then more only where none has passed. Best of N: made-up counts;
all m answers of every prompt against batches that end with the first safe one, with both estimates of the curve.

    python benchmarks/srg_synthesis.py [--requests 400] [--pass-rate 0.7] [--repeats 200] [--out results.json]

Runs from a checkout: the teacher is that of the tests. Half a minute on one core.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.treatments.srg_teacher import Asked, Scripted, harmful_rows, helpful_rows, honest, trace  # noqa: E402

from safewright.stats.best_of_n import still_open, stopped_shares, unsafe_all  # noqa: E402
from safewright.treatments.srg.synthesis import SynthesisOptions, prompt_pool, synthesise, voices  # noqa: E402

WORDS = ["we", "look", "at", "who", "asks", "and", "what", "would", "follow", "if", "it", "were", "done"]


class Teacher:
    """Writes traces of differing length, sound ones with each request's own chance; counts what it wrote."""

    def __init__(self, rate: float, spread: float) -> None:
        self.rate, self.spread = rate, spread
        self.draws = self.words = 0

    def __call__(self, asked: Asked) -> str:
        if asked.kind != "write":
            return honest(asked)
        own = random.Random(asked.request)
        # A beta of that mean; a large spread makes easy and hopeless requests.
        chance = (
            own.betavariate(self.rate / self.spread, (1 - self.rate) / self.spread)
            if self.spread
            else self.rate
        )
        draw = random.Random(f"{asked.request} {asked.before}")
        more = " " + " ".join(draw.choices(WORDS, k=draw.randint(60, 220)))
        text = trace(asked, more)
        if draw.random() >= chance:
            text = text.replace("</think>", "")  # no closed block: the first filter rejects it
        self.draws += 1
        self.words += len(text.split())
        return text


def synthesis(requests: int, rate: float, spread: float) -> dict[str, Any]:
    """Words and draws of a teacher, all candidates against as many as are needed."""
    found: dict[str, Any] = {}
    pool = prompt_pool(harmful_rows(requests // 2), helpful_rows(requests - requests // 2), share=0.0)
    ways = {"all 8": {"adaptive_k": False}, "2, then more": {"draws": 2}, "1, then more": {"draws": 1}}
    for name, way in ways.items():
        options = SynthesisOptions(hinted="never", formats=0.0, least_words=5, max_refusing=1.0, **way)
        teacher = Teacher(rate, spread)
        made = synthesise(pool, voices({"teacher": Scripted(teacher)}, options), options=options)
        kept = [len(record.reasoning.split()) for record in made.records]
        found[name] = {
            "words": teacher.words,
            "draws_per_request": round(teacher.draws / requests, 2),
            "yield": round(len(kept) / requests, 3),
            "words_of_a_kept_trace": round(statistics.mean(kept), 1),
        }
    whole = found["all 8"]["words"]
    for one in found.values():
        one["times_fewer_words"] = round(whole / one.pop("words"), 2)
    return found


def stopping(prompts: int, m: int, batch: int, a: float, b: float, repeats: int) -> dict[str, Any]:
    """Share of the draws that batches up to the first safe answer take, and both estimates' bias and error."""
    rng = np.random.default_rng(0)
    asked: list[float] = []
    errors: dict[str, list[float]] = {"all": [], "stopped": []}
    for _ in range(repeats):
        q = rng.beta(a, b, prompts)
        truth = float((q**m).mean())
        answers = rng.random((prompts, m)) < q[:, None]
        unsafe, drawn = np.zeros(prompts, dtype=int), np.zeros(prompts, dtype=int)
        while places := still_open(unsafe, drawn, m):
            for place in places:
                step = slice(int(drawn[place]), min(int(drawn[place]) + batch, m))
                unsafe[place] += int(answers[place, step].sum())
                drawn[place] = step.stop
        asked.append(float(drawn.sum()) / (prompts * m))
        errors["all"].append(unsafe_all(answers.sum(axis=1), m, m) - truth)
        errors["stopped"].append(float(stopped_shares(unsafe, drawn, batch, m).mean()) - truth)
    return {
        "share_of_draws": round(statistics.mean(asked), 3),
        **{
            f"{name}_{what}": round(float(value), 5)
            for name, own in errors.items()
            for what, value in (("bias", statistics.mean(own)), ("spread", statistics.pstdev(own)))
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--pass-rate", type=float, default=0.7)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    result = {
        "synthesis, every request alike": synthesis(given.requests, given.pass_rate, 0.0),
        "synthesis, easy and hard requests": synthesis(given.requests, given.pass_rate, 0.5),
        # Beta(.8, .9): many prompts at both ends; Beta(6, 1): a model that hardly ever refuses.
        "best of 32, Beta(.8, .9)": stopping(300, 32, 4, 0.8, 0.9, given.repeats),
        "best of 32, Beta(6, 1)": stopping(300, 32, 4, 6.0, 1.0, given.repeats),
    }
    print(json.dumps(result, indent=2))
    if given.out:
        given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
