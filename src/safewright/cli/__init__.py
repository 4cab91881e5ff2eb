"""The command line: one file per verb; results on stdout, progress and messages on stderr."""

from safewright.cli.main import main

__all__ = ["main"]
