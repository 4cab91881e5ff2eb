"""``safewright doctor``: what this machine can run, and what is missing for the rest."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from typing import Any

from safewright import catalog
from safewright.cli import console
from safewright.cli.options import JsonOut

PACKAGES = {
    "models": (
        "torch",
        "transformers",
        "accelerate",
        "peft",
        "datasets",
        "safetensors",
        "rouge-score",
        "psutil",
    ),
    "endpoint": ("httpx",),
    "train": ("trl",),
    "serve": ("fastapi", "uvicorn"),
}
"""Packages each extra brings; asked for by name, never imported here."""


def doctor(json: JsonOut = False) -> None:
    """Say which packages, processors and measures this machine has, and how to get the rest."""
    facts = gather()
    if json:
        console.result(facts)
        return
    for key in ("safewright", "python", "system", "cores", "memory", "free disk", "accelerator", "hub"):
        print(f"{key + ':':<13} {facts[key]}")
    for extra, packages in facts["extras"].items():
        missing = [name for name, version in packages.items() if version is None]
        state = f"missing {', '.join(missing)}: pip install 'safewright[{extra}]'" if missing else "complete"
        print(f"[{extra}]".ljust(13), state)
    for name, able in {**facts["measures"], **facts["treatments"]}.items():
        print(f"{name + ':':<13} {able}")


def gather() -> dict[str, Any]:
    """The facts `doctor` prints, by name."""
    extras = {extra: {name: _version(name) for name in names} for extra, names in PACKAGES.items()}
    torch = extras["models"]["torch"]
    local = all(extras["models"].values())
    served = all(extras["endpoint"].values())
    able = " and ".join(
        kind for kind, works in (("model folders", local), ("served models", served)) if works
    )
    return {
        "safewright": _version("safewright"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": _memory(),
        "free disk": f"{shutil.disk_usage('.').free / 2**30:.0f} GiB here",
        "accelerator": _accelerator(torch),
        "hub": "offline (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else "asked when needed",
        "extras": extras,
        "treatments": {
            entry.name: "can run"
            if local and all(extras.get(entry.extra, {}).values())
            else f"needs [{entry.extra}]"
            for entry in catalog.entries("treatment")
        },
        "measures": {
            entry.name: f"can run on {able}" if able else "needs [models] or [endpoint]"
            for entry in catalog.entries("measure")
        },
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory() -> str:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return "unknown"
    return f"{pages * size / 2**30:.1f} GiB"


def _accelerator(torch: str | None) -> str:
    present = shutil.which("nvidia-smi") is not None
    if torch is None:
        return "torch is not installed"
    if torch.endswith("+cpu"):
        return "none used: this torch is a CPU build" + (", though a GPU is here" if present else "")
    return "an NVIDIA driver is here" if present else "none found"
