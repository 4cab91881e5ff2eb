"""Cold time of ``safewright list``, ``doctor`` and ``guard check`` beside a bare interpreter and its imports.

Every repeat is a fresh process; commands alternate; medians are printed.

    python benchmarks/cold_start.py [--repeats 11]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import typer": [sys.executable, "-c", "import typer"],
    "safewright list": [sys.executable, "-m", "safewright", "list"],
    "safewright doctor": [sys.executable, "-m", "safewright", "doctor"],
    "safewright guard check": [
        *(sys.executable, "-m", "safewright", "guard", "check", "--tool", "bash", "--arg", "cmd=ls -l"),
        *("--user", "user:ann"),
    ],
    "import torch": [sys.executable, "-c", "import torch"],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=11)
    repeats = parser.parse_args().repeats
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(repeats):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: round(statistics.median(values), 3) for name, values in seconds.items()}
    print(json.dumps({"median_seconds": medians, "repeats": repeats}, indent=2))


if __name__ == "__main__":
    main()
