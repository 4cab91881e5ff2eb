"""Folders that are not what they seem: each is the user's to mend (exit 2), none a crash or a guess."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safewright.errors import BadInput, Missing
from safewright.models import load, resolve
from safewright.models.weights import tensors
from tests import tiny


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def edit(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def change_tensors(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    from safetensors.torch import load_file, save_file

    held = load_file(folder / "model.safetensors")
    change(held)
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})


# Shards


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tiny.save_tiny(tmp_path / "sharded", shard="20KB")
    (folder / "model.safetensors.index.json").unlink()
    return folder


def test_shards_without_their_index_are_refused(sharded: Path) -> None:
    with pytest.raises(BadInput, match=r"model\.safetensors\.index\.json of .* is missing\. "):
        resolve(sharded)


def test_fewer_shards_without_their_index_are_named(sharded: Path) -> None:
    first = sorted(sharded.glob("model-*.safetensors"))[0]
    first.unlink()
    with pytest.raises(BadInput, match=f"is missing, and so are 1 of .*{first.name}"):
        resolve(sharded)


@pytest.mark.parametrize("shard", [7, "../model.safetensors", ["model.safetensors"], "pytorch_model.bin"])
def test_an_index_that_names_no_shard_is_refused(folder: Path, shard: object) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"model.norm.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadInput, match=r"model\.norm\.weight is in"):
        resolve(folder)


def test_a_stale_index_beside_the_whole_model_is_passed_over_as_transformers_does(folder: Path) -> None:
    whole = resolve(folder)
    index = {"weight_map": {"x": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert resolve(folder).kind == "hf"
    assert load(folder).ref.digest != whole.digest


def test_weights_under_a_name_nothing_loads_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    with pytest.raises(BadInput, match=r"it holds consolidated\.safetensors"):
        resolve(folder)


def test_a_folder_named_like_weights_holds_none(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    with pytest.raises(BadInput, match="no weights"):
        resolve(folder)


# Weight files


def pickled(folder: Path) -> Path:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder / "pytorch_model.bin"


def test_a_whole_pickled_model_is_loaded(folder: Path) -> None:
    safe = load(folder).generate([tiny.rows(1)[0].prompt], tiny_decoding())
    pickled(folder)
    assert load(folder).generate([tiny.rows(1)[0].prompt], tiny_decoding()) == safe


def tiny_decoding() -> Any:
    from safewright.types import Decoding

    return Decoding(max_new_tokens=4)


@pytest.mark.parametrize("keep", [0, 10, 1000, -1000])
def test_a_cut_off_pickled_model_is_refused(folder: Path, keep: int) -> None:
    file = pickled(folder)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(BadInput, match=r"pytorch_model\.bin is damaged"):
        resolve(folder)


def test_a_pickled_model_damaged_inside_is_refused(folder: Path) -> None:
    file = pickled(folder)
    data = bytearray(file.read_bytes())
    data[100:400] = bytes(300)
    file.write_bytes(bytes(data))
    with pytest.raises(BadInput, match="cannot be loaded"):
        load(folder)


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2]}},
        {"a": None},
        {"a": [0, 8]},
        {"a": {**GOOD, "data_offsets": [0]}},
        {"a": {**GOOD, "data_offsets": ["0", "8"]}},
        {"a": {**GOOD, "data_offsets": [8, 0]}},
        {"a": {**GOOD, "data_offsets": [-8, 8]}},
        {"a": {**GOOD, "data_offsets": {"0": 1}}},
        {"a": {**GOOD, "shape": [3]}},
        {"a": {**GOOD, "shape": "2"}},
        {"a": {**GOOD, "dtype": 32}},
        {"a": GOOD, "b": GOOD},
        {"a": {**GOOD, "data_offsets": [0, 80], "shape": [20]}},
        {"a": {**GOOD, "data_offsets": [4, 8], "shape": [1]}},
        [GOOD],
        "a" * 50,
    ],
)
def test_a_malformed_safetensors_header_is_refused(folder: Path, header: object) -> None:
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(BadInput, match=r"model\.safetensors is damaged"):
        resolve(folder)


def test_a_bottomless_safetensors_header_is_refused(folder: Path) -> None:
    text = b"[" * 200_000
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(BadInput, match=r"model\.safetensors is damaged"):
        resolve(folder)


def test_every_tensor_of_a_sound_file_is_listed(folder: Path) -> None:
    from safetensors.torch import load_file

    listed = {name: tuple(entry["shape"]) for name, entry in tensors(folder / "model.safetensors")}
    assert listed == {k: tuple(v.shape) for k, v in load_file(folder / "model.safetensors").items()}


# Weights and configuration


def test_weights_beyond_the_configuration_are_refused(folder: Path) -> None:
    edit(folder / "config.json", num_hidden_layers=2)
    with pytest.raises(BadInput, match=r"9 tensors are no part.*model\.layers\.2\.") as refused:
        load(folder)
    assert "another model" in refused.value.why


def test_a_head_for_another_task_is_not_passed_over(folder: Path) -> None:
    import torch

    change_tensors(folder, lambda held: held.update({"score.weight": torch.zeros(2, 32)}))
    with pytest.raises(BadInput, match=r"1 tensor is no part .*\(score\.weight\)"):
        load(folder)


def test_buffers_that_old_checkpoints_hold_are_no_weights(folder: Path) -> None:
    import torch

    old = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached")
    plain = load(folder).generate([tiny.rows(1)[0].prompt], tiny_decoding())
    change_tensors(
        folder,
        lambda held: held.update({f"model.layers.0.self_attn.{name}": torch.ones(4) for name in old}),
    )
    assert load(folder).generate([tiny.rows(1)[0].prompt], tiny_decoding()) == plain


def test_a_tied_head_may_be_stored_twice(tmp_path: Path) -> None:
    folder = tiny.save_tiny(tmp_path / "tied", tie_word_embeddings=True)
    plain = load(folder).generate([tiny.rows(1)[0].prompt], tiny_decoding())
    change_tensors(
        folder, lambda held: held.update({"lm_head.weight": held["model.embed_tokens.weight"].clone()})
    )
    assert load(folder).generate([tiny.rows(1)[0].prompt], tiny_decoding()) == plain


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
def test_causal_masks_of_old_checkpoints_are_no_weights(tmp_path: Path, name: str) -> None:
    import torch

    from tests.models.test_architectures import save

    folder = save(name, tmp_path / name)
    where = {"gpt2": "transformer.h.0.attn", "gpt_neox": "gpt_neox.layers.0.attention"}[name]
    masks = {f"{where}.bias": torch.ones(1, 1, 8, 8), f"{where}.masked_bias": torch.tensor(-1e9)}
    change_tensors(folder, lambda held: held.update(masks))
    assert load(folder).generate([tiny.rows(1)[0].prompt], tiny_decoding())[0].tokens > 0


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": "no_such_architecture"},
        {"model_type": 7},
        {"model_type": "clip"},
        {"hidden_size": "wide"},
        {"num_attention_heads": 0},
        {"hidden_size": -32},
        {"auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}, "model_type": "x"},
    ],
)
def test_a_configuration_nothing_understands_is_refused(folder: Path, fields: dict[str, Any]) -> None:
    edit(folder / "config.json", **fields)
    with pytest.raises(BadInput, match=str(folder)):
        load(folder)


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json", "config.json"])
@pytest.mark.parametrize(
    "text", [b"{", b"[]", b"\xff\xfe{}", b"[" * 200_000], ids=["cut", "list", "utf", "deep"]
)
def test_damaged_json_is_named(folder: Path, name: str, text: bytes) -> None:
    (folder / name).write_bytes(text)
    with pytest.raises(BadInput, match=name):
        resolve(folder)


@pytest.mark.parametrize("stop", ["</s>", [2, "x"], 2.5, {"a": 1}])
def test_stop_tokens_must_be_token_ids(folder: Path, stop: object) -> None:
    edit(folder / "generation_config.json", eos_token_id=stop)
    with pytest.raises(BadInput, match=r"eos_token_id|cannot be loaded"):
        load(folder)


def test_the_stop_token_minus_one_means_none(folder: Path) -> None:
    plain = load(folder).generate([tiny.rows(1)[0].prompt], tiny_decoding())
    edit(folder / "generation_config.json", eos_token_id=-1)
    assert load(folder).generate([tiny.rows(1)[0].prompt], tiny_decoding()) == plain


@pytest.mark.parametrize("text", ["{", '{"model": 3}', "", '{"version": "1.0"}'])
def test_a_damaged_tokenizer_is_refused(folder: Path, text: str) -> None:
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(BadInput, match="tokenizer of"):
        load(folder)


def test_a_template_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="tokenizer of"):
        load(folder)


def test_a_tokenizer_larger_than_the_model_is_refused_when_it_shows(tmp_path: Path) -> None:
    folder = tiny.save_tiny(tmp_path / "m")
    tiny.tokenizer(more=("extra",)).save_pretrained(folder)
    loaded = load(folder)
    assert loaded.generate([tiny.rows(1)[0].prompt], tiny_decoding())[0].tokens > 0
    for ask in (
        lambda chat: loaded.generate(chat, tiny_decoding()),
        lambda chat: loaded.logprobs(chat, ["ban"]),
        lambda chat: loaded.hidden(chat, (0,), "last"),
    ):
        with pytest.raises(BadInput, match=r"'extra'.*has only 48"):
            ask([({"role": "user", "content": "extra"},)])
    with pytest.raises(BadInput, match="'extra'"):
        loaded.logprobs([tiny.rows(1)[0].prompt], ["extra"])


def test_a_padding_token_beyond_the_model_changes_nothing(tmp_path: Path) -> None:
    folder = tiny.save_tiny(tmp_path / "m")
    prompts = [row.prompt for row in tiny.rows(6)]
    plain = load(folder).generate(prompts, tiny_decoding())
    words = tiny.tokenizer()
    words.add_special_tokens({"pad_token": "<more>"})
    words.save_pretrained(folder)
    loaded = load(folder)
    assert [g.answer for g in loaded.generate(prompts, tiny_decoding())] == [g.answer for g in plain]


# Names


@pytest.mark.parametrize("name", ["foo--bar", "foo/bar--baz", "foo..bar", "org/name.git", "a" * 97])
def test_names_no_hub_takes_are_bad_input(name: str) -> None:
    with pytest.raises(BadInput, match="no model of the hub"):
        resolve(name)


@pytest.mark.parametrize("name", ["~nobody-of-this-name/model", "x" * 300, "a\0b", "/" + "x" * 5000, ""])
def test_impossible_paths_are_bad_input(name: str) -> None:
    with pytest.raises(BadInput):
        resolve(name)


def test_a_revision_with_a_slash_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(Missing, match="hub cannot be reached"):
        resolve("made-up/model@refs/pr/1")


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "meta", "", "cpu:x", "CPU"])
def test_unknown_devices_are_refused_before_anything_is_loaded(tiny_folder: Path, device: str) -> None:
    with pytest.raises(BadInput, match="The device") as refused:
        load(tiny_folder, device=device)
    assert "auto, cpu" in refused.value.fix


def test_a_folder_that_went_away_is_named(folder: Path) -> None:
    ref = resolve(folder)
    shutil.rmtree(folder)
    with pytest.raises(BadInput, match="no longer there"):
        load(ref)


def test_a_folder_written_since_it_was_digested_is_refused(folder: Path, tmp_path: Path) -> None:
    ref = resolve(folder)
    (folder / "README.md").write_text("notes")
    assert load(ref).ref.digest == ref.digest
    shutil.copy(tiny.save_tiny(tmp_path / "other", seed=3) / "model.safetensors", folder)
    with pytest.raises(BadInput, match=r"has changed since .*\(model\.safetensors\)"):
        load(ref)
    assert load(folder).ref.digest != ref.digest


def test_a_resolved_model_is_loaded_in_the_dtype_asked_for(tiny_folder: Path) -> None:
    assert load(resolve(tiny_folder), dtype="bfloat16").ref.dtype == "bfloat16"
    with pytest.raises(BadInput, match="float32"):
        load(resolve(tiny_folder), dtype="flot32")


@pytest.mark.parametrize(
    "fields", [{"text_config": None}, {"num_attention_heads": "4"}, {"hidden_size": [1]}]
)
def test_an_estimate_survives_any_configuration(folder: Path, fields: dict[str, Any]) -> None:
    from safewright.models.estimate import estimate

    ref = resolve(folder)
    edit(folder / "config.json", **fields)
    assert estimate(ref, [tiny.rows(1)[0].prompt], 4, None).memory_bytes > 0
