"""How the command is left: interrupted at any moment, its output gone, its arguments no text."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from safewright.cli import doctor
from safewright.cli.main import _STOPPED, run
from safewright.errors import BadInput
from tests.cli.conftest import write_rows

COMMAND = [sys.executable, "-m", "safewright"]


def given(*arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], **{"capture_output": True, "text": True, "timeout": 120, **more}
    )


def interrupted_at(module: str, *arguments: object, blow: signal.Signals = signal.SIGINT) -> tuple[int, str]:
    """Exit code and stderr of a command that gets a signal as soon as it has imported ``module``."""
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "safewright", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = []
    sent = False
    for line in process.stderr:
        if line.startswith("import time:"):
            if not sent and line.rpartition("|")[2].strip() == module:
                os.kill(process.pid, blow)
                sent = True
        else:
            said.append(line)
    code = process.wait(60)
    assert sent, f"{module} was never imported: {said}"
    return code, "".join(said)


@pytest.mark.parametrize(
    "module", ["safewright.errors", "typer.models", "safewright.types", "safewright.cli.options"]
)
@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_the_command_is_imported(module: str, blow: signal.Signals) -> None:
    code, said = interrupted_at(module, "list", blow=blow)
    assert (code, said) == (4, _STOPPED)


@pytest.mark.parametrize("module", ["numpy", "safewright.compose.folders"])
def test_interrupted_while_a_verb_imports(module: str, tmp_path: Path) -> None:
    code, said = interrupted_at(module, "compare", tmp_path / "a", tmp_path / "b")
    assert (code, said) == (4, _STOPPED)


def test_an_error_that_ctrl_c_was_turned_into_is_exit_4(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def half_imported() -> Any:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("cannot import name 'x' from partially initialised module") from error

    monkeypatch.setattr(doctor, "gather", half_imported)
    assert run(["doctor"]) == 4
    assert capsys.readouterr().err == _STOPPED


DROPPED = """
import sys
from safewright.cli import doctor
from safewright.cli.main import main
class Dropping:
    def __del__(self):
        raise KeyboardInterrupt
def gather():
    Dropping()
    import time
    time.sleep(20)
doctor.gather = gather
main(["doctor"])
"""


def test_a_ctrl_c_that_was_dropped_is_delivered_again() -> None:
    done = subprocess.run([sys.executable, "-c", DROPPED], capture_output=True, text=True, timeout=15)
    assert (done.returncode, done.stderr) == (4, _STOPPED)


@pytest.mark.parametrize("verb", [["list", "--json"], ["show", "utility"], ["doctor"], ["list"]])
def test_a_full_output_is_not_blamed_on_the_disk_of_the_run(verb: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = given(*verb, stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert done.returncode == 4
    assert "standard output (No space left on device)" in done.stderr
    assert str(Path.cwd()) not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_who_leaves_changes_nothing() -> None:
    process = subprocess.Popen([*COMMAND, "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 0


def test_closed_streams_are_told_or_borne(tmp_path: Path) -> None:
    shell = f"{sys.executable} -m safewright"
    closed = subprocess.run(["sh", "-c", f"{shell} list >&-"], capture_output=True, text=True, timeout=60)
    assert closed.returncode == 4
    assert "standard output" in closed.stderr
    silent = subprocess.run(["sh", "-c", f"{shell} doctor 2>&-"], capture_output=True, text=True, timeout=60)
    assert silent.returncode == 0
    assert silent.stdout.startswith("safewright:")
    assert subprocess.run(["sh", "-c", f"{shell} show nothing 2>/dev/full"], timeout=60).returncode == 2


def test_other_letters_than_utf_8(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "数据.jsonl", 2)
    done = given("data", "check", rows, "--json", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["file"] == str(rows)
    assert given("data", "check", rows, env={**os.environ, "PYTHONIOENCODING": "ascii"}).returncode == 0


@pytest.mark.parametrize("argument", ["x\udcff", "x\0y"])
def test_arguments_that_are_no_text_are_bad_input(argument: str, capsys: Any) -> None:
    assert run(["show", argument]) == 2
    assert "UTF-8" in capsys.readouterr().err


def test_no_verb_shows_the_help_and_no_empty_error(capsys: Any) -> None:
    assert run([]) == 2
    said = capsys.readouterr()
    assert "audit" in said.out + said.err
    assert "error:" not in said.err


def test_a_deleted_current_folder_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(doctor, "gather", os.getcwd)
    assert run(["doctor"]) == 2
    assert "current folder was deleted" in capsys.readouterr().err


def test_brackets_in_names_are_no_markup(capsys: Any) -> None:
    from rich.table import Table

    from safewright.cli import console

    table = Table("name")
    table.add_row("models/[/x] :smile:")
    console.show(table)
    assert "models/[/x] :smile:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (
            PermissionError(13, "Permission denied", "/a/model"),
            2,
            "/a/model cannot be used (Permission denied)",
        ),
        (OSError(30, "Read-only file system", "/a"), 2, "/a cannot be used"),
        (OSError(28, "No space left on device", "/a/weights"), 4, "writing to /a/weights"),
        (OSError(28, "No space left on device"), 4, "writing to the disk"),
        (FileNotFoundError(2, "No such file or directory", "/ours"), 70, "Please report it"),
        (BrokenPipeError(32, "Broken pipe"), 70, "Please report it"),
        (BadInput("what", why="why", fix="fix"), 2, "error: what\n  why\n  fix\n"),
    ],
)
def test_every_error_has_its_code(
    error: Exception, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def failing() -> Any:
        raise error

    monkeypatch.setattr(doctor, "gather", failing)
    assert run(["doctor"]) == code
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""
