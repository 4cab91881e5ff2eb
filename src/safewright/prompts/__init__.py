"""Prompts: text files with a version line, filled with data, never written inside code."""

from safewright.prompts.prompt import Prompt, digests, load, names

__all__ = ["Prompt", "digests", "load", "names"]
