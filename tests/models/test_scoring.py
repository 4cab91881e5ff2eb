"""Statistics of given answers against a plain float64 pass per row."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from safewright.errors import BadInput, NumericalFailure
from safewright.models import load
from safewright.models.scoring import (
    Encoded,
    candidates,
    encode_answer,
    stream_candidates,
    stream_gradient_norms,
    stream_scores,
    token_statistics,
)
from tests import tiny

PROMPTS = [row.prompt for row in tiny.rows(7)]
ANSWERS = [" ".join(tiny.WORDS[(3 * i + j) % len(tiny.WORDS)] for j in range(1 + i)) for i in range(7)]
ENDING = (
    "<s>{% for m in messages %} {{ m['role'] }} : {{ m['content'] }}"
    "{% if m['role'] == 'assistant' %} </s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} assistant :{% endif %}"
)
"""A template that ends every answer with the end-of-turn token."""


def encoded(loaded: Any) -> list[Encoded]:
    return [encode_answer(loaded.tokenizer, p, a) for p, a in zip(PROMPTS, ANSWERS, strict=True)]


def collected(stream: Any) -> list[Any]:
    found = {index: value for ready in stream for index, value in ready}
    return [found[index] for index in sorted(found)]


def brute(folder: Path, item: Encoded) -> torch.Tensor:
    """Log-probabilities (answer token, vocabulary) of one row alone, all in float64."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder).double().eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*item.prompt, *item.answer]])).logits[0]
    return torch.log_softmax(logits[len(item.prompt) - 1 : -1], dim=-1)


def test_statistics_equal_a_plain_float64_pass(tiny_folder: Path) -> None:
    loaded = load(tiny_folder, batch_size=3)
    items = encoded(loaded)
    found = collected(stream_scores(loaded, items))
    for item, scores in zip(items, found, strict=True):
        logs = brute(tiny_folder, item)
        picked = [float(logs[t, token]) for t, token in enumerate(item.answer)]
        means = [sum(float(v.exp() * v) for v in row) for row in logs]
        variances = [
            sum(float(v.exp() * (v - mean) ** 2) for v in row) for row, mean in zip(logs, means, strict=True)
        ]
        assert scores.tokens == item.answer
        assert scores.logprobs == pytest.approx(picked, abs=2e-5)
        assert scores.means == pytest.approx(means, abs=2e-5)
        assert scores.variances == pytest.approx(variances, abs=2e-4)
        assert scores.hits == tuple(int(row.argmax()) == t for row, t in zip(logs, item.answer, strict=True))


def test_batching_and_padding_change_nothing(tiny_folder: Path) -> None:
    alone = load(tiny_folder, batch_size=1)
    together = load(tiny_folder, batch_size=7)
    items = encoded(alone)
    ours, theirs = collected(stream_scores(alone, items)), collected(stream_scores(together, items))
    for a, b in zip(ours, theirs, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)
        assert a.variances == pytest.approx(b.variances, abs=1e-4)
        assert a.hits == b.hits
    done = frozenset({0, 3})
    again = {i: v for ready in stream_scores(together, items, done=done) for i, v in ready}
    assert set(again) == set(range(7)) - done
    assert all(again[i] == theirs[i] for i in again)


def test_logprobs_of_the_engine_are_the_same_numbers(tiny_folder: Path) -> None:
    loaded = load(tiny_folder)
    found = collected(stream_scores(loaded, encoded(loaded)))
    for own, scores in zip(loaded.logprobs(PROMPTS, ANSWERS), found, strict=True):
        assert own.tokens == scores.tokens
        assert own.logprobs == pytest.approx(scores.logprobs, abs=1e-6)


def test_of_equal_logits_the_lowest_id_is_the_hit_and_uniform_moments_are_exact() -> None:
    flat = token_statistics(torch.zeros(2, 8), [0, 3])
    assert flat.hits == (True, False)
    assert flat.variances == pytest.approx((0.0, 0.0), abs=1e-12)
    assert flat.means == pytest.approx(flat.logprobs, abs=1e-12)
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0]])
    assert token_statistics(logits, [1]).hits == (True,)
    assert token_statistics(logits, [2]).hits == (False,)
    barred = token_statistics(torch.tensor([[0.0, float("-inf"), 0.0]]), [0])
    assert barred.logprobs == pytest.approx((-0.6931471805599453,))
    assert barred.variances == pytest.approx((0.0,), abs=1e-12)
    tied = candidates(torch.tensor([[1.0, 1.0, 0.0, 1.0]]), 2)
    assert tied.tokens == ((0, 1),)


def test_long_answers_are_worked_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    logits, ids = torch.randn(7, 30), [3, 1, 4, 1, 5, 9, 2]
    whole = token_statistics(logits, ids)
    seen: list[int] = []
    softmax = torch.log_softmax

    def noting(given: torch.Tensor, **more: Any) -> torch.Tensor:
        seen.append(given.numel())
        return softmax(given, **more)

    monkeypatch.setattr(torch, "log_softmax", noting)
    monkeypatch.setattr("safewright.models.scoring.NUMBERS_AT_ONCE", 70)
    assert token_statistics(logits, ids) == whole
    assert max(seen) <= 70
    monkeypatch.setattr("safewright.models.scoring.NUMBERS_AT_ONCE", 1)
    assert token_statistics(logits, ids) == whole


def test_gradients_that_fail_are_told_with_the_way_out(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: Any = load(tiny_folder)
    items = encoded(loaded)[:1]

    def full(*given: Any, **more: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.autograd, "grad", full)
    with pytest.raises(BadInput, match="no memory for the gradients") as told:
        list(stream_gradient_norms(loaded, items))
    assert "gradient_norm=false" in told.value.fix
    monkeypatch.setattr(torch.autograd, "grad", lambda *given, **more: [torch.tensor([float("inf")])])
    with pytest.raises(NumericalFailure, match="gradient"):
        list(stream_gradient_norms(loaded, items))


def test_answers_end_before_the_end_of_turn(tmp_path: Path) -> None:
    ending = tiny.tokenizer(ENDING)
    item = encode_answer(ending, PROMPTS[0], "ban bap")
    assert ending.convert_ids_to_tokens(list(item.answer)) == ["ban", "bap"]
    assert ending.convert_ids_to_tokens(list(item.prompt))[-2:] == ["assistant", ":"]
    # The words may stand in the question too: the answer's are meant.
    echo = encode_answer(ending, ({"role": "user", "content": "ban bap ban"},), "ban")
    assert ending.convert_ids_to_tokens(list(echo.answer)) == ["ban"]
    assert len(echo.prompt) == len(
        encode_answer(ending, ({"role": "user", "content": "ban bap ban"},), "bap").prompt
    )
    bare = tiny.tokenizer()
    bare.chat_template = None
    plain = encode_answer(bare, PROMPTS[0], "ban bap")
    assert bare.convert_ids_to_tokens(list(plain.answer)) == ["ban", "bap"]
    assert encode_answer(ending, PROMPTS[0], "  ").answer == ()


def test_a_tokenizer_without_places_drops_what_ends_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    ending = tiny.tokenizer(ENDING)
    fast = encode_answer(ending, PROMPTS[1], "ban bap")
    monkeypatch.setattr(type(ending), "is_fast", property(lambda self: False))
    assert encode_answer(ending, PROMPTS[1], "ban bap") == fast


def test_what_a_template_thinks_before_an_answer_is_no_part_of_it() -> None:
    thought = ENDING.replace(
        "{{ m['content'] }}", "{% if m['role'] == 'assistant' %}<unk> {% endif %}{{ m['content'] }}"
    )
    words = tiny.tokenizer(thought)
    item = encode_answer(words, PROMPTS[0], "ban bap")
    assert words.convert_ids_to_tokens(list(item.answer)) == ["ban", "bap"]
    assert words.convert_ids_to_tokens(list(item.prompt))[-1] == "<unk>"


def test_answers_are_cut_at_the_context() -> None:
    words = tiny.tokenizer()
    whole = encode_answer(words, PROMPTS[0], "ban bap bar")
    length = len(whole.prompt)
    assert encode_answer(words, PROMPTS[0], "ban bap bar", limit=length + 2) == dataclasses.replace(
        whole, answer=whole.answer[:2], cut=1
    )
    assert encode_answer(words, PROMPTS[0], "ban bap bar", limit=length - 1).answer == ()


def test_candidates_are_those_of_the_first_places(tiny_folder: Path) -> None:
    loaded = load(tiny_folder, batch_size=2)
    items = encoded(loaded)
    found = collected(stream_candidates(loaded, items, first=2, top=3))
    for item, seen in zip(items, found, strict=True):
        p = brute(tiny_folder, item)[:2].exp()
        assert len(seen.tokens) == min(2, len(item.answer))
        for place, row in enumerate(p):
            masses, tokens = row.topk(3)
            assert seen.tokens[place] == tuple(tokens.tolist())
            assert seen.masses[place] == pytest.approx(masses.tolist(), abs=1e-5)
            assert seen.entropy[place] == pytest.approx(-sum(float(v * v.log()) for v in row), abs=1e-4)


def test_gradient_norms_equal_a_plain_backward_pass_and_leave_the_model_as_it_was(tiny_folder: Path) -> None:
    import transformers

    plain = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder).train()
    words = transformers.AutoTokenizer.from_pretrained(tiny_folder)
    loaded = load(plain, tokenizer=words)
    frozen = plain.model.norm.weight
    frozen.requires_grad_(False)
    held = plain.lm_head.weight.grad = torch.ones_like(plain.lm_head.weight)
    items = encoded(loaded)[:3]
    found = dict(stream_gradient_norms(loaded, items, done=frozenset({1})))
    assert set(found) == {0, 2}
    assert plain.training
    assert not frozen.requires_grad
    assert plain.lm_head.weight.grad is held
    assert bool((held == 1).all())
    assert plain.model.embed_tokens.weight.grad is None
    exact = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder).double().eval()
    for place, norm in found.items():
        item = items[place]
        exact.zero_grad()
        ids = torch.tensor([[*item.prompt, *item.answer]])
        logs = torch.log_softmax(exact(input_ids=ids).logits[0, len(item.prompt) - 1 : -1], dim=-1)
        (-logs[range(len(item.answer)), list(item.answer)].mean()).backward()
        norms = [p.grad.norm() for p in exact.parameters() if p.grad is not None]
        assert norm == pytest.approx(float(sum(norms) / len(norms)), rel=1e-4)


def test_gradient_norms_of_an_adapter_count_its_base_too(tiny_folder: Path, tmp_path: Path) -> None:
    import peft
    import transformers

    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder)
    adapter = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    adapter.save_pretrained(tmp_path / "adapter")
    loaded: Any = load(tmp_path / "adapter")
    before = [p.requires_grad for p in loaded.model.parameters()]
    found = dict(stream_gradient_norms(loaded, encoded(loaded)[:1]))
    assert [p.requires_grad for p in loaded.model.parameters()] == before
    own = dict(stream_gradient_norms(load(tiny_folder), encoded(loaded)[:1]))
    # B is zero: A has no gradient, B has one; the base's are the same.
    tensors, added = len(list(base.parameters())), 6
    assert found[0] * tensors > own[0] * (tensors - added)


def test_what_does_not_fit_is_refused(tiny_folder: Path) -> None:
    loaded = load(tiny_folder)
    with pytest.raises(BadInput, match="context"):
        list(stream_scores(loaded, [Encoded(tuple([1] * 120), tuple([1] * 20))]))
    with pytest.raises(BadInput, match="no tokens"):
        list(stream_scores(loaded, [Encoded((), (1,))]))
    with pytest.raises(BadInput, match="only"):
        list(stream_gradient_norms(loaded, [Encoded((1,), (9999,))]))


def test_spans_hold_under_byte_level_bpe() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    lines = ["Where does Ann live? She lives in Kraków, near the river.", "She lives in Łódź. 他住在上海。"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator(lines * 4, trainer)
    words = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|im_end|>")
    words.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    for answer in ("She lives in Kraków, near the river.", "他住在上海。", " She lives in Łódź. "):
        item = encode_answer(words, ({"role": "user", "content": "Where does Ann live?"},), answer)
        assert words.decode(list(item.answer)).strip() == answer.strip()
        assert words.decode(list(item.prompt)).rstrip(" ").endswith("assistant\n")
