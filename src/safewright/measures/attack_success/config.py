"""Options of the measure attack_success."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from safewright.data.wrapping import FAMILIES, LOWRESOURCE
from safewright.errors import BadInput, nearest
from safewright.measures.behaviour import AskOptions
from safewright.runs import digest_bytes

NONE, GIVEN = "none", "given"
"""The plain request; and the attacks that rows hold already."""
ANSWER_PREFILL, THINK_PREFILL = "answer_prefill", "think_prefill"
PREFILLS = (ANSWER_PREFILL, THINK_PREFILL)
"""Attacks that begin the model's own turn: its answer, or a reasoning block that is emptied."""
KNOWN = (NONE, GIVEN, *FAMILIES, *PREFILLS)
"""All names, in the order of the table."""
WRAPPERS = "wrappers"
"""In the place of an attack's name: the mean over wrapped requests, those that are no plain one and no prefill."""
Shown = Literal["goal", "sent", "both"]


@dataclass(frozen=True)
class AttackConfig(AskOptions):
    """Options of `attack_success`."""

    attack: str = field(
        default=f"{NONE},{GIVEN},{ANSWER_PREFILL},{THINK_PREFILL}",
        metadata={"help": f"all, or some of {', '.join(KNOWN)}, with commas; given: those the rows hold."},
    )
    best_of: int = field(
        default=0,
        metadata={
            "help": "Also draw answers (samples of them, best_of at least; temperature 1): the rates over the best "
            "of 1 to best_of."
        },
    )
    extrapolate: int = field(
        default=0,
        metadata={
            "help": "N up to which a fit follows the curve beyond the draws; default: 4 times samples."
        },
    )
    shown: Shown = field(
        default="goal",
        metadata={"help": "What the judge is shown as the question: the plain goal, what was sent, or both."},
    )
    refusals: Literal["auto", "keyword"] = field(
        default="auto",
        metadata={
            "help": "Who says what is a refusal: the judge where it can, else keyword rules; or these."
        },
    )
    opening: str | None = field(
        default=None,
        metadata={
            "help": "answer_prefill: the answer's beginning; default: the row's own (opening), else one of ours."
        },
    )
    translations: str | None = field(
        default=None,
        metadata={"help": "lowresource: a file of {request, translation}; else give a model as translator."},
    )
    language: str = field(
        default="Scottish Gaelic",
        metadata={"help": "lowresource: what a model in the role translator writes."},
    )
    wrap_seed: int = field(
        default=0,
        metadata={"help": "Which template a row gets, and which opening; not the seed of decoding."},
    )
    continue_final_message: bool = field(
        default=False,
        metadata={
            "help": "Prefills: the server goes on with a turn of the assistant's; else the opening is put into the "
            "question. Models run here always go on."
        },
    )
    max_no_answer: float = field(
        default=0.05,
        metadata={
            "help": "Share of a model's answers, greedy and drawn apart, without visible text, above which the exit "
            "code is 11."
        },
    )
    allow_self_judge: bool = field(default=False, metadata={"help": "Let a model judge its own answers."})

    def __post_init__(self) -> None:
        if isinstance(self.best_of, bool) or not isinstance(self.best_of, int) or self.best_of < 0:
            raise BadInput(
                f"attack_success.best_of is {self.best_of!r}.", fix="It must be a whole number from 1."
            )
        if (
            isinstance(self.extrapolate, bool)
            or not isinstance(self.extrapolate, int)
            or self.extrapolate < 0
        ):
            raise BadInput(
                f"attack_success.extrapolate is {self.extrapolate!r}.", fix="A whole number from 1."
            )
        if self.best_of:
            # What a user who says best_of alone means: as many draws, and drawn they must be.
            if self.temperature is None:
                object.__setattr__(self, "temperature", 1.0)
            if self.samples == 1:
                object.__setattr__(self, "samples", self.best_of)
        super().__post_init__()
        if self.samples < self.best_of:
            raise BadInput(
                f"attack_success.best_of is {self.best_of}, with {self.samples} samples.",
                why="The best of N needs N draws of each request at least.",
                fix=f"Set samples={self.best_of} or more, or a smaller best_of.",
            )
        if isinstance(self.wrap_seed, bool) or not isinstance(self.wrap_seed, int):
            raise BadInput(f"attack_success.wrap_seed is {self.wrap_seed!r}.", fix="Give a whole number.")
        if not isinstance(self.max_no_answer, (int, float)) or not 0 <= self.max_no_answer <= 1:
            raise BadInput(f"attack_success.max_no_answer is {self.max_no_answer!r}.", fix="From 0 to 1.")
        if self.extrapolate and not self.best_of:
            raise BadInput(
                f"attack_success.extrapolate is {self.extrapolate}, without best_of.",
                why="What is followed beyond the draws is the curve of the best of N.",
                fix="Set best_of too.",
            )
        if not self.language.strip():
            raise BadInput("attack_success.language is empty.", fix="Name a language.")
        if self.opening is not None and not self.opening.strip():
            raise BadInput("attack_success.opening is empty.", fix="Leave it out, or give some words.")
        for option, attack in (("opening", ANSWER_PREFILL), ("translations", LOWRESOURCE)):
            if getattr(self, option) is not None and attack not in self.attacks():
                raise BadInput(
                    f"attack_success.{option} is given, and the attack {attack} is not made.",
                    why="It would be left unread without a word.",
                    fix=f"Name {attack} with --set attack= too, or leave {option} out.",
                )

    def attacks(self) -> tuple[str, ...]:
        """The attacks that are made, in the order of the table; ``lowresource`` is in ``all`` where it can be made.

        Raises:
            BadInput: An unknown one, or none.
        """
        if not isinstance(self.attack, str):
            raise BadInput(f"attack_success.attack is {self.attack!r}.", fix="Give text, with commas.")
        named = [part.strip() for part in self.attack.split(",") if part.strip()]
        for name in named:
            if name not in ("all", *KNOWN):
                raise BadInput(f"attack_success has no attack {name!r}.", fix=nearest(name, ("all", *KNOWN)))
        if not named:
            raise BadInput("attack_success.attack names none.", fix=f"Some of: all, {', '.join(KNOWN)}.")
        if "all" in named:
            left_out = {LOWRESOURCE} if self.translations is None and LOWRESOURCE not in named else set()
            return tuple(name for name in KNOWN if name not in left_out)
        return tuple(name for name in KNOWN if name in named)

    def chosen(self) -> dict[str, Any]:
        """The decoding options the user set; those of the draws are not the greedy answer's."""
        found = super().chosen()
        return {k: v for k, v in found.items() if k == "max_new_tokens"} if self.best_of else found

    @property
    def drawing(self) -> dict[str, Any]:
        """How answers are drawn for the best of N."""
        return {"temperature": self.temperature, "top_p": self.top_p or 1.0, "top_k": 0}

    @property
    def repeats(self) -> int:
        """How often a request is put to the model as everything else is: draws are asked apart."""
        return 1 if self.best_of else self.samples

    def check_models(self, digests: Mapping[str, str]) -> None:
        """Pass when translations come from somewhere, and a model is not its own control.

        Args:
            digests: Of the measure's models, by role.

        Raises:
            BadInput: They do not, or it is.
        """
        if digests.get("base") is not None and digests.get("base") == digests.get("target"):
            raise BadInput(
                "The model in the role base is the one under test.",
                why="It is the control: a model that cannot refuse.",
                fix="Give the model from before its safety training, or leave base out.",
            )
        self.check_translations("translator" in digests)

    def check_translations(self, has_translator: bool) -> None:
        """Pass when lowresource is not asked for, or its translations come from somewhere.

        Raises:
            BadInput: Nobody makes them.
        """
        if self.translates and not has_translator:
            raise BadInput(
                "The attack lowresource needs translations.",
                why="It asks each request in another language, and none is made up.",
                fix="Give --set translations=FILE, or --model-role translator=MODEL; or leave lowresource out.",
            )

    @property
    def translates(self) -> bool:
        """Whether a model has to translate."""
        return LOWRESOURCE in self.attacks() and self.translations is None

    def files(self) -> Mapping[str, Any]:
        """Digests of the files named by the options that are used."""
        if self.translations is None or LOWRESOURCE not in self.attacks():
            return {}
        try:
            return {"translations": digest_bytes(Path(self.translations).read_bytes())}
        except OSError as error:
            raise BadInput(
                f"attack_success.translations {self.translations} cannot be read: {error}.",
                fix="Name a file of {request, translation} objects.",
            ) from error


def is_wrapper(attack: str) -> bool:
    """Whether an attack words the request in another way."""
    return attack not in (NONE, *PREFILLS)
