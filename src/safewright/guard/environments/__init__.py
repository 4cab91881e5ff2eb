"""Where a call would run, as read-only questions: this machine, a described tree, a container.

None of them runs anything that an agent or a model wrote.
"""

from __future__ import annotations

from safewright.guard.environments.container import ContainerEnvironment
from safewright.guard.environments.local import LocalEnvironment
from safewright.guard.environments.memory import MemoryEnvironment, read_environment

__all__ = ["ContainerEnvironment", "LocalEnvironment", "MemoryEnvironment", "read_environment"]
