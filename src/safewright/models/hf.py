"""The reference engine: transformers' own generate, in length-sorted batches."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from safewright.errors import BadInput, need_extra
from safewright.models import chat as chats_
from safewright.models.references import local_folder, resolve
from safewright.types import Chat, Decoding, Generation, ModelRef, TokenScores

if TYPE_CHECKING:
    import torch

DEFAULT_BATCH = 32
TOKENS_PER_FORWARD = 8192
"""Prompt tokens scored together by `logprobs` and `hidden`; bounds the memory of the logits."""


def open_folder(ref: ModelRef, *, device: str = "auto", batch_size: int | None = None) -> HfModel:
    """A model folder or adapter loaded by transformers (and PEFT), in evaluation mode.

    Raises:
        BadInput: The folder's tensors do not fill the architecture its configuration names.
        Missing: torch, transformers or peft is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise need_extra(error.name or "transformers", "models") from error
    transformers.utils.logging.disable_progress_bar()  # ours says more, and only on a terminal
    if ref.kind == "adapter":
        try:
            import peft
        except ImportError as error:
            raise need_extra("peft", "models") from error
        base_ref = resolve(ref.base or "", dtype=ref.dtype)
        model, base_folder = _base_model(base_ref, device), local_folder(base_ref)
        folder = local_folder(ref)
        model = peft.PeftModel.from_pretrained(model, str(folder)).eval()
        source = folder if any(folder.glob("tokenizer*")) else base_folder
    else:
        model = _base_model(ref, device)
        source = local_folder(ref)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        source, local_files_only=True, trust_remote_code=False
    )
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return HfModel(model, tokenizer, dataclasses.replace(ref, dtype=dtype), batch_size or DEFAULT_BATCH)


def _base_model(ref: ModelRef, device: str) -> Any:
    import torch
    import transformers

    folder = local_folder(ref)
    place = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    spread = device == "auto" and torch.cuda.device_count() > 1
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=ref.dtype if ref.dtype == "auto" else getattr(torch, ref.dtype),
        device_map="auto" if spread else None,
        local_files_only=True,
        trust_remote_code=False,  # a model folder's own code is never run
        output_loading_info=True,
    )
    model, info = loaded
    for kind in ("missing_keys", "mismatched_keys"):
        if info[kind]:
            names = sorted(str(key) for key in info[kind])
            raise BadInput(
                f"{folder}: {len(names)} tensors are {kind.removesuffix('_keys')} ({', '.join(names[:3])}, …).",
                why="transformers would fill them with random numbers, and every result would be about those.",
                fix="Check that config.json belongs to these weights.",
            )
    return (model if spread else model.to(place)).eval()


def live(model: Any, tokenizer: Any, *, batch_size: int | None = None) -> HfModel:
    """A ``PreTrainedModel`` or ``PeftModel`` that is already in memory, digested as it stands now."""
    if not hasattr(model, "state_dict") or not hasattr(model, "generate"):
        raise BadInput(f"A {type(model).__name__} is neither a reference nor a model.")
    if tokenizer is None:
        raise BadInput("A live model needs its tokenizer.", fix="load(model, tokenizer=tokenizer)")
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(_bytes(tensor))
    template = tokenizer.chat_template or ""
    digest.update(str(template).encode())
    ref = ModelRef(
        kind="live",
        where=type(model).__name__,
        digest=f"sha256:{digest.hexdigest()}",
        dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
        template_digest="sha256:" + hashlib.sha256(str(template).encode()).hexdigest() if template else "",
    )
    return HfModel(model.eval(), tokenizer, ref, batch_size or DEFAULT_BATCH)


def _bytes(tensor: torch.Tensor) -> bytes:
    import torch

    data: bytes = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return data


@dataclasses.dataclass(frozen=True)
class Batch:
    """Prompts answered together: their indexes, and how many tokens each may write."""

    indexes: tuple[int, ...]
    new_tokens: int


def plan_batches(lengths: Sequence[int], size: int, new_tokens: int, limit: int | None) -> list[Batch]:
    """Batches of prompts of like length, longest first, so that an out-of-memory shows at once.

    Prompts that leave less room than ``new_tokens`` in the context (``limit``) are batched only with
    prompts of the same room, so that an answer's length does not depend on its neighbours. Prompts
    that fill the context are left out.
    """
    room = [new_tokens if limit is None else min(new_tokens, limit - length) for length in lengths]
    order = sorted((i for i, r in enumerate(room) if r > 0), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    for index in order:
        if batches and len(batches[-1]) < size and room[batches[-1][0]] == room[index]:
            batches[-1].append(index)
        else:
            batches.append([index])
    return [Batch(tuple(batch), room[batch[0]]) for batch in batches]


class HfModel:
    """A `Loaded` over a transformers model; see `safewright.models.engine.Loaded`."""

    able = frozenset({"generate", "logprobs", "hidden", "gradient", "weights"})

    def __init__(self, model: Any, tokenizer: Any, ref: ModelRef, batch_size: int) -> None:
        import transformers

        self.model, self.tokenizer, self.ref, self.batch_size = model, tokenizer, ref, batch_size
        config = getattr(model, "generation_config", None)
        declared = config.eos_token_id if config is not None else None
        stops = [declared] if isinstance(declared, int) else list(declared or [])
        if tokenizer.eos_token_id is not None:
            stops.append(tokenizer.eos_token_id)
        self.stops = frozenset(stops)
        self.pad = (
            tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (min(stops) if stops else 0)
        )
        # A folder's own sampling defaults (temperature, penalties) would silently change what is measured.
        self._plain = transformers.GenerationConfig(
            eos_token_id=sorted(self.stops) or None, pad_token_id=self.pad, do_sample=False
        )
        if config is not None:
            model.generation_config = self._plain
        text_config = model.config.get_text_config()
        self.limit: int | None = getattr(text_config, "max_position_embeddings", None)
        template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None
        recipe = ref.recipe.visible if ref.recipe else None
        self.visible = dict(recipe or chats_.declared_markers(template) or chats_.THINK)
        self.conventions: Mapping[str, Any] = {
            "engine": "hf",
            "device": str(model.device).split(":")[0],
            "dtype": ref.dtype,
            "batch_size": batch_size,
            "chat_template": "the model's own"
            if tokenizer.chat_template
            else "none: turns joined by newlines",
            "reasoning_markers": [self.visible["open"], self.visible["close"]],
        }

    def generate(self, chats: Sequence[Chat], how: Decoding) -> list[Generation]:
        found: dict[int, Generation] = {}
        for ready in self.stream(chats, how):
            found.update(ready)
        return [found[index] for index in range(len(chats))]

    def stream(
        self, chats: Sequence[Chat], how: Decoding, *, done: frozenset[int] = frozenset()
    ) -> Generator[list[tuple[int, Generation]]]:
        texts = [chats_.render(self.tokenizer, chat) for chat in chats]
        prompts = [chats_.tokenize(self.tokenizer, text) for text in texts]
        lengths = [len(prompt) for prompt in prompts]
        batches = plan_batches(lengths, self.batch_size, how.max_new_tokens, self.limit)
        asked = {index for batch in batches for index in batch.indexes}
        overlong = [i for i in range(len(chats)) if i not in asked and i not in done]
        if overlong:
            yield [(i, self._overlong(lengths[i])) for i in overlong]
        for batch in batches:
            if done.issuperset(batch.indexes):
                continue
            # A batch is repeated whole, so that a resumed run multiplies the same matrices.
            outputs = self._run(batch, prompts, how)
            yield [
                (i, self._read(texts[i], tokens, batch.new_tokens))
                for i, tokens in zip(batch.indexes, outputs, strict=True)
                if i not in done
            ]

    def _overlong(self, length: int) -> Generation:
        why = f"the prompt has {length} tokens, the context {self.limit}"
        return Generation("", "", "", True, "overlong", 0, why)

    def _run(self, batch: Batch, prompts: Sequence[list[int]], how: Decoding) -> list[list[int]]:
        import torch

        try:
            return self._generate(batch, prompts, how)
        except torch.OutOfMemoryError:
            if len(batch.indexes) == 1 or how.temperature > 0:
                raise
        torch.cuda.empty_cache()
        half = len(batch.indexes) // 2
        parts = (batch.indexes[:half], batch.indexes[half:])
        return [ids for part in parts for ids in self._run(Batch(part, batch.new_tokens), prompts, how)]

    def _generate(self, batch: Batch, prompts: Sequence[list[int]], how: Decoding) -> list[list[int]]:
        import torch
        import transformers

        width = max(len(prompts[i]) for i in batch.indexes)
        ids = torch.full((len(batch.indexes), width), self.pad)
        mask = torch.zeros_like(ids)
        for line, index in enumerate(batch.indexes):
            length = len(prompts[index])
            ids[line, width - length :] = torch.tensor(prompts[index])
            mask[line, width - length :] = 1
        config = transformers.GenerationConfig(
            max_new_tokens=batch.new_tokens,
            do_sample=how.temperature > 0,
            eos_token_id=self._plain.eos_token_id,
            pad_token_id=self.pad,
            **(
                {"temperature": how.temperature, "top_p": how.top_p, "top_k": how.top_k}
                if how.temperature
                else {}
            ),
        )
        device = self.model.device
        with torch.random.fork_rng(enabled=how.temperature > 0), torch.inference_mode():
            if how.temperature > 0:
                # Each batch has its own stream: what one says never depends on which ran before it.
                torch.manual_seed((how.seed * 1_000_003 + batch.indexes[0]) % 2**63)
            output = self.model.generate(
                input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=config
            )
        lines: list[list[int]] = output[:, width:].tolist()
        return [self._cut(line) for line in lines]

    def _cut(self, tokens: list[int]) -> list[int]:
        """An answer's tokens up to and including its first stop token; the rest is padding."""
        for place, token in enumerate(tokens):
            if token in self.stops:
                return tokens[: place + 1]
        return tokens

    def _read(self, prompt: str, tokens: list[int], allowed: int) -> Generation:
        stopped = bool(tokens) and tokens[-1] in self.stops
        # Reasoning markers may be special tokens, so they are split off before those are dropped.
        marked = self.tokenizer.decode(tokens[:-1] if stopped else tokens, skip_special_tokens=False)
        opened = chats_.opens_reasoning(prompt, self.visible)
        reasoning, answer, closed = chats_.split_reasoning(
            marked, self.visible, opened=opened, prompt_known=True
        )
        if closed and not reasoning and answer == marked.strip():
            answer = self.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        else:
            reasoning, answer = self._without_specials(reasoning), self._without_specials(answer)
        return Generation(marked, reasoning, answer, closed, "stop" if stopped else "length", len(tokens))

    def _without_specials(self, text: str) -> str:
        for special in self.tokenizer.all_special_tokens:
            text = text.replace(special, "")
        return text.strip()

    def logprobs(self, chats: Sequence[Chat], answers: Sequence[str]) -> list[TokenScores]:
        import torch

        if len(chats) != len(answers):
            raise BadInput(f"{len(chats)} chats but {len(answers)} answers.")
        prompts = [chats_.encode(self.tokenizer, chat) for chat in chats]
        targets = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in answers]
        found: dict[int, TokenScores] = {}
        for group in self._groups([len(p) + len(t) for p, t in zip(prompts, targets, strict=True)]):
            lines = [prompts[i] + targets[i] for i in group]
            # Only the answers' positions need logits: from the shortest prompt's last token on.
            first = min(len(prompts[i]) for i in group) - 1
            width = max(map(len, lines))
            extra = {"logits_to_keep": width - first} if self._accepts("logits_to_keep") else {}
            with torch.inference_mode():
                logits = self.model(**self._padded(lines), **extra).logits
            offset = width - logits.shape[1]
            for line, index in enumerate(group):
                start, ids = len(prompts[index]) - 1 - offset, targets[index]
                scores = torch.log_softmax(logits[line, start : start + len(ids)].double(), dim=-1)
                picked = scores.gather(1, torch.tensor(ids, device=scores.device).reshape(-1, 1).long())
                found[index] = TokenScores(tuple(ids), tuple(picked.flatten().tolist()))
        return [found[index] for index in range(len(chats))]

    def hidden(self, chats: Sequence[Chat], layers: Sequence[int], pool: str) -> torch.Tensor:
        import torch

        if pool not in ("last", "mean"):
            raise BadInput(f"Unknown pooling {pool!r}.", fix="Use last or mean.")
        depth = self.model.config.get_text_config().num_hidden_layers
        for layer in layers:
            if not -depth - 1 <= layer <= depth:
                raise BadInput(
                    f"There is no layer {layer}.", fix=f"Layers run from 0 to {depth}, or -1 back."
                )
        prompts = [chats_.encode(self.tokenizer, chat) for chat in chats]
        found: dict[int, torch.Tensor] = {}
        for group in self._groups([len(prompt) for prompt in prompts]):
            batch = self._padded([prompts[i] for i in group])
            with torch.inference_mode():
                states = self.model(**batch, output_hidden_states=True).hidden_states
            for line, index in enumerate(group):
                length = len(prompts[index])
                picked = torch.stack([states[layer][line, :length].float() for layer in layers])
                pooled = picked[:, -1] if pool == "last" else picked.mean(dim=1)
                found[index] = pooled.cpu()
        return torch.stack([found[index] for index in range(len(chats))])

    def _groups(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indexes of like length, as many as `TOKENS_PER_FORWARD` and the batch size allow."""
        group: list[int] = []
        for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
            full = group and (len(group) + 1) * lengths[group[0]] > TOKENS_PER_FORWARD
            if full or len(group) == self.batch_size:
                yield group
                group = []
            group.append(index)
        if group:
            yield group

    def _padded(self, lines: Sequence[list[int]]) -> dict[str, torch.Tensor]:
        """Token ids padded on the right: with causal attention, padding then changes nothing before it."""
        import torch

        width = max(map(len, lines))
        ids = torch.tensor([line + [self.pad] * (width - len(line)) for line in lines])
        mask = torch.tensor([[1] * len(line) + [0] * (width - len(line)) for line in lines])
        device = self.model.device
        return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}

    def _accepts(self, name: str) -> bool:
        inner = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        return name in inspect.signature(inner.forward).parameters

    def close(self) -> None:
        import gc

        import torch

        del self.model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def default_device() -> str:
    """The device ``auto`` stands for on this machine."""
    try:
        import torch
    except ImportError as error:
        raise need_extra("torch", "models") from error
    return "cuda" if torch.cuda.is_available() else "cpu"
