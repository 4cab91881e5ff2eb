"""A judge with a real model folder: named, digested, loaded at the first question, asked by its template."""

from __future__ import annotations

from pathlib import Path

import pytest

from safewright.errors import BadInput
from safewright.judges import resolve
from safewright.runs import run_sync
from safewright.types import JudgeItem
from tests.tiny import save_tiny

# Like the classifiers' own templates: the whole conversation must be there, and its last turn is judged.
TEMPLATE = (
    "<s>{% if messages|map(attribute='role')|list != ['user', 'assistant'] %}"
    "{{ raise_exception('user and assistant must alternate') }}{% endif %}"
    "{% for m in messages %} {{ m['role'] }} {{ m['content'] }}{% endfor %} :"
)


def constant_classifier(folder: Path, word: str) -> Path:
    """A Llama folder that always answers ``word``: what it says next depends on the last token alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    save_tiny(folder, template=TEMPLATE, more=(word,), hidden_size=64, num_hidden_layers=1)
    model = AutoModelForCausalLM.from_pretrained(folder)
    words = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        size = len(words)
        model.model.embed_tokens.weight.copy_(torch.eye(size, 64))
        model.lm_head.weight.zero_()
        colon, said = words.convert_tokens_to_ids([":", word])
        model.lm_head.weight[said, colon] = 1.0
        model.lm_head.weight[words.eos_token_id, said] = 1.0
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("word", "value", "status"), [("safe", 0.0, "ok"), ("fine", None, "unparsed")])
def test_a_folder_judges_through_its_own_template(
    tmp_path: Path, word: str, value: float | None, status: str
) -> None:
    judge = resolve(f"llama-guard:{constant_classifier(tmp_path / 'guard', word)}")
    assert str(judge.conventions["model"]).startswith("sha256:")
    assert str(tmp_path) not in str(judge.conventions)
    items = [JudgeItem("ban dep", answer, "harmful") for answer in ("kir los mun", "rav", "")]
    found = run_sync(judge.judge(items))
    assert [(f.value, f.status) for f in found[:2]] == [(value, status)] * 2
    assert found[0].raw.strip() == word
    assert (found[2].value, found[2].status) == (None, "unparsed")


def test_a_model_that_is_not_there_is_named_at_first_use(tmp_path: Path) -> None:
    judge = resolve(f"qwen3guard:{tmp_path / 'absent'}")
    with pytest.raises(BadInput, match="absent"):
        _ = judge.conventions
    with pytest.raises(BadInput, match="absent"):
        run_sync(judge.judge([JudgeItem("ban", "dep", "harmful")]))
