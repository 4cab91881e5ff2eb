"""The release's encoding of prompts, and ours, on a tiny Llama."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safewright.judges import AgentsJudge
from safewright.measures import measure_model
from safewright.models import load
from safewright.models.chat import render
from safewright.types import Chat, Decoding, Row
from tests import tiny
from tests.measures.longsafety_agents import Agents

NEW = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose tokenizer begins every text with BOS, and whose template writes one too."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    place = tiny.save_tiny(tmp_path_factory.mktemp("bos") / "model")
    words = AutoTokenizer.from_pretrained(place)
    words.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", words.bos_token_id)]
    )
    words.save_pretrained(place)
    return place


def rows(count: int) -> list[Row]:
    found = []
    for number, row in enumerate(tiny.rows(count)):
        context = " ".join(tiny.WORDS[(number * 3 + k) % len(tiny.WORDS)] for k in range(8 + number))
        found.append(Row(row.id, row.prompt, meta={"context": context}))
    return found


def released(folder: Path, chats: list[Chat]) -> list[str]:
    """What the release's loop answers: template to text, tokenised with special tokens, greedy, batch 1."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    said = []
    for chat in chats:
        text = words.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=True)
        inputs = words(text, return_tensors="pt")
        with torch.inference_mode():
            output = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=NEW,
                do_sample=False,
            )
        said.append(words.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return said


@pytest.mark.parametrize("batch", [1, 8])
def test_09_the_release_answers_as_the_authors_loop_does(batch: int, folder: Path, tmp_path: Path) -> None:
    loaded = load(folder, batch_size=batch)
    asked: list[Chat] = []

    class Watched:
        ref, able, conventions = loaded.ref, loaded.able, loaded.conventions

        def stream(self, chats: Any, how: Decoding, *, done: frozenset[int] = frozenset()) -> Any:
            assert how.special_twice
            asked.extend(chats)
            yield from loaded.stream(chats, how, done=done)

        def close(self) -> None:
            return None

    measure_model(
        "longsafety",
        Watched(),
        data=rows(8),
        judge=AgentsJudge(Agents()),
        config={"convention": "release", "max_new_tokens": NEW},
        run=tmp_path / "run",
    )
    own = [g.answer for g in loaded.generate(asked, Decoding(max_new_tokens=NEW, special_twice=True))]
    assert len(own) == 16
    assert own == [text.strip() for text in released(folder, asked)]
    assert any(own)
    plain = [g.answer for g in loaded.generate(asked, Decoding(max_new_tokens=NEW))]
    assert plain != own  # the second BOS is not without effect here


def test_09_ours_has_one_bos(folder: Path) -> None:
    loaded: Any = load(folder)
    text = render(loaded.tokenizer, [{"role": "user", "content": "ban bap"}])
    bos = loaded.tokenizer.bos_token_id
    assert loaded._ids(text).count(bos) == 1
    assert loaded._ids(text, special_twice=True).count(bos) == 2
