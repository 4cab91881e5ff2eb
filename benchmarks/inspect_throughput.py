"""Tokens per second through Inspect with our provider against the engine called directly, in one run.

Same 512 prompts (16 to 64 tokens), 64 new tokens each, same batch size, same stop rule. Inspect does what it
does for a user: a sample, a transcript and a log entry per prompt. Three figures beside the engine's own: the
provider under a task that only generates (the aim is about this one), the task of a whole measure (records,
keyword judge, metrics), and Inspect's own hf provider. Repeats alternate; ratios of medians are printed.

Inspect spends some milliseconds of a processor on each sample, whatever the model. Beside a model of 0.5 M
parameters (``--width 128``), which takes no longer for a whole answer, that is a large share; the aim is about
the lab's largest width.

    python benchmarks/inspect_throughput.py [--width 512] [--repeats 3] [--no-hf] [--out results.json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Both sides compute on all processors but one: Inspect's own work has to happen somewhere.
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) - 1)))

import inspect_ai
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.solver import generate

from safewright.models import load
from safewright.models.inspect_model import messages_of
from safewright.types import Decoding, Row
from throughput import BATCH, NEW_TOKENS, PROMPTS, never_ending_model, prompts

AIM = 0.9
HF_PROMPTS = 64
"""Inspect's own provider gets so many: it is there for scale only."""


def timed(work: Callable[[], int]) -> tuple[float, int]:
    """Seconds of some work, and the tokens it says it made."""
    start = time.perf_counter()
    tokens = work()
    return time.perf_counter() - start, tokens


def written(log: Any) -> int:
    """Tokens that the models of a log wrote."""
    if log.status != "success":
        raise SystemExit(f"the evaluation ended with {log.status}: {log.error}")
    return sum(usage.output_tokens for usage in log.stats.model_usage.values())


def evaluate(task: Any, model: Any, logs: Path, **more: Any) -> int:
    """Tokens of one evaluation that shows nothing on the screen."""
    (log,) = inspect_ai.eval(task, model=model, log_dir=str(logs), display="none", log_format="eval", **more)
    return written(log)


def plain(rows: list[Row]) -> inspect_ai.Task:
    """A task that generates, and nothing else."""
    samples = [Sample(id=row.id, input=messages_of(row.prompt)) for row in rows]
    config = GenerateConfig(max_tokens=NEW_TOKENS, temperature=0.0)
    return inspect_ai.Task(dataset=samples, solver=generate(), config=config)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--width", type=int, default=512, help="Of the model: 128, 256 or 512.")
    parser.add_argument(
        "--thread", action="store_true", help="The provider's model in Inspect's own process."
    )
    parser.add_argument("--no-hf", action="store_true", help="Leave Inspect's own provider out.")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {"engine": [], "provider": [], "task": []}
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        folder = never_ending_model(home / "model", arguments.width)
        rows = prompts()
        data = home / "rows.jsonl"
        lines = [{"id": row.id, "prompt": row.prompt[0]["content"], "lang": "en"} for row in rows]
        data.write_text("".join(json.dumps(line) + "\n" for line in lines))
        engine = load(folder, batch_size=BATCH)
        chats = [row.prompt for row in rows]
        how = Decoding(max_new_tokens=NEW_TOKENS)
        own = not arguments.thread
        model = get_model(f"safewright/{folder}", batch_size=BATCH, process=own, memoize=False)
        ours = {"data": str(data), "config": {"max_new_tokens": NEW_TOKENS}, "calls": "off"}

        def engine_work() -> int:
            return sum(generation.tokens for generation in engine.generate(chats, how))

        def task_work() -> int:
            from safewright.inspect_plugin import scoring

            scoring._stores.clear()  # every repeat asks everything
            return evaluate("safewright/harmful_rate", model, home / "task", task_args=ours)

        works = {
            "engine": engine_work,
            "provider": lambda: evaluate(plain(rows), model, home / "plain"),
            "task": task_work,
        }
        evaluate(plain(rows[:BATCH]), model, home / "first")  # first touch is not what is measured
        engine.generate(chats[:BATCH], how)
        for _ in range(arguments.repeats):
            for name, work in works.items():
                took, tokens = timed(work)
                if tokens != PROMPTS * NEW_TOKENS:
                    raise SystemExit(f"{name}: {tokens} tokens, not {PROMPTS * NEW_TOKENS}")
                seconds[name].append(took)
        median = {name: statistics.median(values) for name, values in seconds.items()}
        result: dict[str, Any] = {
            "prompts": PROMPTS,
            "tokens": PROMPTS * NEW_TOKENS,
            "batch": BATCH,
            "width": arguments.width,
            "process": own,
            "threads": int(os.environ["OMP_NUM_THREADS"]),
            **{
                f"{name}_tokens_per_second": round(PROMPTS * NEW_TOKENS / value)
                for name, value in median.items()
            },
            "ratio": round(median["engine"] / median["provider"], 3),
            "aim": AIM,
            "ratio_of_a_whole_task": round(median["engine"] / median["task"], 3),
            **{f"{name}_seconds": [round(value, 3) for value in values] for name, values in seconds.items()},
        }
        if not arguments.no_hf:
            hf = get_model(
                "hf/local", model_path=str(folder), tokenizer_path=str(folder), device="cpu", do_sample=False,
                tokenizer_call_args={"add_special_tokens": False}, memoize=False,
            )  # fmt: skip
            few = rows[:HF_PROMPTS]
            took, _ = timed(lambda: evaluate(plain(few), hf, home / "hf", max_connections=BATCH))
            direct, _ = timed(lambda: len(engine.generate([row.prompt for row in few], how)))
            result["footnote"] = {
                "what": f"Inspect's own hf provider on {HF_PROMPTS} of the prompts, against the engine on the same",
                "ratio": round(direct / took, 4),
                "seconds": [round(took, 3), round(direct, 3)],
            }
    print(json.dumps(result, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
