"""Runs: one execution is one folder that can be killed, resumed, compared and reported.

Standard library only.
"""

from safewright.runs.atomic import from_json, to_json, write_bytes, write_json, write_text
from safewright.runs.bridge import Background, run_sync
from safewright.runs.cache import single_flight
from safewright.runs.calls import Calls, call_key
from safewright.runs.digests import digest_bytes, digest_file, digest_json
from safewright.runs.run import Run, open_run
from safewright.runs.versions import versions

__all__ = [
    "Background",
    "Calls",
    "Run",
    "call_key",
    "digest_bytes",
    "digest_file",
    "digest_json",
    "from_json",
    "open_run",
    "run_sync",
    "single_flight",
    "to_json",
    "versions",
    "write_bytes",
    "write_json",
    "write_text",
]
