"""Whose folder it is: nothing of somebody else's is changed or deleted, and what a kill left is mended."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from safewright.errors import BadInput, Incomplete
from safewright.runs import open_run, write_text
from safewright.runs.folder import LOCK, foreign

PLAN = {"seed": 0, "data": "sha256:1"}
OTHER = {**PLAN, "seed": 1}


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, byte for byte."""
    return {
        str(entry.relative_to(folder)): entry.read_bytes() if entry.is_file() else None
        for entry in sorted(folder.rglob("*"))
    }


def a_run(folder: Path) -> Path:
    """A run with everything a run makes, and a run inside it."""
    with open_run(folder, PLAN) as run:
        run.append("answers", {"id": 1})
        run.step({"a": 1}, lambda: 2)
        run.write("scorecard.json", {})
        run.write("result.json", {})
        made = run.own("weights")
        made.mkdir()
        (made / "model.safetensors").write_bytes(b"x")
        (folder / "report.html").write_text("page")
        with open_run(folder / "harmful_rate", PLAN) as inner:
            inner.append("answers", {"id": 1})
    return folder


@pytest.mark.parametrize("content", ['{"name": "my project"}', "[1, 2]", "3", "null", '"text"', "{"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_project_with_a_plan_of_its_own_is_left_alone(
    content: str, overwrite: bool, tmp_path: Path
) -> None:
    home = tmp_path / "project"
    (home / "src").mkdir(parents=True)
    (home / "src" / "thesis.txt").write_text("do not lose me")
    (home / "plan.json").write_text(content)
    before = tree(home)
    with pytest.raises(BadInput, match=r"not the plan of a run") as refused:
        open_run(home, PLAN, overwrite=overwrite)
    assert refused.value.exit_code == 2
    assert tree(home) == before


def test_overwriting_deletes_all_that_a_run_makes(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run")
    assert foreign(folder) == []
    with open_run(folder, OTHER, overwrite=True) as run:
        assert run.rows("answers") == []
    assert set(tree(folder)) == {"plan.json", LOCK}
    assert json.loads((folder / "plan.json").read_text())["seed"] == 1


@pytest.mark.parametrize(
    "place", ["notes.txt", "weights2/model.bin", "journal/notes.txt", "steps/a.json", "harmful_rate/mine.txt"]
)
def test_overwriting_stops_before_it_starts_when_something_else_is_there(place: str, tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run")
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).write_text("mine")
    before = tree(folder)
    with pytest.raises(BadInput, match=place.split("/")[0]) as refused:
        open_run(folder, OTHER, overwrite=True)
    assert "did not make" in refused.value.what
    assert tree(folder) == before
    with open_run(folder, PLAN) as run:  # resuming deletes nothing, so it goes on
        assert len(run.rows("answers")) == 1


def test_overwriting_does_not_follow_links(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "plan.json").write_text((folder / "plan.json").read_text())
    (folder / "linked").symlink_to(precious, target_is_directory=True)
    with pytest.raises(BadInput, match="linked"):
        open_run(folder, OTHER, overwrite=True)
    assert (precious / "plan.json").exists()


def test_overwriting_waits_for_a_run_inside(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run")
    with open_run(folder / "harmful_rate", PLAN), pytest.raises(BadInput, match="in use"):
        open_run(folder, OTHER, overwrite=True)
    assert (folder / "scorecard.json").exists()


def test_a_name_somebody_else_has_is_not_registered(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", PLAN) as run:
        (tmp_path / "run" / "model").mkdir()
        with pytest.raises(BadInput, match="did not make it"):
            run.own("model")
        with pytest.raises(ValueError, match="plain name"):
            run.own("../model")
    (tmp_path / "run" / "model" / "notes").touch()
    with pytest.raises(BadInput, match="model/"):
        open_run(tmp_path / "run", OTHER, overwrite=True)
    assert (tmp_path / "run" / "model" / "notes").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]"])
def test_a_damaged_plan_is_refused_but_may_be_overwritten(content: bytes, tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run")
    (folder / "plan.json").write_bytes(content)
    with pytest.raises(BadInput, match=r"damaged.*--overwrite"):
        open_run(folder, PLAN)
    with open_run(folder, PLAN, overwrite=True) as run:
        assert run.rows("answers") == []
    with open_run(folder, PLAN) as run:
        assert run.rows("answers") == []


FIRST_WRITE = """
import os, signal, sys
import safewright.runs.atomic as atomic
from safewright.runs import open_run
atomic.os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
open_run(sys.argv[1], {"seed": 0, "data": "sha256:1"})
"""


def test_killed_while_the_plan_is_first_written(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", FIRST_WRITE, str(folder)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert [name for name in tree(folder) if name.startswith(".plan.json.")]
    with open_run(folder, PLAN) as run:
        assert run.rows("answers") == []
    assert set(tree(folder)) == {"plan.json", LOCK}


@pytest.mark.parametrize("name", ["scorecard.json", "records.jsonl", "result.json"])
def test_leftovers_of_killed_writes_are_swept(name: str, tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run")
    (folder / f".{name}.a1b2c3d4.part").write_text("half")
    (folder / "steps" / f".{'0' * 64}.json.a1b2c3d4.part").write_text("half")
    (folder / ".thesis.a1b2c3d4.part").write_text("mine")
    open_run(folder, PLAN).close()
    assert [Path(entry).name for entry in tree(folder) if entry.endswith(".part")] == [
        ".thesis.a1b2c3d4.part"
    ]
    assert foreign(folder) == [".thesis.a1b2c3d4.part"]


def test_a_kill_while_overwriting_leaves_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = a_run(tmp_path / "run")
    count = len(tree(folder))
    unlink = Path.unlink
    for allowed in range(count):
        left = allowed

        def dying(self: Path, missing_ok: bool = False) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            unlink(self, missing_ok=missing_ok)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", dying)
            try:
                open_run(folder, OTHER, overwrite=True).close()
                break
            except KeyboardInterrupt:
                assert foreign(folder) == []
                open_run(folder, PLAN).close()
    assert set(tree(folder)) == {"plan.json", LOCK}


def test_somebody_elses_lock_file_is_not_touched(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".lock").write_text("pid 17")
    with pytest.raises(BadInput, match="not empty"):
        open_run(home, PLAN)
    assert tree(home) == {".lock": b"pid 17"}
    run = tmp_path / "run"
    open_run(run, PLAN).close()
    (run / LOCK).write_text("kept")
    open_run(run, PLAN).close()
    assert (run / LOCK).read_text() == "kept"


def test_a_refused_folder_gets_nothing_from_us(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "notes.txt").write_text("x")
    with pytest.raises(BadInput, match=r"not empty.*notes\.txt"):
        open_run(tmp_path / "home", PLAN)
    assert set(tree(tmp_path / "home")) == {"notes.txt"}


def _under_a_file(folder: Path) -> Path:
    (folder / "file").write_text("x")
    return folder / "file" / "run"


def _closed(folder: Path) -> Path:
    return Path("/proc/safewright/run")  # not even root may create a folder there


@pytest.mark.parametrize(
    "place",
    [
        _under_a_file,
        _closed,
        lambda folder: folder / ("x" * 300),
        lambda folder: folder / "nul\0" / "run",
        lambda folder: folder / "half\ud800",
        lambda folder: "/dev/null",
    ],
)
def test_places_that_cannot_be_written_are_bad_input(
    place: Callable[[Path], Path | str], tmp_path: Path
) -> None:
    with pytest.raises(BadInput) as refused:
        open_run(place(tmp_path), PLAN)
    assert refused.value.exit_code == 2
    with pytest.raises(BadInput):
        write_text(Path(place(tmp_path)) / "page.html", "x")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_no_permission_is_bad_input(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*arguments: object, **more: object) -> None:
        raise OSError(code, os.strerror(code), str(tmp_path / "run"))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", closed)
        with pytest.raises(BadInput, match=os.strerror(code)):
            open_run(tmp_path / "run", PLAN)
    with open_run(tmp_path / "run", PLAN) as run, monkeypatch.context() as patch:
        patch.setattr("safewright.runs.atomic.tempfile.mkstemp", closed)
        with pytest.raises(BadInput, match=r"scorecard\.json.*--out"):
            run.write("scorecard.json", {})


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("safewright.runs.atomic.os.fsync", full)
    with pytest.raises(Incomplete, match=r"No space left while writing to .*page\.html"):
        write_text(tmp_path / "page.html", "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line", [b"[]", b"3", b'{"id": 1}', b"[" * 100_000, b'{"key": "\xff", "generation": {}}']
)
def test_a_journal_line_that_is_no_row_is_named(line: bytes, tmp_path: Path) -> None:
    with open_run(tmp_path / "run", PLAN) as run:
        run.append("answers", {"key": [1], "generation": {}})
        file = tmp_path / "run" / "journal" / "answers.jsonl"
        file.write_bytes(file.read_bytes() + line + b"\n")
        with pytest.raises(BadInput, match=r"line 2 is damaged.*--overwrite"):
            run.rows("answers", ("key", "generation"))


@pytest.mark.parametrize("content", [b"", b"[]", b'{"key": 1}'])
def test_a_damaged_step_is_named(content: bytes, tmp_path: Path) -> None:
    with open_run(tmp_path / "run", PLAN) as run:
        run.step({"a": 1}, lambda: 2)
        (file,) = (tmp_path / "run" / "steps").iterdir()
        file.write_bytes(content)
        with pytest.raises(BadInput, match=r"steps.*damaged"):
            run.step({"a": 1}, lambda: 2)


def test_half_a_surrogate_pair_is_kept_as_an_escape(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", PLAN) as run:
        run.append("answers", {"text": "a\ud800b", "more": "中"})
        assert run.rows("answers") == [{"text": "a\ud800b", "more": "中"}]
    write_text(tmp_path / "page.html", "a\ud800b")
    assert (tmp_path / "page.html").read_bytes() == b"a\\ud800b"
