"""Models: which one exactly (references, digests, recipes), and talking to it (engines)."""

from safewright.models.engine import Deferred, EngineOptions, Loaded, load, with_recipe
from safewright.models.overlong import overlong_counts
from safewright.models.recipes import check_decoding
from safewright.models.references import resolve

__all__ = [
    "Deferred",
    "EngineOptions",
    "Loaded",
    "check_decoding",
    "load",
    "overlong_counts",
    "resolve",
    "with_recipe",
]
