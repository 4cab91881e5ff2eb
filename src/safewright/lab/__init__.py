"""The lab: tiny models in made-up worlds where the truth is known, trained in seconds."""

from safewright.lab.cache import cache_folder
from safewright.lab.forgetting import evaluate_people, people_of
from safewright.lab.judge import ExactJudge, LeakJudge, ProcedureJudge, exact_rate
from safewright.lab.longsafety import (
    SAFE_ARMS,
    LongWorld,
    build_long,
    leak_judge,
    long_shape,
    long_world,
    write_cases,
)
from safewright.lab.people import (
    PERSON_ARMS,
    PERSON_ROLES,
    PeopleWorld,
    Sizes,
    build_people,
    people_world,
    write_people,
)
from safewright.lab.reasoning import (
    REASONING_ROLES,
    ReasoningSizes,
    ReasoningWorld,
    reasoning_world,
)
from safewright.lab.reasoning_model import (
    build_reasoning,
    procedure_judge,
    reasoning_of,
    skills,
    write_reasoning,
)
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
    "PERSON_ARMS",
    "PERSON_ROLES",
    "REASONING_ROLES",
    "ROLES",
    "SAFE_ARMS",
    "ExactJudge",
    "LeakJudge",
    "Lesson",
    "LongWorld",
    "PeopleWorld",
    "ProcedureJudge",
    "ReasoningSizes",
    "ReasoningWorld",
    "RefusalWorld",
    "Shape",
    "Sizes",
    "TrainConfig",
    "build",
    "build_long",
    "build_people",
    "build_reasoning",
    "cache_folder",
    "evaluate",
    "evaluate_people",
    "exact_judge",
    "exact_rate",
    "leak_judge",
    "long_shape",
    "long_world",
    "people_of",
    "people_world",
    "procedure_judge",
    "reasoning_of",
    "reasoning_world",
    "refusal_world",
    "shape_of",
    "skills",
    "tiny_folder",
    "training_rows",
    "word_tokenizer",
    "write_cases",
    "write_people",
    "write_reasoning",
    "write_rows",
]
