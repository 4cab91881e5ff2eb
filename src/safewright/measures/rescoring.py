"""Records that another program stored, scored again: no model is asked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safewright import catalog
from safewright.errors import BadInput
from safewright.measures.driver import MAX_UNSCORED, count_unscored
from safewright.runs import digest_file, open_run, to_json, versions
from safewright.runs.run import plan_digest
from safewright.types import Cost, Findings, Record, Scorecard


def rescore(
    name: str,
    file: Path | str,
    *,
    config: Mapping[str, Any] | None = None,
    run: Path | str | None = None,
    overwrite: bool = False,
    notes: Mapping[str, Any] | None = None,
) -> tuple[Scorecard, Path]:
    """The scorecard of stored records under a measure's rules, and its run's folder.

    Args:
        name: A measure that can read such records.
        file: The records.
        config: Options of the measure.
        run: Folder of the run; ``runs/NAME-rescore-DIGEST`` where None.
        overwrite: Start anew where the folder holds another run.
        notes: Facts for plan.json that decide nothing.

    Raises:
        BadInput: The measure reads no stored records, or these cannot be used.
    """
    started = time.monotonic()
    entry = catalog.find(name, "measure")
    if entry.rescore is None:
        raise BadInput(
            f"{name} reads no stored records.", fix="Give a model, or safewright judge run for runs of ours."
        )
    path = Path(file).expanduser()
    options = catalog.read_options(entry, config or {})
    found: tuple[Findings, list[Record], dict[str, Any]] = entry.rescore(path, options)
    findings, records, about = found
    identity = {
        "rescored": {"measure": entry.name, "version": entry.version, "config": to_json(options)},
        "records": digest_file(path),
        "versions": versions(["safewright"]),
    }
    folder = Path(run) if run else Path("runs") / f"{name}-rescore-{plan_digest(identity)[7:19]}"
    with open_run(folder, {**identity, **(notes or {})}, overwrite=overwrite) as opened:
        digest = opened.write_rows("records.jsonl", records)
        card = Scorecard(
            measure=entry.name,
            version=entry.version,
            models={},
            readings=findings.readings,
            curves=findings.curves,
            tests=findings.tests,
            records="records.jsonl",
            records_digest=digest,
            conventions={
                "config": to_json(options),
                "decoding": {},
                "models": {},
                "judge": None,
                "sees": entry.sees,
                "data": {
                    "source": str(path),
                    "kind": "file",
                    "digest": identity["records"],
                    "rows": len(records),
                },
                "max_unscored": MAX_UNSCORED,
                "versions": identity["versions"],
                "rescored": about,
            },
            unscored=count_unscored(records),
            cost=Cost(seconds=round(time.monotonic() - started, 3)),
        )
        opened.write("scorecard.json", card)
        opened.event("finished", seconds=card.cost.seconds)
    return card, folder
