"""The lab: tiny models in made-up worlds where the truth is known, trained in seconds."""

from safewright.lab.cache import cache_folder
from safewright.lab.judge import ExactJudge, exact_rate
from safewright.lab.refusal import (
    ARMS,
    BARS,
    FINE_TUNES,
    ROLES,
    RefusalWorld,
    build,
    evaluate,
    exact_judge,
    refusal_world,
    shape_of,
    training_rows,
    write_rows,
)
from safewright.lab.tiny import Shape, tiny_folder, word_tokenizer
from safewright.lab.training import Lesson, TrainConfig

__all__ = [
    "ARMS",
    "BARS",
    "FINE_TUNES",
    "ROLES",
    "ExactJudge",
    "Lesson",
    "RefusalWorld",
    "Shape",
    "TrainConfig",
    "build",
    "cache_folder",
    "evaluate",
    "exact_judge",
    "exact_rate",
    "refusal_world",
    "shape_of",
    "tiny_folder",
    "training_rows",
    "word_tokenizer",
    "write_rows",
]
