"""What running shared beginnings once saves for verdict prompts, against running every prompt whole, in one run.

Pairs of prompts of the verdicts' sizes: rules that all share, then an instruction's risks and summary that a
pair shares, then one of two responses; short replies. The same model, prompts and batch size with and without;
repeats alternate. Printed are the shares of prompt tokens that were run and of the median time, with all repeats.

    python benchmarks/prefix_reuse.py [--pairs 24] [--repeats 3] [--batch-size 16] [--out results.json]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

from safewright.models import load
from safewright.models.hf import HfModel
from safewright.types import Chat, Decoding

RULES, MATERIAL, RESPONSE, REPLY = 500, 550, 450, 8
"""Tokens of a verdict prompt's parts, and of the reply; responses have from half to all of theirs."""
WORDS = [f"{a}{b}{c}" for a in "bdklmr" for b in "aeiou" for c in "nprstvz"]


def verdict_pairs(count: int) -> list[Chat]:
    """Two prompts an instance."""
    draw = random.Random(0)

    def text(length: int) -> str:
        return " ".join(draw.choices(WORDS, k=length))

    rules, found = text(RULES), list[Chat]()
    for _ in range(count):
        shared = f"{rules} {text(MATERIAL)}"
        for _ in ("front", "end"):
            response = text(draw.randint(RESPONSE // 2, RESPONSE))
            found.append(({"role": "user", "content": f"{shared} {response}"},))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    from safewright.lab.tiny import Shape, save, tiny_model, word_tokenizer

    chats = verdict_pairs(arguments.pairs)
    how = Decoding(max_new_tokens=REPLY)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = word_tokenizer(WORDS)
        # Weights far enough from zero that replies depend on their prompts.
        save(tiny_model(Shape(positions=2048, spread=0.3), tokenizer, seed=0), tokenizer, Path(scratch))
        models = [load(scratch, batch_size=arguments.batch_size) for _ in range(2)]
        with_, without = (model for model in models if isinstance(model, HfModel))
        without.shares = False
        said = [model.generate(chats, how) for model in (with_, without)]  # first touch is not measured
        if said[0] != said[1]:
            raise SystemExit("the two ways do not say the same")
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(arguments.repeats):
            for reuse, model in ((True, with_), (False, without)):
                start = time.perf_counter()
                model.generate(chats, how)
                seconds[reuse].append(time.perf_counter() - start)
    median = {reuse: statistics.median(values) for reuse, values in seconds.items()}
    result = {
        "prompts": len(chats),
        "distinct_replies": len({generation.raw for generation in said[0]}),
        "prompt_tokens": with_.prompted // (1 + arguments.repeats),
        "run_tokens": with_.prefilled // (1 + arguments.repeats),
        "share_of_tokens": round(with_.prefilled / with_.prompted, 3),
        "share_of_time": round(median[True] / median[False], 3),
        "seconds": [round(value, 3) for value in seconds[True]],
        "seconds_without": [round(value, 3) for value in seconds[False]],
    }
    print(json.dumps(result, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
