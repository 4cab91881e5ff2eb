"""Treatments in processes of their own, killed at a chosen point of their work."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

POINTS = ("replace", "pwrite", "fsync", "fdatasync", "ftruncate", "posix_fallocate")
"""Calls of the system before which a process may be killed; progress counts as one, too."""

PRELOADED = [
    "torch",
    "transformers.trainer",
    "transformers.models.llama.modeling_llama",
    "peft",
    "trl.trainer.sft_trainer",
    "safewright.treatments.safe_delta.applying",
    "safewright.treatments.relearn.training",
    "safewright.treatments.srg.training",
    "tests.contract.fakes",
]
"""What is imported once, and found by every process: transformers and trl import their parts when first used."""


def counting(kill_at: int | None) -> tuple[Callable[..., None], Callable[[], int]]:
    """What to call at every point besides the system's, and how many points this process has passed so far.

    Before point ``kill_at`` it kills itself.
    """
    passed = 0

    def tick(*_: Any) -> None:
        nonlocal passed
        passed += 1
        if passed == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(call: Any) -> Any:
        def counted(*arguments: Any, **more: Any) -> Any:
            tick()
            return call(*arguments, **more)

        return counted

    for name in POINTS:
        setattr(os, name, before(getattr(os, name)))
    return tick, lambda: passed


def run_apart(
    work: Callable[..., None], given: Sequence[Any], kill_at: int | None, preload: Sequence[str], seconds: int
) -> int | None:
    """Run ``work(*given, kill_at, told)`` in a process; what it told, or None where it was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    told = context.SimpleQueue()
    process = context.Process(target=work, args=(*given, kill_at, told))
    process.start()
    process.join(seconds)
    if kill_at is not None and process.exitcode == -signal.SIGKILL:
        return None
    assert process.exitcode == 0, f"exit code {process.exitcode} (killed at {kill_at})"
    return int(told.get())


def _work(given: Mapping[str, Any], kill_at: int | None, told: Any) -> None:
    tick, passed = counting(kill_at)
    import tests.contract.fakes
    from safewright.treatments import treat

    assert tests.contract.fakes.fake_identity is not None
    treat(**given, progress=tick)
    told.put(passed())


def in_process(given: Mapping[str, Any], kill_at: int | None = None) -> int | None:
    """Run `safewright.treatments.treat` in a process; the points it passed, or None where it was killed."""
    return run_apart(_work, [dict(given)], kill_at, PRELOADED, 300)


def kill_and_resume(given: Mapping[str, Any], out: Path, kill_at: int) -> None:
    """Kill a treatment at a point, see that nothing stands in ``out``, and give the same command again."""
    assert in_process({**given, "out": out}, kill_at) is None
    if out.exists():
        # The kill came after the result was put in place: then it is whole.
        assert (out / "provenance.json").is_file()
    in_process({**given, "out": out})
