"""A prompt is a text file whose first line names its version; its digest stands in every scorecard."""

from __future__ import annotations

import functools
import importlib.resources
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from safewright.errors import BadInput, nearest
from safewright.runs import digest_bytes

_VERSION = re.compile(r"\{#\s*version:\s*(\S+)\s*#\}\n")
_SUFFIX = ".txt"


@dataclass(frozen=True)
class Prompt:
    """A named prompt text with Jinja placeholders; ``digest`` covers the whole file."""

    name: str
    version: str
    text: str
    digest: str

    def variables(self) -> frozenset[str]:
        """The placeholders of the prompt.

        Raises:
            BadInput: It is no Jinja template.
        """
        with _told(self.name):
            return _compiled(self.text)[0]

    def render(self, **values: Any) -> str:
        """The prompt with its placeholders filled in.

        Values are data: Jinja markup inside them is not evaluated.

        Raises:
            BadInput: A placeholder has no value, or a value has no placeholder; or it is no Jinja template.
        """
        with _told(self.name):
            known, template = _compiled(self.text)
        missing, unknown = sorted(known - set(values)), sorted(set(values) - known)
        if missing:
            raise BadInput(f"The prompt {self.name} needs a value for {', '.join(missing)}.")
        if unknown:
            raise BadInput(
                f"The prompt {self.name} has no placeholder {unknown[0]!r}.", fix=nearest(unknown[0], known)
            )
        with _told(self.name):
            text: str = template.render(**values)
        return text


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Jinja's own errors as errors of the prompt: it may be a file of the user's."""
    try:
        yield
    except Exception as error:  # a template is a program, and raises what it likes
        raise BadInput(
            f"The prompt {name} is no usable Jinja template: {error}.",
            fix="Write its placeholders as {{ name }}, and nothing else in double braces.",
        ) from error


@functools.cache
def _compiled(text: str) -> tuple[frozenset[str], Any]:
    """The placeholders of a text, and the template: judging renders one prompt thousands of times."""
    from jinja2 import Environment, StrictUndefined, meta

    environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=False)
    known = frozenset(meta.find_undeclared_variables(environment.parse(text)))
    return known, environment.from_string(text)


def names() -> list[str]:
    """The names of all prompts."""
    files = importlib.resources.files("safewright.prompts").iterdir()
    return sorted(file.name.removesuffix(_SUFFIX) for file in files if file.name.endswith(_SUFFIX))


def digests(chosen: Iterable[str]) -> dict[str, dict[str, str]]:
    """Version and digest of each chosen prompt, as they stand in a scorecard's conventions.

    Raises:
        BadInput: One is no prompt.
    """
    found = {name: load(name) for name in chosen}
    return {name: {"version": prompt.version, "digest": prompt.digest} for name, prompt in found.items()}


@functools.cache
def load(name: str) -> Prompt:
    """The prompt called ``name``.

    Raises:
        BadInput: There is none, with the nearest name, or its first line names no version.
    """
    if name not in names():
        raise BadInput(f"There is no prompt {name!r}.", fix=nearest(name, names()))
    data = (importlib.resources.files("safewright.prompts") / f"{name}{_SUFFIX}").read_bytes()
    return parse(name, data)


def parse(name: str, data: bytes) -> Prompt:
    """The prompt in the bytes of a file.

    Raises:
        BadInput: The first line is not ``{# version: N #}``.
    """
    text = data.decode("utf-8")
    found = _VERSION.match(text)
    if found is None:
        raise BadInput(f"The prompt {name!r} does not begin with a version line.", fix="{# version: 1 #}")
    return Prompt(name, found.group(1), text[found.end() :], digest_bytes(data))
