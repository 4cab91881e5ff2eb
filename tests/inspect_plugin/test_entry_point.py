"""What a new process sees: the entry point, and how little importing it brings."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points

CODE = """
import sys
from inspect_ai._util.registry import registry_lookup, registry_info
from inspect_ai._util.entrypoints import ensure_entry_points
assert "safewright" not in sys.modules
task = registry_lookup("task", "safewright/longsafety")
assert task is not None
assert registry_info(task).metadata["params"] == ["data", "judge", "seed", "config", "calls"]
assert registry_lookup("scorer", "safewright/utility") is not None
assert registry_lookup("modelapi", "safewright/safewright") is not None
for heavy in ("torch", "transformers", "datasets", "scipy"):
    assert heavy not in sys.modules, heavy
"""


def test_inspect_loads_the_plugin_by_itself_and_light() -> None:
    (found,) = entry_points(group="inspect_ai", name="safewright")
    assert found.value == "safewright.inspect_plugin"
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr


def test_without_inspect_ai_the_install_line_is_named() -> None:
    code = """
import sys
sys.modules["inspect_ai"] = None
from safewright.errors import Missing
for use in ("import safewright.inspect_plugin",
            "from safewright.models import load; load('inspect:a/b').generate([CHAT], HOW)",
            "from safewright.compose.inspect_log import scorecard_of; scorecard_of('x.eval')"):
    from safewright.types import Decoding
    try:
        exec(use, {"HOW": Decoding(), "CHAT": ({"role": "user", "content": "x"},)})
    except Missing as error:
        assert "safewright[eval]" in str(error) and error.exit_code == 5, error
    else:
        raise SystemExit(f"no error: {use}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
