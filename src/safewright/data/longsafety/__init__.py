"""Instructions about long documents, labelled by safety issue and task: LongSafety's published format.

Importing it costs nothing.
"""

from safewright.data.longsafety.figures import RELEASE, clusters, release_checks, statistics
from safewright.data.longsafety.labels import (
    DOCS,
    HUB,
    META,
    OWN_FILES,
    ROLE,
    SAFETY_TYPES,
    TASK_TYPES,
    select,
)
from safewright.data.longsafety.reading import Survey, complete, load_long, survey, survey_records

__all__ = [
    "DOCS",
    "HUB",
    "META",
    "OWN_FILES",
    "RELEASE",
    "ROLE",
    "SAFETY_TYPES",
    "TASK_TYPES",
    "Survey",
    "clusters",
    "complete",
    "load_long",
    "release_checks",
    "select",
    "statistics",
    "survey",
    "survey_records",
]
