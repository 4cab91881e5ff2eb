"""Speed of Safe Delta's edits against the release: ``python benchmarks/safe_delta_speed.py``.

One thread, float32, factors cached, alternated repeats; medians are compared, fastest repeats shown. The
reference is the release written anew from its description (`release_reference`). The product of the step with
one triangular factor is printed beside each: no method that looks at every direction of H is faster than that.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

import release_reference
from safewright.treatments.safe_delta.budget import Budget
from safewright.treatments.safe_delta.core import edit_factor, edit_matrix
from safewright.treatments.safe_delta.curvature import Curvature

PUBLISHED = {1024: (0.235, 0.027), 2048: (2.5, 0.233)}
"""Seconds of the reference and of the product in the specification's own measurement (middle of its range)."""

SLOWER = 1.3
"""A reference this much slower relative to the product than published would flatter every ratio."""

AIMS = {"exact": {1024: 4.0, 2048: 6.5}, "soft, LoRA rank 8": {1024: 60.0, 2048: 250.0}}


def case(n: int) -> dict[str, Callable[[], object]]:
    """The edits of one n x n matrix, ready to be timed."""
    draw = torch.Generator().manual_seed(0)
    X = torch.randn(n, 4 * n, generator=draw)
    X = X + torch.randn(n, n, generator=draw) @ X / n**0.5
    H = 2 / 32 * (X @ X.T)
    aligned = 0.02 * torch.randn(n, n, generator=draw)
    tuned = aligned + 2e-4 * torch.randn(n, n, generator=draw)
    delta = tuned - aligned
    A, B = 0.01 * torch.randn(8, n, generator=draw), 0.01 * torch.randn(n, 8, generator=draw)
    U = release_reference.factor(H)
    known, released = Curvature(H), Curvature(H, damping="mean")
    V = known.cast("upper", torch.float32)
    known.cast("left", torch.float32)
    budget = Budget.of("soft")

    def lora() -> torch.Tensor:
        return edit_factor(A, B.T @ B, n, "soft", budget, known)[0]

    for s in (0.1, 10.0):  # a budget that binds in the middle of the columns, and one that does not bind
        expected, wanted = release_reference.adjust(aligned, tuned, U, s, by_rows=True)
        again, info = edit_matrix(aligned, tuned, released, mode="official", s=s)
        gap, differing = float((again - expected).abs().max()), int((info["mask"] != wanted).sum())
        if gap > 1e-6 or differing:
            raise SystemExit(f"official differs from the reference at s={s}: {gap:.1e}, {differing} entries")
    return {
        "reference": lambda: release_reference.adjust(aligned, tuned, U, 10.0, by_rows=True),
        "product D V": lambda: delta @ V,
        "official": lambda: edit_matrix(aligned, tuned, released, mode="official", s=10.0),
        "exact": lambda: edit_matrix(aligned, tuned, known, mode="exact", s=1.0),
        "exact, default budget": lambda: edit_matrix(aligned, tuned, known, mode="exact"),
        "soft": lambda: edit_matrix(aligned, tuned, known, mode="soft"),
        "soft, LoRA rank 8": lora,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for n in given.sizes:
        edits = case(n)
        taken: dict[str, list[float]] = {name: [] for name in edits}
        for edit in edits.values():
            edit()
        for _ in range(given.repeats):
            for name, edit in edits.items():
                # The low-rank edit is over before a clock is steady: several in a row.
                count = 20 if "LoRA" in name else 1
                start = time.perf_counter()
                for _ in range(count):
                    edit()
                taken[name].append((time.perf_counter() - start) / count)
        median = {name: statistics.median(seconds) for name, seconds in taken.items()}
        floor = median["product D V"]
        relative = median["reference"] / floor
        line = {
            "size": n,
            "seconds": {name: round(seconds, 5) for name, seconds in median.items()},
            "fastest": {name: round(min(seconds), 5) for name, seconds in taken.items()},
            "times faster than the reference": {
                name: round(median["reference"] / seconds, 1)
                for name, seconds in median.items()
                if name not in ("reference", "product D V")
            },
            "times the product": {
                name: round(seconds / floor, 2) for name, seconds in median.items() if name != "product D V"
            },
        }
        if n in PUBLISHED:
            there = PUBLISHED[n][0] / PUBLISHED[n][1]
            line["reference / product"] = {"here": round(relative, 1), "published": round(there, 1)}
            line["ratios count"] = relative <= SLOWER * there
            line["aims met"] = {
                name: median["reference"] / median[name] >= aims[n] for name, aims in AIMS.items()
            } | {
                f"{name} within twice the product": median[name] <= 2 * floor
                for name in ("exact", "exact, default budget")
            }
        print(json.dumps(line, indent=1), flush=True)


if __name__ == "__main__":
    main()
