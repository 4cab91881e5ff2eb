"""Answers that are begun for the model: the opening goes into its own turn, or, over a wire, into the question."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from safewright.errors import BadInput
from safewright.models import load
from safewright.models.chat import encode, encode_answered, folded, render, start, started
from safewright.models.endpoint import Endpoint, _Question
from safewright.types import Decoding, ModelRef
from tests import tiny

ASKED = ({"role": "user", "content": "ban bap"},)
BEGUN = start(ASKED, "den dep")


def test_an_opening_ends_the_text_and_its_turn_stays_open() -> None:
    words = tiny.tokenizer()
    assert render(words, ASKED) == "<s> user : ban bap assistant :"
    assert render(words, BEGUN) == "<s> user : ban bap assistant : den dep"
    assert started(BEGUN) == "den dep"
    assert started(ASKED) is None


@pytest.mark.parametrize("template", [tiny.TEMPLATE, None])
def test_an_opening_is_read_as_the_answer_is_in_training(template: Any) -> None:
    words = tiny.tokenizer()
    words.chat_template = template
    whole, place = encode_answered(words, ASKED, "den dep kin")
    begun = encode(words, BEGUN)
    assert begun == whole[: place + 2]


def test_an_earlier_answer_is_no_opening() -> None:
    words = tiny.tokenizer()
    chat = [*ASKED, {"role": "assistant", "content": "den"}]
    assert render(words, chat).endswith("assistant : den assistant :")


def test_a_template_that_drops_the_opening_is_refused() -> None:
    words = tiny.tokenizer("{% for m in messages if m['role'] == 'user' %} {{ m['content'] }}{% endfor %}")
    with pytest.raises(BadInput, match="template"):
        render(words, BEGUN)


def test_the_engine_goes_on_with_the_opening(tiny_folder: Path) -> None:
    model = load(tiny_folder)
    how = Decoding(max_new_tokens=4)
    by_hand = [*encode(model.tokenizer, ASKED), *model.tokenizer("den dep")["input_ids"]]
    import torch

    with torch.inference_mode():
        said = model.model.generate(torch.tensor([by_hand]), max_new_tokens=4, do_sample=False)
    expected = model._cut(said[0, len(by_hand) :].tolist())
    (found,) = model.generate([BEGUN], how)
    assert found.tokens == len(expected)
    assert found.answer == model.tokenizer.decode(expected, skip_special_tokens=True).strip()
    plain, begun = model.generate([ASKED, BEGUN], how)
    assert begun == found
    assert plain != begun


def test_a_server_is_told_to_go_on_and_sees_no_mark_of_ours() -> None:
    server = Endpoint(ModelRef("served", "http://127.0.0.1:1/v1#m", "declared:x"))
    sent = server._payload(_Question(0, BEGUN, lambda *_: None), Decoding())
    assert sent["continue_final_message"] is True
    assert sent["add_generation_prompt"] is False
    assert sent["messages"][-1] == {"role": "assistant", "content": "den dep"}
    plain = server._payload(_Question(0, folded(BEGUN), lambda *_: None), Decoding())
    assert "continue_final_message" not in plain
    assert plain["messages"] == [{"role": "user", "content": "ban bap\n\nden dep"}]
    assert folded(ASKED) == ASKED


def test_the_mark_survives_inspect() -> None:
    from safewright.inspect_plugin.provider import chat_of
    from safewright.models.inspect_model import messages_of

    assert [SimpleNamespace(**turn) for turn in chat_of(messages_of(BEGUN))] == [
        SimpleNamespace(**turn) for turn in BEGUN
    ]
