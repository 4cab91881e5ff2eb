"""Run in a process of its own: how far memory rises above that after imports while a model is edited."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path


def main(aligned: str, tuned: str, prep: str, out: str, mode: str, chunk: str) -> None:
    import torch
    import transformers  # noqa: F401 - counted as imports

    from safewright.models.blocks import skeleton
    from safewright.treatments import plan_treatment, run_stage
    from safewright.treatments.safe_delta import applying  # noqa: F401

    torch.set_num_threads(1)
    skeleton(Path(aligned))  # imports the architecture
    plan = plan_treatment(
        "safe_delta",
        {"aligned": aligned, "tuned": tuned},
        stage="apply",
        config={"prep": prep, "mode": mode, "row_chunk": int(chunk)},
        out=out,
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run_stage(plan)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"rise": (after - before) * 1024}))


if __name__ == "__main__":
    main(*sys.argv[1:])
