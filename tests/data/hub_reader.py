"""Runs in a process of its own: loads presets from the hub that HF_ENDPOINT names, one per input line.

The hub libraries read their address and cache folder when they are imported, so a test cannot change them.
"""

from __future__ import annotations

import json
import os
import sys
import time

import datasets  # noqa: F401 - it reads HF_HUB_OFFLINE here, before a line below sets it

from safewright.data import PRESETS, Preset, load_from
from safewright.errors import SafewrightError
from safewright.runs import to_json

for line in sys.stdin:
    ask = json.loads(line)
    os.environ["HF_HUB_OFFLINE"] = "1" if ask.get("offline") else "0"
    start = time.monotonic()
    try:
        preset = PRESETS[ask["preset"]] if "preset" in ask else Preset(**ask["new"])
        data = load_from(preset, limit=ask.get("limit"), refresh=ask.get("refresh", False))
        said = {"data": to_json(data), "about": data.describe()}
    except SafewrightError as error:
        said = {"error": type(error).__name__, "code": int(error.exit_code), "text": str(error)}
    print(json.dumps({**said, "seconds": time.monotonic() - start}), flush=True)
