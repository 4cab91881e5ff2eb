"""Encoders: models that read a text at once. One gives vectors of texts, one labels of pairs of texts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safewright.errors import BadInput, NumericalFailure, need_extra
from safewright.models.opening import _named, _reading, check_device
from safewright.models.references import check_unchanged, local_folder
from safewright.models.weights import read_json
from safewright.types import ModelRef

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float64]

_POOLING = "1_Pooling/config.json"
_HEADS = re.compile(
    r"(classifier|score|pooler|cls|lm_head|(mask_|lm_|discriminator_|generator_)?predictions|sop_classifier"
    r"|vocab_(projector|transform|layer_norm))\."
)
"""Parts of a saved model that sit on top of an encoder and are not used by another task."""


@dataclass(frozen=True)
class Label:
    """What a classifier says of a pair: its most probable label; ``cut`` where the pair was too long to be read."""

    name: str
    probability: float
    cut: bool


def is_classifier(ref: ModelRef) -> bool:
    """Whether a model is a sequence classifier, by the architecture its configuration names.

    Raises:
        BadInput: The folder is gone, or its configuration cannot be read.
    """
    if ref.kind != "hf":
        return False
    named = read_json(local_folder(ref) / "config.json").get("architectures") or []
    return any("SequenceClassification" in str(name) for name in named)


class Embedder:
    """Vectors of texts: the mean over the tokens of an encoder's last layer, of length 1.

    Texts of one length are read together and never padded, so that a text's vector does not depend on what it
    is read with.

    Args:
        ref: A model folder or hub id.
        device: Where it runs.
        batch_size: Texts read at once.

    Raises:
        BadInput: No encoder, damaged, or one that is made for another pooling than the mean.
        Missing: torch or transformers is not installed.
    """

    def __init__(self, ref: ModelRef, *, device: str = "auto", batch_size: int = 64) -> None:
        folder = local_folder(ref)
        if (folder / _POOLING).exists():
            pooling = read_json(folder / _POOLING)
            if pooling.get("pooling_mode_mean_tokens") is False:
                raise BadInput(
                    f"{folder} is made for another pooling than the mean ({_POOLING}).",
                    why="Similarities of mean vectors would not be those it was trained for.",
                    fix="Give an encoder with mean pooling, such as all-MiniLM-L12-v2.",
                )
        self._torch, self._model, self._tokenizer = _open(ref, "AutoModel", device, ("pooler.",))
        self._batch = batch_size

    def embed(self, texts: Sequence[str]) -> Vectors:
        """One row of float64 per text, each of length 1.

        Raises:
            BadInput: A text has no token.
            NumericalFailure: A vector is zero or not finite.
        """
        import numpy as np

        encoded = [
            self._tokenizer(text, truncation=True, max_length=self._most())["input_ids"] for text in texts
        ]
        empty = next((text for text, ids in zip(texts, encoded, strict=True) if not ids), None)
        if empty is not None:
            raise BadInput(f"The text {empty!r:.80} has no token for the encoder.")
        rows: dict[int, Any] = {}
        for places in _batches([len(ids) for ids in encoded], self._batch):
            ids = self._torch.tensor([encoded[place] for place in places], device=self._model.device)
            with self._torch.inference_mode():
                states = self._model(
                    input_ids=ids, attention_mask=self._torch.ones_like(ids)
                ).last_hidden_state
            found = states.double().mean(dim=1).cpu().numpy()
            rows |= dict(zip(places, found, strict=True))
        vectors = np.stack([rows[place] for place in range(len(texts))]) if texts else np.zeros((0, 0))
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.all(np.isfinite(lengths)) or not np.all(lengths > 0.0):
            raise NumericalFailure("The encoder gave a vector of length 0, or one that is not finite.")
        return np.asarray(vectors / lengths, dtype=np.float64)

    def _most(self) -> int:
        return _longest(self._model, self._tokenizer)


class PairClassifier:
    """Labels of pairs of texts by a sequence classifier, under the names its configuration gives them.

    Args:
        ref: A model folder or hub id.
        device: Where it runs.
        batch_size: Pairs read at once.

    Raises:
        BadInput: No classifier with named labels, or damaged.
        Missing: torch or transformers is not installed.
    """

    def __init__(self, ref: ModelRef, *, device: str = "auto", batch_size: int = 32) -> None:
        if not is_classifier(ref):
            raise BadInput(
                f"{ref.where} is no sequence classifier.",
                why="A head with random weights would be put on it.",
                fix="Give a model whose config.json names a …ForSequenceClassification architecture.",
            )
        self._torch, self._model, self._tokenizer = _open(
            ref, "AutoModelForSequenceClassification", device, ()
        )
        self._batch = batch_size

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its labels, by their places."""
        return labels_of(self._model.config.id2label)

    def classify(self, pairs: Sequence[tuple[str, str]]) -> list[Label]:
        """The label of each pair, ties to the first; a pair that is too long loses its end and is marked.

        Raises:
            NumericalFailure: A score is not finite.
        """
        most = _longest(self._model, self._tokenizer)
        encoded: list[Mapping[str, list[int]]] = []
        cut: list[bool] = []
        for first, second in pairs:
            whole = self._tokenizer(first, second, truncation=False, verbose=False)
            cut.append(len(whole["input_ids"]) > most)
            encoded.append(
                self._tokenizer(first, second, truncation=True, max_length=most) if cut[-1] else whole
            )
        found: dict[int, Label] = {}
        for places in _batches([len(item["input_ids"]) for item in encoded], self._batch):
            batch = {
                name: self._torch.tensor(
                    [encoded[place][name] for place in places], device=self._model.device
                )
                for name in encoded[places[0]]
            }
            with self._torch.inference_mode():
                scores = self._model(**batch).logits.double().softmax(dim=-1)
            if not bool(self._torch.isfinite(scores).all()):
                raise NumericalFailure("The classifier gave a score that is not finite.")
            for place, row in zip(places, scores.tolist(), strict=True):
                best = max(range(len(row)), key=row.__getitem__)
                found[place] = Label(self.labels[best], row[best], cut[place])
        return [found[place] for place in range(len(pairs))]


def labels_of(id2label: Mapping[Any, Any]) -> tuple[str, ...]:
    """The names in a configuration's ``id2label``, by their places."""
    return tuple(str(name) for _, name in sorted(id2label.items(), key=lambda item: int(item[0])))


def _batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Places of equal length together, at most ``size`` of them, longest first."""
    by_length: dict[int, list[int]] = {}
    for place, length in enumerate(lengths):
        by_length.setdefault(length, []).append(place)
    return [
        by_length[length][start : start + size]
        for length in sorted(by_length, reverse=True)
        for start in range(0, len(by_length[length]), size)
    ]


def _longest(model: Any, tokenizer: Any) -> int:
    """Tokens that both the model and its tokenizer allow."""
    # RoBERTa's positions begin after the padding token's.
    offset = 2 if getattr(model.config, "model_type", "") in ("roberta", "xlm-roberta", "camembert") else 0
    positions = int(getattr(model.config, "max_position_embeddings", 0) or 0) - offset
    relative = getattr(model.config, "relative_attention", False)
    limits = [512 if relative or positions <= 0 else positions, int(tokenizer.model_max_length)]
    return min(limits)


def _open(ref: ModelRef, auto: str, device: str, spare: tuple[str, ...]) -> tuple[Any, Any, Any]:
    """torch, the model in evaluation mode and float32, and its tokenizer; every tensor it uses was saved with it."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise need_extra(error.name or "transformers", "models") from error
    logging: Any = transformers.utils.logging
    logging.disable_progress_bar()
    folder: Path = local_folder(ref)
    with _reading(f"The encoder {folder}"):
        loaded: Any = getattr(transformers, auto).from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,  # a model folder's own code is never run
            output_loading_info=True,
        )
        model, info = loaded
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    lost = [str(key) for kind in ("missing_keys", "mismatched_keys") for key in info[kind]]
    lost = [key for key in lost if not key.startswith(spare)] if spare else lost
    if lost:
        raise BadInput(
            f"{folder}: {_named(lost, 'missing or of another shape')}.",
            why="transformers would fill them with random numbers, and every result would be about those.",
            fix="Check that config.json belongs to these weights.",
        )
    beyond = [str(key) for key in info["unexpected_keys"]]
    beyond = [key for key in beyond if not _HEADS.match(key) and "position_ids" not in key]
    if beyond:
        raise BadInput(
            f"{folder}: {_named(beyond, 'no part of the architecture in config.json')}.",
            why="transformers would leave them out, and every result would be about another model.",
            fix="Check that config.json belongs to these weights.",
        )
    check_unchanged(ref)
    return torch, model.to(check_device(device)).eval(), tokenizer
