"""A folder prepared without eigenvectors serves every stage and mode as one with them does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from safewright.cli.main import run
from safewright.errors import BadInput
from safewright.treatments import plan_treatment, run_stage, treat
from safewright.treatments.safe_delta.verifying import inspect
from tests.treatments import folders

MODES: dict[str, dict[str, Any]] = {
    "soft": {},
    "soft to a loss": {"rms_tol": 1e-3},
    "exact": {"mode": "exact"},
    "paper": {"mode": "paper", "s": 1e-4},
    "official": {"mode": "official", "s": 30.0, "save_dtype": "float32"},
}


SHARES = ("mu", "loss", "kept", "distance")


@pytest.fixture(scope="module")
def preps(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of few rows, so that H has directions that no token reached."""
    home = tmp_path_factory.mktemp("preps")
    rows = folders.rows_file(home / "rows.jsonl", 2)
    return {
        kind: folders.prepared(models["aligned"], rows, home / kind, spectrum=kind, holdout=0.0)
        for kind in ("always", "never")
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tuned", ["tuned", "adapter"])
def test_every_mode(
    models: dict[str, Path], preps: dict[str, Path], tuned: str, mode: str, tmp_path: Path
) -> None:
    given = {"aligned": models["aligned"], "tuned": models[tuned]}
    for kind, prep in preps.items():
        treat("safe_delta", given, config={**MODES[mode], "prep": str(prep)}, out=tmp_path / kind)
    expected, new = (folders.weights(tmp_path / kind) for kind in ("always", "never"))
    assert expected.keys() == new.keys()
    assert all(float((new[name] - expected[name]).abs().max()) <= 1e-5 for name in new)
    reports = [json.loads((tmp_path / k / "provenance.json").read_text())["report"] for k in preps]
    assert reports[1]["loss"] == pytest.approx(reports[0]["loss"], rel=1e-3)
    assert all(row["rank"] is None for row in reports[1]["layers"])
    if mode not in ("paper", "official"):
        assert all(row["epsilon"] is not None for row in reports[1]["layers"])
    checks = run_stage(plan_treatment("safe_delta", {}, stage="verify", out=tmp_path / "never"))["checks"]
    assert all(check["passed"] for check in checks)


def test_the_same_sweep(models: dict[str, Path], preps: dict[str, Path], tmp_path: Path) -> None:
    given = {"aligned": models["aligned"], "tuned": models["tuned"]}
    found = [
        run_stage(
            plan_treatment(
                "safe_delta",
                given,
                stage="sweep",
                config={"prep": str(prep), "points": "0.1,1,10"},
                out=tmp_path / kind,
            )
        )
        for kind, prep in preps.items()
    ]
    assert found[1]["loss_full"] == found[0]["loss_full"]
    for there, here in zip(found[0]["points"], found[1]["points"], strict=True):
        assert [here[k] for k in SHARES] == pytest.approx([there[k] for k in SHARES], rel=1e-3)


def test_what_is_not_known_is_told_as_such(
    models: dict[str, Path], preps: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = inspect(preps["never"])
    assert all(group["rank"] is None and group["condition"] is None for group in found["groups"])
    notes = "\n".join(found["counts"]["notes"])
    assert "rank and condition of 8 of 8 inputs are not known" in notes
    assert "rank at most" in notes
    assert not any("not known" in note for note in inspect(preps["always"])["counts"]["notes"])
    assert run(["treat", "safe_delta", "inspect", "--out", str(preps["never"])]) == 0
    said = capsys.readouterr().out
    assert "None" not in said
    assert "–" in said
    given = [f"--model={role}={models[role]}" for role in ("aligned", "tuned")]
    out = tmp_path / "out"
    assert run(["treat", "safe_delta", *given, "--set", f"prep={preps['never']}", "--out", str(out)]) == 0
    assert "inputs are not known" in (tmp_path / "out.run" / "report.html").read_text()


def test_another_spectrum_does_not_go_on_from_a_killed_run(models: dict[str, Path], tmp_path: Path) -> None:
    def plan(spectrum: str) -> Any:
        return plan_treatment(
            "safe_delta",
            {"aligned": models["aligned"]},
            {"calibration": models["rows"]},
            stage="prepare",
            config={"spectrum": spectrum},
            out=tmp_path / "prep",
        )

    class Killed(BaseException):
        pass

    def stop(what: str, done: int, total: int) -> None:
        if what == "calibration" and done == 1:
            raise Killed

    with pytest.raises(Killed):
        run_stage(plan("never"), progress=stop)
    with pytest.raises(BadInput, match="spectrum: never there, always here"):
        run_stage(plan("always"))
    run_stage(plan("never"))
    file = next((tmp_path / "prep").glob("*.safetensors"))
    assert "vectors" not in folders.weights(file.parent)
    assert torch.isfinite(folders.weights(file.parent)["H"]).all()
