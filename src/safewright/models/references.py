"""Which model: a folder, an adapter, a hub id or a served model, down to its bytes."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safewright.errors import BadInput, Missing, nearest, need_extra
from safewright.runs import digest_bytes, digest_file, digest_json, from_json
from safewright.types import Decoding, ModelRef, Recipe

RECIPE_FILE = "safewright_recipe.json"
PREPARE_STEPS: frozenset[str] = frozenset()
"""Named prompt steps a recipe may ask for."""

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
    "chat_template*",
    RECIPE_FILE,
)
"""Files of a model folder that decide what the model says; only these are digested."""

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w.-]+)?$")


def resolve(where: str | Path, *, dtype: str = "auto") -> ModelRef:
    """The reference of a model, with the digest of its bytes.

    Args:
        where: A folder, an adapter folder, a hub id ``ORG/NAME[@REVISION]`` (downloaded), or
            ``http://host:port/v1#NAME``.
        dtype: The dtype it will be loaded in; ``auto`` is the saved one.

    Raises:
        BadInput: Not a model folder, or a shard is missing or damaged.
        Missing: The hub or the server cannot be reached.
    """
    if dtype not in DTYPES:
        raise BadInput(f"Unknown dtype {dtype!r}.", fix=nearest(dtype, DTYPES))
    text = str(where)
    if text.startswith(("http://", "https://")):
        from safewright.models.endpoint import endpoint_ref

        return endpoint_ref(text)
    folder = Path(text).expanduser()
    if folder.is_dir():
        return _from_folder(folder, where=text, dtype=dtype)
    if folder.exists():
        raise BadInput(
            f"{text} is a file, not a model folder.", fix="Give the folder that holds config.json."
        )
    if isinstance(where, Path) or text.startswith((".", "/", "~")) or not _HUB_ID.match(text):
        raise BadInput(
            f"There is no folder {text}.", fix="Give a model folder, a hub id, or http://…/v1#NAME."
        )
    return _from_hub(text, dtype)


def local_folder(ref: ModelRef) -> Path:
    """The folder on this machine that holds a resolved model's files."""
    if ref.revision is None:
        return Path(ref.where).expanduser()
    return _snapshot(ref.where, ref.revision)


def _from_folder(folder: Path, *, where: str, dtype: str, revision: str | None = None) -> ModelRef:
    config_file, adapter_file = folder / "config.json", folder / "adapter_config.json"
    recipe = read_recipe(folder)
    if adapter_file.exists():
        adapter = _read_json(adapter_file)
        base_name = adapter.get("base_model_name_or_path")
        if not base_name:
            raise BadInput(f"{adapter_file} names no base model.", fix="Set base_model_name_or_path in it.")
        base = resolve(_base_of(folder, str(base_name)), dtype=dtype)
        if (
            not (folder / "adapter_model.safetensors").exists()
            and not (folder / "adapter_model.bin").exists()
        ):
            raise BadInput(f"{folder} is an adapter without adapter_model.safetensors.", fix="Copy it again.")
        check_weights(folder)
        own = _digest(folder)
        return ModelRef(
            kind="adapter",
            where=where,
            digest=digest_json({"adapter": own, "base": base.digest}),
            base=base.where if base.revision is None else f"{base.where}@{base.revision}",
            dtype=dtype,
            revision=revision,
            template_digest=_template_digest(folder) or base.template_digest,
            recipe=recipe or base.recipe,
        )
    if not config_file.exists():
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
        raise BadInput(
            f"{folder} is not a model folder: it has no config.json (it holds {found}).",
            fix="Give a folder written by save_pretrained, or a PEFT adapter folder.",
        )
    _read_json(config_file)
    if not weight_files(folder):
        raise BadInput(f"{folder} has a config.json but no weights.", fix="Copy its *.safetensors files too.")
    check_weights(folder)
    if not any(folder.glob("tokenizer*")) and not any(folder.glob("vocab.*")):
        raise BadInput(f"{folder} has no tokenizer.", fix="Save it there: tokenizer.save_pretrained(folder).")
    return ModelRef(
        kind="hf",
        where=where,
        digest=_digest(folder),
        dtype=dtype,
        revision=revision,
        template_digest=_template_digest(folder),
        recipe=recipe,
    )


def _base_of(folder: Path, name: str) -> str:
    """An adapter's base: as written, or beside the adapter when the path is relative to it."""
    if not Path(name).expanduser().exists() and (folder / name).is_dir():
        return str(folder / name)
    return name


def _from_hub(name: str, dtype: str) -> ModelRef:
    repo, _, revision = name.partition("@")
    folder = _snapshot(repo, revision or None)
    # The hub's cache names a snapshot's folder after its commit.
    return _from_folder(folder, where=repo, dtype=dtype, revision=folder.name)


def _snapshot(repo: str, revision: str | None) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise need_extra("huggingface_hub", "models") from error
    import httpx

    try:
        return Path(
            huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=list(_BEHAVIOUR))
        )
    except errors.GatedRepoError as error:
        raise Missing(
            f"{repo} is gated: its terms must be accepted first.",
            fix=f"Accept them at https://huggingface.co/{repo}, then run: hf auth login",
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise Missing(f"The hub has no model {repo}" + (f" at {revision}." if revision else ".")) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, httpx.HTTPError, OSError) as error:
        raise Missing(
            f"There is no folder {repo!r} here, and the hub cannot be reached for a model of this name.",
            fix=f"With network: hf download {repo}. Without: give the model's folder.",
        ) from error


def read_recipe(folder: Path) -> Recipe | None:
    """The recipe beside a model's weights, None where there is none.

    Raises:
        BadInput: Unknown fields, an unknown prompt step, decoding key or marker.
    """
    file = folder / RECIPE_FILE
    if not file.exists():
        return None
    recipe = from_json(Recipe, _read_json(file))
    if recipe.prepare is not None and recipe.prepare not in PREPARE_STEPS:
        raise BadInput(
            f"{file} asks for the prompt step {recipe.prepare!r}.", fix=nearest(recipe.prepare, PREPARE_STEPS)
        )
    fields = {field.name for field in dataclasses.fields(Decoding)}
    for key in recipe.decoding:
        if key not in fields:
            raise BadInput(f"{file} sets the unknown decoding option {key!r}.", fix=nearest(key, fields))
    if recipe.visible and set(recipe.visible) != {"open", "close"}:
        raise BadInput(f"{file}: visible must have exactly the keys open and close.")
    return recipe


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a model or adapter folder; those of an index when there is one.

    Raises:
        BadInput: The index names a file that is not there.
    """
    for index_name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        index = folder / index_name
        if not index.exists():
            continue
        weight_map = _read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise BadInput(f"{index} has no weight_map.", fix="Copy the folder again.")
        shards = sorted(set(weight_map.values()))
        for shard in shards:
            if not (folder / shard).exists():
                count = sum(1 for file in weight_map.values() if file == shard)
                raise BadInput(
                    f"The shard {shard} of {folder} is missing.",
                    why=f"It holds {count} of the model's {len(weight_map)} tensors.",
                    fix="Copy or download it again.",
                )
        return [folder / shard for shard in shards]
    for pattern in ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin"):
        found = sorted(folder.glob(pattern))
        if found:
            return found
    return []


def check_weights(folder: Path) -> None:
    """Pass when every safetensors file of a folder is whole and holds what its index says.

    Raises:
        BadInput: A file is cut off, not a safetensors file, or lacks a tensor of the index.
    """
    held: dict[str, set[str]] = {}
    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            held[file.name] = {name for name, _ in tensors(file)}
    index = folder / "model.safetensors.index.json"
    if index.exists():
        for tensor, shard in _read_json(index)["weight_map"].items():
            if tensor not in held[shard]:
                raise BadInput(
                    f"The shard {shard} of {folder} lacks the tensor {tensor} its index promises.",
                    fix="Copy or download it again.",
                )


def tensors(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and header entry (dtype, shape, data_offsets) of each tensor in a safetensors file.

    Raises:
        BadInput: The file is damaged or cut off.
    """
    damaged = BadInput(f"The weight file {file} is damaged or cut off.", fix="Copy or download it again.")
    size = file.stat().st_size
    with open(file, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if size < 8 or length > size - 8:
            raise damaged
        try:
            header = json.loads(handle.read(length))
        except ValueError as error:
            raise damaged from error
    if not isinstance(header, dict):
        raise damaged
    header.pop("__metadata__", None)
    if 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0) != size:
        raise damaged
    yield from header.items()


def _digest(folder: Path) -> str:
    files = sorted({file for pattern in _BEHAVIOUR for file in folder.glob(pattern) if file.is_file()})
    return digest_json({file.name: digest_file(file) for file in files})


def _template_digest(folder: Path) -> str:
    template = folder / "chat_template.jinja"
    if template.exists():
        return digest_file(template)
    config = folder / "tokenizer_config.json"
    if config.exists():
        text = _read_json(config).get("chat_template")
        if text:
            return digest_bytes(json.dumps(text, sort_keys=True).encode())
    return ""


def _read_json(file: Path) -> dict[str, Any]:
    try:
        plain = json.loads(file.read_text("utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} is not valid JSON: {error}.", fix="Copy the folder again.") from error
    if not isinstance(plain, dict):
        raise BadInput(f"{file} is not a JSON object.", fix="Copy the folder again.")
    return plain
