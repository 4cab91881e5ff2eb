"""Prepare on two processes: each has its part of the rows, and H is the sum."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from safewright.models.checkpoint import read_file
from safewright.treatments.safe_delta.prepared import Prepared
from tests import tiny
from tests.treatments import folders
from tests.treatments.killed import PRELOADED, counting
from tests.treatments.test_safe_delta_streaming import KINDS

PRELOAD = [*PRELOADED, "accelerate", "safewright.treatments.safe_delta.calibration"]
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
"""Relative difference of every H from that of one process, by the dtype the model is run in. Sums have another
order, and matrices of another height are multiplied."""


def folder_of(kind: str, dtype: str, folder: Path) -> Path:
    """A random model in a dtype."""
    tiny.save_kind(kind, folder, **KINDS[kind], initializer_range=0.3)
    model = folders.load(folder).to(getattr(torch, dtype))
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    return folder


def _plan(given: Mapping[str, Any], processes: int) -> Any:
    from safewright.treatments import plan_treatment

    return plan_treatment(
        "safe_delta",
        {"aligned": given["aligned"]},
        {"calibration": given["rows"]},
        stage="prepare",
        config={"holdout": 0.1, "store": "float64"},
        out=given["out"],
        processes=processes,
    )


def _beside(given: Mapping[str, Any], rank: int, port: int, messages: Path, kill_at: int | None) -> None:
    os.environ.update(
        OMP_NUM_THREADS="1", RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), SAFEWRIGHT_LAUNCH=str(messages),
    )  # fmt: skip
    tick, passed = counting(kill_at)
    from safewright.runs import write_json
    from safewright.training.processes import ENDED
    from safewright.treatments import follow_treatment, run_stage

    plan = _plan(given, 2)
    if rank:
        with suppress(SystemExit):  # the main process has ended
            follow_treatment(plan)
    else:
        run_stage(plan, progress=tick)
        write_json(messages / ENDED, {"code": 0})
    write_json(messages / f"passed-{rank}", passed())


def two(given: Mapping[str, Any], kill: int | None = None, kill_at: int | None = None) -> list[int] | None:
    """Prepare on two processes; the points each passed, or None where process ``kill`` was killed."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    messages = Path(tempfile.mkdtemp())
    started = [
        context.Process(target=_beside, args=(given, rank, port, messages, kill_at if rank == kill else None))
        for rank in range(2)
    ]
    for process in started:
        process.start()
    told = [messages / f"passed-{rank}" for rank in range(2)]
    end = time.monotonic() + 120
    while not all(file.exists() for file in told) and time.monotonic() < end:
        if any(process.exitcode not in (None, 0) for process in started):
            break
        time.sleep(0.02)
    # As the launcher does: who is left over, or hangs at its end, is ended.
    for process in started:
        process.join(2 if all(file.exists() for file in told) else 0.2)
        process.kill()
        process.join()
    if kill is not None and started[kill].exitcode == -signal.SIGKILL and not told[kill].exists():
        return None
    return [int(json.loads(file.read_text())) for file in told]


def content(folder: Path) -> dict[str, bytes]:
    """The files of a prepared folder, its provenance apart: that says when it was made."""
    return {name: data for name, data in folders.content(folder).items() if name != "provenance.json"}


@pytest.mark.parametrize(
    ("kind", "dtype"), [("llama", "float64"), ("llama", "float32"), ("mixtral", "float32")]
)
def test_two_processes_give_h_of_one(kind: str, dtype: str, tmp_path: Path) -> None:
    aligned = folder_of(kind, dtype, tmp_path / kind)
    given = {"aligned": aligned, "rows": folders.rows_file(tmp_path / "rows.jsonl", 13)}
    one = folders.prepared(
        aligned, given["rows"], tmp_path / "one", holdout=0.1, store="float64"
    )  # a single row is held out: one process has none of it
    assert two({**given, "out": tmp_path / "two"}) is not None
    alone, together = Prepared(one), Prepared(tmp_path / "two")
    assert alone.facts["counts"] == together.facts["counts"]
    assert alone.facts["counts"]["held_out"] == 1
    assert len(alone.groups) == len(together.groups)
    for mine, theirs in zip(alone.groups, together.groups, strict=True):
        assert (mine.name, mine.modules, mine.tokens, mine.pooled) == (
            theirs.name,
            theirs.modules,
            theirs.tokens,
            theirs.pooled,
        )
        for part in ("H", "H_held"):
            H = read_file(one / mine.file, [part])[part]
            other = read_file(tmp_path / "two" / theirs.file, [part])[part]
            assert float((H - other).norm() / H.norm()) <= TOLERANCE[dtype], (mine.name, part)
    assert not (tmp_path / "two.run" / "activations").exists()


@pytest.mark.parametrize("killed", [0, 1])
def test_two_processes_killed_go_on_to_the_same_bytes(killed: int, tmp_path: Path) -> None:
    aligned = folder_of("llama", "float32", tmp_path / "llama")
    given = {"aligned": aligned, "rows": folders.rows_file(tmp_path / "rows.jsonl", 13)}
    passed = two({**given, "out": tmp_path / "whole"})
    assert passed is not None
    for share in (0.35, 0.6, 0.85):
        out = tmp_path / f"killed-{share}"
        assert two({**given, "out": out}, killed, max(1, int(share * passed[killed]))) is None
        assert two({**given, "out": out}) is not None
        assert content(out) == content(tmp_path / "whole"), share


def test_the_command_repairs_on_two_processes(models: dict[str, Path], tmp_path: Path) -> None:
    """The whole treatment: both prepare, the main one edits; the model is that of one process within 1e-5."""
    command = [sys.executable, "-m", "safewright", "treat", "safe_delta", "--out=out", "--launch=cpu:2"]
    done = subprocess.run(
        [
            *command,
            f"--model=aligned={models['aligned']}",
            f"--model=tuned={models['tuned']}",
            f"--data=calibration={models['rows']}",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert found["engine"]["processes"] == 2
    from safewright.treatments import treat

    roles = {role: models[role] for role in ("aligned", "tuned")}
    treat("safe_delta", roles, {"calibration": models["rows"]}, out=tmp_path / "one")
    one, both = folders.weights(tmp_path / "one"), folders.weights(tmp_path / "out")
    assert max(float((one[name] - both[name]).abs().max()) for name in one) < 1e-5
