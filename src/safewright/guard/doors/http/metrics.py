"""What is counted, as Prometheus reads it."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping

from safewright.guard.nouns import Verdict

PREFIX = "safewright_guard"
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds, of the histogram of request times."""

HELP: Mapping[str, tuple[str, str]] = {
    "requests_total": ("counter", "Requests answered, by route and status."),
    "decisions_total": ("counter", "Verdicts given, by decision and failure."),
    "tokens_total": ("counter", "Tokens of the model, in and out."),
    "request_seconds": ("histogram", "Time to answer a request, by route."),
    "in_flight": ("gauge", "Calls being judged."),
    "unlearned": ("gauge", "Verdicts that memory could not take in."),
}
GAUGES = tuple(name for name, (kind, _) in HELP.items() if kind == "gauge")

Sample = tuple[str, str]
"""A metric's name without prefix, and its labels as they are written."""


def labels(**values: str) -> str:
    """Labels as Prometheus writes them."""
    escaped = {
        name: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        for name, value in values.items()
    }
    return ",".join(f'{name}="{value}"' for name, value in escaped.items())


class Counts:
    """What one worker has counted since its start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: defaultdict[Sample, float] = defaultdict(float)

    def add(self, name: str, amount: float = 1, **values: str) -> None:
        """Count something."""
        with self._lock:
            self._values[name, labels(**values)] += amount

    def set(self, name: str, value: float) -> None:
        """Say what a gauge shows."""
        with self._lock:
            self._values[name, ""] = value

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self.add("requests_total", route=route, status=str(status))
        for bucket in BUCKETS:
            self.add("request_seconds_bucket", seconds <= bucket, route=route, le=f"{bucket:g}")
        self.add("request_seconds_bucket", route=route, le="+Inf")
        self.add("request_seconds_sum", seconds, route=route)
        self.add("request_seconds_count", route=route)

    def verdict(self, verdict: Verdict) -> None:
        """Count a verdict."""
        self.add("decisions_total", decision=verdict.decision, failure=verdict.failure or "none")
        for way, tokens in (("in", verdict.usage.tokens_in), ("out", verdict.usage.tokens_out)):
            if tokens:
                self.add("tokens_total", tokens, way=way)

    def taken(self) -> dict[Sample, float]:
        """Everything counted so far."""
        with self._lock:
            return dict(self._values)


def text(samples: Iterable[tuple[str, str, float]], workers: int) -> str:
    """Samples of all workers in Prometheus' text format."""
    families: dict[str, list[str]] = {name: [] for name in HELP}
    for name, said, value in sorted(samples, key=lambda each: (each[0], _place(each[1]))):
        family = next((each for each in HELP if name == each or name.startswith(f"{each}_")), None)
        if family is not None:
            shown = f"{{{said}}}" if said else ""
            families[family].append(f"{PREFIX}_{name}{shown} {value:.17g}")
    lines = [
        f"# HELP {PREFIX}_workers Workers alive.",
        f"# TYPE {PREFIX}_workers gauge",
        f"{PREFIX}_workers {workers}",
    ]
    for name, found in families.items():
        if found:
            kind, said = HELP[name]
            lines += [f"# HELP {PREFIX}_{name} {said}", f"# TYPE {PREFIX}_{name} {kind}", *found]
    return "\n".join(lines) + "\n"


def _place(said: str) -> tuple[str, float]:
    """Where a bucket stands: by its bound, not by its letters."""
    before, found, bound = said.partition('le="')
    return before, float(bound.rstrip('"')) if found else 0.0
