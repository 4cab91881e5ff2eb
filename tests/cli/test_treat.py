"""``safewright treat``: every stage of a treatment from the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safewright.cli.main import run
from tests import tiny
from tests.treatments import folders

Told = tuple[int, str, str]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("treat")
    aligned = tiny.save_tiny(home / "aligned", **folders.SMALL, num_key_value_heads=1)
    return {
        "aligned": aligned,
        "tuned": folders.tuned(aligned, home / "tuned"),
        "adapter": folders.adapter(aligned, home / "adapter"),
        "rows": folders.rows_file(home / "rows.jsonl"),
    }


@pytest.fixture
def ask(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Told]:
    """Runs the command in an empty folder: exit code, stdout, stderr."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def command(*given: object) -> Told:
        capsys.readouterr()
        code = run(["treat", *map(str, given)])
        return (code, *capsys.readouterr())

    return command


def both(models: dict[str, Path], tuned: str = "tuned") -> list[str]:
    return [f"--model=aligned={models['aligned']}", f"--model=tuned={models[tuned]}"]


def test_every_stage_in_turn(models: dict[str, Path], ask: Any, tmp_path: Path) -> None:
    hess, out = tmp_path / "hess", tmp_path / "out"
    rows = f"--data=calibration={models['rows']}"
    code, said, told = ask(
        "safe_delta", "prepare", f"--model=aligned={models['aligned']}", rows, "--out", hess
    )
    assert code == 0, told
    assert "groups" in said
    assert re.search(r"disk about .*B, memory about .*B, time about", told)
    prep = f"--set=prep={hess}"
    code, said, told = ask("safe_delta", "apply", *both(models), prep, "--out", out)
    assert code == 0, told
    assert "ok     every matrix is accounted for" in said
    assert f"weights: {out}" in said
    assert (tmp_path / "out.run" / "report.html").is_file()
    assert {"parents", "checks", "report"} <= json.loads((out / "provenance.json").read_text()).keys()
    assert folders.load(out) is not None
    code, said, told = ask("safe_delta", "verify", "--out", out)
    assert code == 0, told
    assert said.split().count("True") == 2
    assert "largest relative" in said
    code, said, told = ask("safe_delta", "sweep", *both(models), prep, "--set=points=0.1,1,10", "--json")
    assert code == 0, told
    points = json.loads(said)["points"]
    assert [point["mu"] for point in points] == [0.1, 1.0, 10.0]
    for name in ("loss", "held_loss", "kept"):
        values = [point[name] for point in points]
        assert values == sorted(values, reverse=True)
        assert 0 < values[-1] < values[0] < 1
    assert points[0]["distance"] < points[-1]["distance"]
    code, said, told = ask("safe_delta", "inspect", "--out", hess, "--json")
    assert code == 0, told
    found = json.loads(said)
    assert len(found["groups"]) == 8
    assert found["groups"][0]["input of"] == ["q_proj", "k_proj", "v_proj"]
    assert all(group["rank"] <= group["width"] and group["condition"] >= 1 for group in found["groups"])
    assert found["bytes"] == sum(file.stat().st_size for file in hess.glob("*.safetensors"))
    code, said, told = ask("safe_delta", "inspect", "--out", hess)
    assert code == 0
    assert "rank" in said


def test_the_sweep_says_what_the_edit_then_costs(models: dict[str, Path], ask: Any, tmp_path: Path) -> None:
    rows = f"--data=calibration={models['rows']}"
    code, said, _ = ask("safe_delta", "sweep", *both(models), rows, "--set=points=0.5,2", "--json")
    assert code == 0
    swept = json.loads(said)
    out = tmp_path / "out"
    assert ask("safe_delta", *both(models), rows, "--set=mu=2", "--out", out)[0] == 0
    report = json.loads((out / "provenance.json").read_text())["report"]
    assert swept["points"][1]["loss"] == pytest.approx(report["loss"] / report["loss_full"], rel=1e-3)
    assert swept["points"][1]["kept"] == pytest.approx(report["kept"], rel=1e-3)
    assert swept["held_loss_full"] == pytest.approx(report["held_loss_full"], rel=1e-3)


@pytest.mark.parametrize("tuned", ["tuned", "adapter"])
def test_the_whole_in_one_command(models: dict[str, Path], ask: Any, tmp_path: Path, tuned: str) -> None:
    out = tmp_path / "out"
    given = ["safe_delta", *both(models, tuned), f"--data=calibration={models['rows']}", "--out", out]
    code, said, told = ask(*given)
    assert code == 0, told
    kind = "adapter" if tuned == "adapter" else "weights"
    assert f"{kind}: {out}" in said
    assert "ok     every matrix is accounted for" in said
    page = Path(re.search(r"page: (.*)", said)[1])  # type: ignore[index]
    text = page.read_text()
    assert "Safety loss left in every matrix" in text
    assert not re.search(r"(src|href)=[\"']?(https?:|//)", text)
    code, again, _ = ask(*given, "--json")
    assert code == 0
    result = json.loads(again)
    assert result["kind"] == kind
    assert all(check["passed"] for check in result["checks"])
    code, said, told = ask(*given, "--overwrite", "--seed", "3")
    assert code == 0, told
    assert json.loads((out / "provenance.json").read_text())["seed"] == 3


def test_json_is_all_there_is_on_stdout(models: dict[str, Path], ask: Any, tmp_path: Path) -> None:
    rows = f"--data=calibration={models['rows']}"
    for stage in ([], ["apply"], ["prepare"]):
        more = [] if stage != ["apply"] else [f"--set=prep={tmp_path / 'out-prepare'}"]
        if stage == ["apply"]:
            ask("safe_delta", "prepare", both(models)[0], rows, "--out", tmp_path / "out-prepare")
        roles = both(models)[:1] if stage == ["prepare"] else both(models)
        data = [] if stage == ["apply"] else [rows]
        out = tmp_path / f"j-{''.join(stage)}"
        code, said, told = ask("safe_delta", *stage, *roles, *data, *more, "--out", out, "--json")
        assert code == 0, told
        assert isinstance(json.loads(said), dict)


@pytest.mark.parametrize("name", ["safe_delta", "uniform_scale"])
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_dry_run_changes_nothing(
    models: dict[str, Path], ask: Any, tmp_path: Path, name: str, more: list[str]
) -> None:
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    data = [f"--data=calibration={models['rows']}"] if name == "safe_delta" else []
    code, said, told = ask(name, *both(models), *data, "--out", tmp_path / "out", "--dry-run", *more)
    assert code == 0, told
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
    if more:
        found = json.loads(said)
        assert found.keys() == ({"disk_bytes", "memory_bytes", "seconds"} if data else set())
        assert all(value > 0 for value in found.values())
    else:
        assert not said
        assert ("disk about" in told) == bool(data)


def test_an_adapter_needs_little_disk(models: dict[str, Path], ask: Any, tmp_path: Path) -> None:
    def disk(tuned: str, *more: str) -> float:
        rows = f"--data=calibration={models['rows']}"
        out = tmp_path / "out"
        return json.loads(
            ask("safe_delta", *both(models, tuned), rows, *more, "--out", out, "--dry-run", "--json")[1]
        )["disk_bytes"]

    assert disk("adapter") < disk("adapter", "--set=output=model")
    assert disk("adapter", "--set=output=model") == disk("tuned")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["safe_delt"], "no treatment called 'safe_delt'.*safe_delta"),
        (["harmful_rate"], "no treatment called 'harmful_rate'"),
        (["safe_delta", "aply"], "no stage 'aply'.*'apply'"),
        (["safe_delta", "--model=alined=x"], "unknown role 'alined'.*'aligned'"),
        (["safe_delta", "--data=calibratoin=x"], "unknown role 'calibratoin'.*'calibration'"),
        (["uniform_scale", "--data=rows=x"], "no use here"),
        (["uniform_scale", "--set=alfa=1"], "no option 'alfa'.*'alpha'"),
        (["uniform_scale", "--set=alpha"], "not KEY=VALUE"),
        (["uniform_scale"], "needs the aligned model.*--model aligned="),
        (["uniform_scale", "--threads=0"], "threads"),
        (["uniform_scale", "--workers=0"], "workers"),
        (["uniform_scale", "--limit=0"], "--limit"),
        (["safe_delta", "verify", "--out=nowhere"], r"no provenance\.json"),
        (["safe_delta", "inspect", "--out=nowhere"], "not a prepared folder"),
        (["safe_delta", "verify"], "verify reads the repaired model, and none was named.*--out DIR"),
        (["safe_delta", "inspect"], "inspect reads the prepared folder, and none was named.*--out DIR"),
        (["safe_delta", "sweep", "--set=points=1,inf"], "points is '1,inf'.*finite"),
    ],
)
def test_mistakes_are_named(ask: Any, given: list[str], said: str) -> None:
    code, out, told = ask(*given)
    assert code == 2, told
    assert re.search(said, told, re.DOTALL), told
    assert not out
    assert not list(Path.cwd().iterdir())


def test_a_folder_is_asked_for(models: dict[str, Path], ask: Any) -> None:
    code, _, told = ask("uniform_scale", *both(models))
    assert (code, "--out DIR" in told) == (2, True)


@pytest.mark.parametrize("stage", [[], ["prepare"], ["apply"], ["sweep"]])
def test_the_aligned_model_is_no_adapter(
    models: dict[str, Path], ask: Any, tmp_path: Path, stage: list[str]
) -> None:
    roles = [f"--model=aligned={models['adapter']}", f"--model=tuned={models['tuned']}"]
    hess = folders.prepared(models["aligned"], models["rows"], tmp_path / "hess")
    rows = f"--set=prep={hess}" if stage == ["apply"] else f"--data=calibration={models['rows']}"
    roles = roles[:1] if stage == ["prepare"] else roles
    for more in ([], ["--dry-run"]):
        if more and stage in (["apply"], ["sweep"]):
            continue  # nothing is estimated of these
        code, _, told = ask("safe_delta", *stage, *roles, rows, "--out", tmp_path / "out", *more)
        assert code == 2, told
        assert "aligned model" in told
        assert "only the tuned model may be an adapter" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_the_folder_one_is_in_is_refused(models: dict[str, Path], ask: Any, overwrite: list[str]) -> None:
    code, _, told = ask("uniform_scale", *both(models), "--out", ".", *overwrite)
    assert code == 2, told
    assert "the folder you are in" in told
    assert sorted(path.name for path in Path.cwd().parent.iterdir()) == ["here"]
    assert not list(Path.cwd().iterdir())


def test_a_prepared_folder_lacks_a_fact(models: dict[str, Path], ask: Any, tmp_path: Path) -> None:
    hess = folders.prepared(models["aligned"], models["rows"], tmp_path / "hess")
    whole = json.loads((hess / "prep.json").read_text())
    needed = ("aligned", "counts", "utility", "groups")
    cut = [{key: value for key, value in whole.items() if key != gone} for gone in needed]
    cut += [{**whole, "aligned": {}}, {**whole, "groups": [1]}, {**whole, "counts": None}]
    for facts in cut:
        (hess / "prep.json").write_text(json.dumps(facts))
        for stage in (["apply", *both(models), f"--set=prep={hess}", "--out", tmp_path / "out"], ["inspect"]):
            more = ["--out", hess] if stage == ["inspect"] else []
            code, _, told = ask("safe_delta", *stage, *more)
            assert code == 2, told
            assert "prep.json is damaged" in told


@pytest.mark.parametrize("how", ["missing", "garbage"])
def test_inspect_checks_the_files(models: dict[str, Path], ask: Any, tmp_path: Path, how: str) -> None:
    hess = folders.prepared(models["aligned"], models["rows"], tmp_path / "hess")
    file = next(hess.glob("L001*"))
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(b"garbage")
    code, said, told = ask("safe_delta", "inspect", "--out", hess)
    assert (code, said) == (2, ""), told
    assert file.name in told
    assert ("is missing" if how == "missing" else "its digest differs") in told


def test_a_sweep_is_kept_where_it_is_asked_for(models: dict[str, Path], ask: Any, tmp_path: Path) -> None:
    hess = folders.prepared(models["aligned"], models["rows"], tmp_path / "hess")
    out = tmp_path / "swept"
    code, said, told = ask("safe_delta", "sweep", *both(models), f"--set=prep={hess}", "--out", out, "--json")
    assert code == 0, told
    assert json.loads((out / "sweep.json").read_text()) == json.loads(said)
    assert not list(Path.cwd().iterdir())
    (out / "mine.txt").write_text("mine")
    code, _, told = ask(
        "safe_delta", "sweep", *both(models), f"--set=prep={hess}", "--out", out, "--overwrite"
    )
    assert (code, "mine.txt" in told) == (2, True)


def test_a_tampered_result_is_not_reported_as_ok(models: dict[str, Path], ask: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = ["safe_delta", *both(models), f"--data=calibration={models['rows']}", "--out", out]
    assert ask(*given)[0] == 0
    move = out / "model.safetensors"
    move.write_bytes(move.read_bytes()[:-1] + b"x")
    code, said, told = ask(*given)
    assert (code, said) == (2, "")
    assert "model.safetensors has changed" in told
    assert "safewright treat safe_delta verify --out" in " ".join(told.split())


def test_an_adapter_saved_with_embedding_layers_is_named_as_such(
    models: dict[str, Path], ask: Any, tmp_path: Path
) -> None:
    import peft

    base = folders.load(models["aligned"])
    model = peft.get_peft_model(
        base, peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "lm_head"])
    )
    model.peft_config["default"].base_model_name_or_path = str(models["aligned"])
    model.save_pretrained(tmp_path / "own", save_embedding_layers=True)
    roles = [both(models)[0], f"--model=tuned={tmp_path / 'own'}"]
    code, _, told = ask("uniform_scale", *roles, "--out", tmp_path / "out")
    assert code == 2, told
    assert "saved with its embedding layers" in " ".join(told.split())
    assert "lm_head" in told
    assert "save_embedding_layers=False" in "".join(told.split())


def test_verify_ends_with_3_after_one_byte(models: dict[str, Path], ask: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert ask("safe_delta", *both(models), f"--data=calibration={models['rows']}", "--out", out)[0] == 0
    assert ask("safe_delta", "verify", "--out", out)[0] == 0
    file = out / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    code, _, told = ask("safe_delta", "verify", "--out", out)
    assert code == 3
    assert "changed: model.safetensors" in told


@pytest.mark.parametrize("stage", [[], ["apply"]])
def test_a_failed_check_ends_with_10(
    models: dict[str, Path], ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: list[str]
) -> None:
    from safewright.treatments.safe_delta import applying
    from safewright.types import Check

    hess = tmp_path / "hess"
    rows = f"--data=calibration={models['rows']}"
    assert ask("safe_delta", "prepare", both(models)[0], rows, "--out", hess)[0] == 0
    monkeypatch.setattr(applying, "checks", lambda *_: (Check("the sky is green", False, "it is blue"),))
    code, _, told = ask("safe_delta", *stage, *both(models), f"--set=prep={hess}", "--out", tmp_path / "out")
    assert code == 10
    assert "the sky is green (it is blue)" in told


def test_show_and_list_know_treatments(capsys: Any) -> None:
    assert run(["show", "safe_delta", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {option["name"] for option in facts["options"]} >= {"mode", "mu", "prep", "modules"}
    assert run(["list", "--json"]) == 0
    kinds = {item["name"]: item["kind"] for item in json.loads(capsys.readouterr().out)}
    assert kinds["resta"] == kinds["safe_delta"] == "treatment"


def test_a_stranger_as_the_aligned_model_is_noticed(
    models: dict[str, Path], ask: Any, tmp_path: Path
) -> None:
    stranger = tiny.save_tiny(tmp_path / "stranger", seed=7, **folders.SMALL, num_key_value_heads=1)
    given = [f"--model=aligned={stranger}", f"--model=tuned={models['tuned']}"]
    code, said, told = ask(
        "safe_delta", *given, f"--data=calibration={models['rows']}", "--out", tmp_path / "out"
    )
    assert code == 10
    assert "FAILED the tuned model is a fine-tune of the aligned one" in said
    assert "this is not the model it was fine-tuned from" in told


def test_a_safe_lora_that_changes_nothing_says_so(models: dict[str, Path], ask: Any, tmp_path: Path) -> None:
    other = folders.tuned(models["aligned"], tmp_path / "unaligned", seed=5, size=0.05)
    for tuned in ("tuned", "adapter"):
        out = tmp_path / f"out-{tuned}"
        code, said, told = ask(
            "safe_lora",
            *both(models, tuned),
            f"--model=unaligned={other}",
            "--set=threshold=-1",
            "--out",
            out,
        )
        assert code == 0, told
        assert "ok     every matrix is accounted for: 0 of" in said
        assert "the result is the fine-tuned model unchanged" in said


def test_report_draws_the_page_of_a_treatment(
    models: dict[str, Path], ask: Any, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    assert ask("uniform_scale", *both(models), "--out", out)[0] == 0
    page = tmp_path / "out.run" / "report.html"
    page.unlink()
    assert run(["report", str(tmp_path / "out.run")]) == 0
    assert "uniform_scale" in page.read_text()
    capsys.readouterr()
    assert run(["report", str(tmp_path / "out.run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "weights"


def test_an_adapter_whose_base_is_elsewhere_says_where_to_write_it(
    models: dict[str, Path], ask: Any, tmp_path: Path
) -> None:
    lost = folders.adapter(models["aligned"], tmp_path / "lost")
    file = lost / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "base_model_name_or_path": "some-org/some-model"}))
    given = [f"--model=aligned={models['aligned']}", f"--model=tuned={lost}"]
    code, _, told = ask("uniform_scale", *given, "--out", tmp_path / "out")
    assert code == 5
    assert "names 'some-org/some-model' as its base" in told
    assert f"set base_model_name_or_path in {file}" in told
