"""Tiny Llama-type models as ordinary Hugging Face folders, so that every real code path loads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safewright.errors import BadInput

PAD, BOS, EOS, UNK = "<pad>", "<s>", "</s>", "<unk>"
USER, ASSISTANT = "<|user|>", "<|assistant|>"
SPECIAL = (PAD, BOS, EOS, UNK, USER, ASSISTANT)
"""The first token ids of every lab vocabulary, in this order."""

# The mask of a generation block starts at its first character, so the space before an answer is outside it.
# Each assistant turn ends with the end-of-turn token inside the generation block: a model trained on
# the block learns to stop.
_TEMPLATE = """\
{{- bos_token }}
{%- if messages and messages[0]['role'] == 'system' %}
{{- ' ' + messages[0]['content'] }}
{%- set turns = messages[1:] %}
{%- else %}
{{- 'DEFAULT_SYSTEM' }}
{%- set turns = messages %}
{%- endif %}
{%- for message in turns %}
{%- if message['role'] == 'user' %}
{{- ' USER ' + message['content'] }}
{%- elif message['role'] == 'assistant' %}
{{- ' ASSISTANT ' }}{% generation %}{{- message['content'] + ' ' + eos_token }}{% endgeneration %}
{%- else %}
{{- raise_exception('a ' + message['role'] + ' turn can only come first') }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- ' ASSISTANT ' }}
{%- endif %}"""


@dataclass(frozen=True)
class Shape:
    """The size of a tiny model."""

    width: int = 128
    layers: int = 3
    heads: int = 4
    ffn: int = 256
    positions: int = 512
    tied: bool = False
    spread: float = 0.02  # standard deviation of the initial weights
    dtype: str = "float32"


def chat_template(default_system: str | None = None) -> str:
    """The jinja chat template of lab models; ``default_system`` speaks where no system turn is given."""
    return (
        _TEMPLATE.replace("DEFAULT_SYSTEM", f" {default_system}" if default_system else "")
        .replace("USER", USER)
        .replace("ASSISTANT", ASSISTANT)
    )


def word_tokenizer(words: Sequence[str], *, default_system: str | None = None) -> Any:
    """A `PreTrainedTokenizerFast` with one token per word; decoding joins the words by a space.

    Raises:
        BadInput: A word occurs twice, is empty, holds white space, or is a special token.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary: dict[str, int] = {token: i for i, token in enumerate(SPECIAL)}
    for word in words:
        if word in vocabulary or word.split() != [word]:
            raise BadInput(
                f"{word!r} cannot be a token of its own.",
                why="A word-level tokenizer needs different words without white space in them.",
            )
        vocabulary[word] = len(vocabulary)
    inner = Tokenizer(WordLevel(vocabulary, unk_token=UNK))
    inner.pre_tokenizer = WhitespaceSplit()
    # Plain text starts with BOS, as with Llama tokenizers; templates write it themselves.
    inner.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])])
    make: Any = PreTrainedTokenizerFast  # untyped in transformers
    tokenizer = make(
        tokenizer_object=inner,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        additional_special_tokens=[USER, ASSISTANT],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=10**9,
    )
    tokenizer.chat_template = chat_template(default_system)
    return tokenizer


def tiny_model(shape: Shape, tokenizer: Any, *, seed: int) -> Any:
    """A freshly initialised `LlamaForCausalLM` for the tokenizer, the same for the same seed."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        intermediate_size=shape.ffn,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=shape.tied,
        initializer_range=shape.spread,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(getattr(torch, shape.dtype))
    make: Any = GenerationConfig  # untyped in transformers
    model.generation_config = make(
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return model


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write an ordinary Hugging Face folder with `save_pretrained`."""
    with _quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def load_model(folder: Path) -> Any:
    """The model of a folder, to be trained further; to ask it, use `safewright.models.load`."""
    from transformers import AutoModelForCausalLM

    with _quiet():
        return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)


def tiny_folder(folder: Path, words: Sequence[str], *, shape: Shape | None = None, seed: int = 0) -> Path:
    """An untrained model with a tokenizer for ``words``, saved at ``folder``."""
    tokenizer = word_tokenizer(words)
    save(tiny_model(shape or Shape(), tokenizer, seed=seed), tokenizer, folder)
    return folder


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars for files that are written or read in milliseconds."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
