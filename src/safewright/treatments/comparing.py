"""What a stage that compares variants of its treatment says: which variants, trained on which rows.

Nothing is made here. `safewright.compose.ablation` makes the rows that are not there, trains every variant,
measures them all, and draws the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safewright.types import Row

Thin = Callable[[Sequence[Row], float, int], Sequence[Row]]
"""Some of the rows: ``(rows, share, seed)``. Fewer are always among more."""


@dataclass(frozen=True)
class Source:
    """Rows that variants are trained on, in the treatment's data role ``role``.

    They are the role's own (``stage`` and ``file`` are None), those of ``file``, or made by ``stage`` of the same
    treatment, which writes them as ``writes`` into its folder, from ``models`` and ``options`` over those given.
    """

    name: str
    role: str
    file: Path | None = None
    stage: str | None = None
    writes: str = ""
    models: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """One way to train: ``options`` over those given, on a ``share`` of the rows of the source ``source``.

    Options named by ``without`` are not taken from those given: they say nothing to this variant. ``group`` is the
    part of the table it belongs to, ``about`` what it is, in a line.
    """

    name: str
    about: str
    group: str
    options: Mapping[str, Any]
    source: str
    share: float = 1.0
    without: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Comparison:
    """Variants of a treatment, and the rows they are trained on.

    ``treated`` is the role of the model that all begin from; ``reference`` the variant that all others are also
    compared with; ``decided`` names the options that differ between variants, and so cannot be given;
    ``further`` and ``raw`` the roles of models and of rows that only the making of sources reads.
    """

    treated: str
    sources: tuple[Source, ...]
    variants: tuple[Variant, ...]
    thin: Thin
    measures: tuple[str, ...] = ()
    reference: str | None = None
    decided: frozenset[str] = frozenset()
    further: frozenset[str] = frozenset()
    raw: frozenset[str] = frozenset()
