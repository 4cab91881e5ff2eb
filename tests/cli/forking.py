"""A starter in the place of torch's: two processes of a launch, forked from one that has imported what they need."""

from __future__ import annotations

import os


def main() -> None:
    """Start them with the arguments of this process, and wait for them."""
    import torch
    import transformers

    from safewright.cli import launched

    assert torch is not transformers  # both are here before the fork
    started = []
    for rank in range(2):
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
            launched.main()
        started.append(pid)
    for pid in started:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
