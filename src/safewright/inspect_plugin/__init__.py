"""Inspect AI's entry point: our models as a provider, our measures as tasks and scorers, our guard as an approver.

``inspect eval safewright/harmful_rate --model safewright/MODEL@DIGEST -T data=FILE``. Importing it imports
neither torch nor transformers.
"""

try:
    import inspect_ai as _inspect_ai  # noqa: F401 - the extra is there
except ImportError as error:
    from safewright.errors import need_extra

    raise need_extra("inspect-ai", "eval") from error

from safewright.inspect_plugin.approver import guard, scanned
from safewright.inspect_plugin.provider import GenerationFailed, SafewrightAPI
from safewright.inspect_plugin.scoring import JudgeFailed, ask, readings, unscored
from safewright.inspect_plugin.tasks import register

TASKS = register()
"""The tasks by the name of their measure."""

__all__ = [
    "TASKS",
    "GenerationFailed",
    "JudgeFailed",
    "SafewrightAPI",
    "ask",
    "guard",
    "readings",
    "scanned",
    "unscored",
]
