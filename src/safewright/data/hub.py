"""Presets from the hub: an exact revision, from the local cache or the network, or a clear refusal.

A revision is resolved to its commit before anything is read, and what was read is checked against it:
the loading library falls back to any cached version on its own when the network fails, which would
change the data without a word.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safewright.data.loaded import LoadedData, check_limit, sample
from safewright.data.presets import Preset, Record, find_preset, preset_rows
from safewright.data.rows import rows_digest
from safewright.errors import BadInput, Incomplete, Missing, SafewrightError, need_extra

PROBE_SECONDS = 5.0
"""How long the hub may take to say which commit a set is at; without network the answer comes sooner."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


def load_preset(name: str, *, limit: int | None = None, seed: int = 0) -> LoadedData:
    """The rows of a preset, with the commit they come from.

    A version in the local Hugging Face cache is used without asking the network: the pinned commit, or
    for an unpinned preset the one that was downloaded last. Else the hub is asked, an unpinned preset is
    resolved to the commit of its main branch, and the set is downloaded.

    Args:
        name: Of the preset.
        limit: At most so many rows, a sample that depends on ``seed`` and the rows only.
        seed: Of the sample.

    Raises:
        BadInput: No such preset, the limit is not positive, or the set no longer has the columns, the
            configuration or the split that are read.
        Missing: It is not cached and the hub is offline, unreachable or refuses it; or `datasets` is not
            installed.
        Incomplete: The disk is full.
    """
    return load_from(find_preset(name), limit=limit, seed=seed)


def fetch_preset(name: str) -> LoadedData:
    """What a preset resolves to now, downloaded into the Hugging Face cache; see `load_preset`.

    An unpinned preset is resolved anew, so this is also how to move to a newer version.
    """
    return load_from(find_preset(name), refresh=True)


def load_from(
    preset: Preset, *, limit: int | None = None, seed: int = 0, refresh: bool = False
) -> LoadedData:
    """The rows of any preset, also of one that is not listed; see `load_preset`.

    ``preset.repo`` may be a local folder; there is no revision then and the digest says what was read.

    Args:
        preset: Where the set is and how it is read.
        limit: At most so many rows.
        seed: Of the sample.
        refresh: Ask the hub where an unpinned set is now, even if a version is cached.
    """
    check_limit(limit)
    notes: list[str] = []
    if os.path.isdir(preset.repo):
        records = _local(preset)
    else:
        # A commit never changes: asking again is for presets that have none.
        anew = refresh and preset.revision is None
        known = None if anew else _cached(preset, preset.revision)
        if known is None:
            commit, gated = _resolve(preset)
            if gated:
                notes.append(f"The hub gates this set ({gated}); the account in use has access.")
            known = _download(preset, commit)
        records = known
    rows, said = preset_rows(preset, records.items)
    if preset.revision is None:
        notes.insert(
            0,
            f"Unpinned: read at commit {records.commit}." if records.commit else "Read from a local folder.",
        )
    notes += said
    chosen = sample(rows, limit, seed)
    return LoadedData(
        rows=tuple(chosen),
        digest=rows_digest(chosen),
        source=preset.repo,
        kind="preset",
        name=preset.name,
        role=preset.role,
        revision=records.commit,
        pinned=preset.revision is not None and records.commit == preset.revision,
        licence=preset.licence_line,
        total=len(rows),
        notes=tuple(notes),
    )


@dataclasses.dataclass(frozen=True)
class _Records:
    items: list[Record]
    commit: str | None = None


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise need_extra("datasets", "models") from error
    return datasets


def _local(preset: Preset) -> _Records:
    datasets = _datasets()
    with _named(preset):
        return _Records(datasets.load_dataset(preset.repo, preset.config, split=preset.split).to_list())


def _cached(preset: Preset, commit: str | None) -> _Records | None:
    """The records of a version in the cache: of this commit, or for None the one prepared last."""
    datasets = _datasets()
    from datasets.packaged_modules.cache.cache import Cache

    namespace, _, short = preset.repo.rpartition("/")
    # The library's own name for the folder: Organisation___set_name/config/version/commit.
    folder = f"{namespace}___{datasets.naming.camelcase_to_snakecase(short)}"
    root = Path(datasets.config.HF_DATASETS_CACHE) / folder
    found = [
        place
        for place in root.glob(f"{preset.config or 'default'}/*/{commit or '*'}")
        if _COMMIT.fullmatch(place.name) and (place / "dataset_info.json").is_file()
    ]
    if not found:
        return None
    place = max(found, key=lambda folder: folder.stat().st_mtime)
    with _named(preset):
        builder = Cache(
            dataset_name=short,
            repo_id=preset.repo,
            config_name=place.parts[-3],
            version=place.parts[-2],
            hash=place.name,
        )
        return _Records(builder.as_dataset(split=preset.split).to_list(), place.name)


def _resolve(preset: Preset) -> tuple[str, str]:
    """The commit of the preset on the hub, and how the hub gates it (empty where it does not)."""
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise need_extra("huggingface_hub", "models") from error
    if _offline():
        raise _missing(preset, "HF_HUB_OFFLINE is set")
    try:
        info = huggingface_hub.HfApi().dataset_info(
            preset.repo, revision=preset.revision, timeout=PROBE_SECONDS
        )
    except errors.GatedRepoError as error:
        raise _gated(preset) from error
    except errors.RevisionNotFoundError as error:
        raise Missing(
            f"The hub has no revision {preset.revision} of {preset.repo} (preset {preset.name!r}).",
            why="The preset reads that revision only.",
            fix=_own_rows(preset),
        ) from error
    except errors.RepositoryNotFoundError as error:
        # The hub answers the same for a set that is not there and for one that needs a login.
        raise Missing(
            f"The hub does not show {preset.repo} (preset {preset.name!r}) to this account.",
            fix=f"{_gate_line(preset)} {_own_rows(preset)}",
        ) from error
    except _network_errors() as error:
        raise _missing(preset, _reason(error)) from error
    return str(info.sha), str(info.gated or "")


def _download(preset: Preset, commit: str) -> _Records:
    datasets = _datasets()
    with _named(preset):
        loaded = datasets.load_dataset(preset.repo, preset.config, split=preset.split, revision=commit)
    places = {Path(file["filename"]).parent.name for file in loaded.cache_files}
    if places and places != {commit}:
        raise Missing(
            f"{preset.repo} was asked for at commit {commit}, but {', '.join(sorted(places))} was read.",
            why="The network failed half-way and an older copy in the cache took its place.",
            fix=f"Try again: safewright data fetch {preset.name}",
        )
    return _Records(loaded.to_list(), commit)


class _named:  # noqa: N801 - a context manager, used as a verb
    """Turns the loading library's errors into ours, with the preset's name and what to do."""

    def __init__(self, preset: Preset) -> None:
        self.preset = preset

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, SafewrightError):
            return
        from datasets import exceptions
        from huggingface_hub import errors

        preset = self.preset
        if _disk_full(error):
            raise Incomplete(
                f"The disk filled up while {preset.name!r} was downloaded.",
                fix=f"Make room, or set HF_HOME to another disk, and repeat: safewright data fetch {preset.name}",
            ) from error
        if isinstance(error, errors.GatedRepoError) or "gated dataset" in str(error):
            raise _gated(preset) from error
        if isinstance(
            error, (exceptions.DatasetNotFoundError, exceptions.DataFilesNotFoundError, ValueError)
        ):
            raise BadInput(
                f"{preset.repo} cannot be read as the preset {preset.name!r} does (configuration "
                f"{preset.config or 'default'}, split {preset.split}): {_reason(error)}",
                fix=f"The set may have changed: see {preset.homepage}. {_own_rows(preset)}",
            ) from error
        if isinstance(error, (exceptions.DatasetsError, *_network_errors())):
            raise _missing(preset, _reason(error)) from error


def _network_errors() -> tuple[type[Exception], ...]:
    """Everything a failing connection raises, whichever HTTP client this version of the hub library uses."""
    from huggingface_hub.errors import HfHubHTTPError

    return (*(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)), OSError)


def _offline() -> bool:
    from huggingface_hub import constants

    # The variable may have been set after the library was imported; it is honoured either way.
    return constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in {
        "1",
        "ON",
        "YES",
        "TRUE",
    }


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _disk_full(error: BaseException) -> bool:
    full = (errno.ENOSPC, errno.EDQUOT)
    return any(isinstance(cause, OSError) and cause.errno in full for cause in _causes(error))


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _own_rows(preset: Preset) -> str:
    own = f"Or give rows of your own: --data {preset.role}=rows.jsonl"
    return f"{own}. {preset.own}" if preset.own else own


def _gate_line(preset: Preset) -> str:
    notice = preset.gate_notice or (
        "If the set is gated, accept its terms at {homepage}, then log in with `hf auth login`."
    )
    return notice.format(homepage=preset.homepage)


def _missing(preset: Preset, reason: str) -> Missing:
    gate = f" {_gate_line(preset)}" if preset.gate_notice else ""
    return Missing(
        f"The preset {preset.name!r} ({preset.repo}) is not in the local cache and the hub did not deliver it "
        f"({reason}).",
        fix=f"With a network connection run: safewright data fetch {preset.name} (the cache folder HF_HOME can "
        f"be carried to this machine).{gate} {_own_rows(preset)}",
    )


def _gated(preset: Preset) -> Missing:
    return Missing(
        f"The hub does not give out {preset.repo} (preset {preset.name!r}) before its terms are accepted.",
        fix=f"Accept them at {preset.homepage}, log in with `hf auth login`, then run: safewright data fetch "
        f"{preset.name}. {_own_rows(preset)}",
    )
