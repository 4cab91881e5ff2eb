"""The text that is kept in the prompts, where the guidelines are not distilled away."""

from __future__ import annotations

from safewright.errors import BadInput
from safewright.treatments.srg.config import SRGConfig
from safewright.treatments.srg.openings import read


def kept_text(config: SRGConfig) -> str | None:
    """The system text of the training prompts; None where the context is distilled.

    Raises:
        BadInput: The file holds no words.
    """
    return context_text(config) if config.context == "kept" else None


def context_text(config: SRGConfig) -> str:
    """The guidelines as one text for any request, whose label nobody knows when the model is used.

    Raises:
        BadInput: The file holds no words, or the guidelines cannot be used.
    """
    if config.context_file is not None:
        text = read(config.context_file).strip()
        if not text:
            raise BadInput(
                f"context_file={config.context_file} holds no words.", fix="Write the text to be kept."
            )
        return text
    from safewright.treatments.srg.guidelines import Guidelines

    found = Guidelines.load(config.guidelines)
    sets = [f"For requests that are {kind}:\n{found.render(kind, 0)}" for kind in found.sets]
    return "\n\n".join(sets)
