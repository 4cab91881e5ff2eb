"""Options of the measure forgetting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from safewright.errors import BadInput, nearest
from safewright.measures.behaviour import AskOptions
from safewright.prompts import Prompt
from safewright.prompts import load as load_prompt
from safewright.prompts.prompt import parse
from safewright.runs import digest_bytes
from safewright.types import Decoding, Judge

PROMPTED = ("prefix", "paraphrase", "roleplay", "sampling")
"""Attacks that ask in another way."""
WEIGHTS = ("int8", "int4", "bf16", "relearn")
"""Attacks that change the model, and so need its weights here."""
ATTACKS = PROMPTED + WEIGHTS

MOST_DRAWS = 1000


@dataclass(frozen=True)
class ForgettingConfig(AskOptions):
    """Options of `forgetting`."""

    preset: Literal["paper", "release"] = field(
        default="paper",
        metadata={
            "help": "release: thresholds, sampled decoding and aggregate keys (release.json) of the authors' code."
        },
    )
    attacks: str = field(
        default="none", metadata={"help": f"none, all, or some of {', '.join(ATTACKS)}, with commas."}
    )
    draws: int = field(default=8, metadata={"help": "Attack sampling: answers drawn per row; any may leak."})
    draw_temperature: float = field(default=1.0, metadata={"help": "Attack sampling: temperature."})
    roleplay_prompt: str | None = field(
        default=None,
        metadata={
            "help": "Attack roleplay: a prompt file with {{ question }}; default: a harmless one of ours."
        },
    )
    continue_final_message: bool = field(
        default=False,
        metadata={
            "help": "Attack prefix: the server goes on with a turn of the assistant's; else the opening is put "
            "into the question. Models run here always go on."
        },
    )
    relearn_rows: int = field(
        default=10,
        metadata={"help": "Attack relearn: rows shown again, whole persons where rows name them."},
    )
    relearn_steps: int = field(default=30, metadata={"help": "Attack relearn: optimiser steps."})
    relearn_lr: float = field(default=3e-4, metadata={"help": "Attack relearn: learning rate, constant."})
    relearn_batch: int = field(default=8, metadata={"help": "Attack relearn: rows of one step."})
    relearn_rank: int = field(
        default=8, metadata={"help": "Attack relearn: rank of the LoRA adapter; 0 trains all weights."}
    )
    relearn_seed: int = field(
        default=0, metadata={"help": "Attack relearn: seed of the rows and their order."}
    )
    ratings: Literal["writing", "all"] = field(
        default="writing",
        metadata={
            "help": "What a model in the role rubric rates: fluency and relevance, or also how little is given "
            "away and how much is kept."
        },
    )
    judge_audit: str | None = field(
        default=None,
        metadata={"help": "judge_audit.json of safewright judge audit: adds rates corrected for its errors."},
    )
    allow_self_judge: bool = field(default=False, metadata={"help": "Let a model judge its own answers."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.attack_names()
        for name in ("draws", "relearn_rows", "relearn_steps", "relearn_batch"):
            self._whole(name, 1, MOST_DRAWS if name == "draws" else 10**9)
        for name in ("relearn_rank", "relearn_seed"):
            self._whole(name, 0, 2**63 - 1)
        if not 0 < self.draw_temperature <= 100:
            raise BadInput(
                f"forgetting.draw_temperature is {self.draw_temperature}.",
                why="Greedy draws would all be the same.",
                fix="It must be above 0.",
            )
        if not 0 < self.relearn_lr < 1e3:
            raise BadInput(f"forgetting.relearn_lr is {self.relearn_lr}.", fix="It must be above 0.")

    def _whole(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise BadInput(f"forgetting.{name} is {value!r}.", fix=f"It must be a whole number from {low}.")

    def attack_names(self) -> tuple[str, ...]:
        """The attacks that are made, in the order of the table.

        Raises:
            BadInput: An unknown one.
        """
        if not isinstance(self.attacks, str):
            raise BadInput(f"forgetting.attacks is {self.attacks!r}.", fix="Give text, with commas.")
        named = [part.strip() for part in self.attacks.split(",") if part.strip()]
        if named in ([], ["none"]):
            return ()
        if named == ["all"]:
            return ATTACKS
        for name in named:
            if name not in ATTACKS:
                raise BadInput(
                    f"forgetting has no attack {name!r}.", fix=nearest(name, ("none", "all", *ATTACKS))
                )
        return tuple(name for name in ATTACKS if name in named)

    @property
    def decoding(self) -> Decoding:
        """How is asked by default: greedily; under ``release`` sampled, as the authors' code does."""
        if self.preset == "release":
            return Decoding(max_new_tokens=128, temperature=0.7, top_p=0.9, top_k=5)
        return Decoding(max_new_tokens=128)

    @property
    def default_judge(self) -> str:
        """The judge where none is chosen, under the preset's thresholds."""
        return "coverage" if self.preset == "paper" else f"coverage?rule={self.preset}"

    def check_judge(self, judge: Judge) -> None:
        """Pass when a judge decides both qualities, under the thresholds of the preset.

        Raises:
            BadInput: It does not, or the audit that is named is not of this judge.
        """
        lacking = sorted({"forgotten", "retained"} - judge.answers)
        if lacking:
            raise BadInput(
                f"The judge {judge.name} cannot say whether an answer is {lacking[0]}.",
                fix="Use coverage, or another that decides forgotten and retained.",
            )
        rule = getattr(judge, "rule", self.preset)
        if rule != self.preset:
            model = "" if getattr(judge, "model", None) is None else ":MODEL"
            raise BadInput(
                f"The preset is {self.preset}, but the judge {judge.name} goes by the rule {rule}.",
                why="A rate would bear the name of thresholds it was not taken under.",
                fix=f"Write --judge {judge.name}{model}?rule={self.preset}, or --set preset={rule}.",
            )
        if self.judge_audit is not None:
            from safewright.judges.audit import check_audit  # brings numpy

            check_audit(self.judge_audit, judge, ("forgotten", "retained"))

    def check_models(self, digests: Mapping[str, str]) -> None:
        """Pass when no model rates its own answers, unless that is allowed.

        Args:
            digests: Of the measure's models, by role.

        Raises:
            BadInput: One does.
        """
        if digests.get("rubric") == digests.get("target") and not self.allow_self_judge:
            raise BadInput(
                "The model in the role rubric is the one whose answers it rates.",
                why="Models favour their own answers.",
                fix="Give another, or allow it: --set allow_self_judge=true",
            )

    def files(self) -> Mapping[str, Any]:
        """Digests of the files named by the options that are used."""
        if self.roleplay_prompt is None or "roleplay" not in self.attack_names():
            return {}
        return {"roleplay_prompt": self.roleplay().digest}

    def roleplay(self, *, chinese: bool = False) -> Prompt:
        """The wrapper of the attack roleplay.

        Raises:
            BadInput: The file that is named cannot be used.
        """
        if self.roleplay_prompt is None:
            return load_prompt("forgetting_roleplay_zh" if chinese else "forgetting_roleplay")
        try:
            data = Path(self.roleplay_prompt).expanduser().read_bytes()
            data.decode("utf-8")
        except (OSError, ValueError) as error:
            raise BadInput(
                f"forgetting.roleplay_prompt {self.roleplay_prompt} cannot be read: {error}.",
                fix="Name a text file in UTF-8.",
            ) from error
        if data.startswith(b"{#"):
            prompt = parse("roleplay_prompt", data)
        else:
            prompt = Prompt("roleplay_prompt", "", data.decode("utf-8"), digest_bytes(data))
        if prompt.variables() != {"question"}:
            raise BadInput(
                f"forgetting.roleplay_prompt {self.roleplay_prompt} has the placeholders "
                f"{', '.join(sorted(prompt.variables())) or 'none'}.",
                fix="It needs {{ question }}, and no other.",
            )
        return prompt
