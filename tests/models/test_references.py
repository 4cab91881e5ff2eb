"""References: what a model is, down to its bytes, and every way a folder can be wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from safewright.errors import BadInput, ExitCode, Missing
from safewright.models import load, resolve
from safewright.models.chat import split_reasoning
from tests import tiny


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return tiny.save_tiny(tmp_path / "sharded", shard="20KB")


def test_digest_follows_bytes_not_names(folder: Path, tmp_path: Path) -> None:
    first = resolve(folder)
    assert resolve(Path(shutil.copytree(folder, tmp_path / "elsewhere"))).digest == first.digest
    (folder / "README.md").write_text("notes")
    assert resolve(folder).digest == first.digest
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert resolve(folder).digest != first.digest


@pytest.mark.parametrize("name", ["tokenizer.json", "generation_config.json", "chat_template.jinja"])
def test_digest_covers_what_changes_answers(folder: Path, name: str) -> None:
    first = resolve(folder).digest
    file = folder / name
    file.write_text(file.read_text() + "\n")
    assert resolve(folder).digest != first


def test_template_has_its_own_digest(folder: Path) -> None:
    first = resolve(folder).template_digest
    assert first.startswith("sha256:")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert resolve(folder).template_digest != first


def test_recipe_is_read_and_applied(folder: Path) -> None:
    recipe = {"decoding": {"max_new_tokens": 3}, "visible": {"open": "ban", "close": "dep"}}
    (folder / "safewright_recipe.json").write_text(json.dumps(recipe))
    ref = resolve(folder)
    assert ref.recipe is not None
    assert ref.recipe.decoding == {"max_new_tokens": 3}
    assert load(ref).conventions["reasoning_markers"] == ["ban", "dep"]


@pytest.mark.parametrize(
    ("recipe", "word"),
    [
        ({"decoding": {"max_new_token": 3}}, "max_new_tokens"),
        ({"prepare": "insert_numbers"}, "insert_numbers"),
        ({"visible": {"open": "<a>"}}, "open and close"),
        ({"visble": {}}, "visble"),
    ],
)
def test_wrong_recipe_is_refused(folder: Path, recipe: dict[str, object], word: str) -> None:
    (folder / "safewright_recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(BadInput, match=word):
        resolve(folder)


def test_missing_shard_is_named(sharded: Path) -> None:
    shards = sorted(sharded.glob("model-*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    with pytest.raises(BadInput, match=shards[1].name) as refused:
        resolve(sharded)
    assert refused.value.exit_code == ExitCode.BAD_INPUT
    assert "tensors" in str(refused.value)


def test_cut_off_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(BadInput, match=f"{shard.name} is damaged"):
        resolve(sharded)


def test_garbage_shard_is_named(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"<html>not found</html>" * 9)
    with pytest.raises(BadInput, match=r"model\.safetensors is damaged"):
        resolve(folder)


def test_tensor_promised_but_absent_is_named(sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    plain = json.loads(index.read_text())
    shard = next(iter(plain["weight_map"].values()))
    plain["weight_map"]["model.layers.9.extra"] = shard
    index.write_text(json.dumps(plain))
    with pytest.raises(BadInput, match=r"model\.layers\.9\.extra"):
        resolve(sharded)


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors", "tokenizer*"])
def test_incomplete_folders_are_not_models(folder: Path, lost: str) -> None:
    for file in folder.glob(lost):
        file.unlink()
    word = {"config.json": "not a model folder", "model.safetensors": "no weights"}.get(lost, "no tokenizer")
    with pytest.raises(BadInput, match=word):
        resolve(folder)


def test_things_that_are_not_models(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(BadInput, match="is a file"):
        resolve(tmp_path / "notes.txt")
    with pytest.raises(BadInput, match=r"not a model folder.*notes\.txt"):
        resolve(tmp_path)
    with pytest.raises(BadInput, match="no folder"):
        resolve(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="float32"):
        resolve(tmp_path, dtype="flaot32")


def test_hub_name_without_network_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(Missing, match="hub cannot be reached") as refused:
        resolve("made-up/model")
    assert refused.value.exit_code == ExitCode.MISSING
    assert "hf download made-up/model" in refused.value.fix


def test_hub_snapshot_is_loaded_at_its_revision(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real cache layout, filled by hand as a download would."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    home = tmp_path / "hub" / "models--made-up--model"
    shutil.copytree(folder, home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    ref = resolve("made-up/model")
    assert (ref.where, ref.revision) == ("made-up/model", commit)
    assert ref.digest == resolve(folder).digest
    assert load(ref).generate([tiny.rows(1)[0].prompt], tiny_decoding())[0].tokens > 0


def tiny_decoding():
    from safewright.types import Decoding

    return Decoding(max_new_tokens=2)


def test_unknown_engine_and_need(folder: Path) -> None:
    with pytest.raises(BadInput, match="endpoint"):
        load(folder, engine="endpiont")
    with pytest.raises(BadInput, match="hf"):
        load(folder, engine="endpoint")
    with pytest.raises(BadInput, match="logprobs"):
        load(folder, need=frozenset({"logprob"}))


@pytest.mark.parametrize(
    ("raw", "opened", "wanted"),
    [
        ("<think>a</think>b", False, ("a", "b", True)),
        ("a</think>b", False, ("a", "b", True)),
        ("a</think>b", True, ("a", "b", True)),
        ("<think>a</think>b", True, ("a", "b", True)),
        ("only thoughts", True, ("only thoughts", "", False)),
        ("<think>a", False, ("a", "", False)),
        ("seen <think>a</think> b", False, ("a", "seen\nb", True)),
        ("plain", False, ("", "plain", True)),
        ("", False, ("", "", True)),
        ("<think>a</think>b<think>c", False, ("a\nc", "", False)),
        ("</think>b", True, ("", "b", True)),
    ],
)
def test_split_reasoning(raw: str, opened: bool, wanted: tuple[str, str, bool]) -> None:
    assert split_reasoning(raw, opened=opened) == wanted


def test_a_stray_closing_marker_hides_nothing_when_the_prompt_is_known() -> None:
    raw = "words a reader sees </think> more words"
    assert split_reasoning(raw, prompt_known=True) == ("", raw, True)
