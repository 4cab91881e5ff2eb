"""The reference engine: transformers' own generate, in length-sorted batches."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from safewright.errors import BadInput, NumericalFailure, need_extra
from safewright.models import chat as chats_
from safewright.models.ordering import in_order
from safewright.models.overlong import least_room, overlong
from safewright.models.prefixes import (
    PART_SHARED,
    Batch,
    holds_all,
    plan_batches,
    related,
    shares_prefixes,
    split,
    spread,
)
from safewright.models.recipes import checked
from safewright.types import Chat, Decoding, Generation, ModelRef, TokenScores

if TYPE_CHECKING:
    import torch

DEFAULT_BATCH = 32
TOKENS_PER_FORWARD = 8192
"""Prompt tokens scored together by `logprobs` and `hidden`; bounds the memory of the logits."""
EMPTY = "the prompt has no tokens"
NAN = "the model's logits are not numbers (NaN or infinity)"
_ABSENT = object()
T = TypeVar("T")


def _failed(why: str) -> Generation:
    return Generation("", "", "", True, "error", 0, why)


def _stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer: those of the generation settings, and the tokenizer's."""
    config = getattr(model, "generation_config", None)
    declared = config.eos_token_id if config is not None else None
    stops = list(declared) if isinstance(declared, (list, tuple)) else [declared]
    stops.append(tokenizer.eos_token_id)
    for stop in stops:
        if stop is not None and (isinstance(stop, bool) or not isinstance(stop, int)):
            raise BadInput(
                f"The model's eos_token_id is {declared!r}.",
                why="Without its stop tokens an answer has no end.",
                fix="Write token ids (whole numbers) in generation_config.json.",
            )
    return [stop for stop in stops if stop is not None and stop >= 0]


def _vocabulary(model: Any) -> int | None:
    """How many tokens the model can look up."""
    weight = getattr(model.get_input_embeddings(), "weight", None)
    return int(weight.shape[0]) if weight is not None else None


def _context(model: Any) -> int | None:
    """The tokens that prompt and answer may have together; None where the architecture has no limit."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is None:
        return None
    return int(limit) - _virtual_tokens(model)


def _virtual_tokens(model: Any) -> int:
    """How many tokens an adapter of prompt learning puts before every prompt."""
    adapters = getattr(model, "peft_config", None)
    active = adapters.get(model.active_adapter) if isinstance(adapters, dict) else None
    return int(active.num_virtual_tokens) if active is not None and active.is_prompt_learning else 0


class _Watch:
    """A logits processor that notes rows whose logits are not numbers, and lets them go on as zeros."""

    def __init__(self) -> None:
        self._bad: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # The maximum is NaN where any is, infinite where one is, and -inf where no token is left.
        bad = ~scores.amax(dim=-1).isfinite()
        self._bad = bad if self._bad is None else self._bad | bad
        return scores.masked_fill(bad[:, None], 0.0)

    def failed(self, count: int) -> list[bool]:
        return [False] * count if self._bad is None else self._bad.tolist()


class _Follower:
    """What `generate` calls a streamer: hands each token on, and remembers when no more are wanted."""

    def __init__(self, heard: Callable[[list[int]], bool]) -> None:
        self._heard, self._prompt, self._wanted = heard, True, True

    def put(self, tokens: torch.Tensor) -> None:
        if self._prompt:  # it is told the prompt first
            self._prompt = False
        else:
            self._wanted = self._heard(tokens.flatten().tolist()) and self._wanted

    def end(self) -> None:
        """Nothing is kept back."""

    def ended(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """A stopping criterion: which lines are to end."""
        return input_ids.new_full((len(input_ids),), not self._wanted).bool()


class HfModel:
    """A `Loaded` over a transformers model; see `safewright.models.engine.Loaded`.

    ``prompted`` counts the tokens of the prompts it has answered, ``prefilled`` those it had to run for them:
    fewer where prompts of one batch begin alike (see `safewright.models.prefixes`).
    """

    able = frozenset({"generate", "logprobs", "hidden", "gradient", "weights"})

    def __init__(self, model: Any, tokenizer: Any, ref: ModelRef, batch_size: int) -> None:
        import transformers

        self.model, self.tokenizer, self.ref, self.batch_size = model, tokenizer, ref, batch_size
        self.stops = frozenset(_stop_ids(model, tokenizer))
        self.vocabulary = _vocabulary(model)
        pad = tokenizer.pad_token_id
        # Padding is masked, but it is looked up all the same: it must be a token the model has.
        known = isinstance(pad, int) and pad >= 0 and (self.vocabulary is None or pad < self.vocabulary)
        self.pad: int = pad if known else min(self.stops, default=0)
        # A folder's own sampling defaults (temperature, penalties) would silently change what is measured.
        self._plain = transformers.GenerationConfig(
            eos_token_id=sorted(self.stops) or None, pad_token_id=self.pad, do_sample=False
        )
        self.limit = _context(model)
        self.shares = shares_prefixes(model)
        self.prompted = self.prefilled = 0
        template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None
        recipe = ref.recipe.visible if ref.recipe else None
        self.visible = dict(recipe or chats_.declared_markers(template) or chats_.THINK)
        self.conventions: Mapping[str, Any] = {
            "engine": "hf",
            "device": str(model.device).split(":")[0],
            "dtype": ref.dtype,
            "batch_size": batch_size,
            "prefix_reuse": self.shares,
            "chat_template": "the model's own"
            if tokenizer.chat_template
            else "none: turns joined by newlines",
            "reasoning_markers": [self.visible["open"], self.visible["close"]],
        }

    def generate(self, chats: Sequence[Chat], how: Decoding) -> list[Generation]:
        return in_order(self.stream(chats, how), len(chats))

    def stream(
        self, chats: Sequence[Chat], how: Decoding, *, done: frozenset[int] = frozenset()
    ) -> Generator[list[tuple[int, Generation]]]:
        how = checked(how)
        texts = [chats_.render(self.tokenizer, chat) for chat in chats]
        prompts = [
            self._ids(text, special_twice=how.special_twice)
            if chats_.started(chat) is None
            else self._begun(chat)
            for chat, text in zip(chats, texts, strict=True)
        ]
        lengths = [len(prompt) for prompt in prompts]
        least = least_room(how)
        batches = plan_batches(
            lengths,
            self.batch_size,
            how.max_new_tokens,
            self.limit,
            # PEFT counts positions through padding when it puts tokens of its own before the prompt.
            pad=not _virtual_tokens(self.model),
            least_room=least,
            families=related(prompts) if self.shares else (),
        )
        asked = {index for batch in batches for index in batch.indexes}
        left_out = [i for i in range(len(chats)) if i not in asked and i not in done]
        if left_out:
            yield [(i, self._left_out(lengths[i], least)) for i in left_out]
        for batch in batches:
            if done.issuperset(batch.indexes):
                continue
            # A batch is repeated whole, so that a resumed run multiplies the same matrices.
            outputs = self._run(batch, prompts, how)
            yield [
                (
                    i,
                    self._read(texts[i], tokens, batch.new_tokens, chats_.started(chats[i]))
                    if tokens is not None
                    else _failed(NAN),
                )
                for i, tokens in zip(batch.indexes, outputs, strict=True)
                if i not in done
            ]

    def _left_out(self, length: int, least: int) -> Generation:
        if not length or self.limit is None:
            return _failed(EMPTY)
        return overlong(length, self.limit, least)

    def _run(self, batch: Batch, prompts: Sequence[list[int]], how: Decoding) -> list[list[int] | None]:
        import torch

        try:
            with self.evaluating():
                return self._generate(batch, prompts, how)
        except torch.OutOfMemoryError as error:
            if len(batch.indexes) == 1 or how.temperature > 0:
                raise self._too_large(len(batch.indexes)) from error
        torch.cuda.empty_cache()
        half = len(batch.indexes) // 2
        parts = (batch.indexes[:half], batch.indexes[half:])
        return [ids for part in parts for ids in self._run(Batch(part, batch.new_tokens), prompts, how)]

    def _too_large(self, count: int) -> BadInput:
        return BadInput(
            f"The device {self.model.device} has no memory for {count} prompts at once.",
            fix=f"Use --batch-size {count // 2}."
            if count > 1
            else "Use --dtype bfloat16, or another device.",
        )

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The model in evaluation mode, decoding as it is told; afterwards as it was before.

        A live model is its owner's, who may be training it between two questions.
        """
        model = self.model
        training = [module for module in model.modules() if module.training]
        owners = [model, model.get_base_model()] if hasattr(model, "get_base_model") else [model]
        owners = [getattr(owner, "_orig_mod", owner) for owner in owners]  # what torch.compile wraps
        settings = [vars(owner).get("generation_config", _ABSENT) for owner in owners]
        model.eval()
        for owner in owners:
            owner.generation_config = self._plain
        try:
            yield
        finally:
            for module in training:
                module.training = True
            for owner, setting in zip(owners, settings, strict=True):
                if setting is _ABSENT:
                    vars(owner).pop("generation_config", None)
                else:
                    owner.generation_config = setting

    def follow(self, chat: Chat, how: Decoding, heard: Callable[[list[int]], bool]) -> Generation:
        """One answer, whose tokens are handed out as they are written; what `generate` says of that chat alone.

        Args:
            chat: The conversation.
            how: Decoding.
            heard: Gets the next tokens; when it returns False, the answer ends there or one token later, with the
                ``stop`` ``length``.
        """
        how = checked(how)
        text = chats_.render(self.tokenizer, chat)
        prompt = self._ids(text, special_twice=how.special_twice)
        if chats_.started(chat) is not None:
            prompt = self._begun(chat)
        least = least_room(how)
        planned = plan_batches([len(prompt)], 1, how.max_new_tokens, self.limit, least_room=least)
        if not planned:
            return self._left_out(len(prompt), least)
        follower = _Follower(heard)
        with self.evaluating():
            (tokens,) = self._generate(
                planned[0], [prompt], how, streamer=follower, stopping_criteria=[follower.ended]
            )
        if tokens is None:
            return _failed(NAN)
        return self._read(text, tokens, planned[0].new_tokens, chats_.started(chat))

    def _generate(
        self, batch: Batch, prompts: Sequence[list[int]], how: Decoding, **more: Any
    ) -> list[list[int] | None]:
        import torch
        import transformers

        lines = [prompts[i] for i in batch.indexes]
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
        watch = _Watch()
        with torch.random.fork_rng(enabled=how.temperature > 0), torch.inference_mode():
            past = self._past(lines)
            if how.temperature > 0:
                # Each batch has its own stream: what one says never depends on which ran before it.
                torch.manual_seed((how.seed * 1_000_003 + batch.indexes[0]) % 2**63)
            output = self._go_on(
                lines,
                past,
                generation_config=config,
                logits_processor=transformers.LogitsProcessorList([watch]),
                **more,
            )
        self.prompted += sum(map(len, lines))
        said: list[list[int]] = output[:, max(map(len, lines)) :].tolist()
        failed = watch.failed(len(said))
        if any(failed):
            self._check_numbers()
        return [None if bad else self._cut(line) for line, bad in zip(said, failed, strict=True)]

    def _past(self, lines: Sequence[list[int]], part: float = PART_SHARED) -> Any:
        """The cache that lines go on from: that of what they share, run once; None where they share too little."""
        import transformers

        plan = split(lines, part=part) if self.shares else None
        if plan is None:
            return None
        one = transformers.GenerationConfig(
            max_new_tokens=1, do_sample=False, pad_token_id=self.pad, return_dict_in_generate=True
        )
        past = self._past(plan.prefixes, part=0.0)  # those of many prompts may share a header
        output = self._go_on(plan.prefixes, past, generation_config=one)
        past = output.past_key_values
        known = holds_all(past, len(plan.prefixes), max(map(len, plan.prefixes)))
        return spread(past, plan) if known else None

    def _go_on(self, lines: Sequence[list[int]], past: Any, **more: Any) -> Any:
        """What `generate` returns for lines padded on the left, whose first columns ``past`` holds already."""
        import torch

        width = max(map(len, lines))
        ids = torch.full((len(lines), width), self.pad)
        mask = torch.zeros_like(ids)
        for place, line in enumerate(lines):
            ids[place, width - len(line) :] = torch.tensor(line)
            mask[place, width - len(line) :] = 1
        known = past.get_seq_length() if past is not None else 0
        device = self.model.device
        output = self.model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            **({"past_key_values": past} if past is not None else {}),
            **more,
        )
        self.prefilled += int(mask[:, known:].sum())
        return output

    def _check_numbers(self) -> None:
        """Pass when every weight is a number; one that is not spoils every answer."""
        import torch

        for name, tensor in self.model.named_parameters():
            if not tensor.is_meta and not torch.isfinite(tensor).all():
                raise NumericalFailure(
                    f"The weights of {self.ref.where} are not all numbers ({name} holds NaN or infinity).",
                    why="Nothing such a model says means anything.",
                    fix="Save it again from a checkpoint before its training broke down.",
                )

    def _ids(self, text: str, *, special_twice: bool = False) -> list[int]:
        """A text's tokens as a prompt.

        Raises:
            BadInput: The tokenizer writes tokens that the model does not have.
        """
        if special_twice:
            ids = chats_.token_ids(self.tokenizer, text, special=True)
        else:
            ids = chats_.tokenize(self.tokenizer, text)
        self._check_ids(ids)
        return ids

    def _begun(self, chat: Chat) -> list[int]:
        """The tokens of a conversation with the opening of its answer."""
        ids = chats_.encode(self.tokenizer, chat)
        self._check_ids(ids)
        return ids

    def _check_ids(self, ids: list[int]) -> None:
        highest = max(ids, default=0)
        if self.vocabulary is not None and highest >= self.vocabulary:
            raise BadInput(
                f"The tokenizer of {self.ref.where} writes the token {highest} "
                f"({self.tokenizer.decode([highest])!r}), but the model has only {self.vocabulary} tokens.",
                fix="Give the model the tokenizer it was trained with, or resize its embeddings and train them.",
            )

    def _prompts(self, chats: Sequence[Chat]) -> list[list[int]]:
        """The prompts to read rather than continue; they must fit the context."""
        prompts = [self._ids(chats_.render(self.tokenizer, chat)) for chat in chats]
        self.check_lines(prompts)
        return prompts

    def check_lines(self, lines: Sequence[list[int]], starts: Sequence[int] | None = None) -> None:
        """Pass when each line of tokens has a prompt, tokens the model knows, and a place in its context.

        Args:
            lines: Token ids, of prompts or of prompts with their answers.
            starts: Lengths of the prompts; None: each line is one.
        """
        for place, line in enumerate(lines):
            self._check_ids(line)
            if not (starts[place] if starts is not None else line):
                raise BadInput(f"Chat {place}: {EMPTY}.", fix="Leave it out, or give it words.")
            if self.limit is not None and len(line) > self.limit:
                raise BadInput(
                    f"Chat {place} has {len(line)} tokens, the context of {self.ref.where} {self.limit}.",
                    why="Beyond its context a model's numbers mean nothing.",
                    fix="Leave such rows out, or shorten them.",
                )

    def _forward(self, lines: Sequence[list[int]], **more: Any) -> Any:
        import torch

        try:
            with self.evaluating(), torch.inference_mode():
                return self.model(**self._padded(lines), **more)
        except torch.OutOfMemoryError as error:
            raise self._too_large(len(lines)) from error

    def _not_numbers(self, what: str, place: int) -> NumericalFailure:
        self._check_numbers()
        return NumericalFailure(
            f"The {what} of chat {place} are not all numbers (NaN or infinity), in {self.ref.dtype}.",
            fix="Use --dtype float32." if self.ref.dtype != "float32" else "",
        )

    def _cut(self, tokens: list[int]) -> list[int]:
        """An answer's tokens up to and including its first stop token; the rest is padding."""
        for place, token in enumerate(tokens):
            if token in self.stops:
                return tokens[: place + 1]
        return tokens

    def _read(self, prompt: str, tokens: list[int], allowed: int, opening: str | None = None) -> Generation:
        stopped = bool(tokens) and tokens[-1] in self.stops
        # Reasoning markers may be special tokens, so they are split off before those are dropped.
        marked = self.tokenizer.decode(tokens[:-1] if stopped else tokens, skip_special_tokens=False)
        opened = chats_.opens_reasoning(prompt, self.visible, opening=opening)
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
        targets = [chats_.token_ids(self.tokenizer, text, special=False) for text in answers]
        prompts = [self._ids(chats_.render(self.tokenizer, chat)) for chat in chats]

        def picked(logits: torch.Tensor, ids: Sequence[int]) -> TokenScores:
            scores = torch.log_softmax(logits.double(), dim=-1)
            chosen = scores.gather(1, torch.tensor(ids, device=scores.device).reshape(-1, 1).long())
            return TokenScores(tuple(ids), tuple(chosen.flatten().tolist()))

        return in_order(self.supervised(list(zip(prompts, targets, strict=True)), picked), len(chats))

    def supervised(
        self,
        answered: Sequence[tuple[Sequence[int], Sequence[int]]],
        reduce: Callable[[torch.Tensor, Sequence[int]], T],
        *,
        done: frozenset[int] = frozenset(),
    ) -> Generator[list[tuple[int, T]]]:
        """What ``reduce`` makes of the logits that predict each answer's tokens, as batches get ready.

        Args:
            answered: Token ids of a prompt and of the answer after it, per item.
            reduce: From logits (answer token, vocabulary) and the answer's token ids to what is kept.
            done: Items that are not asked for. A batch is repeated whole: what is found for an item does not
                depend on it.

        Raises:
            BadInput: An item has no prompt, a token the model does not know, or more than its context holds.
            NumericalFailure: Logits are not numbers.
        """
        lines = [[*prompt, *answer] for prompt, answer in answered]
        starts = [len(prompt) for prompt, _ in answered]
        self.check_lines(lines, starts)
        for group in self._groups([len(line) for line in lines]):
            if done.issuperset(group):
                continue
            # Only the answers' positions need logits: from the shortest prompt's last token on.
            width = max(len(lines[i]) for i in group)
            kept = width - min(starts[i] for i in group) + 1
            extra = {"logits_to_keep": kept} if self._accepts("logits_to_keep") else {}
            logits = self._forward([lines[i] for i in group], **extra).logits
            offset = width - logits.shape[1]
            ready = []
            for line, index in enumerate(group):
                if index in done:
                    continue
                start, ids = starts[index] - 1 - offset, answered[index][1]
                own = logits[line, start : start + len(ids)]
                if not bool((own < math.inf).all()):  # neither NaN nor infinite
                    raise self._not_numbers("log-probabilities", index)
                ready.append((index, reduce(own, ids)))
            yield ready

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
        if not layers:
            raise BadInput("No layer is asked for.", fix=f"Layers run from 0 to {depth}, or -1 back.")
        prompts = self._prompts(chats)
        if not prompts:
            return torch.zeros(0, len(layers), self.model.config.get_text_config().hidden_size)
        found: dict[int, torch.Tensor] = {}
        for group in self._groups([len(prompt) for prompt in prompts]):
            lines = [prompts[i] for i in group]
            states = self._forward(lines, output_hidden_states=True).hidden_states
            start = states[0].shape[1] - max(map(len, lines))  # a prompt-tuning adapter's own come first
            for line, index in enumerate(group):
                end = start + len(prompts[index])
                picked = torch.stack([states[layer][line, start:end].float() for layer in layers])
                pooled = picked[:, -1] if pool == "last" else picked.mean(dim=1)
                if not torch.isfinite(pooled).all():
                    raise self._not_numbers("hidden states", index)
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

        self.model = None
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
