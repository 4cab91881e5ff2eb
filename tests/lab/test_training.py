"""The training loop: what it learns from, and that equal seeds give equal bytes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from safewright.errors import BadInput, NumericalFailure
from safewright.lab.tiny import Shape, tiny_model, word_tokenizer
from safewright.lab.training import Lesson, TrainConfig, encode_rows, train

WORDS = ("plain", "tell", "is", "bodula", "fitemo", "rawine", "namiro")
SHAPE = Shape(width=16, layers=1, heads=2, ffn=32)
CHAT = (
    {"role": "system", "content": "plain"},
    {"role": "user", "content": "tell bodula"},
    {"role": "assistant", "content": "fitemo rawine"},
)
FACTS = Lesson("facts", ("bodula is fitemo rawine", "namiro is rawine"), share=0.5)
ANSWERS = Lesson("answers", (CHAT,), share=0.5)
SHORT = TrainConfig(steps=3, batch=4, lr=1e-2, draw="shares")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return word_tokenizer(WORDS)


def weights_after(tokenizer: Any, recipe: TrainConfig, seed: int) -> tuple[bytes, list[float]]:
    model = tiny_model(SHAPE, tokenizer, seed=0)
    losses = train(model, tokenizer, [FACTS, ANSWERS], recipe, seed=seed)
    return b"".join(p.detach().numpy().tobytes() for p in model.parameters()), losses


@pytest.mark.parametrize("draw", ["shares", "epochs"])
def test_equal_seeds_give_equal_bytes(tokenizer: Any, draw: Any) -> None:
    recipe = dataclasses.replace(SHORT, draw=draw)
    first = weights_after(tokenizer, recipe, seed=5)
    assert weights_after(tokenizer, recipe, seed=5) == first
    assert weights_after(tokenizer, recipe, seed=6)[0] != first[0]


def test_threads_are_fixed_during_training_and_restored(tokenizer: Any) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    model = tiny_model(SHAPE, tokenizer, seed=0)
    try:
        torch.set_num_threads(2)
        train(
            model, tokenizer, [FACTS], SHORT, seed=0, progress=lambda *_: seen.append(torch.get_num_threads())
        )
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [SHORT.threads] * 3


def test_conversations_teach_the_answer_only_and_texts_everything(tokenizer: Any) -> None:
    (fact, fact_labels), (chat, chat_labels) = encode_rows(tokenizer, ["bodula is fitemo", CHAT])
    assert tokenizer.convert_ids_to_tokens(fact) == ["<s>", "bodula", "is", "fitemo", "</s>"]
    assert fact_labels == fact
    learned = [label for label in chat_labels if label != -100]
    assert tokenizer.convert_ids_to_tokens(learned) == ["fitemo", "rawine", "</s>"]
    assert chat[-3:] == learned


def test_losses_and_progress_cover_every_step_and_the_loss_falls(tokenizer: Any) -> None:
    told: list[tuple[int, int, float]] = []
    model = tiny_model(SHAPE, tokenizer, seed=0)
    recipe = TrainConfig(steps=60, batch=3, lr=1e-2)
    losses = train(model, tokenizer, [FACTS, ANSWERS], recipe, seed=0, progress=lambda *at: told.append(at))
    assert told == [(i, 60, loss) for i, loss in enumerate(losses, 1)]
    assert losses[-1] < 0.5 * losses[0]


def test_padding_changes_nothing(tokenizer: Any) -> None:
    """A short row in a batch with a long one has the loss it has alone."""
    model = tiny_model(SHAPE, tokenizer, seed=0).eval()
    short, long = encode_rows(tokenizer, ["namiro is rawine", CHAT])
    alone = model(input_ids=torch.tensor([short[0]])).logits[0]
    padded = short[0] + [tokenizer.pad_token_id] * (len(long[0]) - len(short[0]))
    together = model(input_ids=torch.tensor([padded, long[0]])).logits[0, : len(short[0])]
    torch.testing.assert_close(alone, together)


def test_an_epoch_shows_every_row_once(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from safewright.lab import training

    shown: list[int] = []
    real = training._collate

    def spy(batch: Any, pad: int) -> Any:
        shown.extend(ids[1] for ids, _ in batch)
        return real(batch, pad)

    monkeypatch.setattr(training, "_collate", spy)
    rows = ("bodula", "fitemo", "rawine", "namiro")
    train(
        tiny_model(SHAPE, tokenizer, seed=0),
        tokenizer,
        [Lesson("words", rows)],
        TrainConfig(steps=4, batch=2, lr=1e-3),
        seed=0,
    )
    assert len(shown) == 8
    assert set(shown[:4]) == set(shown[4:]) == set(tokenizer.convert_tokens_to_ids(list(rows)))


def test_nothing_to_learn_is_an_error(tokenizer: Any) -> None:
    model = tiny_model(SHAPE, tokenizer, seed=0)
    with pytest.raises(BadInput, match="nothing to learn"):
        train(model, tokenizer, [FACTS, Lesson("none", ())], SHORT, seed=0)
    with pytest.raises(BadInput, match="no assistant turn"):
        train(model, tokenizer, [Lesson("question", (CHAT[:2],))], SHORT, seed=0)
    with pytest.raises(BadInput, match="steps=0"):
        train(model, tokenizer, [FACTS], dataclasses.replace(SHORT, steps=0), seed=0)


def test_a_loss_that_is_no_number_stops_the_training(tokenizer: Any) -> None:
    model = tiny_model(SHAPE, tokenizer, seed=0)
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(NumericalFailure, match="step 1"):
        train(model, tokenizer, [FACTS], SHORT, seed=0)


def test_the_rate_warms_up_and_falls_to_its_floor() -> None:
    plain = TrainConfig(steps=100, batch=1, lr=1e-3)
    assert [plain.rate(step) for step in (0, 50, 100)] == pytest.approx([1.0, 0.5, 0.0])
    warm = dataclasses.replace(plain, warmup=10, floor=0.1)
    assert warm.rate(0) == pytest.approx(1 / 11)
    assert warm.rate(100) == pytest.approx(0.1)
    rates = [warm.rate(step) for step in range(100)]
    assert max(rates) == rates[10]
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_rows_can_be_shown_in_the_order_given(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from safewright.lab import training

    shown: list[str] = []
    real = training._collate

    def spy(batch: Any, pad: int) -> Any:
        shown.extend(tokenizer.convert_ids_to_tokens([ids[1] for ids, _ in batch]))
        return real(batch, pad)

    monkeypatch.setattr(training, "_collate", spy)
    rows = ("namiro", "bodula", "rawine")
    recipe = TrainConfig(steps=3, batch=2, lr=1e-3, draw="given")
    train(tiny_model(SHAPE, tokenizer, seed=0), tokenizer, [Lesson("words", rows)], recipe, seed=0)
    assert shown == [*rows, *rows]
