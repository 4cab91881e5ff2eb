"""Adapters: applied whole or not at all, on the base they name, at the revision they name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from safewright.errors import BadInput
from safewright.models import load, resolve
from safewright.types import Decoding
from tests import tiny

GREEDY = Decoding(max_new_tokens=8)
PROMPTS = [row.prompt for row in tiny.rows(6)]


def make(base: Path, folder: Path, config: Any = None, *, vocabulary: int | None = None) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    if vocabulary:
        model.resize_token_embeddings(vocabulary)
    how = config or LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    peft = get_peft_model(model, how)
    peft.peft_config["default"].base_model_name_or_path = str(base)
    peft.save_pretrained(folder)
    return folder


def rename(folder: Path, change: Any) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "adapter_model.safetensors"
    save_file({change(key): value for key, value in load_file(file).items()}, file, metadata={"format": "pt"})


def edit(folder: Path, **fields: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


@pytest.fixture(scope="module")
def made(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tiny_folder, tmp_path_factory.mktemp("adapters") / "adapter")


@pytest.fixture
def adapter(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "adapter"))


def test_keys_that_fit_nothing_are_refused(adapter: Path) -> None:
    rename(adapter, lambda key: key.replace("model.layers", "layers"))
    with pytest.raises(BadInput, match=r"12 tensors are without a place.*layers\.0\.self_attn") as refused:
        load(adapter)
    assert "PEFT would go on" in refused.value.why


def test_one_key_that_fits_nothing_is_refused(adapter: Path) -> None:
    rename(
        adapter,
        lambda key: key.replace("layers.2.self_attn.v_proj.lora_B", "layers.7.self_attn.v_proj.lora_B"),
    )
    with pytest.raises(BadInput, match=r"1 tensor is without a place.*layers\.7"):
        load(adapter)


def test_tensors_the_adapter_lacks_are_named(adapter: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if ".layers.1." not in k}, file)
    with pytest.raises(BadInput, match=r"4 tensors are missing.*layers\.1"):
        load(adapter)


def test_an_adapter_of_another_shape_is_refused(adapter: Path, tmp_path: Path) -> None:
    edit(adapter, base_model_name_or_path=str(tiny.save_tiny(tmp_path / "wide", hidden_size=64)))
    with pytest.raises(BadInput, match="size mismatch") as refused:
        load(adapter)
    assert "base_model_name_or_path" in refused.value.fix


def test_an_adapter_with_a_larger_vocabulary_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be loaded") as refused:
        load(make(tiny_folder, tmp_path / "resized", vocabulary=56))
    assert "larger vocabulary" in refused.value.fix


@pytest.mark.parametrize("kind", ["prompt", "prefix", "saved-head", "embedding", "ia3", "vera"])
def test_every_sound_adapter_is_taken(kind: str, tiny_folder: Path, tmp_path: Path) -> None:
    import peft

    causal = {"task_type": "CAUSAL_LM"}
    config = {
        "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=4, **causal),
        "prefix": lambda: peft.PrefixTuningConfig(num_virtual_tokens=4, **causal),
        "saved-head": lambda: peft.LoraConfig(
            target_modules=["q_proj"], modules_to_save=["lm_head"], **causal
        ),
        "embedding": lambda: peft.LoraConfig(target_modules=["q_proj", "embed_tokens"], **causal),
        "ia3": lambda: peft.IA3Config(
            target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], **causal
        ),
        "vera": lambda: peft.VeraConfig(target_modules=["q_proj"], save_projection=True, **causal),
    }[kind]()
    loaded = load(make(tiny_folder, tmp_path / kind, config))
    together = loaded.generate(PROMPTS, GREEDY)
    assert [g.raw for g in load(loaded.ref, batch_size=1).generate(PROMPTS, GREEDY)] == [
        g.raw for g in together
    ]
    whole = loaded.logprobs(PROMPTS, ["ban dep"] * 6)
    alone = [loaded.logprobs([chat], ["ban dep"])[0] for chat in PROMPTS]
    for one, other in zip(whole, alone, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    states = loaded.hidden(PROMPTS, (0, -1), "mean")
    for place, chat in enumerate(PROMPTS):
        assert states[place].flatten().tolist() == pytest.approx(
            loaded.hidden([chat], (0, -1), "mean")[0].flatten().tolist(), abs=1e-4
        )


def test_prompt_tuning_does_not_shift_hidden_states(tiny_folder: Path, tmp_path: Path) -> None:
    """The embedding layer knows no context: a prompt's own tokens look as they do in the base."""
    import peft

    config = peft.PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    tuned = load(make(tiny_folder, tmp_path / "prompt", config))
    own, base = tuned.hidden(PROMPTS, (0,), "mean"), load(tiny_folder).hidden(PROMPTS, (0,), "mean")
    assert own.flatten().tolist() == pytest.approx(base.flatten().tolist(), abs=1e-5)
    assert tuned.limit == 124


def test_a_classifier_adapter_writes_no_text(tiny_folder: Path, tmp_path: Path) -> None:
    folder = make(tiny_folder, tmp_path / "adapter")
    edit(folder, task_type="SEQ_CLS")
    with pytest.raises(BadInput, match="adapter"):
        load(folder)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"base_model_name_or_path": None}, "names no base"),
        ({"base_model_name_or_path": 3}, "names no base"),
        ({"base_model_name_or_path": "/nowhere/at/all"}, "base model of the adapter"),
        ({"base_model_name_or_path": "http://127.0.0.1:9/v1#x"}, "an address"),
        ({"base_model_name_or_path": "foo--bar"}, "base model of the adapter"),
        ({"revision": 7}, "revision is 7"),
        ({"peft_type": "NO_SUCH"}, "cannot be loaded"),
        ({"r": "four"}, "cannot be loaded"),
    ],
)
def test_an_adapter_config_that_cannot_be_is_refused(
    adapter: Path, fields: dict[str, Any], word: str
) -> None:
    edit(adapter, **fields)
    with pytest.raises(BadInput, match=word):
        load(adapter)


def test_an_adapter_on_an_adapter_is_refused(adapter: Path, tmp_path: Path) -> None:
    upper = Path(shutil.copytree(adapter, tmp_path / "upper"))
    for base in (adapter, upper):
        edit(upper, base_model_name_or_path=str(base))
        with pytest.raises(BadInput, match="adapter itself"):
            resolve(upper)


def test_a_base_written_since_it_was_digested_is_refused(
    adapter: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    edit(adapter, base_model_name_or_path=str(base))
    ref = resolve(adapter)
    assert load(ref).ref.digest == ref.digest
    (base / "generation_config.json").write_text("{}")
    with pytest.raises(BadInput, match=r"has changed since .*generation_config\.json"):
        load(ref)


@pytest.fixture
def hub(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A hub's cache with two revisions of one base model; their commits by name."""
    commits = {"main": "0" * 39 + "1", "v1": "0" * 39 + "2"}
    home = tmp_path / "hub" / "models--made-up--base"
    (home / "refs").mkdir(parents=True)
    shutil.copytree(tiny.save_tiny(tmp_path / "other", seed=5), home / "snapshots" / commits["main"])
    shutil.copytree(tiny_folder, home / "snapshots" / commits["v1"])
    for name, commit in commits.items():
        (home / "refs" / name).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return commits


@pytest.mark.parametrize("revision", [None, "main", "v1"])
def test_the_base_is_taken_at_the_revision_the_adapter_names(
    adapter: Path, hub: dict[str, str], revision: str | None
) -> None:
    local = load(adapter).generate(PROMPTS, GREEDY)
    edit(adapter, base_model_name_or_path="made-up/base", revision=revision)
    loaded = load(adapter)
    assert loaded.ref.base == f"made-up/base@{hub[revision or 'main']}"
    assert (loaded.generate(PROMPTS, GREEDY) == local) == (revision == "v1")


def test_revisions_of_the_base_have_digests_of_their_own(adapter: Path, hub: dict[str, str]) -> None:
    digests = set()
    for revision in hub:
        edit(adapter, base_model_name_or_path="made-up/base", revision=revision)
        digests.add(resolve(adapter).digest)
    assert len(digests) == 2


def test_an_adapters_template_is_used_and_digested(adapter: Path, tiny_folder: Path) -> None:
    base = resolve(tiny_folder)
    assert resolve(adapter).template_digest == base.template_digest
    (adapter / "chat_template.jinja").write_text("{{ messages[0].content }}")
    loaded = load(adapter)
    assert loaded.ref.template_digest not in ("", base.template_digest)
    assert loaded.tokenizer.chat_template == "{{ messages[0].content }}"


def test_an_adapters_own_tokenizer_without_a_template_has_none(adapter: Path) -> None:
    words = tiny.tokenizer()
    words.chat_template = None
    words.save_pretrained(adapter)
    assert resolve(adapter).template_digest == ""
    assert load(adapter).conventions["chat_template"].startswith("none")
