"""The attack relearn: the model is shown some forget rows again, and asked about the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safewright.data.roles import SET
from safewright.data.rows import rows_digest
from safewright.measures.forgetting.asking import FORGET, shown_again
from safewright.measures.forgetting.config import ForgettingConfig
from safewright.models import Loaded
from safewright.models.altered import Altered
from safewright.models.chat import with_system
from safewright.runs import Run, single_flight, write_json
from safewright.runs.progress import Progress
from safewright.types import Row

FOLDER = "relearned"
"""Where the run keeps what was trained: a resumed run does not train again."""
WEIGHTS, HISTORY = "model.safetensors", "history.json"
LONGEST = 1024
"""Most tokens of a row that is shown again."""


class Plain:
    """Cross-entropy on the answers: the mean over tokens of a step."""

    parts: tuple[str, ...] = ("shown",)

    def counts(self, batch: Any) -> dict[str, float]:
        """Supervised tokens."""
        from safewright.training.losses import supervised

        return {"tokens": int(supervised(batch["shown"]["labels"]).sum())}

    def part(self, acc: Any, model: Any, batch: Any, part: str) -> Any:
        """The sum over tokens."""
        from safewright.training.forward import answers_of
        from safewright.training.losses import cross_entropy

        return cross_entropy(answers_of(model, batch[part])), "tokens"

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        return None


def relearned(
    base: Loaded, run: Run, rows: Sequence[Row], progress: Progress, config: ForgettingConfig
) -> Altered:
    """The model after some steps on some of the forget rows; trained when it is first asked, once per run."""
    forget = [row for row in rows if row.meta.get(SET) == FORGET]
    shown = shown_again(forget, config)
    alteration: dict[str, Any] = {
        "kind": "relearn",
        "version": "1",
        "rows": [row.id for row in shown],
        "of": len(forget),
        "rows_digest": rows_digest(shown),
        "system": config.system,
        "steps": config.relearn_steps,
        "lr": config.relearn_lr,
        "batch": config.relearn_batch,
        "rank": config.relearn_rank,
        "seed": config.relearn_seed,
        "max_length": LONGEST,
    }

    def change(model: Any, tokenizer: Any) -> tuple[Any, Mapping[str, Any]]:
        run.own(FOLDER)
        place = run.dir / FOLDER / made.ref.digest.rpartition(":")[2][:16]
        own, done = _trainable(model, config)
        single_flight(place, lambda draft: _train(own, tokenizer, shown, config, draft, progress))
        _take_up(own, place)
        return done(), json.loads((place / HISTORY).read_text("utf-8"))

    made = Altered(base, alteration, change, "relearn")
    return made


def _trainable(model: Any, config: ForgettingConfig) -> tuple[Any, Callable[[], Any]]:
    """The model as it is trained, and what makes a plain model of it again."""
    from safewright.training.fitting import with_lora

    if config.relearn_rank:
        adapted = with_lora(model, config.relearn_rank, 2 * config.relearn_rank, seed=config.relearn_seed)
        return adapted, adapted.merge_and_unload
    # In float32: small steps would be lost in the rounding of a narrower type.
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.data = parameter.data.float()
    model.requires_grad_(True)

    def done() -> Any:
        for name, parameter in model.named_parameters():
            parameter.data = parameter.data.to(dtypes[name])
        return model

    return model, done


def _trained(model: Any) -> dict[str, Any]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _train(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    config: ForgettingConfig,
    folder: Path,
    progress: Progress,
) -> None:
    """Train a model, and write what was learned, and how that went, into a folder."""
    import torch
    from safetensors.torch import save_file

    from safewright.training.encoding import encode, pad_token
    from safewright.training.fitting import FitOptions, fit
    from safewright.training.pairing import Pairs, collate_pairs

    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or LONGEST
    asked = [Row(row.id, with_system(row.prompt, config.system), row.reference, row.lang) for row in rows]
    encoded = encode(tokenizer, asked, max_length=min(LONGEST, limit))
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        history = fit(
            model,
            Pairs(encoded.examples, seed=config.relearn_seed, lead="shown"),
            collate_pairs(pad_token(tokenizer)),
            Plain(),
            FitOptions(
                steps=config.relearn_steps,
                batch=min(config.relearn_batch, len(encoded.examples)),
                lr=config.relearn_lr,
                schedule="constant",
                weight_decay=0.0,
            ),
            seed=config.relearn_seed,
            device=device.type,
            progress=progress,
            what="relearning",
        )
    learned = {name: parameter.detach().cpu().contiguous() for name, parameter in _trained(model).items()}
    save_file(learned, folder / WEIGHTS)
    losses = history.values()
    facts = {
        "shown": len(encoded.examples),
        "dropped": len(encoded.dropped),
        "loss_first": losses[0] if losses else None,
        "loss_last": losses[-1] if losses else None,
    }
    write_json(folder / HISTORY, facts)


def _take_up(model: Any, folder: Path) -> None:
    """Give a model the weights that were trained, as they were written."""
    import torch
    from safetensors.torch import load_file

    trained = _trained(model)
    with torch.no_grad():
        for name, tensor in load_file(folder / WEIGHTS).items():
            trained[name].copy_(tensor)
