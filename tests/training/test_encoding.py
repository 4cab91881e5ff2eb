"""Rows as tokens: what is learned of them, what is cut, and that padding and packing change no loss."""

from __future__ import annotations

from typing import Any

import pytest

from safewright.errors import BadInput
from safewright.training.encoding import Example, collate, encode, fed, pack, pad_token, padded
from safewright.types import Row
from tests import tiny
from tests.training import simple


def row(name: str, prompt: str, answer: str | None) -> Row:
    return Row(name, ({"role": "user", "content": prompt},), reference=answer)


def test_the_answer_and_its_end_are_learned_and_nothing_else() -> None:
    words = tiny.tokenizer(template=tiny.TEMPLATE + "{% if not add_generation_prompt %} </s>{% endif %}")
    found = encode(words, [row("a", "ban den", "kin lon")], max_length=64)
    (example,) = found.examples
    assert words.decode(example.ids[: example.start]) == "<s> user : ban den assistant :"
    assert words.decode(example.ids[example.start :]) == "kin lon </s>"
    assert example.supervised == 3
    assert example.labels == [-100] * example.start + list(example.ids[example.start :])
    assert (found.dropped, found.cut) == ((), ())


def test_a_base_model_learns_its_end_token_too() -> None:
    words = tiny.tokenizer(template="")
    (example,) = encode(words, [row("a", "ban den", "kin")], max_length=64).examples
    assert words.decode(example.ids[example.start :]) == "kin </s>"


def test_rows_without_anything_left_to_learn_are_dropped_and_named() -> None:
    words = tiny.tokenizer()
    long = row("long", " ".join(["ban"] * 9), "kin lon")
    rows = [row("short", "ban", "kin lon"), long, row("cut", "ban", " ".join(["kin"] * 9))]
    found = encode(words, rows, max_length=9)
    assert [example.id for example in found.examples] == ["short", "cut"]
    assert (found.dropped, found.cut) == (("long",), ("cut",))
    with pytest.raises(BadInput, match=r"No answer is left of 1 of 3 rows .*9 tokens .first: long"):
        encode(words, rows, max_length=9, strict=True)
    with pytest.raises(BadInput, match="No answer is left of 1 rows"):
        encode(words, [long], max_length=9)
    with pytest.raises(BadInput, match=r"2 of 2 rows have no answer .first: x"):
        encode(words, [row("x", "ban", None), row("y", "ban", " ")], max_length=9)
    with pytest.raises(BadInput, match="max_length is 1"):
        encode(words, rows, max_length=1)


def test_a_first_token_is_never_learned() -> None:
    example = Example("a", (7, 8, 9), 0)
    assert example.labels == [-100, 8, 9]
    assert example.supervised == 2
    assert Example("b", (7,), 0).supervised == 0
    joined = pack([example, example])
    assert joined["labels"].tolist() == [[-100, 8, 9, -100, 8, 9]]
    assert joined["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2]]
    assert joined["segments"].tolist() == [[0, 0, 0, 1, 1, 1]]
    assert "attention_mask" not in joined


def test_an_end_token_used_as_pad_is_masked_by_length_alone() -> None:
    words = tiny.tokenizer()
    words.pad_token = None
    assert pad_token(words) == words.eos_token_id == 2
    batch = padded([[5, 2], [5, 6, 2]], [[-100, 2], [-100, 6, 2]], 2)
    assert batch["input_ids"].tolist() == [[5, 2, 2], [5, 6, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, 2, -100], [-100, 6, 2]]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    import transformers

    home = tmp_path_factory.mktemp("models")
    if request.param == "llama":
        folder = tiny.save_tiny(
            home / "llama",
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            max_position_embeddings=512,
        )
    else:
        folder = tiny.save_kind("gpt2", home / "gpt2", n_embd=16, n_layer=2, n_head=2, n_positions=512)
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def losses(model: Any, batch: dict[str, Any]) -> Any:
    import torch

    with torch.no_grad():
        return simple.token_sums(model(**fed(batch)).logits, batch["labels"])


def test_07_padding_changes_no_loss(model: Any) -> None:
    """Acceptance check 7: T = 48, 64, 512, padded left or right, equal within 1e-5 in float32."""
    import torch

    rows = simple.examples(5, "x")
    alone = torch.cat([losses(model, collate([example], 0)) for example in rows])
    for side in ("left", "right"):
        for width in (48, 64, 512):
            batch = collate(rows, 0, side, width=width)
            assert batch["input_ids"].shape == (5, width)
            found = losses(model, batch)
            assert float((found - alone).abs().max()) < 1e-5, (side, width)
    left = collate(rows, 0, "left")
    first = left["attention_mask"].argmax(1)
    assert left["position_ids"].gather(1, first[:, None]).tolist() == [[0]] * 5
    with pytest.raises(ValueError, match="middle"):
        collate(rows, 0, "middle")


def test_07_packing_changes_no_loss(model: Any) -> None:
    """Packed without a mask: each example is read alone; with a mask of ones it would not be."""
    import torch

    rows = simple.examples(5, "x")
    alone = torch.cat([losses(model, collate([example], 0)) for example in rows])
    batch = pack(rows)
    with torch.no_grad():
        table = torch.log_softmax(model(**fed(batch)).logits[:, :-1], -1)
        chosen = batch["labels"][:, 1:]
        each = table.gather(-1, chosen.clamp(min=0)[..., None])[..., 0] * (chosen != -100)
        found = torch.zeros(5).index_add_(0, batch["segments"][0, 1:], each[0])
        leaking = model(**fed(batch), attention_mask=torch.ones_like(batch["input_ids"])).logits
    assert float((found - alone).abs().max()) < 1e-5
    assert float((torch.log_softmax(leaking[:, :-1], -1) - table).abs().max()) > 1e-4
