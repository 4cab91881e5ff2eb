"""Prompts that begin alike are run from one copy of their beginning, and say what they say without."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safewright.models import load
from safewright.models.hf import HfModel
from safewright.models.prefixes import holds_all, plan_batches, related, shares_prefixes, split, spread
from safewright.types import Chat, Decoding
from tests import tiny
from tests.models.test_architectures import BODY, SHAPES

GREEDY = Decoding(max_new_tokens=10)
CONTEXT = 512
LONG = {"max_position_embeddings": CONTEXT}
SHARED = ("gpt2", "opt", "gpt_neox", "bloom", "falcon", "qwen3", "phi3", "qwen3_moe")
"""Those of `SHAPES` whose cache is whole; the others have a sliding window or a recurrent state."""


def words(seed: str, count: int) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(tiny.WORDS) for _ in range(count))


def asked(text: str) -> Chat:
    return ({"role": "user", "content": text},)


def pairs(count: int, *, header: int = 0) -> list[Chat]:
    """Two prompts an instance, which share all but an ending of uneven length, and unrelated ones between."""
    found = []
    for i in range(count):
        start = f"{words('header', header)} {words(f'start {i}', 90 + 17 * (i % 4))}"
        found += [asked(f"{start} {words(f'{i} {side}', 3 + (i * 5 + side * 11) % 23)}") for side in (0, 1)]
        if not header:
            found.append(asked(words(f"alone {i}", 4 + 31 * (i % 3))))
    return found


def saved(name: str, folder: Path) -> Path:
    if name == "llama":
        return tiny.save_tiny(folder, **LONG)
    shape = {
        "initializer_range": 0.3,
        **SHAPES[name],
        **({"n_positions": CONTEXT} if name == "gpt2" else LONG),
    }
    return tiny.save_kind(name, folder, **shape)


def opened(folder: Path, size: int, *, reuse: bool = True) -> HfModel:
    model = load(folder, batch_size=size)
    assert isinstance(model, HfModel)
    model.shares &= reuse
    return model


def both(folder: Path, size: int, chats: list[Chat], how: Decoding = GREEDY) -> tuple[HfModel, HfModel]:
    """A model with and one without, which have said the same."""
    with_, without = opened(folder, size), opened(folder, size, reuse=False)
    said = with_.generate(chats, how)
    assert said == without.generate(chats, how)
    assert len({g.raw for g in said}) >= (len(chats) // 2 if with_.shares else 2)  # they do listen
    assert without.prefilled == without.prompted == with_.prompted
    return with_, without


@pytest.mark.parametrize("size", [1, 2, 8])
@pytest.mark.parametrize("name", ["llama", *SHARED])
def test_prefix_reuse_equals_no_reuse(name: str, size: int, tmp_path: Path) -> None:
    model, _ = both(saved(name, tmp_path / "m"), size, pairs(5))
    assert model.conventions["prefix_reuse"] is True
    if size == 1:
        assert model.prefilled == model.prompted
    else:
        assert model.prefilled < 0.7 * model.prompted


@pytest.mark.parametrize("name", sorted(set(SHAPES) - set(SHARED)))
def test_caches_that_cannot_be_shared_are_not(name: str, tmp_path: Path) -> None:
    model, _ = both(saved(name, tmp_path / "m"), 8, pairs(4))
    assert model.conventions["prefix_reuse"] is False
    assert model.prefilled == model.prompted


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rotary_angles_that_change_with_the_length_are_not_shared(kind: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0}
    if kind == "longrope":
        more |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 64}
    folder = tiny.save_tiny(tmp_path / "m", rope_parameters=more, **LONG)
    model, _ = both(folder, 8, pairs(3))
    assert not model.shares
    assert opened(tiny.save_tiny(tmp_path / "plain", **LONG), 8).shares


def test_an_encoder_has_no_cache_to_share() -> None:
    from transformers import BartConfig, BartForConditionalGeneration

    sizes: dict[str, Any] = {
        f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")
    }
    config = BartConfig(vocab_size=20, d_model=8, encoder_ffn_dim=8, decoder_ffn_dim=8, **sizes)
    assert not shares_prefixes(BartForConditionalGeneration(config))


def adapted(folder: Path, make: Callable[[], Any]) -> Path:
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder)
    adapter = get_peft_model(base, make())
    adapter.peft_config["default"].base_model_name_or_path = str(folder)
    adapter.save_pretrained(folder.parent / "adapter")
    return folder.parent / "adapter"


def test_a_lora_adapter_shares_and_says_the_same(tmp_path: Path) -> None:
    from peft import LoraConfig

    folder = saved("llama", tmp_path / "m")
    adapter = adapted(folder, lambda: LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    model, _ = both(adapter, 8, pairs(4))
    assert model.prefilled < 0.7 * model.prompted
    assert model.generate(pairs(4), GREEDY) != load(folder).generate(pairs(4), GREEDY)


def test_an_adapter_with_tokens_of_its_own_does_not_share(tmp_path: Path) -> None:
    from peft import PromptTuningConfig, TaskType

    make = lambda: PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=5)  # noqa: E731
    model, _ = both(adapted(saved("llama", tmp_path / "m"), make), 8, pairs(3))
    assert not model.shares


def test_one_header_over_many_pairs_is_run_once_a_batch(tmp_path: Path) -> None:
    folder, chats = saved("llama", tmp_path / "m"), pairs(8, header=120)
    model, _ = both(folder, 16, chats)
    # Were the header run for each of the eight pairs, more than half would be left.
    assert model.prefilled < 0.4 * model.prompted


def test_repeated_prompts_run_all_but_their_last_token_once(tmp_path: Path) -> None:
    folder, same = saved("llama", tmp_path / "m"), [asked(words("same", 200))] * 6
    model, plain = opened(folder, 6), opened(folder, 6, reuse=False)
    how = Decoding(max_new_tokens=6, temperature=1.0, seed=2)
    said = model.generate(same, how)
    assert said == plain.generate(same, how)
    assert len({g.raw for g in said}) > 3
    assert model.prefilled == model.prompted // 6 + 5


def test_sampling_is_reproducible_and_does_not_depend_on_what_is_done(tmp_path: Path) -> None:
    model = opened(saved("llama", tmp_path / "m"), 4)
    for how in (GREEDY, Decoding(max_new_tokens=8, temperature=1.0, seed=3)):
        whole = model.generate(pairs(4), how)
        assert whole == model.generate(pairs(4), how)
        done = frozenset({0, 2, 3, 4, 10})
        rest = {i: g for ready in model.stream(pairs(4), how, done=done) for i, g in ready}
        assert sorted(rest) == [i for i in range(12) if i not in done]
        assert all(rest[i] == whole[i] for i in rest)


def test_out_of_memory_halves_batches_that_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    folder, chats = saved("llama", tmp_path / "m"), pairs(5)
    plain = opened(folder, 8, reuse=False).generate(chats, GREEDY)
    model = opened(folder, 8)
    whole = model.model.generate

    def small(**more: Any) -> Any:
        if more["input_ids"].shape[0] > 3:
            raise torch.OutOfMemoryError("too large")
        return whole(**more)

    monkeypatch.setattr(model.model, "generate", small)
    assert model.generate(chats, GREEDY) == plain
    assert model.prefilled < model.prompted


def test_one_of_a_pair_whose_numbers_fail_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    chats = pairs(2)[:2]
    model = opened(saved("llama", tmp_path / "m"), 2)
    plain = model.generate(chats, GREEDY)
    forward = type(model.model).forward

    def overflow(self: Any, *args: Any, **more: Any) -> Any:
        out = forward(self, *args, **more)
        if out.logits.shape[0] == 2:
            out.logits[1] = torch.nan
        return out

    monkeypatch.setattr(type(model.model), "forward", overflow)
    said = model.generate(chats, GREEDY)
    assert sorted(g.stop == "error" for g in said) == [False, True]
    assert any(a == b for a, b in zip(said, plain, strict=True))


def test_pairs_at_the_end_of_the_context_keep_their_room(tmp_path: Path) -> None:
    folder = saved("llama", tmp_path / "m")
    start = words("start", CONTEXT - 30)
    chats = [asked(f"{start} {words(str(n), n)}") for n in (3, 12, 20, 20, 21, 22, 40)]
    model, without = (opened(folder, 8, reuse=reuse) for reuse in (True, False))
    said = model.generate(chats, Decoding(max_new_tokens=10))
    assert said == without.generate(chats, Decoding(max_new_tokens=10))
    assert [g.stop == "overlong" for g in said] == [False] * 5 + [False, True]
    assert model.prefilled < model.prompted


# --- the plan --------------------------------------------------------------------------------------


def test_pairs_stay_together_although_all_share_a_header() -> None:
    header = [1] * 100
    prompts = [[*header, *[10 + i // 2] * 100, i % 2] for i in (3, 0, 4, 1, 2, 5)]
    assert sorted(related(prompts)) == [(0, 4), (1, 3), (2, 5)]


def test_little_in_common_is_not_related() -> None:
    assert related([[1] * 63 + [2], [1] * 63 + [3]]) == []
    assert related([[1] * 64 + [2], [1] * 64 + [3]]) == [(0, 1)]
    assert related([[1] * 80 + [2] * 90, [1] * 80 + [3] * 90]) == []
    assert related([[1] * 80, [1] * 80]) == [(0, 1)]
    assert related([]) == related([[1] * 100]) == []


def test_what_is_not_related_is_planned_as_ever() -> None:
    draw = random.Random(0)
    for _ in range(50):
        lengths = [draw.randint(0, 60) for _ in range(draw.randint(0, 20))]
        size, limit = draw.randint(1, 6), draw.choice([None, 50])
        plain = plan_batches(lengths, size, 10, limit)
        assert plain == plan_batches(lengths, size, 10, limit, families=[])
        groups = [(i, i + 1) for i in range(0, len(lengths) - 1, 2) if draw.random() < 0.5]
        mixed = plan_batches(lengths, size, 10, limit, families=groups)
        rooms = [{i: b.new_tokens for b in plan for i in b.indexes} for plan in (plain, mixed)]
        assert rooms[0] == rooms[1]
        assert sum(len(b.indexes) for b in mixed) == len(rooms[0])
        assert all(len(b.indexes) <= size for b in mixed)
        longest = [max(lengths[i] for i in b.indexes) for b in mixed]
        assert longest == sorted(longest, reverse=True)


def test_a_split_gives_every_line_its_own_beginning() -> None:
    draw = random.Random(1)
    found = 0
    for _ in range(200):
        stem = [draw.randint(0, 3) for _ in range(draw.randint(80, 120))]
        stems = [
            stem,
            [*stem[:-1], 9],
            stem[: draw.randint(64, 80)] + [draw.randint(0, 3) for _ in range(40)],
        ]
        lines = [
            draw.choice(stems) + [draw.randint(0, 3) for _ in range(draw.choice([1, 9, 10]))]
            for _ in range(draw.randint(2, 8))
        ]
        plan = split(lines)
        if plan is None:
            continue
        found += 1
        assert len(plan.prefixes) < len(lines)
        for line, (source, kept) in zip(lines, plan.kept, strict=True):
            assert plan.prefixes[source][:kept] == line[:kept]
            assert kept == max(0, len(line) - plan.rest)
            assert len(line) > kept
    assert found > 50


def test_a_cache_is_spread_to_where_its_lines_stand() -> None:
    import torch
    from transformers import DynamicCache

    prefixes = [[7] * 100, [8] * 90]
    lines = [prefixes[0] + [1] * 5, prefixes[1] + [2] * 3, prefixes[0] + [3] * 2, prefixes[1] + [4]]
    plan = split(lines)
    assert plan is not None
    assert plan.rest == 5
    cache = DynamicCache()
    columns = max(map(len, plan.prefixes))
    states = torch.zeros(len(plan.prefixes), 1, columns, 1)
    for place, prefix in enumerate(plan.prefixes):
        states[place, 0, columns - len(prefix) :, 0] = torch.tensor(prefix) + torch.arange(len(prefix)) / 1000
    cache.update(states, -states, 0)
    assert holds_all(cache, len(plan.prefixes), columns)
    assert not holds_all(cache, len(plan.prefixes), columns + 1)
    spread(cache, plan)
    layer: Any = cache.layers[0]
    keys, values = layer.keys, layer.values
    assert torch.equal(keys, -values)
    assert keys.shape == (4, 1, 100, 1)
    for row, line in zip(keys[:, 0, :, 0], lines, strict=True):
        kept = len(line) - plan.rest
        assert row[: 100 - kept].tolist() == [0.0] * (100 - kept)
        assert torch.allclose(row[100 - kept :], torch.tensor(line[:kept]) + torch.arange(kept) / 1000)


def test_a_cache_of_another_kind_holds_too_little() -> None:
    import torch
    from transformers import AutoConfig, DynamicCache, EncoderDecoderCache

    sliding = DynamicCache(config=AutoConfig.for_model("mistral", **{**BODY, "sliding_window": 4}))
    for layer in range(2):
        sliding.update(torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 3, 8), layer)
    assert not holds_all(sliding, 1, 3)
    assert not holds_all(DynamicCache(), 1, 3)
    assert not holds_all(EncoderDecoderCache(DynamicCache(), DynamicCache()), 1, 3)
    assert not holds_all(None, 1, 3)
