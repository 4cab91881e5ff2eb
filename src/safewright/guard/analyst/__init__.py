"""The LLM analyst: a language model that proposes and judges checks, behind strict forms, deadlines and a breaker.

It can add checks and object; it cannot switch off a rule of the policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from safewright.guard.analyst.llm import LLMAnalyst
    from safewright.guard.analyst.replay import ReplayAnalyst
    from safewright.guard.policy import Policy

__all__ = ["LLMAnalyst", "ReplayAnalyst", "open_analyst"]

_HOMES = {"LLMAnalyst": "llm", "ReplayAnalyst": "replay"}


def open_analyst(
    model: Any,
    *,
    preset: Literal["hardened", "faithful"] = "hardened",
    policy: Policy,
    concurrency: int = 8,
    **options: Any,
) -> LLMAnalyst:
    """An analyst that asks a model. Nothing is asked yet: a server that is down shows on the first call.

    Args:
        model: ``http://host:port/v1#NAME``, ``inspect:PROVIDER/NAME``, a model folder or hub id, or a model of
            Inspect's.
        preset: See `safewright.guard.Guard`.
        policy: What holds.
        concurrency: Questions under way at once.
        options: See `LLMAnalyst`.

    Raises:
        BadInput: The reference names no model, or an option is unknown.
        Missing: A package that the model needs is not installed.
    """
    import importlib.util

    from safewright.errors import BadInput, nearest, need_extra

    if importlib.util.find_spec("pydantic") is None:
        raise need_extra("pydantic", "guard")
    from safewright.guard.analyst.clients import open_client
    from safewright.guard.analyst.llm import LLMAnalyst
    from safewright.guard.analyst.transport import Guarded

    known = ("calls", "step_back", "similarity", "cache_seconds")
    for name in options:
        if name not in known:
            raise BadInput(f"An analyst has no option {name!r}.", fix=nearest(name, known))
    client = Guarded(open_client(model), concurrency=concurrency)
    return LLMAnalyst(client, policy, preset=preset, **options)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"safewright.guard.analyst.{_HOMES[name]}"), name)
