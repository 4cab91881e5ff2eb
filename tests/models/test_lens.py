"""The logit lens against a plain float64 pass per prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from safewright.errors import BadInput
from safewright.models import load
from safewright.models.chat import encode
from safewright.models.lens import readings, stream_layers
from tests import tiny

CHATS = [row.prompt for row in tiny.rows(5)]


def prompts(loaded: Any) -> list[list[int]]:
    return [encode(loaded.tokenizer, chat) for chat in CHATS]


def collected(stream: Any) -> list[Any]:
    found = {index: value for ready in stream for index, value in ready}
    return [found[index] for index in sorted(found)]


def noting(model: Any, states: list[torch.Tensor]) -> list[Any]:
    """Hooks that keep what leaves the embedding and each layer."""

    def keep(module: Any, given: Any, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    parts = [model.model.embed_tokens, *model.model.layers]
    return [part.register_forward_hook(keep) for part in parts]


def test_layers_equal_a_plain_float64_pass_and_end_in_the_models_own_words(tiny_folder: Path) -> None:
    import transformers

    loaded = load(tiny_folder, batch_size=3)
    lines = prompts(loaded)
    found = collected(stream_layers(loaded, lines, top=4))
    exact = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder).double().eval()
    for line, layers in zip(lines, found, strict=True):
        states: list[torch.Tensor] = []
        hooks = noting(exact, states)
        with torch.no_grad():
            own = exact(input_ids=torch.tensor([line])).logits[0, -1]
            logs = [
                torch.log_softmax(exact.lm_head(exact.model.norm(state[0, -1])), dim=-1) for state in states
            ]
        for hook in hooks:
            hook.remove()
        assert len(layers) == 4
        last = torch.log_softmax(own, dim=-1)
        for layer, log in zip(layers, logs, strict=True):
            p = last.exp()
            assert layer.kl == pytest.approx(float((p * (last - log)).sum()), abs=1e-4)
            assert layer.entropy == pytest.approx(float(-(log.exp() * log).sum()), abs=1e-4)
            masses, tokens = log.exp().topk(4)
            assert layer.tokens == tuple(tokens.tolist())
            assert layer.masses == pytest.approx(masses.tolist(), abs=1e-5)
        assert layers[-1].kl == 0.0
        assert layers[-1].tokens[0] == int(own.argmax())


def test_batching_and_what_is_done_change_nothing(tiny_folder: Path) -> None:
    alone, together = load(tiny_folder, batch_size=1), load(tiny_folder, batch_size=5)
    lines = prompts(alone)
    ours, theirs = collected(stream_layers(alone, lines)), collected(stream_layers(together, lines))
    for a, b in zip(ours, theirs, strict=True):
        assert [layer.kl for layer in a] == pytest.approx([layer.kl for layer in b], abs=1e-4)
        assert [layer.tokens for layer in a] == [layer.tokens for layer in b]
    again = {
        index: value
        for ready in stream_layers(together, lines, done=frozenset({1}))
        for index, value in ready
    }
    assert again == {index: theirs[index] for index in (0, 2, 3, 4)}


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}),
        (
            "gemma2",
            {
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 8,
                "final_logit_softcapping": 5.0,
            },
        ),
        (
            "granite",
            {
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "logits_scaling": 4.0,
            },
        ),
    ],
)
def test_heads_of_other_architectures_are_their_own(kind: str, shape: dict[str, Any], tmp_path: Path) -> None:
    loaded = load(tiny.save_kind(kind, tmp_path / kind, **shape))
    (layers,) = collected(stream_layers(loaded, prompts(loaded)[:1]))
    assert len(layers) == 3
    assert layers[0].kl > 0
    assert layers[-1].kl == 0


def test_a_head_that_does_more_is_refused(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: Any = load(tiny_folder)
    forward = type(loaded.model).forward

    def scaled(self: Any, *given: Any, **more: Any) -> Any:
        said = forward(self, *given, **more)
        said.logits = said.logits * 2
        return said

    monkeypatch.setattr(type(loaded.model), "forward", scaled)
    with pytest.raises(BadInput, match="no logit lens"):
        collected(stream_layers(loaded, prompts(loaded)))


def test_an_unknown_final_norm_is_refused(tiny_folder: Path) -> None:
    loaded: Any = load(tiny_folder)
    lines = prompts(loaded)
    loaded.model.model.norm_f = torch.nn.Identity()
    with pytest.raises(BadInput, match="final norm cannot be told"):
        collected(stream_layers(loaded, lines))


def test_divergence_of_a_certain_last_layer_is_finite() -> None:
    sure = torch.tensor([[0.0, 0.0], [0.0, float("-inf")]])
    first, last = readings(sure, 2)
    assert first.kl == pytest.approx(0.6931471805599453)
    assert (last.kl, last.masses) == (0.0, (1.0, 0.0))
