"""Where a treatment's result stands: what may be put there, what may go, and the swap of one for the other."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright.errors import BadInput
from safewright.runs import Run, digest_file, write_json
from safewright.runs.atomic import disk_errors, sync_folder
from safewright.runs.folder import made
from safewright.runs.run import plan_digest

if TYPE_CHECKING:
    from safewright.treatments.plan import TreatPlan

PROVENANCE = "provenance.json"
"""Lies beside a treated model's weights: what it was made from, how, and what was found."""

REPLACED = "replaced"
"""Where a run keeps an old result until the new one stands in its place."""


def put(
    draft: Path, plan: TreatPlan, out: Path, provenance: Mapping[str, Any], run: Run, overwrite: bool
) -> None:
    """Move a whole draft to its place, and only then let go of an old result that stood there."""
    files = {name: digest_file(draft / name) for name in _files(draft)}
    write_json(draft / PROVENANCE, {**provenance, "files": files})
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        new = draft
        if draft.stat().st_dev != out.parent.stat().st_dev:
            new = out.parent / f".{out.name}.part"  # another file system: copy beside, then rename there
            if new.exists():
                shutil.rmtree(new)
            shutil.copytree(draft, new)
        require_free(out, plan, overwrite)
        old = run.own(REPLACED)
        if out.is_dir() and any(out.iterdir()):
            if new is draft:
                os.replace(out, old)
            else:
                shutil.rmtree(out)
        try:
            os.replace(new, out)
        except BaseException:
            if old.exists():
                os.replace(old, out)
            raise
        sync_folder(out.parent)
        let_go(run)
        if new is not draft:
            shutil.rmtree(draft)


def let_go(run: Run) -> None:
    """Delete a result that was replaced. Without its provenance, no rest of it is ever put back."""
    old = run.dir / REPLACED
    if REPLACED in made(run.dir) and old.exists():
        (old / PROVENANCE).unlink(missing_ok=True)
        shutil.rmtree(old)


def put_back(out: Path, folder: Path) -> None:
    """Undo half a replacement: a kill came after the old result was moved away, before the new one was there."""
    old = folder / REPLACED
    if REPLACED in made(folder) and (old / PROVENANCE).is_file() and not os.path.lexists(out):
        os.replace(old, out)


def stands(out: Path, plan: TreatPlan) -> bool:
    """Whether ``out`` already holds the result of this very plan."""
    found = _provenance(out)
    return found is not None and found["plan"] == plan_digest(plan.identity)


def _provenance(out: Path) -> dict[str, Any] | None:
    """What a treatment wrote about its result in ``out``; None where no treatment made it."""
    file = out / PROVENANCE
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text("utf-8"))
    except ValueError:
        return None
    ours = isinstance(found, dict) and {"plan", "treatment", "parents", "files"} <= found.keys()
    return found if ours else None


def require_free(out: Path, plan: TreatPlan, overwrite: bool) -> None:
    """Pass when ``out`` is not there, is empty, is this plan's own result, or an old one that may go.

    Raises:
        BadInput: It holds something else, or more than a result; the result is not what was written; or no
            folder can be put in its place.
    """
    if not overwrite and stands(out, plan):
        _require_whole(out, plan)
        return
    if out.is_symlink():
        raise BadInput(
            f"{out} is a link to {os.readlink(out)}.",
            why="A result is put in place as a whole, which would replace the link.",
            fix="Name the folder itself with --out.",
        )
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file.", fix="Name a folder with --out.")
    if out.is_dir() and (out.samefile(Path.cwd()) or out.is_mount()):
        what = "the folder you are in" if out.samefile(Path.cwd()) else "a mount point"
        raise BadInput(
            f"{out} is {what}.",
            why="A result is put in place as a whole, which would replace the folder.",
            fix="Name a folder inside it with --out.",
        )
    if not out.is_dir() or not any(out.iterdir()):
        return
    found = _provenance(out)
    if found is None:
        raise BadInput(
            f"{out} is not empty, and no treatment made what it holds.",
            why="It would be mixed with the result, or lost.",
            fix="Choose another folder with --out.",
        )
    if not overwrite:
        raise BadInput(
            f"{out} holds the result of another plan.",
            why="It would be lost.",
            fix="Use --overwrite, or choose another folder with --out.",
        )
    foreign = next(_foreign(out, found["files"]), None)
    if foreign is not None:
        how = "was changed after it was made" if foreign in found["files"] else "no treatment made"
        raise BadInput(
            f"{out} holds {foreign}, which {how}.",
            why="Overwriting would delete it.",
            fix="Move it elsewhere, or choose another folder with --out.",
        )


def differing(out: Path, files: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Which files of a result are missing, and which have other bytes than it was written with."""
    missing = [name for name in files if not (out / name).is_file()]
    changed = [name for name in files if name not in missing and digest_file(out / name) != files[name]]
    return missing, changed


def _require_whole(out: Path, plan: TreatPlan) -> None:
    """Pass when the finished result in ``out`` still has the bytes it was written with.

    Raises:
        BadInput: A file of it was changed or is gone.
    """
    found = _provenance(out)
    assert found is not None
    missing, changed = differing(out, found["files"])
    if not missing and not changed:
        return
    what = f"{changed[0]} has changed" if changed else f"{missing[0]} is missing"
    see = ""
    if "verify" in plan.entry.stages:
        see = f" To see what differs: safewright treat {plan.entry.name} verify --out {out}"
    raise BadInput(
        f"{out} holds the result of this command, but {what}.",
        why="Its checks were made on other bytes.",
        fix=f"{'Move that file elsewhere, and use' if changed else 'Use'} --overwrite to make it again.{see}",
    )


def _foreign(out: Path, known: Mapping[str, str]) -> Iterator[str]:
    """What lies in a result's folder and is not as a treatment made it: files, links and folders."""
    for entry in sorted(out.rglob("*")):
        name = str(entry.relative_to(out))
        if name in known:
            if not entry.is_file() or digest_file(entry) != known[name]:
                yield name
        elif entry.is_symlink() or not entry.is_dir():
            if name != PROVENANCE:
                yield name
        elif not any(file.startswith(f"{name}/") for file in known):
            yield f"{name}/"


def _files(folder: Path) -> list[str]:
    """The files of a result by their names in it, apart from its provenance."""
    found = (str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    return sorted(name for name in found if name != PROVENANCE)
