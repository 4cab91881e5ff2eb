"""The reference engine: equal to batch-1 greedy, stable under resume, exact log-probabilities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safewright.errors import BadInput
from safewright.models import load, overlong_counts
from safewright.models.prefixes import plan_batches
from safewright.types import Decoding
from tests import tiny

GREEDY = Decoding(max_new_tokens=12)


def chats(count: int) -> list[Any]:
    return [row.prompt for row in tiny.rows(count)]


def test_batches_equal_batch_one_token_for_token(tiny_folder: Path) -> None:
    prompts = chats(24)
    together = load(tiny_folder, batch_size=7).generate(prompts, GREEDY)
    alone = load(tiny_folder, batch_size=1).generate(prompts, GREEDY)
    assert [g.raw for g in together] == [g.raw for g in alone]
    assert [(g.stop, g.tokens) for g in together] == [(g.stop, g.tokens) for g in alone]
    assert len({g.raw for g in together}) > 12


def test_equals_plain_transformers_generate(tiny_folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, words = (
        AutoModelForCausalLM.from_pretrained(tiny_folder),
        AutoTokenizer.from_pretrained(tiny_folder),
    )
    for chat, said in zip(chats(6), load(tiny_folder).generate(chats(6), GREEDY), strict=True):
        text = words.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([words(text, add_special_tokens=False)["input_ids"]])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        assert words.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip() == said.answer


def test_order_is_kept_and_done_is_not_asked_again(tiny_folder: Path) -> None:
    model = load(tiny_folder, batch_size=4)
    whole = model.generate(chats(10), GREEDY)
    done = frozenset({0, 3, 4, 9})
    rest = {i: g for ready in model.stream(chats(10), GREEDY, done=done) for i, g in ready}
    assert sorted(rest) == [1, 2, 5, 6, 7, 8]
    assert all(rest[i] == whole[i] for i in rest)


def test_sampling_is_seeded_and_survives_resume(tiny_folder: Path) -> None:
    model = load(tiny_folder, batch_size=4)
    how = Decoding(max_new_tokens=8, temperature=1.0, seed=3)
    whole = model.generate(chats(8), how)
    assert whole == model.generate(chats(8), how)
    assert whole != model.generate(chats(8), Decoding(max_new_tokens=8, temperature=1.0, seed=4))
    rest = {i: g for ready in model.stream(chats(8), how, done=frozenset({1, 2})) for i, g in ready}
    assert all(rest[i] == whole[i] for i in rest)


def test_folder_sampling_defaults_do_not_leak_into_greedy(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tiny.save_tiny(tmp_path / "m")
    plain = load(folder).generate(chats(6), GREEDY)
    config = json.loads((folder / "generation_config.json").read_text())
    config.update(do_sample=True, temperature=5.0, repetition_penalty=3.0, no_repeat_ngram_size=1)
    (folder / "generation_config.json").write_text(json.dumps(config))
    assert load(folder).generate(chats(6), GREEDY) == plain


def test_stop_reasons_and_token_counts(tiny_folder: Path) -> None:
    for said in load(tiny_folder).generate(chats(24), Decoding(max_new_tokens=4)):
        assert said.stop in ("stop", "length")
        assert said.tokens <= 4
        assert (said.stop == "length") <= (said.tokens == 4)


def test_overlong_prompts_are_counted_not_cut(tiny_folder: Path) -> None:
    long = ({"role": "user", "content": " ".join(tiny.WORDS * 4)},)
    short = tiny.rows(1)[0].prompt
    first, second = load(tiny_folder).generate([long, short], GREEDY)
    assert first.stop == "overlong"
    assert "128" in first.error
    assert first.answer == ""
    assert second.stop in ("stop", "length")


def test_a_prompt_that_leaves_too_little_room_is_overlong_and_says_how_long(tiny_folder: Path) -> None:
    prompts = [({"role": "user", "content": " ".join(["ban"] * n)},) for n in (100, 105, 110, 130)]
    model = load(tiny_folder)
    lengths = [n + 5 for n in (100, 105, 110, 130)]
    for room, limit, overlong in (
        (20, 30, [False, True, True, True]),
        (20, 12, [False, False, False, True]),  # no answer may be longer than 12 tokens
        (1, 30, [False, False, False, True]),
    ):
        said = model.generate(prompts, Decoding(max_new_tokens=limit, least_room=room))
        assert [g.stop == "overlong" for g in said] == overlong
        counts = [(length, 128) if out else None for length, out in zip(lengths, overlong, strict=True)]
        assert [overlong_counts(g) for g in said] == counts
    assert "at least 20" in model.generate(prompts, Decoding(max_new_tokens=30, least_room=20))[2].error


def test_counts_are_read_only_off_overlong_prompts() -> None:
    from safewright.types import Generation

    words = "the prompt has 9 tokens, the context 8"
    assert overlong_counts(Generation("", "", "", True, "overlong", 0, words)) == (9, 8)
    assert overlong_counts(Generation("", "", "", True, "overlong", 0, f"HTTP 400: {words}")) is None
    assert overlong_counts(Generation(words, "", words, True, "stop", 9)) is None
    assert overlong_counts(Generation("", "", "", True, "error", 0, words)) is None


def test_batches_keep_room_for_each_answer() -> None:
    batches = plan_batches([100, 120, 20, 110, 20, 128], size=4, new_tokens=30, limit=128)
    rooms = {i: batch.new_tokens for batch in batches for i in batch.indexes}
    assert rooms == {1: 8, 3: 18, 0: 28, 2: 30, 4: 30}


def test_logprobs_equal_one_by_one_forward(tiny_folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, words = (
        AutoModelForCausalLM.from_pretrained(tiny_folder),
        AutoTokenizer.from_pretrained(tiny_folder),
    )
    prompts = chats(9)
    answers = [" ".join(tiny.WORDS[i : i + 1 + i % 4]) for i in range(9)]
    found = load(tiny_folder, batch_size=4).logprobs(prompts, answers)
    for chat, answer, scores in zip(prompts, answers, found, strict=True):
        text = words.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=True)
        prompt = words(text, add_special_tokens=False)["input_ids"]
        target = words(answer, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + target])).logits[0].double()
        table = torch.log_softmax(logits, -1)
        wanted = [table[len(prompt) - 1 + i, token].item() for i, token in enumerate(target)]
        assert list(scores.tokens) == target
        assert scores.logprobs == pytest.approx(wanted, abs=1e-5)


def test_hidden_states_equal_one_by_one_forward(tiny_folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    loaded = load(tiny_folder, batch_size=4)
    for pool in ("last", "mean"):
        found = loaded.hidden(chats(6), (0, 2, -1), pool)
        assert found.shape == (6, 3, 32)
        from safewright.models.chat import encode

        for line, chat in enumerate(chats(6)):
            ids = torch.tensor([encode(loaded.tokenizer, chat)])
            with torch.no_grad():
                states = model(ids, output_hidden_states=True).hidden_states
            for place, layer in enumerate((0, 2, -1)):
                own = states[layer][0]
                assert torch.allclose(
                    found[line, place], own[-1] if pool == "last" else own.mean(0), atol=1e-5
                )


def test_hidden_names_a_layer_that_is_not_there(tiny_folder: Path) -> None:
    with pytest.raises(BadInput, match="layer 9"):
        load(tiny_folder).hidden(chats(1), (9,), "last")


def test_thinking_is_split_from_the_answer(tmp_path: Path) -> None:
    from safewright.models.hf import HfModel

    template = tiny.TEMPLATE + "{% if add_generation_prompt %} <think>{% endif %}{# </think> #}"
    loaded = load(tiny.save_tiny(tmp_path / "m", template=template, more=tiny.THINKING))
    assert isinstance(loaded, HfModel)
    words = loaded.tokenizer
    prompt = words.apply_chat_template(
        [{"role": "user", "content": "ban"}], tokenize=False, add_generation_prompt=True
    )
    closed = words("ban dep </think> kir los </s>")["input_ids"]
    said = loaded._read(prompt, closed, 10)
    assert (said.reasoning, said.answer, said.closed, said.stop) == ("ban dep", "kir los", True, "stop")
    said = loaded._read(prompt, words("ban dep kir")["input_ids"], 3)
    assert (said.answer, said.closed, said.stop) == ("", False, "length")


def test_adapter_is_applied_and_disabled_equals_base(tiny_folder: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    peft = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    peft.peft_config["default"].base_model_name_or_path = str(tiny_folder)
    peft.save_pretrained(tmp_path / "adapter")
    adapter = load(tmp_path / "adapter")
    assert adapter.ref.kind == "adapter"
    assert adapter.ref.base == str(tiny_folder)
    plain = load(tiny_folder).generate(chats(6), GREEDY)
    assert adapter.generate(chats(6), GREEDY) != plain
    with adapter.model.disable_adapter(), torch.no_grad():
        assert adapter.generate(chats(6), GREEDY) == plain


def test_live_model_is_digested_as_it_stands(tiny_folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    words = tiny.tokenizer()
    first = load(model, tokenizer=words).ref
    assert first.kind == "live"
    assert load(model, tokenizer=words).ref.digest == first.digest
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1.0
    assert load(model, tokenizer=words).ref.digest != first.digest


def test_weights_that_do_not_fill_the_architecture_are_refused(tmp_path: Path) -> None:
    folder = tiny.save_tiny(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] = 4
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="random numbers"):
        load(folder)


def test_out_of_memory_halves_the_batch(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from safewright.models.hf import HfModel

    plain = load(tiny_folder, batch_size=8).generate(chats(8), GREEDY)
    whole = HfModel._generate

    def small(self: Any, batch: Any, *rest: Any) -> Any:
        if len(batch.indexes) > 2:
            raise torch.OutOfMemoryError("too large")
        return whole(self, batch, *rest)

    monkeypatch.setattr(HfModel, "_generate", small)
    assert load(tiny_folder, batch_size=8).generate(chats(8), GREEDY) == plain
