"""``--launch``: one command, several processes, one answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from safewright import catalog
from safewright.cli import launch
from safewright.cli.launch import Launch
from safewright.cli.main import run
from safewright.errors import BadInput, Missing
from safewright.training import processes
from tests import tiny
from tests.training import launching
from tests.training.test_loop import apart
from tests.treatments import folders

Start = Callable[..., subprocess.Popen[str]]
ENTRY = catalog._entries.pop("fake_trains")


@pytest.fixture(scope="module", autouse=True)
def _entered() -> Iterator[None]:
    """The made-up treatment in the catalog, which other tests must find as it is."""
    catalog.entries()
    catalog._entries["fake_trains"] = ENTRY
    yield
    catalog._entries.pop("fake_trains")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("launch")
    return {
        "home": home,
        "model": tiny.save_tiny(home / "model", **folders.SMALL, num_key_value_heads=1),
        "rows": folders.rows_file(home / "rows.jsonl", 18),
        "path": launching.plugin(home / "plugin"),
    }


@pytest.fixture
def begin(given: dict[str, Any], tmp_path: Path) -> Start:
    """Starts ``safewright treat fake_trains`` with ``--out out`` in a process of its own."""

    def started(*more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "safewright", "treat", "fake_trains", "--out=out"]
        return subprocess.Popen(
            [*command, f"--model=tuned={given['model']}", f"--data=forget={given['rows']}", *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": given["path"], "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )

    return started


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    said, told = process.communicate(timeout=150)
    return process.returncode, said, told


def interrupt(monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], folder: Path) -> list[psutil.Process]:
    """Give the command in this process, its own processes forked from one, and Ctrl-C once the main one waits."""
    more = [f"--model=tuned={given['model']}", f"--data=forget={given['rows']}", "--launch=cpu:2"]
    command = ["treat", "fake_trains", "--out=out", *more, "--set=fails=waits"]
    forked = [sys.executable, "-m", "tests.cli.forking"]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["safewright", *command])
    monkeypatch.setattr(launch, "command", lambda launch, arguments, folder: [*forked, *arguments])
    monkeypatch.setenv("PYTHONPATH", given["path"])
    own: list[psutil.Process] = []

    def stop() -> None:
        end = time.monotonic() + 100
        while not (folder / "out.run" / "waiting").exists() and time.monotonic() < end:
            time.sleep(0.05)
        # The starter, and the two it forked; of this process's children others may be those of earlier tests.
        found = psutil.Process().children(recursive=True)
        own.extend(each for each in found if "tests.cli.forking" in " ".join(each.cmdline()))
        os.kill(os.getpid(), signal.SIGINT)

    stopper = threading.Thread(target=stop)
    stopper.start()
    try:
        assert run(command) == 4
    finally:
        stopper.join()
    monkeypatch.undo()
    return own


def test_a_launch_gives_what_one_process_gives(
    begin: Start, given: dict[str, Any], tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends the main process as it would alone, and nothing that was started is left; the same command
    goes on, and gives the model of one process within 1e-6."""
    own = interrupt(monkeypatch, given, tmp_path)
    said, told = capfd.readouterr()
    assert said == "printed by the treatment\n"
    assert told.startswith("error: Stopped before the end.")
    assert "Traceback" not in told
    assert len(own) == 3  # the starter, the main process, and the one that follows
    assert not psutil.wait_procs(own, timeout=10)[1]
    assert not (tmp_path / "out").exists()

    code, said, told = ended(begin("--launch=cpu:2", "--json"))
    assert code == 0, told
    assert json.loads(said.removeprefix("printed by the treatment\n"))["kind"] == "weights"
    assert "error" not in told
    assert (tmp_path / "out.run" / "report.html").is_file()
    found = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert found["engine"] == {"device": "cpu", "threads": 1, "processes": 2}
    assert found["report"]["world"] == 2
    assert [check["passed"] for check in found["checks"]] == [True]
    journal = (tmp_path / "out.run" / "journal" / "seen.jsonl").read_text().splitlines()
    assert [json.loads(line)["rank"] for line in journal] == [0, 0]  # two tries, no follower

    one = f"--out={tmp_path / 'one'}"
    model, rows = f"--model=tuned={given['model']}", f"--data=forget={given['rows']}"
    assert run(["treat", "fake_trains", model, rows, one]) == 0
    alone = json.loads((tmp_path / "one" / "provenance.json").read_text())
    assert "processes" not in alone["engine"]
    assert len(found["report"]["losses"]) == 4
    assert apart(alone["report"]["losses"], found["report"]["losses"]) < 1e-4
    weights, others = folders.weights(tmp_path / "one"), folders.weights(tmp_path / "out")
    assert max(float((weights[name] - others[name]).abs().max()) for name in weights) < 1e-6
    assert any(not weights[name].equal(others[name]) for name in weights)  # other sums, which the plan says


# The launcher alone, with a small program in the place of torch's starter -----------------------------

STUB = """
import json, os, pathlib, sys, time
folder = pathlib.Path(os.environ["SAFEWRIGHT_LAUNCH"])
(folder / "pid-0").write_text(str(os.getpid()))
print("said", file=sys.stdout, flush=True)
os.write(0, b"told\\n")
sys.stderr.write("noise of the starter")
"""


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets a launch start this program."""

    def place(program: str) -> None:
        monkeypatch.setattr(launch, "command", lambda *given: [sys.executable, "-c", STUB + program])

    monkeypatch.setattr(launch, "PATIENCE", 0.3)
    monkeypatch.setattr(launch, "FINDING", 0.5)
    return place


@pytest.mark.parametrize("code", [0, 2, 3, 4, 10, 70])
def test_the_main_process_answers(stub: Any, capfd: Any, code: int) -> None:
    stub(f"(folder / 'result.json').write_text(json.dumps({{'code': {code}}}))")
    assert launch.relaunch(Launch("cpu", 2), []) == code
    assert capfd.readouterr() == ("said\n", "told\n")


def test_what_does_not_end_by_itself_is_ended(stub: Any, tmp_path: Path) -> None:
    """The result counts; the starter and its own process go, and no other."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    stub(
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid))\n"
        "(folder / 'result.json').write_text(json.dumps({'code': 0}))\n"
        "time.sleep(60)"
    )
    start = time.monotonic()
    assert launch.relaunch(Launch("cpu", 2), []) == 0
    assert time.monotonic() - start < 10
    child = int((tmp_path / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    assert other.poll() is None
    other.kill()
    other.wait()


def test_a_follower_that_fails_alone_is_told_of(stub: Any, capfd: Any) -> None:
    failed = {"rank": 1, "code": 5, "said": "error: No such weights."}
    stub(f"(folder / 'failed-1.json').write_text({json.dumps(failed)!r}); time.sleep(60)")
    assert launch.relaunch(Launch("cpu", 2), []) == 5
    assert "process 1 failed first:\nerror: No such weights." in capfd.readouterr().err


def test_a_killed_main_process_can_be_gone_on_from(stub: Any, capfd: Any) -> None:
    lost = {"rank": 1, "code": 70, "said": "Connection closed by peer"}
    stub(f"(folder / 'failed-1.json').write_text({json.dumps(lost)!r}); os.kill(os.getpid(), 9)")
    assert launch.relaunch(Launch("cpu", 2), []) == 4
    told = capfd.readouterr().err
    assert "The main process was killed." in told
    assert "Connection" not in told


def test_a_starter_that_starts_nothing_is_quoted(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    program = "import sys; sys.exit('no rendezvous')"
    monkeypatch.setattr(launch, "command", lambda *given: [sys.executable, "-c", program])
    assert launch.relaunch(Launch("cpu", 2), []) == 70
    assert "error: The processes could not be started.\nno rendezvous" in capfd.readouterr().err


# What is asked for ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["cpu", "cpu:", "cpu:0", "cpu:x", "cpu:-1", "cpu:1.5", "cpu:²"])
def test_a_number_of_processes_is_a_whole_one(text: str) -> None:
    with pytest.raises(BadInput, match=rf"--launch is '{text}'.*cpu:N"):
        launch.read(text)


@pytest.mark.parametrize("text", ["multi-gpu", "gpu", "fsdp", "multi_gpu:2", "", "8"])
def test_an_unknown_launch_names_the_choices(text: str) -> None:
    with pytest.raises(BadInput, match="Choices: cpu:N, multi_gpu, fsdp2, zero3"):
        launch.read(text)


def test_gpus_are_counted_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(BadInput, match="this machine has no GPU"):
        launch.read("multi_gpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert launch.read("fsdp2") == Launch("fsdp2", 4)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Missing, match="deepspeed"):
        launch.read("zero3")


def test_what_does_not_know_its_part_is_not_launched(given: dict[str, Any], capsys: Any) -> None:
    shown = {entry.name: entry.launches for entry in catalog.entries("treatment")}
    assert shown["fake_trains"]
    assert shown["safe_delta"] == ("cpu", "multi_gpu")
    assert not shown["safe_lora"]
    roles = [f"--model={role}={given['model']}" for role in ("tuned", "aligned", "unaligned")]
    assert run(["treat", "safe_lora", *roles, "--out=x", "--launch=cpu:2"]) == 2
    assert "safe_lora does not run on several processes." in capsys.readouterr().err
    entry = catalog.find("fake_trains")
    assert launch.choose("cpu:2", entry, None, "auto") == (Launch("cpu", 2), "cpu")
    assert launch.choose(None, entry, None, "cuda") == (None, "cuda")
    with pytest.raises(BadInput, match="--launch cpu:2 is given with --device cuda"):
        launch.choose("cpu:2", entry, None, "cuda")
    with pytest.raises(BadInput, match="The stage made of fake_trains does not run on several"):
        launch.choose("cpu:2", entry, "made", "auto")


def test_what_shares_out_rows_is_launched_with_whole_models_only(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = catalog.find("safe_delta")
    assert launch.choose("cpu:3", entry, "prepare", "auto") == (Launch("cpu", 3), "cpu")
    with pytest.raises(BadInput, match="The stage verify of safe_delta does not run on several processes\\."):
        launch.choose("cpu:2", entry, "verify", "auto")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(BadInput, match="in this way") as refused:
        launch.choose("fsdp2", entry, None, "auto")
    assert refused.value.fix == "Use --launch cpu:N or multi_gpu."


def test_bad_input_is_found_before_processes_are_started(
    given: dict[str, Any], capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def never(*given: Any) -> int:
        raise AssertionError("processes were started")

    monkeypatch.setattr(launch, "relaunch", never)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    model, rows = f"--model=tuned={given['model']}", f"--data=forget={given['rows']}"
    start = ["treat", "fake_trains", "--launch=cpu:2"]
    for more, said in (
        ([model, rows, f"--out={tmp_path / 'full'}"], "is not empty, and no treatment made what it holds"),
        ([model, rows, f"--out={tmp_path / 'o'}", "--set=step=3"], "has no option 'step'"),
        ([model, "--data=forget=none.jsonl", f"--out={tmp_path / 'o'}"], "none.jsonl"),
    ):
        assert run([*start, *more]) == 2
        assert said in capsys.readouterr().err
    assert run([*start, model, rows, f"--out={tmp_path / 'o'}", "--dry-run"]) == 0
    assert not (tmp_path / "o").exists()


def test_processes_that_something_else_started_may_not_write(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from safewright.treatments import treat

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv(processes.FOLDER, raising=False)
    with pytest.raises(BadInput, match="one of 2 processes, and safewright did not start them"):
        treat("fake_trains", {"tuned": given["model"]}, {"forget": given["rows"]}, out=tmp_path / "out")


def test_commands_by_kind(tmp_path: Path) -> None:
    """fsdp2 and zero3 are checked as far as a machine without GPUs allows: the command, and what it reads."""
    import torch.distributed.run as torchrun
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    for kind in ("cpu", "multi_gpu"):
        (_, _, starter, *rest) = launch.command(Launch(kind, 3), ["treat", "x", "--launch=y"], tmp_path)
        assert starter == "torch.distributed.run"
        parsed = torchrun.parse_args(rest)
        assert (parsed.nproc_per_node, parsed.standalone, parsed.module) == ("3", True, True)
        assert parsed.training_script == "safewright.cli.launched"
        assert parsed.training_script_args == ["treat", "x", "--launch=y"]
    for kind, name in (("fsdp2", "FSDP"), ("zero3", "DEEPSPEED")):
        config = launch.accelerate_config(Launch(kind, 3))
        (tmp_path / "accelerate.json").write_text(json.dumps(config))
        read: Any = load_config_from_file(str(tmp_path / "accelerate.json"))
        assert (read.distributed_type, read.num_processes) == (name, 3)
        (_, _, starter, *rest) = launch.command(Launch(kind, 3), ["treat", "x", "--launch=y"], tmp_path)
        assert starter == "accelerate.commands.launch"
        asked = launch_command_parser().parse_args(rest)
        assert asked.config_file == str(tmp_path / "accelerate.json")
        assert (asked.module, asked.training_script) == (True, "safewright.cli.launched")
        assert asked.training_script_args == ["treat", "x", "--launch=y"]
    assert launch.accelerate_config(Launch("fsdp2", 3))["fsdp_config"]["fsdp_version"] == 2
    assert launch.accelerate_config(Launch("zero3", 3))["deepspeed_config"]["zero_stage"] == 3


def test_messages_arrive_in_order_and_end_with_the_main_process(tmp_path: Path) -> None:
    main, other = processes.Messages(tmp_path), processes.Messages(tmp_path)
    main.tell([4, 2])
    main.tell({"path": "x"})
    (tmp_path / processes.ENDED).write_text('{"code": 0}')
    assert (other.hear(), other.hear()) == ([4, 2], {"path": "x"})
    with pytest.raises(SystemExit):
        other.hear()


def test_ctrl_c_before_the_command_can_answer_is_no_crash(
    monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    program = (
        "import sys\n"
        "from safewright.cli import launched\n"
        "def stop(): raise KeyboardInterrupt\n"
        "sys.modules['safewright.cli.main'].main = stop\n"
        "launched.main()"
    )
    monkeypatch.setattr(launch, "command", lambda *given: [sys.executable, "-c", program])
    assert launch.relaunch(Launch("cpu", 2), []) == 4
    told = capfd.readouterr().err
    assert told.startswith("error: Stopped before the end.")
    assert "Traceback" not in told


KILLED = """
import sys
from safewright.cli import launch
worker = '''
import os, sys, time
from safewright.cli import launched
def busy(folder, *more):
    (folder / ("busy-" + os.environ["RANK"])).touch()
    time.sleep(60)
launched._lead = launched._follow = busy
launched.main()
'''
starter = '''
import os, subprocess, sys
workers = [
    subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=0, start_new_session=True,
                     env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"})
    for rank in range(2)
]
for worker in workers:
    worker.wait()
'''
launch.command = lambda *given: [sys.executable, "-c", starter, worker]
launch.relaunch(launch.Launch("cpu", 2), [])
"""
"""A launcher whose processes are light; they watch as those of a training do."""


def _works(process: psutil.Process) -> bool:
    """Whether it runs still; one that nobody waits for does not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_killed_launcher_leaves_nothing_behind(tmp_path: Path) -> None:
    """kill -9, which it can hand on to nobody: its processes find out themselves, and its folder goes with them."""
    killed = subprocess.Popen([sys.executable, "-c", KILLED], env={**os.environ, "TMPDIR": str(tmp_path)})
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("safewright-launch-*/busy-*"))) < 2 and time.monotonic() < end:
        assert killed.poll() is None
        time.sleep(0.05)
    own = psutil.Process(killed.pid).children(recursive=True)
    assert len(own) == 3  # the starter, the main process, and the one that follows
    time.sleep(0.6)
    assert all(process.is_running() for process in own)  # they do not end while it is there
    killed.kill()
    killed.wait()
    end = time.monotonic() + 20
    while (left := [process for process in own if _works(process)]) and time.monotonic() < end:
        time.sleep(0.1)
    for process in left:
        process.kill()
    assert not left
    assert not list(tmp_path.glob("safewright-launch-*"))
