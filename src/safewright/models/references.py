"""Which model: a folder, an adapter, a hub id or a served model, down to its bytes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from safewright.errors import BadInput, Missing, nearest, need_extra
from safewright.models.recipes import RECIPE_FILE, read_recipe
from safewright.models.weights import ADAPTER_WEIGHTS, check_weights, read_json, weight_files
from safewright.runs import digest_bytes, digest_file, digest_json
from safewright.types import ModelRef, Recipe

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")

_BEHAVIOUR = (
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
    "pytorch_model.bin.index.json",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "adapter_model.bin",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "tekken.json",
    "chat_template*",
    RECIPE_FILE,
)
"""Files of a model folder that decide what the model says; only these are digested."""

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w.-]+(/[\w.-]+)*)?$")


def resolve(where: str | Path, *, dtype: str = "auto") -> ModelRef:
    """The reference of a model, with the digest of its bytes.

    Args:
        where: A folder, an adapter folder, a hub id ``ORG/NAME[@REVISION]`` (downloaded),
            ``http://host:port/v1#NAME``, or ``inspect:PROVIDER/NAME`` for what Inspect AI can reach.
        dtype: The dtype it will be loaded in; ``auto`` is the saved one.

    Raises:
        BadInput: Not a model folder, or a shard is missing or damaged.
        Missing: The hub or the server cannot be reached.
    """
    check_dtype(dtype)
    if not isinstance(where, (str, Path)):
        raise BadInput(f"A {type(where).__name__} names no model.", fix="Give a path, an id, or an address.")
    text = os.fspath(where)
    if text.startswith(("http://", "https://")):
        from safewright.models.endpoint import endpoint_ref

        return endpoint_ref(text)
    if text.startswith("inspect:"):
        from safewright.models.inspect_model import inspect_ref

        return inspect_ref(text)
    return _resolve_local(text, dtype, isinstance(where, Path), base=False)


def check_dtype(dtype: str) -> None:
    """Pass when a dtype is one that models are run in.

    Raises:
        BadInput: It is not.
    """
    if dtype not in DTYPES:
        raise BadInput(f"Unknown dtype {dtype!r}.", fix=nearest(str(dtype), DTYPES))


def _resolve_local(text: str, dtype: str, path: bool, *, base: bool) -> ModelRef:
    """A folder's or a hub id's reference; ``base`` where it is an adapter's base, and so no adapter."""
    folder = as_path(text)
    try:
        if folder.is_dir():
            return _from_folder(folder, where=text, dtype=dtype, base=base)
        exists = folder.exists()
    except OSError as error:
        raise BadInput(
            f"{text} cannot be read: {error.strerror or error}.", fix="Give a folder you may read."
        ) from error
    if exists:
        raise BadInput(
            f"{text} is a file, not a model folder.", fix="Give the folder that holds config.json."
        )
    if path or text.startswith((".", "/", "~")) or not _HUB_ID.match(text):
        raise BadInput(
            f"There is no folder {text!r}.", fix="Give a model folder, a hub id, or http://…/v1#NAME."
        )
    repo, _, revision = text.partition("@")
    snapshot = _snapshot(repo, revision or None)
    # The hub's cache names a snapshot's folder after its commit.
    return _from_folder(snapshot, where=repo, dtype=dtype, revision=snapshot.name, base=base)


def as_path(text: str) -> Path:
    """A path as typed, with its ``~`` replaced.

    Raises:
        BadInput: It begins with the home of a user there is not.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise BadInput(f"There is no folder {text!r}: {error}") from error


def local_folder(ref: ModelRef) -> Path:
    """The folder on this machine that holds a resolved model's files.

    Raises:
        BadInput: It has no folder (a live or served model), or the folder is gone.
    """
    if ref.kind not in ("hf", "adapter"):
        raise BadInput(
            f"The model {ref.where} has no folder (it is of the kind {ref.kind!r}).",
            fix="Save it with save_pretrained, and give that folder.",
        )
    if ref.revision is not None:
        return _snapshot(ref.where, ref.revision)
    return _folder_that_is(ref.where)


def base_folder(ref: ModelRef) -> Path:
    """The folder that holds the files of a resolved adapter's base model; nothing is digested again."""
    where = ref.base or ""
    repo, found, revision = where.rpartition("@")
    if found and not as_path(where).is_dir():
        return _snapshot(repo, revision)
    return _folder_that_is(where)


def _folder_that_is(where: str) -> Path:
    folder = as_path(where)
    if not folder.is_dir():
        raise BadInput(
            f"The model folder {where} is no longer there.", fix="Put it back, and give the command again."
        )
    return folder


def tokenizer_folder(ref: ModelRef) -> Path:
    """The folder whose tokenizer a resolved model uses: an adapter's own, else its base's."""
    folder = local_folder(ref)
    return folder if ref.kind != "adapter" or _has_tokenizer(folder) else base_folder(ref)


def _has_tokenizer(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in ("tokenizer*", "vocab.*", "tekken.json"))


def _from_folder(
    folder: Path, *, where: str, dtype: str, revision: str | None = None, base: bool = False
) -> ModelRef:
    recipe = read_recipe(folder)
    if (folder / "adapter_config.json").exists():
        if base:
            raise BadInput(
                f"{folder} is an adapter itself.",
                why="An adapter on an adapter has no one meaning.",
                fix="Merge the lower one into its base first (merge_and_unload), and name the result.",
            )
        return _from_adapter(folder, where=where, dtype=dtype, revision=revision, recipe=recipe)
    if not (folder / "config.json").exists():
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
        raise BadInput(
            f"{folder} is not a model folder: it has no config.json (it holds {found}).",
            fix="Give a folder written by save_pretrained, or a PEFT adapter folder.",
        )
    _check_json(folder)
    if not weight_files(folder):
        raise BadInput(f"{folder} has a config.json but no weights.", fix="Copy its *.safetensors files too.")
    check_weights(folder)
    if not _has_tokenizer(folder) and not any(folder.glob("*.model")):
        raise BadInput(f"{folder} has no tokenizer.", fix="Save it there: tokenizer.save_pretrained(folder).")
    stamp = _stamp(folder)
    ref = ModelRef(
        kind="hf",
        where=where,
        digest=_digest(folder),
        dtype=dtype,
        revision=revision,
        template_digest=_template_digest(folder),
        recipe=recipe,
    )
    _stamps[ref.kind, where, ref.digest] = stamp
    return ref


def _from_adapter(
    folder: Path, *, where: str, dtype: str, revision: str | None, recipe: Recipe | None
) -> ModelRef:
    _check_json(folder)
    base = _base_of(folder, dtype)
    if not weight_files(folder):
        raise BadInput(f"{folder} is an adapter without {ADAPTER_WEIGHTS[0]}.", fix="Copy it again.")
    check_weights(folder)
    own_template = _template_digest(folder)
    stamp = _stamp(folder) | _stamps[base.kind, base.where, base.digest]
    ref = ModelRef(
        kind="adapter",
        where=where,
        digest=digest_json({"adapter": _digest(folder), "base": base.digest}),
        base=base.where if base.revision is None else f"{base.where}@{base.revision}",
        dtype=dtype,
        revision=revision,
        template_digest=own_template if own_template or _has_tokenizer(folder) else base.template_digest,
        recipe=recipe or base.recipe,
    )
    _stamps[ref.kind, where, ref.digest] = stamp
    return ref


def _base_of(folder: Path, dtype: str) -> ModelRef:
    """The base model an adapter names: a path as written or beside the adapter, or a hub id.

    A hub id is taken at the adapter's ``revision``, which for PEFT is the revision of the base.
    """
    file = folder / "adapter_config.json"
    config = read_json(file)
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(name, str) or not name.strip():
        raise BadInput(f"{file} names no base model.", fix="Set base_model_name_or_path in it.")
    if revision is not None and not isinstance(revision, str):
        raise BadInput(f"{file}: revision is {revision!r}.", fix="It must be a revision's name, or null.")
    if name.startswith(("http://", "https://")):
        raise BadInput(
            f"{file} names the base model {name}, which is an address.",
            fix="Name a model folder or a hub id as base_model_name_or_path.",
        )
    try:
        if not as_path(name).exists() and (folder / name).is_dir():
            name = str(folder / name)
        elif revision and "@" not in name and not as_path(name).exists():
            name = f"{name}@{revision}"
        return _resolve_local(name, dtype, False, base=True)
    except OSError as error:
        raise BadInput(
            f"{file} names the base model {name!r}, which cannot be read: {error.strerror or error}."
        ) from error
    except Missing as error:
        raise Missing(
            f"The adapter {folder} names {name!r} as its base, which is not here: {error.what}",
            why=error.why,
            fix=f"Where you have it in a folder, set base_model_name_or_path in {file} to that. {error.fix}",
        ) from error
    except BadInput as error:
        raise BadInput(
            f"The base model of the adapter {folder}: {error.what}",
            why=error.why,
            fix=error.fix or f"Correct base_model_name_or_path in {file}.",
        ) from error


def _snapshot(repo: str, revision: str | None) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise need_extra("huggingface_hub", "models") from error
    transport = getattr(errors, "HTTPError", OSError)  # of whichever HTTP library this hub version uses
    try:
        return Path(
            huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=list(_BEHAVIOUR))
        )
    except errors.HFValidationError as error:
        raise BadInput(
            f"There is no folder {repo!r}, and no model of the hub can have this name: {error}",
            fix="Give a model folder, or a hub id as ORG/NAME.",
        ) from error
    except errors.GatedRepoError as error:
        raise Missing(
            f"{repo} is gated: its terms must be accepted first.",
            fix=f"Accept them at https://huggingface.co/{repo}, then run: hf auth login",
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise Missing(f"The hub has no model {repo}" + (f" at {revision}." if revision else ".")) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, transport, OSError) as error:
        raise Missing(
            f"There is no folder {repo!r} here, and the hub cannot be reached for a model of this name.",
            fix=f"With network: hf download {repo}. Without: give the model's folder.",
        ) from error


_JSON = (
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""Files whose damage a library would pass over in silence, or report as something else."""


def _check_json(folder: Path) -> None:
    for name in _JSON:
        if (folder / name).exists():
            read_json(folder / name)


Stamp = frozenset[tuple[str, int, int]]
_stamps: dict[tuple[str, str, str], Stamp] = {}
"""Sizes and times of the files that were digested here, by kind, place and digest of the model."""


def check_unchanged(ref: ModelRef) -> None:
    """Pass when no file of a model was written since it was digested.

    A model is digested when a run is planned, and opened when it is first asked: what a training job
    saves in between must not get its answers under the old weights' digest.

    Raises:
        BadInput: One was. References that another process made are not known here, and pass.
    """
    known = _stamps.get((ref.kind, ref.where, ref.digest))
    now = _stamp(local_folder(ref)) | (_stamp(base_folder(ref)) if ref.kind == "adapter" else frozenset())
    if known is not None and known != now:
        changed = ", ".join(sorted({Path(file).name for file, _, _ in known ^ now})[:3])
        raise BadInput(
            f"The folder {ref.where} has changed since its model was digested ({changed}).",
            why="Answers would be recorded under the digest of other weights.",
            fix="Wait until nothing writes there, and give the command again.",
        )


def _stamp(folder: Path) -> Stamp:
    found = ((str(file.resolve()), file.stat()) for file in _behaviour_files(folder))
    return frozenset((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)


def _behaviour_files(folder: Path) -> list[Path]:
    return sorted({file for pattern in _BEHAVIOUR for file in folder.glob(pattern) if file.is_file()})


def _digest(folder: Path) -> str:
    files = _behaviour_files(folder)
    return digest_json({file.name: digest_file(file) for file in files})


def _template_digest(folder: Path) -> str:
    template = folder / "chat_template.jinja"
    if template.exists():
        return digest_file(template)
    config = folder / "tokenizer_config.json"
    if config.exists():
        text = read_json(config).get("chat_template")
        if text:
            return digest_bytes(json.dumps(text, sort_keys=True).encode())
    return ""
