"""From a reference to a model in memory: nothing is ignored, guessed or filled in on the way."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safewright.errors import BadInput, Missing, SafewrightError, need_extra
from safewright.models.hf import DEFAULT_BATCH, HfModel, default_device
from safewright.models.references import base_folder, check_unchanged, local_folder, tokenizer_folder
from safewright.models.weights import read_json
from safewright.types import ModelRef

_DERIVED = re.compile(
    r"(^|\.)(rotary_emb\.(inv_freq|(cos|sin)_cached)|position_ids|(attn|attention|self_attention)\.(masked_)?bias)$"
)
"""Buffers older checkpoints hold that any version of the architecture computes anew.

The last are GPT-2's and GPT-NeoX's causal masks; projections' biases have one name more before ``bias``.
"""


def open_folder(ref: ModelRef, *, device: str = "auto", batch_size: int | None = None) -> HfModel:
    """A model folder or adapter loaded by transformers (and PEFT), in evaluation mode.

    Raises:
        BadInput: The folder's files are damaged, do not fill the architecture its configuration names,
            or hold more than that; or there is no such device here.
        Missing: torch, transformers or peft is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise need_extra(error.name or "transformers", "models") from error
    logging: Any = transformers.utils.logging
    logging.disable_progress_bar()  # ours says more, and only on a terminal
    place = check_device(device)
    spread = device == "auto" and place == "cuda"
    folder = local_folder(ref)
    if ref.kind == "adapter":
        try:
            import peft
        except ImportError as error:
            raise need_extra("peft", "models") from error
        base = _plain_model(base_folder(ref), ref.dtype, place, spread)
        model = _adapted(base, folder, peft)
    else:
        model = _plain_model(folder, ref.dtype, place, spread)
    if not model.can_generate():
        raise BadInput(f"{folder} is no model that writes text.", fix="Give a causal language model.")
    tokenizer = open_tokenizer(ref)
    check_unchanged(ref)
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return HfModel(model, tokenizer, dataclasses.replace(ref, dtype=dtype), batch_size or DEFAULT_BATCH)


def check_device(device: str) -> str:
    """The torch device that ``device`` stands for, once a number has been put there and read back.

    Raises:
        BadInput: There is no such device, or not on this machine.
    """
    if device == "auto":
        return default_device()
    try:
        import torch
    except ImportError as error:
        raise need_extra("torch", "models") from error
    here = f"auto, cpu{''.join(f', cuda:{n}' for n in range(torch.cuda.device_count()))}"
    try:
        torch.zeros(1, device=torch.device(device)).item()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ImportError) as error:
        raise BadInput(
            f"The device {device!r} cannot be used: {_line(error)}.", fix=f"This machine has: {here}."
        ) from error
    return str(device)


@contextmanager
def _reading(what: str, fix: str = "Copy or download it again.") -> Iterator[None]:
    """Whatever a library says about the user's files is the user's to mend: `BadInput`, not a crash."""
    import torch

    try:
        yield
    except SafewrightError:
        raise
    except ImportError as error:
        raise Missing(
            f"{what} needs a package that is not installed: {_line(error)}.",
            fix=f"pip install {error.name}" if error.name else "",
        ) from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise BadInput(
            f"{what} does not fit into memory: {_line(error)}.",
            fix="Use --dtype bfloat16, a smaller model, or a machine with more memory.",
        ) from error
    except Exception as error:
        raise BadInput(f"{what} cannot be loaded: {_line(error)}.", fix=fix) from error


def _line(error: BaseException) -> str:
    """The first words of a library's error, on one line."""
    line = " ".join(str(error).split()) or type(error).__name__
    return (line if len(line) <= 300 else line[:300] + "…").rstrip(".")


def _plain_model(folder: Path, dtype: str, place: str, spread: bool) -> Any:
    """A model folder's weights in the architecture they are made for.

    Raises:
        BadInput: The two do not belong together, or either is damaged.
    """
    import torch
    import transformers

    with _reading(f"The model {folder}", "Check config.json, and copy the folder again."):
        several = spread and torch.cuda.device_count() > 1
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            device_map="auto" if several else None,
            local_files_only=True,
            trust_remote_code=False,  # a model folder's own code is never run
            output_loading_info=True,
        )
        model, info = loaded
        model = (model if several else model.to(place)).eval()
    require_filled(
        folder,
        missing=info["missing_keys"],
        mismatched=info["mismatched_keys"],
        unexpected=info["unexpected_keys"],
    )
    return model


def require_filled(folder: Path, *, missing: Any, mismatched: Any, unexpected: Any) -> None:
    """Pass when a folder's tensors are those of the architecture its configuration names.

    Raises:
        BadInput: Some are missing, of another shape, or have no place in it.
    """
    for keys, what in ((missing, "missing"), (mismatched, "mismatched")):
        if keys:
            raise BadInput(
                f"{folder}: {_named(keys, what)}.",
                why="transformers would fill them with random numbers, and every result would be about those.",
                fix="Check that config.json belongs to these weights.",
            )
    beyond = [str(key) for key in unexpected if not _DERIVED.search(str(key))]
    if beyond:
        raise BadInput(
            f"{folder}: {_named(beyond, 'no part of the architecture in config.json')}.",
            why="transformers would leave them out, and every result would be about another model.",
            fix="Check that config.json belongs to these weights (its number of layers, its architecture).",
        )


def _named(keys: Any, what: str) -> str:
    """How many tensors are ``what``, and the first of them."""
    names = sorted(str(key) for key in keys)
    some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"{len(names)} {'tensor is' if len(names) == 1 else 'tensors are'} {what} ({some})"


def _adapted(base: Any, folder: Path, peft: Any) -> Any:
    """A base model under a PEFT adapter, once every tensor of the adapter has found its place.

    Raises:
        BadInput: The adapter belongs to another model, or is damaged.
    """
    with _reading(
        f"The adapter {folder}",
        "Check that base_model_name_or_path names the model it was trained on. An adapter trained with a "
        "larger vocabulary than its base has to be merged into that model, and saved as a whole.",
    ):
        # As `from_pretrained` does itself: names of older versions of the base are renamed.
        mapping = getattr(base, "_checkpoint_conversion_mapping", {})
        model = peft.PeftModel.from_pretrained(base, str(folder))
        config = model.peft_config[model.active_adapter]
        # `from_pretrained` keeps to itself what did not fit; loading once more says it.
        prompts = config.is_prompt_learning
        result = model.load_adapter(
            str(folder), model.active_adapter, key_mapping=None if prompts else mapping
        )
    if config.task_type not in (None, "CAUSAL_LM"):
        raise BadInput(
            f"The adapter {folder} is for the task {config.task_type}, and writes no text.",
            fix="Give an adapter of a causal language model (task_type CAUSAL_LM).",
        )
    shared = ("vblora_vector_bank", "prompt_encoder", ".tinylora_v.")  # not saved with each layer
    missing = [key for key in result.missing_keys if not any(part in key for part in shared)]
    # Prompt learning loads its embeddings past the check that lists them as unexpected.
    unexpected = [key for key in result.unexpected_keys if not (prompts and key == "prompt_embeddings")]
    for keys, what in ((unexpected, "without a place in the base model"), (missing, "missing")):
        if keys:
            raise BadInput(
                f"The adapter {folder} does not fit its base model: {_named(keys, what)}.",
                why="PEFT would go on with what fits, and the result would be that of (nearly) the base.",
                fix="Check that base_model_name_or_path names the model the adapter was trained on.",
            )
    return model.eval()


def open_tokenizer(ref: ModelRef) -> Any:
    """The tokenizer a resolved model uses, with the chat template of its own.

    Raises:
        BadInput: It is damaged.
    """
    import transformers

    folder, source = local_folder(ref), tokenizer_folder(ref)
    with _reading(f"The tokenizer of {source}"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            source, local_files_only=True, trust_remote_code=False
        )
        if source != folder and (folder / "chat_template.jinja").exists():
            tokenizer.chat_template = (folder / "chat_template.jinja").read_text("utf-8")
        elif source != folder and (folder / "tokenizer_config.json").exists():
            own = read_json(folder / "tokenizer_config.json").get("chat_template")
            tokenizer.chat_template = own or tokenizer.chat_template
    return tokenizer


def live(model: Any, tokenizer: Any, *, batch_size: int | None = None) -> HfModel:
    """A ``PreTrainedModel`` or ``PeftModel`` that is already in memory, digested as it stands now.

    It stays the caller's: mode and generation settings are its own again after every question.

    Raises:
        BadInput: Not such a model, or no tokenizer with it.
    """
    try:
        import torch
    except ImportError as error:
        raise need_extra("torch", "models") from error
    needed = ("generate", "config", "get_input_embeddings")
    if not isinstance(model, torch.nn.Module) or not all(hasattr(model, name) for name in needed):
        raise BadInput(
            f"A {type(model).__name__} is neither a reference nor a model.",
            fix="Give a folder, a hub id, a served model's address, or a transformers model.",
        )
    if tokenizer is None:
        raise BadInput("A live model needs its tokenizer.", fix="load(model, tokenizer=tokenizer)")
    if not callable(tokenizer) or not hasattr(tokenizer, "chat_template"):
        raise BadInput(
            f"A {type(tokenizer).__name__} is no tokenizer.",
            fix="load(model, tokenizer=AutoTokenizer.from_pretrained(FOLDER))",
        )
    template = tokenizer.chat_template or ""
    ref = ModelRef(
        kind="live",
        where=type(model).__name__,
        digest=_live_digest(model, tokenizer),
        dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
        template_digest="sha256:" + hashlib.sha256(str(template).encode()).hexdigest() if template else "",
    )
    return HfModel(model, tokenizer, ref, batch_size or DEFAULT_BATCH)


def _live_digest(model: Any, tokenizer: Any) -> str:
    """A digest of all that decides what a model in memory says: weights, adapters' state, tokenizer."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):
            digest.update(f"{name}|{tensor!r}|".encode())
            continue
        if tensor.is_meta:
            raise BadInput(f"The tensor {name} of the live model is not in memory.", fix="Save it first.")
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(data.numpy().tobytes())
    for name, module in model.named_modules():
        if hasattr(module, "active_adapters") and hasattr(module, "scaling"):
            state = [sorted(module.scaling.items()), list(module.active_adapters), module.disable_adapters]
            digest.update(f"{name}|{state!r}|".encode())
    shape = {
        key: value
        for key, value in model.config.to_dict().items()
        if key not in ("_name_or_path", "transformers_version")
    }
    digest.update(json.dumps(shape, sort_keys=True, default=str).encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    digest.update(words.encode())
    digest.update(str(tokenizer.chat_template or "").encode())
    return f"sha256:{digest.hexdigest()}"
