"""Synthesis of reasoning: a teacher reasons by the guidelines, and what passes the filters is kept."""

from __future__ import annotations

from safewright.treatments.srg.synthesis.config import SynthesisOptions, options_of
from safewright.treatments.srg.synthesis.estimating import estimate
from safewright.treatments.srg.synthesis.pipeline import (
    Synthesis,
    build,
    require_yield,
    synthesise,
    synthesize,
)
from safewright.treatments.srg.synthesis.pool import (
    Prompt,
    PromptPool,
    prompt_pool,
    require_apart,
    require_no_template,
)
from safewright.treatments.srg.synthesis.voices import Voices, voices

__all__ = [
    "Prompt",
    "PromptPool",
    "Synthesis",
    "SynthesisOptions",
    "Voices",
    "build",
    "estimate",
    "options_of",
    "prompt_pool",
    "require_apart",
    "require_no_template",
    "require_yield",
    "synthesise",
    "synthesize",
    "voices",
]
