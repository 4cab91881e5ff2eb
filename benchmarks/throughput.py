"""Tokens per second of a whole measure against its engine called directly, in one run.

Same 512 prompts (16 to 64 tokens), 64 new tokens each, same batches, same stop rule. The measure does
everything it does for a user: journal of every answer, keyword judge, scorecard, records on disk.
Repeats alternate; the ratio of medians is printed, with all repeats.

    python benchmarks/throughput.py [--repeats 5] [--out results.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from safewright.measures import measure_model
from safewright.models import EngineOptions, load
from safewright.types import Decoding, Row

PROMPTS, NEW_TOKENS, BATCH = 512, 64, 32
AIM = 0.95
WORDS = [f"{a}{b}{c}" for a in "bdklmr" for b in "aeiou" for c in "nprstvz"]


def never_ending_model(folder: Path, width: int = 128) -> Path:
    """The lab's aligned shape with an end token it never writes: every answer has all its tokens."""
    import torch

    from safewright.lab.tiny import Shape, save, tiny_model, word_tokenizer

    tokenizer = word_tokenizer(WORDS)
    model = tiny_model(Shape(width=width, ffn=2 * width), tokenizer, seed=0)
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] = 0.0  # a logit of 0 is never the largest of 200
    save(model, tokenizer, folder)
    return folder


def prompts() -> list[Row]:
    """Rows whose rendered prompts have 16 to 64 tokens."""
    rows = []
    for i in range(PROMPTS):
        length = 12 + (i * 37) % 45
        text = " ".join(WORDS[(i * 31 + j * 7) % len(WORDS)] for j in range(length))
        rows.append(Row(id=f"p{i:03d}", prompt=({"role": "user", "content": text},), lang="en"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = never_ending_model(Path(scratch) / "model")
        model = load(folder, batch_size=BATCH)
        rows = prompts()
        chats = [row.prompt for row in rows]
        how = Decoding(max_new_tokens=NEW_TOKENS)
        model.generate(chats[:BATCH], how)  # first touch is not what is measured
        direct, measured, tokens = [], [], []
        for repeat in range(arguments.repeats):
            start = time.perf_counter()
            said = model.generate(chats, how)
            direct.append(time.perf_counter() - start)
            tokens.append(sum(generation.tokens for generation in said))
            start = time.perf_counter()
            card = measure_model(
                "harmful_rate",
                model,
                data=rows,
                config={"max_new_tokens": NEW_TOKENS},
                run=Path(scratch) / f"run{repeat}",
                engine=EngineOptions(batch_size=BATCH),
            )
            measured.append(time.perf_counter() - start)
            tokens.append(card.cost.tokens)
        if set(tokens) != {PROMPTS * NEW_TOKENS}:
            raise SystemExit(f"not every answer has all its tokens: {sorted(set(tokens))}")
    ratio = statistics.median(direct) / statistics.median(measured)
    result = {
        "prompts": PROMPTS,
        "tokens": tokens[0],
        "engine_tokens_per_second": round(tokens[0] / statistics.median(direct)),
        "measure_tokens_per_second": round(tokens[0] / statistics.median(measured)),
        "ratio": round(ratio, 3),
        "aim": AIM,
        "engine_seconds": [round(value, 3) for value in direct],
        "measure_seconds": [round(value, 3) for value in measured],
    }
    print(json.dumps(result, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
