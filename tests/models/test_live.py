"""Live models stay their owner's; garbage is named for what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safewright.errors import BadInput
from safewright.models import load
from safewright.types import Decoding
from tests import tiny

PROMPTS = [row.prompt for row in tiny.rows(4)]
GREEDY = Decoding(max_new_tokens=6)


@pytest.fixture
def model(tiny_folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_folder)


def adapted(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    how = LoraConfig(r=4, target_modules=["q_proj"], lora_dropout=0.5, init_lora_weights=False)
    return get_peft_model(model, how)


@pytest.mark.parametrize("peft", [False, True])
def test_a_live_model_is_as_it_was_after_every_question(model: Any, tiny_folder: Path, peft: bool) -> None:
    base = model
    if peft:
        model = adapted(model)
    model.train()
    base.model.layers[1].eval()
    base.generation_config.temperature = 0.25
    settings, before = base.generation_config, settings_of(base)
    modes = {name: module.training for name, module in model.named_modules()}
    own = sorted(vars(model))
    loaded = load(model, tokenizer=tiny.tokenizer())
    for _ in range(2):
        assert loaded.generate(PROMPTS, GREEDY) == loaded.generate(PROMPTS, GREEDY)
        loaded.logprobs(PROMPTS, ["ban"] * 4)
        loaded.hidden(PROMPTS, (0,), "last")
        assert {name: module.training for name, module in model.named_modules()} == modes
        assert base.generation_config is settings
        assert settings_of(base) == before
        assert sorted(vars(model)) == own
    loaded.close()
    assert model.training


def settings_of(model: Any) -> Any:
    return model.generation_config.to_dict()


def test_a_live_model_in_training_says_what_its_folder_says(model: Any, tiny_folder: Path) -> None:
    model.train()
    model.generation_config.repetition_penalty = 5.0
    said = load(model, tokenizer=tiny.tokenizer()).generate(PROMPTS, GREEDY)
    assert said == load(tiny_folder).generate(PROMPTS, GREEDY)


def test_a_compiled_model_is_as_it_was_too(model: Any) -> None:
    import torch

    model.train()
    settings = model.generation_config
    loaded = load(torch.compile(model), tokenizer=tiny.tokenizer())
    with loaded.evaluating():
        assert not model.training
        assert model.generation_config is not settings
    assert model.training
    assert model.generation_config is settings


def test_a_failing_question_leaves_the_model_as_it_was(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model.train()
    settings = model.generation_config
    loaded = load(model, tokenizer=tiny.tokenizer())

    def fail(**_: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(model, "generate", fail)
    with pytest.raises(RuntimeError, match="no"):
        loaded.generate(PROMPTS, GREEDY)
    assert model.training
    assert model.generation_config is settings


@pytest.mark.parametrize("garbage", [None, 3, object(), {"a": 1}, b"path", ["x"], int, "class", "linear"])
def test_garbage_is_bad_input(garbage: Any) -> None:
    import torch
    from transformers import LlamaForCausalLM

    named = {"class": LlamaForCausalLM, "linear": torch.nn.Linear(2, 2)}
    thing = named.get(garbage, garbage) if isinstance(garbage, str) else garbage
    with pytest.raises(BadInput, match="neither a reference nor a model"):
        load(thing, tokenizer=tiny.tokenizer())


@pytest.mark.parametrize("garbage", [None, 3, "folder", object()])
def test_a_live_model_needs_a_tokenizer(model: Any, garbage: object) -> None:
    with pytest.raises(BadInput, match="tokenizer"):
        load(model, tokenizer=garbage)


def test_options_that_would_do_nothing_are_refused(model: Any, tiny_folder: Path) -> None:
    with pytest.raises(BadInput, match="as it is"):
        load(model, tokenizer=tiny.tokenizer(), dtype="bfloat16")
    with pytest.raises(BadInput, match="as it is"):
        load(model, tokenizer=tiny.tokenizer(), engine="endpoint")
    with pytest.raises(BadInput, match="brings its own"):
        load(tiny_folder, tokenizer=tiny.tokenizer())


def test_a_live_reference_cannot_be_opened(model: Any) -> None:
    ref = load(model, tokenizer=tiny.tokenizer()).ref
    with pytest.raises(BadInput, match="has no folder"):
        load(ref)


def test_an_estimate_of_a_live_model_has_no_memory_to_ask_for(model: Any) -> None:
    from safewright.models.estimate import estimate

    found = estimate(load(model, tokenizer=tiny.tokenizer()).ref, PROMPTS, 4, None)
    assert (found.calls, found.memory_bytes, found.seconds) == (4, 0, None)


def test_a_live_digest_follows_everything_that_changes_answers(model: Any) -> None:
    model = adapted(model)
    words = tiny.tokenizer()
    seen = [load(model, tokenizer=words).ref.digest]
    assert load(model, tokenizer=words).ref.digest == seen[0]
    seen.append(load(model, tokenizer=tiny.tokenizer(more=("extra",))).ref.digest)
    for module in model.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("default", 3.0)
    seen.append(load(model, tokenizer=words).ref.digest)
    with model.disable_adapter():
        seen.append(load(model, tokenizer=words).ref.digest)
    model.config.rms_norm_eps = 0.5
    seen.append(load(model, tokenizer=words).ref.digest)
    assert len(set(seen)) == 5


def test_closing_twice_is_closing_once(tiny_folder: Path) -> None:
    loaded = load(tiny_folder)
    loaded.close()
    loaded.close()
    assert loaded.model is None
