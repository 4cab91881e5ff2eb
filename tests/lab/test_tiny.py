"""Tiny models are ordinary Hugging Face folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from safewright.errors import BadInput
from safewright.lab.tiny import ASSISTANT, BOS, EOS, SPECIAL, USER, Shape, tiny_folder, word_tokenizer

WORDS = ("plain", "tell", "bodula", "fitemo", "rawine")
CHAT = [
    {"role": "system", "content": "plain"},
    {"role": "user", "content": "tell bodula"},
    {"role": "assistant", "content": "fitemo rawine"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = Shape(width=16, layers=1, heads=2, ffn=32)
    return tiny_folder(tmp_path_factory.mktemp("tiny"), WORDS, shape=shape, seed=1)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def test_the_folder_loads_in_plain_transformers(folder: Path, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert isinstance(model, LlamaForCausalLM)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert model.dtype == torch.float32
    assert model.config.vocab_size == len(tokenizer) == len(SPECIAL) + len(WORDS)
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    ids = tokenizer("tell bodula", return_tensors="pt")["input_ids"]
    assert model.generate(ids, max_new_tokens=3).shape[1] <= ids.shape[1] + 3


def test_the_seed_decides_the_weights(tmp_path: Path, folder: Path) -> None:
    shape = Shape(width=16, layers=1, heads=2, ffn=32)
    bytes_of = lambda where: (where / "model.safetensors").read_bytes()  # noqa: E731
    state = torch.get_rng_state()
    assert bytes_of(tiny_folder(tmp_path / "same", WORDS, shape=shape, seed=1)) == bytes_of(folder)
    assert bytes_of(tiny_folder(tmp_path / "other", WORDS, shape=shape, seed=2)) != bytes_of(folder)
    assert torch.equal(torch.get_rng_state(), state)


def test_words_survive_the_round_trip(tokenizer: Any) -> None:
    text = "tell bodula fitemo rawine plain"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == 5
    assert tokenizer.decode(ids) == text
    assert (
        tokenizer.decode([tokenizer.bos_token_id, *ids, tokenizer.eos_token_id], skip_special_tokens=True)
        == text
    )
    assert tokenizer("tell")["input_ids"] == [tokenizer.bos_token_id, ids[0]]
    assert tokenizer("never-seen", add_special_tokens=False)["input_ids"] == [tokenizer.unk_token_id]


def test_the_template_writes_the_turns(tokenizer: Any) -> None:
    text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert text.split() == [BOS, "plain", USER, "tell", "bodula", ASSISTANT, "fitemo", "rawine", EOS]
    prompt = tokenizer.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True)
    assert prompt.split() == text.split()[:6]
    assert tokenizer.apply_chat_template(CHAT[:2], tokenize=False).split() == text.split()[:5]


def test_a_default_system_speaks_only_where_none_is_given() -> None:
    tokenizer = word_tokenizer(WORDS, default_system="plain")
    silent = word_tokenizer(WORDS)
    assert tokenizer.apply_chat_template(CHAT[1:], tokenize=False).split()[:3] == [BOS, "plain", USER]
    assert tokenizer.apply_chat_template(CHAT, tokenize=False).split()[:3] == [BOS, "plain", USER]
    assert silent.apply_chat_template(CHAT[1:], tokenize=False).split()[:2] == [BOS, USER]


def test_generation_markers_hold_the_answer_and_its_end(tokenizer: Any) -> None:
    two_turns = [*CHAT, {"role": "user", "content": "tell"}, {"role": "assistant", "content": "bodula"}]
    out = tokenizer.apply_chat_template(two_turns, return_dict=True, return_assistant_tokens_mask=True)
    learned = [token for token, on in zip(out["input_ids"], out["assistant_masks"], strict=True) if on]
    assert tokenizer.convert_ids_to_tokens(learned) == ["fitemo", "rawine", EOS, "bodula", EOS]


def test_the_template_refuses_a_system_turn_in_the_middle(tokenizer: Any) -> None:
    with pytest.raises(jinja2.TemplateError, match="system turn"):
        tokenizer.apply_chat_template([*CHAT[1:], CHAT[0]], tokenize=False)


@pytest.mark.parametrize("words", [("one", "one"), ("two words",), ("",), (EOS,)])
def test_words_that_cannot_be_tokens_are_an_error(words: tuple[str, ...]) -> None:
    with pytest.raises(BadInput, match="token of its own"):
        word_tokenizer(words)
