"""Architectures that count positions or read the mask in their own way: batches equal batch 1 in all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safewright.errors import BadInput, NumericalFailure
from safewright.models import load
from safewright.types import Decoding
from tests import tiny

PROMPTS = [row.prompt for row in tiny.rows(10)]
GREEDY = Decoding(max_new_tokens=10)

BODY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3},
    "opt": {**BODY, "ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.3},
    "gpt_neox": BODY,
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True},
    "mistral": {**BODY, "sliding_window": 4},
    "qwen3": BODY,
    "gemma2": {**BODY, "sliding_window": 4, "query_pre_attn_scalar": 8},
    "gemma3_text": {**BODY, "sliding_window": 4, "query_pre_attn_scalar": 8},
    "phi3": BODY,
    "qwen3_moe": {
        **BODY,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "decoder_sparse_step": 1,
    },
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "initializer_range": 0.3},
}


def save(name: str, folder: Path) -> Path:
    """A random model of an architecture, in its shape here."""
    return tiny.save_kind(name, folder, **SHAPES[name])


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_batches_equal_batch_one(name: str, tmp_path: Path) -> None:
    folder = save(name, tmp_path / name)
    many, one = load(folder, batch_size=7), load(folder, batch_size=1)
    assert [g.raw for g in many.generate(PROMPTS, GREEDY)] == [g.raw for g in one.generate(PROMPTS, GREEDY)]
    answers = [" ".join(tiny.WORDS[i : i + 1 + i % 4]) for i in range(len(PROMPTS))]
    for found, alone in zip(many.logprobs(PROMPTS, answers), one.logprobs(PROMPTS, answers), strict=True):
        assert found.tokens == alone.tokens
        assert found.logprobs == pytest.approx(alone.logprobs, abs=1e-3)
    for pool in ("last", "mean"):
        together, apart = (m.hidden(PROMPTS, (0, 1, -1), pool).flatten().tolist() for m in (many, one))
        assert together == pytest.approx(apart, abs=1e-3)


def test_bfloat16_scores_are_close_to_float32(tiny_folder: Path) -> None:
    half, full = load(tiny_folder, dtype="bfloat16"), load(tiny_folder)
    assert half.conventions["dtype"] == "bfloat16"
    said = half.generate(PROMPTS, GREEDY)
    assert said == half.generate(PROMPTS, GREEDY)
    for a, b in zip(half.logprobs(PROMPTS, ["ban"] * 10), full.logprobs(PROMPTS, ["ban"] * 10), strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=0.5)
    assert str(half.hidden(PROMPTS, (0,), "mean").dtype) == "torch.float32"


@pytest.mark.parametrize("name", ["gpt2", "opt", "mistral"])
def test_the_context_is_used_to_its_end_and_not_beyond(name: str, tmp_path: Path) -> None:
    loaded = load(save(name, tmp_path / name), batch_size=4)
    fits = ({"role": "user", "content": " ".join(["ban"] * 55)},)
    full = ({"role": "user", "content": " ".join(["ban"] * 60)},)
    first, second = loaded.generate([fits, full], Decoding(max_new_tokens=30))
    assert first.stop in ("stop", "length")
    assert first.tokens <= 64 - 60
    assert second.stop == "overlong"
    assert len(loaded.logprobs([fits], ["ban ban ban"])[0].tokens) == 3
    with pytest.raises(BadInput, match=r"Chat 1 has 6\d tokens, the context of .* 64"):
        loaded.logprobs([fits, fits], ["ban", " ".join(["ban"] * 9)])
    with pytest.raises(BadInput, match="Chat 0 has 65 tokens"):
        loaded.hidden([full], (0,), "last")


def broken(folder: Path, name: str) -> Path:
    import torch
    from safetensors.torch import load_file, save_file

    held = load_file(folder / "model.safetensors")
    held[name].view(-1)[3] = torch.nan
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_weights_that_are_not_numbers_are_a_numerical_failure(tmp_path: Path, temperature: float) -> None:
    loaded = load(broken(tiny.save_tiny(tmp_path / "m"), "model.norm.weight"))
    with pytest.raises(NumericalFailure, match=r"model\.norm\.weight holds NaN"):
        loaded.generate(PROMPTS, Decoding(max_new_tokens=4, temperature=temperature))
    with pytest.raises(NumericalFailure, match=r"model\.norm\.weight holds NaN"):
        loaded.logprobs(PROMPTS, ["ban"] * 10)
    with pytest.raises(NumericalFailure, match=r"model\.norm\.weight holds NaN"):
        loaded.hidden(PROMPTS, (-1,), "last")


def test_one_prompt_that_overflows_is_one_error(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    plain = load(tiny_folder).generate(PROMPTS, GREEDY)
    loaded = load(tiny_folder, batch_size=10)
    forward = type(loaded.model).forward

    def overflow(self: Any, *args: Any, **more: Any) -> Any:
        out = forward(self, *args, **more)
        out.logits[2] = torch.inf
        return out

    monkeypatch.setattr(type(loaded.model), "forward", overflow)
    said = loaded.generate(PROMPTS, GREEDY)
    wrong = [i for i, g in enumerate(said) if g.stop == "error"]
    assert len(wrong) == 1
    assert "not numbers" in said[wrong[0]].error
    assert [g for i, g in enumerate(said) if i not in wrong] == [
        g for i, g in enumerate(plain) if i not in wrong
    ]


def test_prompts_without_tokens_are_errors_of_their_own(tmp_path: Path) -> None:
    loaded = load(tiny.save_tiny(tmp_path / "m", template=""))
    empty, short = ({"role": "user", "content": ""},), ({"role": "user", "content": "ban"},)
    first, second = loaded.generate([empty, short], GREEDY)
    assert (first.stop, first.error) == ("error", "the prompt has no tokens")
    assert second.stop in ("stop", "length")
    with pytest.raises(BadInput, match="Chat 0: the prompt has no tokens"):
        loaded.logprobs([empty], ["ban"])


def test_a_prompt_has_no_end_token_of_the_tokenizers_own(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    from safewright.models.chat import encode

    words = tiny.tokenizer("")
    chat = ({"role": "user", "content": "ban dep"},)
    plain = encode(words, chat)
    words.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert encode(words, chat) == [1, *plain]
    assert encode(words, ({"role": "user", "content": "ban </s>"},))[-1] == 2


def test_nothing_to_read_is_nothing(tiny_folder: Path) -> None:
    loaded = load(tiny_folder)
    assert loaded.generate([], GREEDY) == []
    assert loaded.logprobs([], []) == []
    assert tuple(loaded.hidden([], (0, -1), "last").shape) == (0, 2, 32)
    assert loaded.logprobs(PROMPTS[:1], [""])[0].tokens == ()
    with pytest.raises(BadInput, match="No layer"):
        loaded.hidden(PROMPTS, (), "last")


def test_out_of_memory_says_which_batch_size_to_try(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    loaded = load(tiny_folder, batch_size=8)

    def full(**_: Any) -> None:
        raise torch.OutOfMemoryError("too large")

    monkeypatch.setattr(loaded.model, "generate", full)
    with pytest.raises(BadInput, match=r"--batch-size 4"):
        loaded.generate(PROMPTS, Decoding(max_new_tokens=4, temperature=1.0))
    with pytest.raises(BadInput, match="no memory for 1 prompts"):
        loaded.generate(PROMPTS, GREEDY)


# Conversations


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].content + 1 }}",
        "{{ messages[0].content.nothing() }}",
        "{{ 1 / 0 }}",
        "{{ messages[9].content.x }}",
        "{% if %}",
        "{{ raise_exception('no system turns') }}",
        "{{ messages | sort(attribute='x') | first | int + none }}",
        "{% for i in range(3) %}{{ messages.append(1) }}{{ i['a']['b'] }}{% endfor %}",
    ],
)
def test_a_template_that_raises_anything_is_bad_input(tmp_path: Path, template: str) -> None:
    loaded = load(tiny.save_tiny(tmp_path / "m", template=template))
    with pytest.raises(BadInput, match="chat template refuses a conversation of the turns user"):
        loaded.generate(PROMPTS[:1], GREEDY)


@pytest.mark.parametrize(
    "chat", ["hello", [{"role": "user"}], [{"content": "x"}], [{"role": "user", "content": None}], [3]]
)
def test_conversations_of_the_wrong_shape_are_refused(tiny_folder: Path, chat: Any) -> None:
    with pytest.raises(BadInput, match="conversation"):
        load(tiny_folder).generate([chat], GREEDY)


def test_half_a_character_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(BadInput, match="lone surrogate"):
        load(tiny_folder).generate([({"role": "user", "content": "ban \ud800"},)], GREEDY)
    with pytest.raises(BadInput, match="lone surrogate"):
        load(tiny_folder).logprobs(PROMPTS[:1], ["\udfff"])
