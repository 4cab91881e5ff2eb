"""Files and a runner for command-line tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny

Files = dict[str, Path]


def write_rows(path: Path, count: int) -> Path:
    lines = [
        json.dumps(
            {"id": row.id, "prompt": row.prompt[0]["content"], "response": row.reference, "lang": "en"}
        )
        for row in tiny.rows(count)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Rows for every role of an audit."""
    return {role: write_rows(tmp_path / f"{role}.jsonl", 8) for role in ("harm", "benign", "utility")}


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[str]]:
    """Starts the real command in a process of its own."""

    def begin(*arguments: object, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "safewright", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment},
        )

    return begin
