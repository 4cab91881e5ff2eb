"""Tiny models and rows for tests that need a model but no meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safewright.types import Row

WORDS = [
    f"{a}{b}" for a in ("ba", "de", "ki", "lo", "mu", "ra", "se", "ti") for b in ("n", "p", "r", "s", "v")
]
SPECIALS = ["<pad>", "<s>", "</s>", "<unk>"]
ROLES = ["system", "user", "assistant", ":"]
TEMPLATE = (
    "<s>{% for m in messages %} {{ m['role'] }} : {{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %} assistant :{% endif %}"
)
THINKING = ("<think>", "</think>")


def tokenizer(template: str = TEMPLATE, more: tuple[str, ...] = ()) -> Any:
    """A word-level tokenizer over made-up words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate([*SPECIALS, *ROLES, *WORDS, *more])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    wrapped.chat_template = template
    return wrapped


def save_tiny(
    folder: Path,
    *,
    seed: int = 0,
    template: str = TEMPLATE,
    shard: str = "1GB",
    more: tuple[str, ...] = (),
    **shape: Any,
) -> Path:
    """A random Llama with its tokenizer, saved as an ordinary folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer(template, more)
    torch.manual_seed(seed)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        **shape,
    }
    config = LlamaConfig(
        vocab_size=len(words),
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        initializer_range=0.4,
        **sizes,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder, max_shard_size=shard)
    words.save_pretrained(folder)
    return folder


def rows(count: int, *, length: int = 3) -> list[Row]:
    """Rows of made-up words, each with another prompt."""
    found = []
    for i in range(count):
        text = " ".join(WORDS[(i * 7 + j * (i + 3)) % len(WORDS)] for j in range(length + i % 5))
        found.append(
            Row(
                id=f"r{i:03d}",
                prompt=({"role": "user", "content": text},),
                reference=WORDS[i % len(WORDS)],
                lang="en",
            )
        )
    return found


def save_kind(kind: str, folder: Path, *, shard: str = "1GB", **shape: Any) -> Path:
    """A random model of an architecture with a tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    words = tokenizer()
    torch.manual_seed(1)
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(words),
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        **shape,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder, max_shard_size=shard)
    words.save_pretrained(folder)
    return folder
