"""``--launch``: the same command again on several processes, ended and answered for by this one."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safewright.cli import console
from safewright.errors import BadInput, ExitCode, Missing, nearest
from safewright.runs import write_json
from safewright.training import processes

CHOICES = ("cpu:N", "multi_gpu", "fsdp2", "zero3")
HELP = (
    "Run on several processes: cpu:N, or multi_gpu, fsdp2 or zero3 on all GPUs "
    "(CUDA_VISIBLE_DEVICES chooses)."
)
WORKER = "safewright.cli.launched"
LOCK = "lock"
"""Held by the launcher: a worker that gets it knows that the launcher is gone."""

PATIENCE = 5.0
"""Seconds that processes get to end by themselves once the main one's result is there. About one in six runs
over gloo never does."""

GRACE = 60.0
"""Seconds that the main process gets to end after it was asked to."""

FINDING = 10.0
"""Seconds that the main process gets to find out itself that another one failed."""

STARTER = "starter"
"""What torchrun or accelerate says: it reports on workers, and only counts where none began."""


@dataclass(frozen=True)
class Launch:
    """On what, and on how many processes."""

    kind: str
    count: int

    @property
    def device(self) -> str:
        """The device of its processes."""
        return "cpu" if self.kind == "cpu" else "cuda"


def read(text: str) -> Launch:
    """A choice of ``--launch``.

    Raises:
        BadInput: There is no such choice, or no GPU for it.
        Missing: zero3 without deepspeed.
    """
    kind, colon, number = text.partition(":")
    if kind == "cpu":
        if not number.isascii() or not number.isdigit() or int(number) < 1:
            raise BadInput(
                f"--launch is {text!r}.", fix="Write cpu:N with N processes, from 1 up, for example cpu:2."
            )
        return Launch(kind, int(number))
    if colon or kind not in CHOICES:
        hint = nearest(text, CHOICES) if not colon else ""
        raise BadInput(f"--launch is {text!r}.", fix=f"{hint} Choices: {', '.join(CHOICES)}.".strip())
    try:
        import torch
    except ImportError as error:
        from safewright.errors import need_extra

        raise need_extra("torch", "models") from error
    count = torch.cuda.device_count()
    if not count:
        raise BadInput(f"--launch is {text!r}, and this machine has no GPU.", fix="Use --launch cpu:N.")
    if kind == "zero3" and importlib.util.find_spec("deepspeed") is None:
        raise Missing(
            "The package 'deepspeed' is not installed.", fix="Install it with: pip install deepspeed"
        )
    return Launch(kind, count)


def choose(text: str | None, entry: Any, stage: str | None, device: str) -> tuple[Launch | None, str]:
    """The launch of a treatment, and the device it takes.

    Raises:
        BadInput: See `read`; the treatment or stage does not run so, or runs elsewhere than ``device`` says.
    """
    if text is None:
        return None, device
    launch = read(text)
    kinds = entry.launches if stage is None else entry.stages[stage].launches if stage in entry.stages else ()
    if launch.kind not in kinds:
        what = f"The stage {stage} of {entry.name}" if stage is not None else entry.name
        how = " in this way" if kinds else ""
        raise BadInput(
            f"{what} does not run on several processes{how}.",
            why="--launch starts the command once per process, and each must know its part.",
            fix=f"Use --launch {' or '.join(choices(kinds))}." if kinds else "Leave out --launch.",
        )
    if device not in ("auto", launch.device):
        raise BadInput(
            f"--launch {text} is given with --device {device}.",
            fix=f"Leave out --device, or give {launch.device}.",
        )
    if launched() and processes.world_size() != launch.count:
        raise BadInput(f"--launch is {text!r} in one of {processes.world_size()} processes.")
    return launch, launch.device


def choices(kinds: Sequence[str]) -> list[str]:
    """What can be written after ``--launch`` for these kinds."""
    return [choice for choice in CHOICES if choice.partition(":")[0] in kinds]


def launched() -> bool:
    """Whether this process was started by a launch."""
    return processes.folder() is not None


def command(launch: Launch, arguments: Sequence[str], folder: Path) -> list[str]:
    """The command that starts all processes of a launch, each with these arguments."""
    work = ["-m", WORKER, *arguments]
    if launch.kind in ("cpu", "multi_gpu"):
        run = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(launch.count)]
        return [sys.executable, *run, *work]
    return [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(folder / "accelerate.json"),
        *work,
    ]


def accelerate_config(launch: Launch) -> dict[str, Any]:
    """accelerate's configuration for a launch that splits parameters over GPUs."""
    common: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "debug": False,
        "downcast_bf16": "no",
        "machine_rank": 0,
        "main_process_port": _free_port(),
        "main_training_function": "main",
        "mixed_precision": "no",  # --set precision= says it, in the training's own arguments
        "num_machines": 1,
        "num_processes": launch.count,
        "rdzv_backend": "static",
        "same_network": True,
        "use_cpu": False,
    }
    if launch.kind == "fsdp2":
        return common | {
            "distributed_type": "FSDP",
            "fsdp_config": {
                "fsdp_version": 2,
                "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "fsdp_reshard_after_forward": True,
                "fsdp_offload_params": False,
                "fsdp_activation_checkpointing": False,
                "fsdp_cpu_ram_efficient_loading": False,
                "fsdp_state_dict_type": "FULL_STATE_DICT",
            },
        }
    return common | {
        "distributed_type": "DEEPSPEED",
        "deepspeed_config": {
            "zero_stage": 3,
            "offload_optimizer_device": "none",
            "offload_param_device": "none",
            "zero3_init_flag": False,
            "zero3_save_16bit_model": True,
        },
    }


def relaunch(launch: Launch, arguments: Sequence[str] | None = None) -> int:
    """Run this command on several processes; the main one's exit code.

    What the main process prints comes through; the others print nothing. Ctrl-C is handed to the main process,
    which ends as it would alone. Processes that do not end by themselves after it are ended.

    Raises:
        KeyboardInterrupt: Ctrl-C before the main process had begun.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    folder = Path(tempfile.mkdtemp(prefix="safewright-launch-"))
    try:
        with (folder / LOCK).open("wb") as lock, (folder / STARTER).open("wb") as said:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if launch.kind in ("fsdp2", "zero3"):
                write_json(folder / "accelerate.json", accelerate_config(launch))
            started = subprocess.Popen(
                command(launch, given, folder),
                env=_environment(folder),
                # The starter hands its workers no other descriptor: standard error travels as their input.
                stdin=sys.stderr.fileno(),
                stderr=said,
                start_new_session=True,  # Ctrl-C on the terminal is ours to hand on
            )
            try:
                code = _await(started, folder)
                _let_end(started)
            finally:
                _end(started)
        return code
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _environment(folder: Path) -> dict[str, str]:
    """A worker's environment. What is set here already wins."""
    quiet = {
        "OMP_NUM_THREADS": "1",  # else torchrun says that it sets it; --threads decides for torch
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    # ``python -m`` would put the current folder first, and a file in it in the place of a library.
    own = {"PYTHONSAFEPATH": "1", processes.FOLDER: str(folder)}
    if sys.path[0] in ("", os.getcwd()):  # this process was started so itself
        own["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH", "")]))
    return {**quiet, **os.environ, **own}


def _await(started: subprocess.Popen[bytes], folder: Path) -> int:
    """The main process's exit code, once it is there; Ctrl-C is handed to it."""
    deadline: float | None = None
    asked = False
    while True:
        try:
            code = _result(folder)
            if code is not None:
                return _explained(code, folder)
            if started.poll() is not None:
                code = _result(folder)
                return _explained(ExitCode.INTERNAL if code is None else code, folder, died=code is None)
            if deadline is None and _failures(folder):
                # The main process finds out as soon as it needs the one that failed.
                deadline = time.monotonic() + FINDING
            if deadline is not None and time.monotonic() > deadline:
                if asked:
                    raise KeyboardInterrupt
                return _explained(ExitCode.INTERNAL, folder, died=True)
            time.sleep(0.05)
        except KeyboardInterrupt:
            if not _hand_on(folder) or (asked and deadline is not None and time.monotonic() > deadline):
                raise
            deadline, asked = time.monotonic() + GRACE, True


def _result(folder: Path) -> int | None:
    """The main process's exit code, where it has ended."""
    file = folder / processes.ENDED
    return int(json.loads(file.read_text("utf-8"))["code"]) if file.exists() else None


def _failures(folder: Path) -> list[dict[str, Any]]:
    """How followers failed."""
    return [json.loads(file.read_text("utf-8")) for file in sorted(folder.glob("failed-*.json"))]


def _explained(code: int, folder: Path, *, died: bool = False) -> int:
    """The exit code, and a word where the main process could not say itself what went wrong."""
    if died and not (folder / "pid-0").exists():
        said = (folder / STARTER).read_text("utf-8", "replace").strip()
        console.say(f"error: The processes could not be started.\n{said[-4000:]}")
        return ExitCode.INTERNAL
    # One that loses the main process fails, too; that is no reason of its own.
    known = [
        each for each in _failures(folder) if each["code"] not in (ExitCode.INTERNAL, ExitCode.INCOMPLETE)
    ]
    if known and (died or code == ExitCode.INTERNAL):
        console.say(f"process {known[0]['rank']} failed first:\n{known[0]['said']}")
        return int(known[0]["code"])
    if died:
        console.say(
            "error: The main process was killed.\n"
            "  Perhaps the memory did not suffice for so many processes. Everything done so far is kept.\n"
            "  Give the same command again: it goes on from there."
        )
        return ExitCode.INCOMPLETE
    if code == ExitCode.INTERNAL:
        for each in _failures(folder):
            console.say(f"process {each['rank']} failed with:\n{each['said']}")
    return code


def _hand_on(folder: Path) -> bool:
    """Send Ctrl-C to the main process; False where it has not begun."""
    try:
        pid = int((folder / "pid-0").read_text())
        os.kill(pid, signal.SIGINT)
    except (OSError, ValueError):
        return False
    return True


def _let_end(started: subprocess.Popen[bytes]) -> None:
    """Give the processes the time to end by themselves."""
    try:
        started.wait(PATIENCE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        pass


def _end(started: subprocess.Popen[bytes]) -> None:
    """End what this launch started and is still there: the starter first, which would report the others."""
    if started.poll() is None:
        import psutil

        try:
            own = psutil.Process(started.pid)
            workers = own.children(recursive=True)
        except psutil.NoSuchProcess:
            workers = []
        started.kill()
        for worker in workers:
            try:
                worker.kill()
            except psutil.NoSuchProcess:
                pass
        psutil.wait_procs(workers, timeout=PATIENCE)
    started.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
