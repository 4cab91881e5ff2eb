"""One process of a launch (`safewright.cli.launch`): the main one answers to the user, the others are silent.

Every process leaves with 0 and says in the folder of messages how it went, so that what started them has
nothing to report, and by ``os._exit``: after a training over gloo the interpreter's own end may hang.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import threading
import time
from pathlib import Path


def main() -> None:
    """Run the command given by the arguments."""
    from safewright.training import processes

    folder = processes.folder()
    if folder is None:
        print("error: This module is started by: safewright treat … --launch", file=sys.stderr)
        sys.exit(2)
    os.dup2(0, 2)  # see `relaunch`
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    threading.Thread(target=_watch, args=(folder,), daemon=True).start()
    if processes.is_main():
        _lead(folder)
    else:
        _follow(folder, processes.rank())
    os._exit(0)


def _lead(folder: Path) -> None:
    """The command as a user sees it, and its exit code for the launcher."""
    # C++ libraries write to descriptor 1 what is no result.
    kept = os.dup(1)
    os.dup2(_noise(folder, 0), 1)
    # What guards standard output drops this object and goes on with its descriptor.
    sys.stdout = os.fdopen(kept, "w", encoding=sys.stdout.encoding, closefd=False)
    from safewright.errors import SafewrightError
    from safewright.runs import write_json, write_text
    from safewright.training.processes import ENDED

    code = 70
    try:
        write_text(folder / "pid-0", str(os.getpid()))  # Ctrl-C is handed on from here
        from safewright.cli.main import main as command

        command()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(bool(error.code)) * 70
    except KeyboardInterrupt:  # before the command could answer for itself
        code = 4
        print("error: Stopped before the end.\n  Give the same command again.", file=sys.stderr)
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, SafewrightError):
                code = code or 4  # the result could not be printed
        write_json(folder / ENDED, {"code": code})


def _follow(folder: Path, rank: int) -> None:
    """The command in silence; what went wrong, if anything, for the launcher."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(_noise(folder, rank), 2)
    from safewright.cli.main import run
    from safewright.runs import write_json
    from safewright.training.processes import ENDED

    code = run()
    sys.stderr.flush()
    if code != 0 and not (folder / ENDED).exists():
        said = (folder / f"said-{rank}").read_text("utf-8", "replace")
        write_json(folder / f"failed-{rank}.json", {"rank": rank, "code": code, "said": said[-4000:].strip()})


def _noise(folder: Path, rank: int) -> int:
    return os.open(folder / f"said-{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def _watch(folder: Path) -> None:
    """End this process, as a kill would, once its launcher is gone; the folder goes, too."""
    from safewright.cli.launch import LOCK

    while True:
        time.sleep(0.5)
        try:
            with (folder / LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        except OSError:
            pass  # the folder is gone, and so is the launcher
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)


if __name__ == "__main__":
    main()
