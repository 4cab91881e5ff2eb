"""Safe Delta at the end of a ``transformers.Trainer`` run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers

from safewright.errors import BadInput
from safewright.models import resolve
from safewright.treatments.driver import run_stage
from safewright.treatments.plan import plan_treatment
from safewright.treatments.safe_delta.config import SafeDeltaConfig
from safewright.treatments.safe_delta.memory import edit_model, editable_adapter

PREP = "safe_delta_prep"
"""Where H is kept inside the trainer's output folder, when no prepared folder was given."""


class SafeDeltaCallback(transformers.TrainerCallback):
    """Repairs the trained model in place when training ends; what is saved afterwards is the repaired one.

    Works on whole models and on PEFT models with a plain LoRA adapter, in one process or under DDP, where
    every process makes the same edit. The report is kept in ``report``; a check that failed is a warning,
    since the training it ends is done.

    Args:
        aligned: The folder or hub id of the model training started from.
        calibration: Rows the aligned model refuses, as ``--data calibration=`` takes them; needed unless
            ``prep`` is given.
        prep: A folder of the stage ``prepare``; also as an option of ``config``.
        config: Options of `safe_delta`.
        seed: Of the held-out split.

    Raises:
        BadInput: Neither ``calibration`` nor ``prep`` is given, or options do not fit.
    """

    def __init__(
        self,
        aligned: str | Path,
        *,
        calibration: Any = None,
        prep: str | Path | None = None,
        config: SafeDeltaConfig | Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.config = config if isinstance(config, SafeDeltaConfig) else SafeDeltaConfig(**(config or {}))
        prep = self.config.prep if prep is None else prep
        if (calibration is None) == (prep is None):
            raise BadInput(
                "SafeDeltaCallback needs calibration rows or a prepared folder, and not both.",
                fix="SafeDeltaCallback(aligned, calibration='refusals.jsonl')",
            )
        if prep is not None:
            self.config.require_no_preparing()
        # Resolved now: a typo must not show after hours of training.
        self.aligned = resolve(aligned)
        self.calibration, self.prep, self.seed = calibration, prep, seed
        self.report: dict[str, Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
        """Prepare before training, so that bad rows, or a model that cannot be edited, stop it early."""
        if getattr(args, "deepspeed", None) or any(getattr(args, "fsdp", None) or ()):
            raise BadInput(
                "SafeDeltaCallback cannot edit weights that FSDP or DeepSpeed split over processes.",
                fix="Save the trained model, then run: safewright treat safe_delta --model tuned=FOLDER …",
            )
        editable_adapter(model, self.config)
        if self.prep is None:
            out = Path(args.output_dir) / PREP
            with args.main_process_first(desc="Safe Delta's calibration"):
                run_stage(
                    plan_treatment(
                        "safe_delta",
                        {"aligned": self.aligned},
                        {"calibration": self.calibration},
                        stage="prepare",
                        config=self.config,
                        out=out,
                        seed=self.seed,
                    )
                )
            self.prep = out

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
        """Edit the trained weights in place, and warn of every check that failed."""
        assert self.prep is not None
        self.report = edit_model(model, self.aligned, self.prep, self.config)
        for check in self.report["checks"]:
            if not check.passed:
                warnings.warn(
                    f"Safe Delta edited the model, but this does not hold: {check.name} ({check.detail}). "
                    "Audit it before anybody uses it.",
                    RuntimeWarning,
                    stacklevel=2,
                )
