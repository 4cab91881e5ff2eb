"""What the documentation says is so: pages are current, examples run, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import write_rows

ROOT = Path(__file__).resolve().parent.parent


def test_the_page_of_methods_is_current() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "methods.md").read_text("utf-8") == module.methods_page(), (
        "run: python docs/generate.py"
    )


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *map(str, ROOT.glob("docs/*.md"))]
)
def test_links_to_files_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text("utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{page} links to {target}"


def test_readme_commands_exist() -> None:
    from safewright.cli.main import run

    for verb in set(
        re.findall(
            r"safewright (list|show|audit|measure|compare|doctor|lab)\b", (ROOT / "README.md").read_text()
        )
    ):
        assert run([verb, "--help"]) == 0


def test_example_audit_runs(tiny_folder: Path, tmp_path: Path) -> None:
    rows = str(write_rows(tmp_path / "rows.jsonl", 6))
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "examples" / "audit_in_python.py",
            tiny_folder,
            rows,
            rows,
            rows,
            tmp_path / "out",
        ],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "harm: harmful" in done.stdout
    assert (tmp_path / "out" / "report.html").exists()


def test_example_measure_runs_and_joins_the_catalog(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from safewright import catalog
    from safewright.cli.main import run

    catalog.entries()
    monkeypatch.setattr(catalog, "_entries", dict(catalog._entries))
    runpy.run_path(str(ROOT / "examples" / "add_a_measure.py"))
    rows = str(write_rows(tmp_path / "rows.jsonl", 6))
    out = tmp_path / "out"
    asked = ["measure", "terse_rate", str(tiny_folder), "--data", rows, "--set", "words=3", "--out", str(out)]
    assert run([*asked, "--max-unscored", "1", "--json"]) == 0
    assert '"terse"' in capsys.readouterr().out


def test_example_repair_runs(tiny_folder: Path, tmp_path: Path) -> None:
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "tuned")
    transformers.AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path / "tuned")
    rows = str(write_rows(tmp_path / "rows.jsonl", 12))
    out = tmp_path / "out"
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "examples" / "repair_in_python.py",
            tiny_folder,
            tmp_path / "tuned",
            rows,
            out,
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "ok: the files have the reported safety losses" in done.stdout
    assert (out / "provenance.json").is_file()


def test_example_comparison_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.compose import ablating

    home, out = ablating.home_of(tmp_path), tmp_path / "out"
    options = [f"{key}={value}" for key, value in {**ablating.QUICK, "steps": 1}.items()]
    given = [str(home / name) for name in ("student", "reasoned.jsonl", "harm.jsonl")]
    script = ROOT / "examples" / "compare_arms_in_python.py"
    monkeypatch.setattr(sys, "argv", [str(script), *given, str(out), *options])
    runpy.run_path(str(script), run_name="__main__")
    shown = capsys.readouterr().out
    assert "4 models are measured" in shown
    assert "ASR, answer prefill" in shown
    assert (out / "table.md").read_text() in shown
    assert (out / "report.html").is_file()
