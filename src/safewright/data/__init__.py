"""Data: public record formats, named presets, files and hub, splits, overlap, language.

Importing it costs nothing: readers of parquet and of the hub are imported when they are used.
"""

from safewright.data.hub import fetch_preset, load_from, load_preset
from safewright.data.language import detect
from safewright.data.load import load_rows
from safewright.data.loaded import LoadedData, sample
from safewright.data.longsafety import SAFETY_TYPES, TASK_TYPES, load_long, select
from safewright.data.presets import DEFAULTS, PRESETS, Preset, find_preset
from safewright.data.rows import content_digest, rows_digest, write_rows
from safewright.data.sources import load_data
from safewright.data.splits import Overlap, count_words, normalise, overlap, require_disjoint, split

__all__ = [
    "DEFAULTS",
    "PRESETS",
    "SAFETY_TYPES",
    "TASK_TYPES",
    "LoadedData",
    "Overlap",
    "Preset",
    "content_digest",
    "count_words",
    "detect",
    "fetch_preset",
    "find_preset",
    "load_data",
    "load_from",
    "load_long",
    "load_preset",
    "load_rows",
    "normalise",
    "overlap",
    "require_disjoint",
    "rows_digest",
    "sample",
    "select",
    "split",
    "write_rows",
]
