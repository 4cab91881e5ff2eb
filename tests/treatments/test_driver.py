"""The driver of treatments: inputs that change, results that were touched, and the swap of an old result."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safewright.errors import BadInput, NumericalFailure
from safewright.models import resolve
from safewright.treatments import plan_treatment, run_stage, treat
from tests.treatments import folders, killed


def provenance(out: Path) -> Any:
    return json.loads((out / "provenance.json").read_text())


def both(models: dict[str, Path], tuned: str = "tuned") -> dict[str, Path]:
    return {"aligned": models["aligned"], "tuned": models[tuned]}


def scale(models: dict[str, Path], out: Path, alpha: float = 0.5, **more: Any) -> Any:
    return treat("uniform_scale", both(models), config={"alpha": alpha}, out=out, **more)


def once(change: Callable[[], object]) -> Callable[[str, int, int], None]:
    """A progress that changes something while the treatment is at work."""
    done: list[bool] = []

    def progress(what: str, at: int, total: int) -> None:
        if not done:
            done.append(True)
            change()

    return progress


def move(folder: Path) -> None:
    folders.edit_tensors(folder, lambda name, tensor: tensor + 0.5)


@pytest.mark.parametrize("name", ["uniform_scale", "safe_delta"])
@pytest.mark.parametrize("role", ["aligned", "tuned"])
def test_a_parent_that_changes_meanwhile_gives_no_result(
    models: dict[str, Path], prep: Path, tmp_path: Path, name: str, role: str
) -> None:
    own = {key: Path(shutil.copytree(models[key], tmp_path / key)) for key in ("aligned", "tuned")}
    config = {"prep": str(prep)} if name == "safe_delta" else {}
    out = tmp_path / "out"
    with pytest.raises(BadInput, match=f"The {role} model .* has changed since the treatment began"):
        treat(name, own, config=config, out=out, progress=once(lambda: move(own[role])))
    assert not out.exists()
    assert not (tmp_path / "out.run").exists()
    # What a killed run kept of the same plan is not gone on from either.
    shutil.rmtree(own[role])
    shutil.copytree(models[role], own[role])
    with pytest.raises(RuntimeError):
        treat(name, own, config=config, out=out, progress=once(_stop))
    assert (tmp_path / "out.run").exists()
    with pytest.raises(BadInput, match="has changed since"):
        treat(name, own, config=config, out=out, progress=once(lambda: move(own[role])))
    assert not (tmp_path / "out.run").exists()


def _stop() -> None:
    raise RuntimeError("stopped")


def test_a_prepared_folder_that_changes_meanwhile_gives_no_result(
    models: dict[str, Path], prep: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(prep, tmp_path / "hess"))

    def change() -> None:
        (own / "prep.json").write_text((own / "prep.json").read_text() + "\n")

    with pytest.raises(BadInput, match=r"prep=.*has changed since"):
        treat(
            "safe_delta",
            both(models),
            config={"prep": str(own)},
            out=tmp_path / "out",
            progress=once(change),
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["changed", "missing"])
def test_a_finished_result_that_was_touched_is_not_believed(
    models: dict[str, Path], tmp_path: Path, how: str
) -> None:
    out = tmp_path / "out"
    scale(models, out)
    file = out / "generation_config.json"
    if how == "changed":
        file.write_text('{"do_sample": true}')
    else:
        file.unlink()
    said = f"generation_config.json (has|is) {how}"
    with pytest.raises(BadInput, match=said) as refused:
        scale(models, out)
    assert "--overwrite" in str(refused.value.fix)
    if how == "changed":
        # What somebody edited is not deleted unasked; moved elsewhere, it stands in nobody's way.
        with pytest.raises(BadInput, match=r"generation_config\.json, which was changed"):
            scale(models, out, overwrite=True)
        file.rename(tmp_path / "mine.json")
    scale(models, out, overwrite=True)
    assert scale(models, out).checks
    assert file.is_file()


def test_a_prepared_folder_that_was_touched_is_not_believed(models: dict[str, Path], tmp_path: Path) -> None:
    hess = folders.prepared(models["aligned"], models["rows"], tmp_path / "hess")
    next(hess.glob("L000*")).unlink()
    with pytest.raises(BadInput, match=r"L000.* is missing"):
        folders.prepared(models["aligned"], models["rows"], hess)


def test_an_old_result_stays_until_the_new_one_is_whole(models: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    scale(models, out)
    before = folders.content(out)
    seen: list[bool] = []

    def stop(what: str, at: int, total: int) -> None:
        seen.append(folders.content(out) == before)
        if len(seen) == 3:
            _stop()

    with pytest.raises(RuntimeError):
        scale(models, out, 0.25, overwrite=True, progress=stop)
    assert seen == [True] * 3
    assert folders.content(out) == before
    with pytest.raises(BadInput, match="another plan"):
        scale(models, out, 0.25)
    scale(models, out, 0.25, overwrite=True)
    assert provenance(out)["treatment"]["config"]["alpha"] == 0.25


def test_a_killed_overwriting_run_is_gone_on_from(models: dict[str, Path], tmp_path: Path) -> None:
    """At every point the old result or the new one is there or comes back, and the same command ends it."""
    old, wanted = tmp_path / "old", tmp_path / "wanted"
    scale(models, old)
    scale(models, wanted, 0.25)
    given: dict[str, Any] = {
        "name": "uniform_scale",
        "models": both(models),
        "config": {"alpha": 0.25},
        "overwrite": True,
    }

    def standing(name: str) -> Path:
        shutil.copytree(old, tmp_path / name)
        shutil.copytree(tmp_path / "old.run", tmp_path / f"{name}.run")
        return tmp_path / name

    total = killed.in_process({**given, "out": standing("count")})
    assert total is not None
    for point in (total // 3, *range(total - 9, total + 1)):
        out = standing(f"at-{point}")
        assert killed.in_process({**given, "out": out}, point) is None
        if out.exists():
            assert folders.content(out) in (folders.content(old), folders.content(wanted))
        if point == total // 3:
            assert out.exists()
            told: list[int] = []
            treat(**given, out=out, progress=lambda what, at, total, told=told: told.append(at))
            assert told[0] > 0, "finished tensors are not written again"
        else:
            killed.in_process({**given, "out": out})
        assert folders.content(out) == folders.content(wanted), f"killed at point {point} of {total}"
        assert not (tmp_path / f"{out.name}.run" / "replaced").exists()


def test_half_a_swap_is_undone(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    scale(models, out)
    before = folders.content(out)
    replace = os.replace

    def fail(source: Any, target: Any) -> None:
        if Path(target) == out and Path(source).name == "draft":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    from safewright.errors import Incomplete

    with pytest.raises(Incomplete):
        scale(models, out, 0.25, overwrite=True)
    assert folders.content(out) == before
    monkeypatch.undo()
    # Killed between the two renames: the old result comes back before anything else is decided.
    run = tmp_path / "out.run"
    (run / "replaced").parent.mkdir(exist_ok=True)
    os.replace(out, run / "replaced")
    with pytest.raises(BadInput, match="another plan"):
        scale(models, out, 0.25)
    assert folders.content(out) == before


@pytest.mark.parametrize("what", ["an edited file", "an empty folder", "a link"])
def test_only_what_a_treatment_made_is_deleted(models: dict[str, Path], tmp_path: Path, what: str) -> None:
    out = tmp_path / "out"
    scale(models, out)
    if what == "an edited file":
        (out / "config.json").write_text((out / "config.json").read_text() + " ")
    elif what == "an empty folder":
        (out / "plots").mkdir()
    else:
        (out / "latest").symlink_to(tmp_path / "nowhere")
    before = sorted(out.rglob("*"))
    with pytest.raises(
        BadInput, match=r"holds (config\.json, which was changed|plots/, which no|latest, which no)"
    ):
        scale(models, out, 0.25, overwrite=True)
    assert sorted(out.rglob("*")) == before


@pytest.mark.parametrize("where", ["an empty folder", "nothing", "a result"])
def test_a_link_is_refused_before_any_work(models: dict[str, Path], tmp_path: Path, where: str) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    if where == "an empty folder":
        target.mkdir()
    elif where == "a result":
        scale(models, target)
        assert scale(models, link).kind == "weights"  # reading one is no harm
        shutil.rmtree(tmp_path / "link.run")
    told: list[str] = []
    with pytest.raises(BadInput, match=r"is a link to .*target"):
        scale(models, link, 0.25, overwrite=where == "a result", progress=lambda what, *_: told.append(what))
    assert not told
    assert link.is_symlink()
    assert not (tmp_path / "link.run").exists()


@pytest.mark.parametrize("given", ["relative", "absolute"])
@pytest.mark.parametrize("tuned", ["tuned", "adapter"])
def test_verify_works_from_any_folder(
    models: dict[str, Path],
    prep: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tuned: str,
    given: str,
) -> None:
    home = models["aligned"].parent
    monkeypatch.chdir(home)
    roles: dict[str, Any] = both(models, tuned)
    hess = str(prep)
    if given == "relative":
        roles = {role: f"./{folder.name}" for role, folder in roles.items()}
        hess = os.path.relpath(prep, home)
    out = tmp_path / "out"
    treat("safe_delta", roles, config={"prep": hess}, out=out)
    found = provenance(out)
    assert {role: Path(p["where"]) for role, p in found["parents"].items()} == {
        role: home / Path(folder).name for role, folder in roles.items()
    }
    assert Path(found["inputs"]["prep"]).samefile(prep / "prep.json")
    # What decides the bytes does not say where anything lies.
    assert found["plan"] == plan_of(models, prep, tuned)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name in (out, Path("../out")):
        checks = run_stage(plan_treatment("safe_delta", {}, stage="verify", out=name))["checks"]
        assert [check["passed"] for check in checks] == [True, True]
    assert not list((tmp_path / "elsewhere").iterdir())


def plan_of(models: dict[str, Path], prep: Path, tuned: str) -> str:
    from safewright.runs.run import plan_digest

    plan = plan_treatment("safe_delta", both(models, tuned), config={"prep": str(prep)}, out="somewhere/else")
    return plan_digest(plan.identity)


def test_verify_finds_what_the_run_prepared_from_inside_the_result(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    treat("safe_delta", both(models), {"calibration": models["rows"]}, out=out)
    monkeypatch.chdir(out)
    assert run_stage(plan_treatment("safe_delta", {}, stage="verify", out="."))["checks"]
    assert (tmp_path / "out.run" / "prep").is_dir()


def test_a_repaired_adapter_finds_its_base_from_any_folder(
    models: dict[str, Path], prep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(shutil.copytree(models["adapter"], tmp_path / "own"))
    config = json.loads((own / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = models["aligned"].name
    (own / "adapter_config.json").write_text(json.dumps(config))
    monkeypatch.chdir(models["aligned"].parent)
    treat(
        "safe_delta",
        {"aligned": models["aligned"], "tuned": own},
        config={"prep": str(prep)},
        out=tmp_path / "out",
    )
    monkeypatch.chdir(tmp_path)
    assert resolve(tmp_path / "out").kind == "adapter"


def test_verifies_in_one_folder_do_not_meet(
    models: dict[str, Path], prep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, mu in (("a", 1.0), ("b", 2.0)):
        treat("safe_delta", both(models), config={"prep": str(prep), "mu": mu}, out=tmp_path / name)
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir())
    for name in ("a", "b"):
        assert run_stage(plan_treatment("safe_delta", {}, stage="verify", out=name))["checks"]
    (tmp_path / "a" / "config.json").write_text("{}")
    with pytest.raises(NumericalFailure, match=r"changed: config\.json"):
        run_stage(plan_treatment("safe_delta", {}, stage="verify", out="a"))
    assert run_stage(plan_treatment("safe_delta", {}, stage="inspect", out=prep))["groups"]
    assert sorted(os.listdir()) == before
