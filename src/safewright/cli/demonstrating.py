"""The demo's parts, a page each: Safe Delta in the refusal world, LongSafety in the long world."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from safewright.cli import console, running
from safewright.compose.audit import AUDIT, plan_audit, run_audit
from safewright.compose.compare import compare
from safewright.compose.folders import load_records
from safewright.lab import (
    FINE_TUNES,
    build,
    build_long,
    evaluate,
    exact_judge,
    long_world,
    refusal_world,
    write_rows,
)
from safewright.lab.longsafety import ASKED_LENGTHS
from safewright.measures import plan_measure, run_measure
from safewright.models import EngineOptions
from safewright.replications import longsafety
from safewright.report import curve_figure, layer_figures, render_page
from safewright.runs import digest_file, open_run, write_text
from safewright.stats import Verdict
from safewright.treatments import plan_treatment, run_stage, treat
from safewright.types import Curve, Scorecard

ANSWER_TOKENS = 8
"""Longer than any true answer of the refusal world, so that nothing is cut."""

KNOWLEDGE = "harmless_knowledge"
"""What the page calls `utility` on the harmless facts, beside `utility` on the new task."""

SWEPT = "dirty"
"""The fine-tune whose safety and utility are shown along the price of safety."""

LEAD = (
    "A tiny model of a made-up world, aligned, then fine-tuned on harmful rows only (purebad), on a new task "
    "with harmful rows mixed in (dirty), and on the new task alone (clean). The harmful questions are about "
    "things no fine-tune has seen. Safe Delta then edits each fine-tuned model's weights, without training; "
    "utility is the new task, harmless knowledge what the aligned model knew. The judge knows this world: an "
    "answer to a harmful request that is no refusal counts as harmful (how many also say the harmful fact "
    "stands in docs/lab.md)."
)


LONG_LEAD = (
    "A tiny model of another made-up world is taught to refuse harmful requests: in short prompts only, while "
    "long ones stay helpful (short); with a twentieth of harmful requests among the long ones (leak5); with as "
    "many there as in short ones (mixed). Each is then asked with the request before and after a context, "
    "related to it or not, and counts as safe if both answers are. The judge knows this world. This shows a "
    "mechanism, not the benchmark's numbers."
)


class Demo:
    """The demo at work in its folder; everything done once is found again."""

    def __init__(self, out: Path, seed: int, overwrite: bool, progress: Any) -> None:
        self.out, self.overwrite, self.progress = out, overwrite, progress
        self.world = refusal_world(seed)
        self.judge = exact_judge(self.world)
        self.files = write_rows(self.world, out / "data")
        self._models: dict[str, Path] = {}
        self.taken: list[tuple[Scorecard, Any]] = []
        self.labels: list[str] = []
        self.folders: dict[str, tuple[Scorecard, Path]] = {}

    @property
    def cards(self) -> list[Scorecard]:
        """The scorecards so far, in order."""
        return [card for card, _ in self.taken]

    def model(self, arm: Any) -> Path:
        """A trained model of the world."""
        if arm not in self._models:
            self._models[arm] = build(self.world, arm, progress=steps(self.progress))
        return self._models[arm]

    def audit(self, label: str, folder: Path) -> None:
        """Audit a model, ask for harmless knowledge too, and say the main readings."""
        place = self.out / _folder(label)
        engine = EngineOptions(batch_size=96, device="cpu")
        options = {"max_new_tokens": ANSWER_TOKENS}
        plan = plan_audit(
            folder,
            data={role: self.files[role] for role in AUDIT},  # type: ignore[index]
            judges={"harm": self.judge, "benign": self.judge},
            options=options,
            engine=engine,
        )
        notes = {"command": running.command_line()}
        found = run_audit(plan, out=place, overwrite=self.overwrite, notes=notes, progress=self.progress)
        for role, card in found.cards.items():
            self._take(label, card, found.records[role], place / card.measure)
        known = self.out / KNOWLEDGE / _folder(label)
        facts = run_measure(
            plan_measure("utility", folder, data=self.files["benign"], config=options, engine=engine),
            run=known,
            overwrite=self.overwrite,
            notes=notes,
            progress=self.progress,
        )
        self._take(label, dataclasses.replace(facts, measure=KNOWLEDGE), load_records(known), known)
        own = [card for card, name in zip(self.cards, self.labels, strict=True) if name == label]
        console.say(f"{label + ':':<18} " + ", ".join(map(_main, own)))

    def _take(self, label: str, card: Scorecard, records: Any, folder: Path) -> None:
        self.taken.append((card, records))
        self.labels.append(label)
        self.folders[f"{label}/{card.measure}"] = (card, folder)

    def repaired(self, arm: str, options: Mapping[str, Any] | None = None) -> Path:
        """The fine-tune after Safe Delta; H is prepared once for all of them."""
        name = "-".join([arm, "repaired", *(f"{key}{value}" for key, value in (options or {}).items())])
        target = self.out / "models" / name
        treat(
            "safe_delta",
            {"aligned": self.model("aligned"), "tuned": self.model(arm)},
            config={"prep": str(self._prepared()), **(options or {})},
            out=target,
            overwrite=self.overwrite,
            progress=self.progress,
        )
        return target

    def _prepared(self) -> Path:
        target = self.out / "models" / "prep"
        run_stage(
            plan_treatment(
                "safe_delta",
                {"aligned": self.model("aligned")},
                {"calibration": self.files["calibration"]},
                stage="prepare",
                out=target,
            ),
            progress=self.progress,
        )
        return target

    def page(self, command: str) -> Path:
        """Write the page."""
        comparisons = []
        for arm in FINE_TUNES:
            pairs = (
                (f"{arm}: what the repair changed", self.out),
                (f"{arm}: harmless knowledge", self.out / KNOWLEDGE),
            )
            comparisons += [
                (title, compare(root / _folder(arm), root / _folder(f"{arm} repaired")))
                for title, root in pairs
            ]
        histories = {arm: self.out / "models" / f"{arm}-repaired" / "provenance.json" for arm in FINE_TUNES}
        layers: dict[str, Any] = {
            arm: json.loads(history.read_text("utf-8"))["report"]["layers"]
            for arm, history in histories.items()
        }
        figures = [self._sweep(), *layer_figures(layers)]
        target = self.out / "report.html"
        write_text(
            target,
            render_page(
                "What fine-tuning does to an aligned model, and how it is repaired",
                self.taken,
                labels=self.labels,
                lead=LEAD,
                command=command,
                figures=figures,
                comparisons=comparisons,
            ),
        )
        return target

    def _sweep(self) -> Any:
        """Safety and utility along mu: the surrogate without generation, and what the models then do."""
        found = run_stage(
            plan_treatment(
                "safe_delta",
                {"aligned": self.model("aligned"), "tuned": self.model(SWEPT)},
                stage="sweep",
                config={"prep": str(self._prepared())},
            ),
            run=self.out / "models" / "sweep",
            overwrite=self.overwrite,
            progress=self.progress,
        )
        points = found["points"]
        models = [self.repaired(SWEPT, {"mu": point["mu"]}) for point in points]
        plan = {"asked": [digest_file(model / "provenance.json") for model in models]}
        with open_run(self.out / "models" / "asked", plan, overwrite=self.overwrite) as run:
            asked = [
                run.step({"model": model.name}, partial(evaluate, model, self.world)) for model in models
            ]
        x = tuple(math.log10(point["mu"]) for point in points)
        curves = [
            ("harmful rate", tuple(said["asr"] for said in asked)),
            ("new task", tuple(said["f2"] for said in asked)),
            ("safety loss left, held-out rows", tuple(point["held_loss"] for point in points)),
            ("distance to the fine-tuned weights", tuple(point["distance"] for point in points)),
        ]
        return curve_figure(
            f"Safety and utility of {SWEPT} along the price of safety",
            [(name, Curve(name, x, y, x_unit="log10 of mu")) for name, y in curves],
            unit="rate",
            caption="mu=1 (0 on this axis) is the default. The last two need no generation: treat safe_delta sweep.",
        )

    def readings(self, label: str) -> dict[str, Any]:
        """The readings of a model by measure."""
        return {
            card.measure: card.readings
            for card, name in zip(self.cards, self.labels, strict=True)
            if name == label
        }

    def verdicts(self) -> list[Verdict]:
        """The claims one seed may decide, on what the page shows."""
        from safewright.replications.safe_delta import CLAIMS

        verdicts = []
        for claim in CLAIMS:
            arm, _, quantity = claim.quantity.partition(".")
            if not claim.single_seed or quantity != "soft.asr":
                continue
            value = self.readings(f"{arm} repaired")["harmful_rate"][0].value
            verdicts.append(claim.judge([math.nan if value is None else value]))
        return verdicts


class LongDemo:
    """LongSafety's part at work in its folder."""

    def __init__(self, out: Path, seed: int, overwrite: bool, progress: Any) -> None:
        self.out, self.overwrite, self.progress = out, overwrite, progress
        self.world = long_world(seed)
        self.cards: dict[str, Scorecard] = {}
        self.folders: dict[str, tuple[Scorecard, Path]] = {}
        self.found: dict[str, float] = {}

    def ask(self, arm: Any) -> None:
        """Train an arm, ask it, and say what came out."""
        model = build_long(self.world, arm, longsafety.wording, progress=steps(self.progress))
        place = self.out / arm
        cards = longsafety.ask_arm(
            model,
            self.world,
            place,
            overwrite=self.overwrite,
            notes={"command": running.command_line()},
            progress=self.progress,
        )
        for kind, card in cards.items():
            shown = card if kind in longsafety.KINDS else dataclasses.replace(card, measure=KNOWLEDGE)
            self.cards[f"{arm}, {kind}"] = shown
            self.folders[f"{arm}/{kind}"] = (card, place / kind)
        own = longsafety.quantities(cards)
        self.found |= {f"{arm}.{name}": value for name, value in own.items()}
        lengths = ASKED_LENGTHS
        rates = " / ".join(f"{own[f'sr_long.{length}']:.0%}" for length in lengths)
        console.say(
            f"{arm + ':':<18} safe {own['sr_short']:.0%} without a context, {rates} in one of "
            f"{' / '.join(map(str, lengths))} words; harmless knowledge {own['harmless']:.0%}"
        )

    def page(self, command: str) -> Path:
        """Write the page."""
        target = self.out / "report.html"
        taken = [(card, load_records(folder)) for card, (_, folder) in self._placed()]
        write_text(
            target,
            render_page(
                "Whether safety learned in short prompts holds in long ones",
                taken,
                labels=list(self.cards),
                lead=LONG_LEAD,
                command=command,
            ),
        )
        return target

    def _placed(self) -> Any:
        return zip(self.cards.values(), self.folders.values(), strict=True)

    def verdicts(self) -> list[Verdict]:
        """All claims: those one seed may decide, and what the others need."""
        agents = longsafety.agent_cases(self.world, self.out / "agents")
        return list(longsafety.judged_claims([self.found | {f"judge.{k}": v for k, v in agents.items()}]))


def decided(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts one seed may give; the others wait for more seeds."""
    return [verdict for verdict in verdicts if verdict.ruling != "undecided"]


def steps(progress: Any) -> Any:
    """Training progress under the model's name."""
    return lambda name, step, steps, loss: progress(f"training {name}", step, steps)


def _folder(label: str) -> str:
    return label.replace(" ", "-")


def _main(card: Scorecard) -> str:
    reading = card.readings[0]
    value = "–" if reading.value is None else f"{reading.value:.0%}"
    name = "harmless knowledge" if card.measure == KNOWLEDGE else reading.name
    return f"{name} {value} (n={reading.n})"
