"""The contract of every treatment in the catalog, real ones and a fake that changes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from safewright import catalog
from safewright.errors import BadInput
from safewright.models import resolve
from safewright.treatments import plan_treatment, run_stage, treat
from tests import tiny
from tests.contract import fakes
from tests.treatments import folders, killed, reasoning, unlearning

FEW = {"steps": 4, "batch": 4, "lr": 1e-3, "save_every": 1}
CASES: dict[str, dict[str, Any]] = {
    "fake_identity": {"models": ("tuned",)},
    "uniform_scale": {"models": ("aligned", "tuned")},
    "uniform_scale/adapter": {"models": ("aligned", "adapter")},
    "resta": {"models": ("aligned", "tuned", "unaligned")},
    "safe_lora": {"models": ("aligned", "tuned", "unaligned"), "config": {"threshold": 0.9}},
    "safe_lora/adapter": {"models": ("aligned", "adapter", "unaligned"), "config": {"threshold": 0.9}},
    "safe_instruct": {"models": ("aligned",), "data": ("finetune", "safe"), "config": FEW},
    "safe_instruct/adapter": {
        "models": ("aligned",),
        "data": ("finetune", "safe"),
        "config": {**FEW, "lora_rank": 2},
    },
    "relearn": {
        "models": ("tuned",),
        "data": ("forget", "retain", "augmented"),
        "config": {**FEW, "warmup": 0.0},
    },
    "relearn/weights": {
        "models": ("tuned",),
        "data": ("forget", "retain"),
        "config": {**FEW, "method": "npo_gdr", "lora_rank": 0, "warmup": 0.0},
    },
    "srg": {
        "models": ("student",),
        "data": ("reasoned",),
        "config": {**FEW, "lr": 1e-2, "batch": 12, "warmup": 0.0, "lora_rank": 2, "formats": 0.0},
    },
    "safe_delta": {"models": ("aligned", "tuned"), "data": ("calibration",)},
    "safe_delta/adapter": {"models": ("aligned", "adapter"), "data": ("calibration",)},
    "safe_delta/exact": {
        "models": ("aligned", "tuned"),
        "data": ("calibration",),
        "config": {"mode": "exact"},
    },
    "safe_delta/official": {
        "models": ("aligned", "tuned"),
        "data": ("calibration",),
        "config": {"mode": "official", "s": 3000.0, "save_dtype": "float32"},
    },
}
NAMES = sorted({case.partition("/")[0] for case in CASES})


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("contract")
    shape = {**folders.SMALL, "num_key_value_heads": 1}
    aligned = tiny.save_tiny(home / "aligned", shard="20KB", **shape)
    return {
        "aligned": aligned,
        "tuned": folders.tuned(aligned, home / "tuned"),
        "unaligned": folders.tuned(aligned, home / "unaligned", seed=5, size=0.05),
        "adapter": folders.adapter(aligned, home / "adapter"),
        "calibration": folders.rows_file(home / "calibration.jsonl"),
        "finetune": folders.rows_file(home / "finetune.jsonl", 12),
        "safe": folders.rows_file(home / "safe.jsonl", 6, shift=20),
        "student": reasoning.save(home / "student", num_key_value_heads=1),
        "reasoned": reasoning.write(home / "reasoned.jsonl", reasoning.objects(12)),
        **unlearning.data(home),
    }


def given(case: str, sources: dict[str, Path], **more: Any) -> dict[str, Any]:
    """The arguments of `treat` for a case, without a folder to write."""
    how = CASES[case]
    roles = {"tuned" if role == "adapter" else role: sources[role] for role in how["models"]}
    return {
        "name": case.partition("/")[0],
        "models": roles,
        "data": {role: sources[role] for role in how.get("data", ())},
        "config": how.get("config", {}),
        **more,
    }


def run(case: str, sources: dict[str, Path], out: Path, **more: Any) -> Any:
    return treat(**given(case, sources, **more), out=out)


def provenance(out: Path) -> Any:
    return json.loads((out / "provenance.json").read_text())


@pytest.fixture(scope="session")
def finished(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders and results of each case, made once in this process."""
    home, made = tmp_path_factory.mktemp("finished"), {}

    def one(case: str) -> tuple[Path, Any]:
        if case not in made:
            out = home / case.replace("/", "-")
            made[case] = (out, run(case, sources, out))
        return made[case]

    return one


def test_the_suite_covers_the_catalog() -> None:
    assert {entry.name for entry in catalog.entries("treatment")} == set(NAMES)
    assert catalog.find("fake_identity").function is fakes.fake_identity
    assert len(NAMES) >= 6


@pytest.mark.parametrize("case", CASES)
def test_same_seed_twice_gives_the_same_bytes(
    case: str, sources: dict[str, Path], finished: Any, tmp_path: Path
) -> None:
    first, _ = finished(case)
    run(case, sources, tmp_path / "out")
    assert folders.content(first) == folders.content(tmp_path / "out")
    assert not [name for name in folders.content(first) if name.startswith(".")]


EVERYWHERE = ("fake_identity", "safe_delta")
"""Cases killed at many points of their work; the others late in it, where most has to be kept."""


@pytest.mark.parametrize("case", CASES)
def test_killed_and_resumed_gives_the_same_bytes(case: str, sources: dict[str, Path], tmp_path: Path) -> None:
    asked = given(case, sources)
    total = killed.in_process({**asked, "out": tmp_path / "whole"})
    assert total is not None
    wanted = folders.content(tmp_path / "whole")
    for share in [k / 9 for k in range(1, 10)] if case in EVERYWHERE else [0.75]:
        out, point = tmp_path / f"at-{share}", max(1, int(share * total))
        killed.kill_and_resume(asked, out, point)
        assert folders.content(out) == wanted, f"killed at point {point} of {total}"


@pytest.mark.parametrize("case", CASES)
def test_inputs_are_not_changed(case: str, sources: dict[str, Path], tmp_path: Path) -> None:
    before = {role: folders.content(path) for role, path in sources.items() if path.is_dir()}
    run(case, sources, tmp_path / "out")
    assert {role: folders.content(path) for role, path in sources.items() if path.is_dir()} == before


@pytest.mark.parametrize("case", CASES)
def test_the_result_loads_without_us_and_names_its_parents(
    case: str, sources: dict[str, Path], finished: Any
) -> None:
    import peft
    import transformers

    out, result = finished(case)
    ids = torch.tensor([[1, 9, 10, 11]])
    if result.kind == "adapter":
        base = folders.load(sources["aligned"])
        wanted = base(ids).logits
        model = peft.PeftModel.from_pretrained(base, out)
        with model.disable_adapter():
            assert torch.equal(model(ids).logits, wanted)
        assert not torch.equal(model(ids).logits, wanted)
    else:
        model = folders.load(out)
        transformers.AutoTokenizer.from_pretrained(out)
    assert bool(torch.isfinite(model(ids).logits).all())
    assert result.model.digest == resolve(out).digest
    assert result.kind in catalog.find(case.partition("/")[0]).gives
    found, roles = provenance(out), given(case, sources)["models"]
    assert {role: p["digest"] for role, p in found["parents"].items()} == {
        role: resolve(path).digest for role, path in roles.items()
    }
    assert sorted(result.parents) == sorted(p["digest"] for p in found["parents"].values())
    assert set(found["data"]) == set(CASES[case].get("data", ()))
    assert found["treatment"]["name"] == case.partition("/")[0]
    assert found["versions"]["safewright"]
    assert set(found["files"]) == set(folders.content(out)) - {"provenance.json"}
    assert all(check.passed for check in result.checks)


@pytest.mark.parametrize("case", CASES)
def test_a_finished_result_is_given_without_computing(
    case: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    first = run(case, sources, tmp_path / "out")
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    told: list[str] = []
    again = run(case, sources, tmp_path / "out", progress=lambda what, done, total: told.append(what))
    assert not told
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()} == times
    assert (again.model, again.checks, again.kind) == (first.model, first.checks, first.kind)


@pytest.mark.parametrize("name", NAMES)
def test_a_result_that_was_touched_is_not_believed(
    name: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(name, sources, out)
    file = sorted(out.glob("*.safetensors"))[0]
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BadInput, match=f"{file.name} has changed"):
        run(name, sources, out)
    file.write_bytes(data)
    assert run(name, sources, out).checks


@pytest.mark.parametrize("name", NAMES)
def test_a_parent_that_changes_meanwhile_gives_no_result(
    name: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    asked = given(name, sources)
    role = next(iter(asked["models"]))
    own = Path(shutil.copytree(asked["models"][role], tmp_path / role))
    asked["models"] = {**asked["models"], role: own}
    config = (own / "generation_config.json").read_text()

    def change(*_: Any) -> None:
        (own / "generation_config.json").write_text(config + "\n")

    with pytest.raises(BadInput, match="has changed since"):
        treat(**asked, out=tmp_path / "out", progress=change)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.run").exists()


@pytest.mark.parametrize("name", NAMES)
def test_unknown_names_name_the_nearest(name: str, sources: dict[str, Path], tmp_path: Path) -> None:
    right = sorted(catalog.find(name).options())[0]
    with pytest.raises(BadInput, match=f"(?s){right}x.*{right}'") as refused:
        run(name, sources, tmp_path / "out", config={f"{right}x": 1})
    assert refused.value.exit_code == 2
    wrong = given(name, sources)
    role = next(iter(wrong["models"]))
    wrong["models"] = {f"{role}d": sources["aligned"], **wrong["models"]}
    with pytest.raises(BadInput, match=f"(?s){role}d.*{role}'"):
        treat(**wrong, out=tmp_path / "out")
    with pytest.raises(BadInput, match="no rows in the role 'calibrations'"):
        run(name, sources, tmp_path / "out", data={"calibrations": sources["calibration"]})
    with pytest.raises(BadInput, match=f"{name} has no stage 'aply'"):
        plan_treatment(name, {}, stage="aply")
    with pytest.raises(BadInput, match=f"needs the {role} model"):
        treat(name, {}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.run").exists()


@pytest.mark.parametrize("name", NAMES)
def test_limit_zero_names_the_option(name: str, sources: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--limit"):
        run(name, sources, tmp_path / "out", limit=0)
    assert not (tmp_path / "out.run").exists()


@pytest.mark.parametrize("case", ["fake_identity", "uniform_scale/adapter", "safe_delta"])
def test_only_a_result_is_ever_overwritten(case: str, sources: dict[str, Path], tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(BadInput, match="no treatment made"):
            run(case, sources, mine, overwrite=overwrite)
    # Another tool's provenance.json does not make a folder ours.
    (mine / "provenance.json").write_text('{"made by": "somebody else"}')
    with pytest.raises(BadInput, match="no treatment made"):
        run(case, sources, mine, overwrite=True)
    assert (mine / "thesis.txt").read_text() == "years of work"
    out = tmp_path / "out"
    run(case, sources, out)
    with pytest.raises(BadInput, match="result of another plan"):
        run(case, sources, out, seed=7, run=tmp_path / "other.run")
    (out / "notes.txt").write_text("looks good")
    with pytest.raises(BadInput, match=r"holds notes\.txt, which no treatment made"):
        run(case, sources, out, seed=7, overwrite=True)
    (out / "notes.txt").unlink()
    before = folders.content(out)
    # Where the run's folder is somebody's own, the old result stays.
    shutil.copytree(mine, tmp_path / "foreign.run")
    with pytest.raises(BadInput):
        run(case, sources, out, seed=7, overwrite=True, run=tmp_path / "foreign.run")
    assert folders.content(out) == before
    run(case, sources, out, seed=7, overwrite=True)
    assert provenance(out)["seed"] == 7
    assert not (tmp_path / "out.run" / "replaced").exists()


def test_an_empty_folder_is_filled_and_a_file_is_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert run("fake_identity", sources, tmp_path / "out").kind == "weights"
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="is a file"):
        run("fake_identity", sources, tmp_path / "file")


def test_another_plan_never_takes_up_a_run(sources: dict[str, Path], tmp_path: Path) -> None:
    run("safe_delta", sources, tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(BadInput, match=r"another plan: engine differ"):
        run("safe_delta", sources, tmp_path / "out", threads=2)
    with pytest.raises(BadInput, match="threads is 0"):
        run("safe_delta", sources, tmp_path / "out", threads=0)
    with pytest.raises(BadInput, match="workers is 0"):
        run("safe_delta", sources, tmp_path / "out", workers=0)


@pytest.mark.parametrize("case", ["uniform_scale", "safe_delta/adapter"])
def test_the_plans_threads_hold_whatever_the_process_had(
    case: str, sources: dict[str, Path], finished: Any, tmp_path: Path
) -> None:
    first, _ = finished(case)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(case, sources, tmp_path / "out")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert folders.content(first) == folders.content(tmp_path / "out")


def test_stages_that_write_follow_the_same_rules(sources: dict[str, Path], tmp_path: Path) -> None:
    def stage(out: Path, **more: Any) -> Any:
        plan = plan_treatment(
            "safe_delta",
            {"aligned": sources["aligned"]},
            {"calibration": sources["calibration"]},
            stage="prepare",
            out=out,
            seed=more.pop("seed", 0),
        )
        return run_stage(plan, **more)

    first = stage(tmp_path / "a")
    assert stage(tmp_path / "b") == first == stage(tmp_path / "a")
    assert folders.content(tmp_path / "a") == folders.content(tmp_path / "b")
    with pytest.raises(BadInput, match="result of another plan"):
        stage(tmp_path / "a", seed=3)
    stage(tmp_path / "a", seed=3, overwrite=True)
    assert provenance(tmp_path / "a")["seed"] == 3
    with pytest.raises(BadInput, match="needs a folder to write"):
        plan_treatment("safe_delta", {"aligned": sources["aligned"]}, stage="prepare")


def test_a_corrected_command_does_not_find_the_folder_taken(tmp_path: Path, tiny_folder: Path) -> None:
    """Input that turns out to be unusable leaves no run behind; a finished result stays."""
    other = tiny.save_tiny(tmp_path / "other", hidden_size=48, num_attention_heads=4)
    out = tmp_path / "out"
    with pytest.raises(BadInput):
        treat("uniform_scale", {"aligned": tiny_folder, "tuned": other}, out=out)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["other"]
    treat("uniform_scale", {"aligned": tiny_folder, "tuned": tiny_folder}, out=out)
    assert (out / "provenance.json").is_file()
    with pytest.raises(BadInput):
        treat("uniform_scale", {"aligned": tiny_folder, "tuned": other}, out=out)
    assert (tmp_path / "out.run" / "plan.json").is_file()
