"""Acceptance check 11: every line of section 8.5 has its named error and its exit code, on the command line."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from safewright.cli.main import run
from safewright.runs import digest_file
from safewright.types import JudgeItem, Judgement
from tests import tiny
from tests.treatments import folders

Told = tuple[int, str, str]


@pytest.fixture
def ask(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Told]:
    """The command on models and rows: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def command(
        models: dict[str, Path],
        *more: str,
        data: dict[str, Path] | None = None,
        name: str = "safe_delta",
        stage: str = "",
        roles: Sequence[str] = ("aligned", "tuned"),
        out: Path | None = None,
        **options: object,
    ) -> Told:
        given = ["treat", name, *([stage] if stage else [])]
        given += [part for role in roles for part in ("--model", f"{role}={models[role]}")]
        given += [part for role, file in (data or {}).items() for part in ("--data", f"{role}={file}")]
        given += [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
        capsys.readouterr()
        code = run([*given, "--out", str(out or tmp_path / "out"), *more])
        return (code, *capsys.readouterr())

    return command


def refused(told: Told, code: int, said: str, out: Path) -> None:
    """The exit code and the words; and nothing that looks like a result."""
    assert told[0] == code, told
    assert re.search(said, told[2], re.DOTALL), told[2]
    assert "Traceback" not in told[2]
    assert not out.exists()


def changed(folder: Path, out: Path, change: Callable[[str, Any], Any]) -> Path:
    shutil.copytree(folder, out)
    folders.edit_tensors(out, change)
    return out


def spoiled(name: str, value: float) -> Callable[[str, Any], Any]:
    def change(each: str, tensor: torch.Tensor) -> torch.Tensor:
        if each == name:
            tensor.view(-1)[[1, 5]] = value
        return tensor

    return change


def with_curvature(prep: Path, out: Path, make: Callable[[int], torch.Tensor]) -> Path:
    """A prepared folder with another H in every group."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(prep, out)
    facts = json.loads((out / "prep.json").read_text())
    for group in facts["groups"]:
        held = load_file(out / group["file"])
        H = make(group["width"])
        values, vectors = torch.linalg.eigh(H.double())
        held |= {"H": H.float(), "values": values.float(), "vectors": vectors.float()}
        save_file({key: value.contiguous() for key, value in held.items()}, out / group["file"])
        group["digest"] = digest_file(out / group["file"])
    (out / "prep.json").write_text(json.dumps(facts))
    return out


def test_11_another_architecture(models: dict[str, Path], prep: Path, ask: Any, tmp_path: Path) -> None:
    wide = tiny.save_tiny(
        tmp_path / "wide", **{**folders.SMALL, "intermediate_size": 40}, num_key_value_heads=1
    )
    told = ask({**models, "tuned": wide}, prep=prep)
    refused(told, 2, r"mlp\.\w+_proj\.weight has the shape \(\d+, \d+\).*same architecture", tmp_path / "out")


def test_11_missing_and_extra_tensors(models: dict[str, Path], prep: Path, ask: Any, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    short = changed(models["tuned"], tmp_path / "short", lambda n, t: None if n == name else t)
    told = ask({**models, "tuned": short}, prep=prep)
    refused(told, 2, rf"lacks 1 tensors, first {name}", tmp_path / "out")
    deep = tiny.save_tiny(
        tmp_path / "deep", **{**folders.SMALL, "num_hidden_layers": 3}, num_key_value_heads=1
    )
    told = ask({**models, "tuned": deep}, out=tmp_path / "out2", prep=prep)
    refused(told, 2, r"has the extra 9 tensors, first model\.layers\.2\.", tmp_path / "out2")


def test_11_tokenizers_that_differ(models: dict[str, Path], prep: Path, ask: Any, tmp_path: Path) -> None:
    other = Path(shutil.copytree(models["tuned"], tmp_path / "other"))
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"ban"', '"BAN"'))
    told = ask({**models, "tuned": other}, prep=prep)
    refused(told, 2, r"tokenizers differ: 1 tokens.*'ban'", tmp_path / "out")


@pytest.mark.parametrize(
    "tensor", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_11_a_weight_that_is_no_number(
    models: dict[str, Path], prep: Path, ask: Any, tmp_path: Path, tensor: str, value: float
) -> None:
    bad = changed(models["tuned"], tmp_path / "bad", spoiled(tensor, value))
    told = ask({**models, "tuned": bad}, prep=prep)
    refused(told, 3, rf"{re.escape(tensor)} of .* holds 2 non-finite numbers", tmp_path / "out")


@pytest.mark.parametrize("mode", ["exact", "official", "paper"])
def test_11_a_weight_that_is_no_number_in_every_mode(
    models: dict[str, Path], prep: Path, ask: Any, tmp_path: Path, mode: str
) -> None:
    name = "model.layers.0.self_attn.o_proj.weight"
    bad = changed(models["tuned"], tmp_path / "bad", spoiled(name, float("nan")))
    told = ask({**models, "tuned": bad}, prep=prep, mode=mode)
    refused(told, 3, rf"{re.escape(name)} of .* holds 2 non-finite", tmp_path / "out")
    if mode == "exact":
        told = ask({**models, "tuned": bad}, "--workers", "2", out=tmp_path / "o2", prep=prep, mode=mode)
        refused(told, 3, rf"{re.escape(name)} of .* holds 2 non-finite", tmp_path / "o2")


@pytest.mark.parametrize("name", ["uniform_scale", "resta", "safe_lora"])
@pytest.mark.parametrize("tensor", ["model.norm.weight", "model.layers.0.mlp.up_proj.weight"])
def test_11_a_weight_that_is_no_number_in_every_baseline(
    models: dict[str, Path], ask: Any, tmp_path: Path, name: str, tensor: str
) -> None:
    roles = ["aligned", "tuned"] if name == "uniform_scale" else ["aligned", "tuned", "unaligned"]
    for role in roles[1:]:
        if name == "safe_lora" and role == "unaligned" and "norm" in tensor:
            continue  # it reads the unaligned model's matrices only
        bad = changed(models[role], tmp_path / f"bad-{role}", spoiled(tensor, float("nan")))
        out = tmp_path / f"out-{role}"
        told = ask({**models, role: bad}, name=name, roles=roles, out=out)
        refused(told, 3, rf"{re.escape(tensor)} of .* holds 2 non-finite", out)


def test_11_an_activation_that_is_no_number(models: dict[str, Path], ask: Any, tmp_path: Path) -> None:
    huge = changed(
        models["aligned"],
        tmp_path / "huge",
        lambda n, t: t * 1e30 if re.search(r"layers\.1\.mlp\.(gate|up)_proj", n) else t,
    )
    told = ask({"aligned": huge}, stage="prepare", roles=["aligned"], data={"calibration": models["rows"]})
    refused(told, 3, r"\d+ inputs of model\.layers\.1\.mlp\.down_proj are not finite", tmp_path / "out")


@pytest.mark.parametrize("mode", ["soft", "exact", "paper", "official"])
def test_11_no_step_is_copied_with_a_note(
    models: dict[str, Path], prep: Path, ask: Any, tmp_path: Path, mode: str
) -> None:
    told = ask({**models, "tuned": models["aligned"]}, prep=prep, mode=mode, save_dtype="float32")
    assert told[0] == 0, told
    assert "note: the edited matrices of both models are equal" in told[1]
    new, old = folders.weights(tmp_path / "out"), folders.weights(models["aligned"])
    assert new.keys() == old.keys()
    assert all(torch.equal(new[name], old[name]) for name in old)


def test_11_no_calibration(models: dict[str, Path], ask: Any, tmp_path: Path) -> None:
    refused(ask(models), 2, r"no calibration rows.*--data calibration=", tmp_path / "out")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    told = ask(models, data={"calibration": empty}, out=tmp_path / "out2")
    refused(told, 2, "empty", tmp_path / "out2")


def test_11_thin_calibration_is_noted_with_its_rank(
    models: dict[str, Path], ask: Any, tmp_path: Path
) -> None:
    rows = folders.rows_file(tmp_path / "few.jsonl", 2)
    told = ask(models, data={"calibration": rows})
    assert told[0] == 0, told
    assert re.search(r"note: \d+ of 8 inputs saw fewer than 4 tokens per channel .*rank \d+ of", told[1])
    report = json.loads((tmp_path / "out" / "provenance.json").read_text())["report"]
    assert report["calibration"]["given"] == 2
    assert all(row["rank"] <= report["calibration"]["tokens"] for row in report["layers"])


def test_11_calibration_rows_that_are_test_rows(models: dict[str, Path], ask: Any, tmp_path: Path) -> None:
    told = ask(models, data={"calibration": models["rows"], "test": models["rows"]})
    refused(told, 2, r"calibration.*test|test.*calibration", tmp_path / "out")
    other = folders.rows_file(tmp_path / "test.jsonl", 5, answers=False, shift=25)
    told = ask(models, data={"calibration": models["rows"], "test": other}, out=tmp_path / "out2")
    assert told[0] == 0, told


def test_11_sequences_that_are_cut_are_counted(models: dict[str, Path], ask: Any, tmp_path: Path) -> None:
    told = ask(models, data={"calibration": models["rows"]}, max_length=12)
    assert told[0] == 0, told
    found = re.search(r"note: (\d+) sequences were cut at 12 tokens", told[1])
    counts = json.loads((tmp_path / "out" / "provenance.json").read_text())["report"]["calibration"]
    assert found
    assert 0 < counts["truncated"] == int(found[1]) < counts["used"]
    assert counts["tokens"] <= 12 * counts["fitted"]


# Their folders hold the maps of all experts in one tensor; of GPT-OSS's, biases have two dimensions too.
STACKED: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "gpt_oss": ({"head_dim": 8}, (8, 2, 8)),
    "llama4_text": ({"head_dim": 8, "intermediate_size_mlp": 24}, (14, 2, 4)),
}


@pytest.mark.parametrize("kind", STACKED)
def test_11_experts_in_one_tensor_are_refused_by_name_unless_skipped(
    kind: str, ask: Any, tmp_path: Path
) -> None:
    more, (edited, exempt, left) = STACKED[kind]
    shape = {
        **folders.SMALL,
        "num_key_value_heads": 1,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        **more,
    }
    aligned = tiny.save_kind(kind, tmp_path / "aligned", **shape)
    # The experts' memory is taken as it is, and may hold numbers that are not.
    draw = torch.Generator().manual_seed(4)
    folders.edit_tensors(aligned, lambda name, tensor: 0.05 * torch.randn(tensor.shape, generator=draw))
    given = {"aligned": aligned, "tuned": folders.tuned(aligned, tmp_path / "tuned")}
    rows = {"calibration": folders.rows_file(tmp_path / "rows.jsonl")}
    told = ask(given, data=rows)
    said = (
        rf"{left} matrices are of a kind.*experts\.down_proj.*one tensor of three dimensions.*allow_skip=true"
    )
    refused(told, 2, said, tmp_path / "out")
    told = ask(given, data=rows, out=tmp_path / "out2", allow_skip="true")
    assert told[0] == 0, told
    report = json.loads((tmp_path / "out2" / "provenance.json").read_text())["report"]
    kinds, new, tuned = (
        report["matrices"],
        folders.weights(tmp_path / "out2"),
        folders.weights(given["tuned"]),
    )
    inside = [name for name, tensor in new.items() if ".layers." in name and tensor.ndim >= 2]
    assert kinds["in blocks"] == len(inside) == kinds["edited"] + kinds["exempt"] + kinds["refused"]
    assert (kinds["edited"], kinds["exempt"], kinds["refused"]) == (edited, exempt, left)
    kept = [name for name in inside if torch.equal(new[name], tuned[name])]
    assert len(kept) == kinds["exempt"] + kinds["refused"]
    folders.load(tmp_path / "out2")


@pytest.mark.parametrize("role", ["aligned", "tuned"])
def test_11_quantised_models(
    models: dict[str, Path], prep: Path, ask: Any, tmp_path: Path, role: str
) -> None:
    quantised = Path(shutil.copytree(models[role], tmp_path / "quantised"))
    config = json.loads((quantised / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (quantised / "config.json").write_text(json.dumps(config))
    told = ask({**models, role: quantised}, name="uniform_scale")
    refused(told, 2, r"quantised \(bitsandbytes\).*dequantize", tmp_path / "out")
    if role == "tuned":
        told = ask({**models, role: quantised}, out=tmp_path / "out2", prep=prep)
        refused(told, 2, r"quantised \(bitsandbytes\).*dequantize", tmp_path / "out2")


def test_11_integers_in_the_place_of_a_matrix(
    models: dict[str, Path], prep: Path, ask: Any, tmp_path: Path
) -> None:
    ints = changed(models["tuned"], tmp_path / "ints", lambda n, t: t.char() if "up_proj" in n else t)
    told = ask({**models, "tuned": ints}, prep=prep)
    refused(told, 2, r"up_proj\.weight of .* is int8: a quantised weight.*dequantize", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"s": "-1"}, r"s is -1\.0"),
        ({"s": "nan"}, "s is nan"),
        ({"mu": "inf"}, "mu is inf"),
        ({"mu": "-0.5"}, r"mu is -0\.5"),
        ({"rms_tol": "nan"}, "rms_tol is nan"),
        ({"mu": "1", "s": "1"}, "mu and s are given together"),
        ({"mode": "official", "mu": "1"}, "has no mu"),
        ({"mode": "sotf"}, "Did you mean 'soft'"),
        ({"percdamp": "-1"}, r"percdamp is -1\.0"),
        ({"holdout": "1"}, r"holdout is 1\.0"),
        ({"points": "1,0.5"}, "positive and rising"),
        ({"points": "1,x"}, "Write numbers"),
        ({"rows": "0"}, "rows is 0"),
        ({"utility": "task", "mode": "exact"}, "has no task metric"),
        ({"utility": "task"}, "--data finetune="),
        ({"prep": "nowhere"}, "there is no nowhere"),
        ({"templates": "nowhere.txt"}, "there is no nowhere.txt"),
        ({"judge": "keywrd"}, "keyword"),
        ({"modulles": "all"}, "Did you mean 'modules'"),
    ],
)
def test_11_bad_options(
    models: dict[str, Path], ask: Any, tmp_path: Path, options: dict[str, str], said: str
) -> None:
    rows = folders.rows_file(tmp_path / "rows.jsonl", 4, answers="judge" not in options)
    refused(ask(models, data={"calibration": rows}, **options), 2, said, tmp_path / "out")


def test_11_a_curvature_without_a_factor(
    models: dict[str, Path], prep: Path, ask: Any, tmp_path: Path
) -> None:
    """A singular H is damped more, and the report says how much; an indefinite one ends with exit 3."""
    flat = with_curvature(prep, tmp_path / "flat", lambda n: torch.ones(n, n))
    options: dict[str, Any] = {"mode": "exact", "rms_tol": 1e-3, "percdamp": 0}
    told = ask(models, prep=flat, **options)
    assert told[0] in (0, 10), told
    layers = json.loads((tmp_path / "out" / "provenance.json").read_text())["report"]["layers"]
    assert {row["percdamp"] for row in layers} <= {1e-7, 1e-6, 1e-5}
    worse = with_curvature(prep, tmp_path / "worse", lambda n: 60 * torch.ones(n, n) - 59 * torch.eye(n))
    for mode in ("exact", "paper", "official"):
        out = tmp_path / mode
        told = ask(models, prep=worse, out=out, **({"mode": mode} if mode != "exact" else options))
        refused(told, 3, r"no Cholesky factor.*calibration rows", out)


def test_11_prepared_for_another_model(models: dict[str, Path], prep: Path, ask: Any, tmp_path: Path) -> None:
    told = ask({**models, "aligned": models["unaligned"]}, prep=prep)
    refused(told, 2, r"prepared for another aligned model.*stage prepare", tmp_path / "out")
    told = ask({**models, "aligned": models["unaligned"]}, stage="apply", out=tmp_path / "o2", prep=prep)
    refused(told, 2, "prepared for another aligned model", tmp_path / "o2")
    refused(ask(models, stage="apply", out=tmp_path / "o3"), 2, r"needs a prepared folder", tmp_path / "o3")


def test_11_a_prepared_folder_that_is_none(
    models: dict[str, Path], prep: Path, ask: Any, tmp_path: Path
) -> None:
    hurt = Path(shutil.copytree(prep, tmp_path / "hurt"))
    (hurt / "prep.json").write_text('{"groups": [{}]}')
    refused(ask(models, prep=hurt), 2, r"prep\.json is damaged.*prepare again", tmp_path / "out")
    short = Path(shutil.copytree(prep, tmp_path / "short"))
    next(short.glob("L001*")).unlink()
    refused(ask(models, prep=short, out=tmp_path / "o2"), 2, r"L001\S* is missing", tmp_path / "o2")


def test_11_a_folder_that_is_not_empty(models: dict[str, Path], prep: Path, ask: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    for more in ([], ["--overwrite"]):
        told = ask(models, *more, prep=prep)
        assert told[0] == 2
        assert "not empty, and no treatment made" in told[2]
    assert [file.name for file in out.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("stage", ["", "prepare"])
def test_11_a_disk_too_small_is_known_before_anything_is_written(
    models: dict[str, Path], prep: Path, ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=1000))
    if stage:
        told = ask(models, stage=stage, roles=["aligned"], data={"calibration": models["rows"]})
    else:
        told = ask(models, prep=prep)
    refused(told, 4, r"takes .* GiB are free.*same command again", tmp_path / "out")
    assert not list((tmp_path / "out.run").rglob("*.safetensors"))
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    if stage:
        told = ask(models, stage=stage, roles=["aligned"], data={"calibration": models["rows"]})
    else:
        told = ask(models, prep=prep)
    assert told[0] == 0, told


def test_11_a_disk_that_fills_up_can_be_gone_on_from(
    models: dict[str, Path], prep: Path, ask: Any, tmp_path: Path
) -> None:
    """A real limit: no file may grow beyond 8 KiB."""
    given = ["treat", "safe_delta", "--set", f"prep={prep}", "--out", str(tmp_path / "out")]
    given += [f"--model={role}={models[role]}" for role in ("aligned", "tuned")]
    limit = (8192, 8192)
    found = subprocess.run(
        [sys.executable, "-m", "safewright", *given],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    refused((found.returncode, found.stdout, found.stderr), 4, "No space left.*goes on", tmp_path / "out")
    assert ask(models, prep=prep)[0] == 0


class Judge:
    """Every third answer refuses, every third complies, every third cannot be judged."""

    name = "thirds"
    answers = frozenset({"refusal"})
    conventions: Mapping[str, Any] = {}

    async def judge(self, items: Sequence[JudgeItem]) -> list[Judgement]:
        kinds = [
            Judgement(1.0, "yes", "ok"),
            Judgement(0.0, "no", "ok"),
            Judgement(None, "", "unparsed", "?"),
        ]
        return [kinds[i % 3] for i in range(len(items))]


def test_11_rows_without_answers_get_the_models_own_refusals(
    models: dict[str, Path], ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safewright import judges
    from safewright.treatments.safe_delta import calibration

    kept: list[Any] = []
    lines = calibration._lines
    monkeypatch.setattr(judges, "resolve", lambda name: Judge())
    monkeypatch.setattr(
        calibration, "_lines", lambda rows, *more: (kept.append(list(rows)), lines(rows, *more))[1]
    )
    # Both files have the ids r000, r001, ...
    answered = folders.rows_file(tmp_path / "answered.jsonl", 4)
    silent = folders.rows_file(tmp_path / "silent.jsonl", 9, answers=False)
    told = ask(
        models,
        "--json",
        stage="prepare",
        roles=["aligned"],
        data={"calibration": answered, "harmful": silent},
        answer_tokens=4,
    )
    assert told[0] == 0, told
    counts = json.loads(told[1])["counts"]
    assert {key: counts[key] for key in ("given", "asked", "refused", "not_refused", "unjudged")} == {
        "given": 13,
        "asked": 9,
        "refused": 3,
        "not_refused": 3,
        "unjudged": 3,
    }
    assert counts["used"] == 7
    rows = kept[0]
    wanted = [f"{row.reference} {tiny.WORDS[i % 7]}" for i, row in enumerate(tiny.rows(4))]
    assert [row.reference for row in rows[:4]] == wanted
    model = folders.load(models["aligned"])
    import transformers

    words = transformers.AutoTokenizer.from_pretrained(models["aligned"])
    for row in rows[4:]:
        ids = words.apply_chat_template(
            list(row.prompt), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        said = model.generate(**ids, do_sample=False, max_new_tokens=4)[0, ids["input_ids"].shape[1] :]
        assert row.reference == words.decode(said, skip_special_tokens=True).strip()


def test_11_a_model_that_refuses_nothing(models: dict[str, Path], ask: Any, tmp_path: Path) -> None:
    silent = folders.rows_file(tmp_path / "silent.jsonl", 6, answers=False)
    told = ask(models, data={"harmful": silent}, answer_tokens=4)
    refused(told, 2, r"refused none of 6 calibration requests.*own refusals", tmp_path / "out")
