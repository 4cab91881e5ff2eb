"""Encoders from real folders: vectors of texts, labels of pairs, and what must not be loaded in silence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safewright.errors import BadInput
from safewright.models import resolve
from safewright.models.encoders import Embedder, PairClassifier, is_classifier
from tests.tiny import SPECIALS, WORDS

NLI = ("entailment", "neutral", "contradiction")


def words_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate([*SPECIALS, "<sep>", *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A <sep>",
        pair="<s> $A <sep> $B:1 <sep>:1",
        special_tokens=[("<s>", vocabulary["<s>"]), ("<sep>", vocabulary["<sep>"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        cls_token="<s>",
        sep_token="<sep>",
        model_max_length=24,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def save_bert(
    folder: Path, *, labels: tuple[str, ...] | None = None, seed: int = 0, scale: float = 0.5
) -> Path:
    """A random BERT: an encoder with a language head, or a classifier with these labels."""
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

    tokenizer = words_tokenizer()
    torch.manual_seed(seed)
    more: dict[str, Any] = {"id2label": dict(enumerate(labels)), "num_labels": len(labels)} if labels else {}
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        initializer_range=scale,
        **more,
    )
    kind = BertForSequenceClassification if labels else BertForMaskedLM
    kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("encoder") / "bert")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("classifier") / "bert", labels=NLI, scale=1.5)


def edited(folder: Path, to: Path, **changes: Any) -> Path:
    """A copy of a folder with other entries in its config.json."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**config, **changes}))
    return to


def test_vectors_are_means_over_tokens_of_length_1(encoder: Path) -> None:
    import torch
    from transformers import AutoModel

    texts = [WORDS[0], f"{WORDS[1]} {WORDS[2]}", WORDS[3], " ".join(WORDS[:9]), f"{WORDS[2]} {WORDS[1]}"]
    embedder = Embedder(resolve(encoder), device="cpu", batch_size=2)
    vectors = embedder.embed(texts)
    assert (vectors.shape, vectors.dtype) == ((5, 16), np.float64)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-12)
    model, tokenizer = AutoModel.from_pretrained(encoder).eval(), words_tokenizer()
    for text, vector in zip(texts, vectors, strict=True):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].double().numpy()
        mean = states.mean(axis=0)
        assert vector == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)
    # What a text is read with does not matter, and neither does its place.
    alone = np.concatenate([embedder.embed([text]) for text in reversed(texts)])[::-1]
    assert vectors == pytest.approx(alone, abs=1e-6)
    assert embedder.embed([]).shape[0] == 0


def test_pairs_get_the_labels_of_the_configuration(classifier: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    assert is_classifier(resolve(classifier))
    found = PairClassifier(resolve(classifier), device="cpu", batch_size=3)
    assert found.labels == NLI
    pairs = [(" ".join(WORDS[i : i + 1 + i % 3]), " ".join(WORDS[3 * i : 3 * i + 2])) for i in range(12)]
    labels = found.classify(pairs)
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(classifier).eval(),
        words_tokenizer(),
    )
    for (first, second), label in zip(pairs, labels, strict=True):
        with torch.no_grad():
            scores = model(**tokenizer(first, second, return_tensors="pt")).logits[0].softmax(-1)
        assert label.name == NLI[int(scores.argmax())]
        assert label.probability == pytest.approx(float(scores.max()), abs=1e-5)
        assert not label.cut
    assert len({label.name for label in labels}) > 1
    swapped = found.classify([(second, first) for first, second in pairs])
    assert [label.name for label in swapped] != [label.name for label in labels]
    (long,) = found.classify([(" ".join(WORDS), WORDS[0])])
    assert long.cut


def test_a_classifier_needs_its_head_and_an_encoder_needs_its_layers(
    encoder: Path, classifier: Path, tmp_path: Path
) -> None:
    assert not is_classifier(resolve(encoder))
    with pytest.raises(BadInput, match="is no sequence classifier"):
        PairClassifier(resolve(encoder))
    headless = edited(encoder, tmp_path / "headless", architectures=["BertForSequenceClassification"])
    with pytest.raises(BadInput, match=r"missing or of another shape.*random numbers"):
        PairClassifier(resolve(headless), device="cpu")
    deeper = edited(encoder, tmp_path / "deeper", num_hidden_layers=3)
    with pytest.raises(BadInput, match=r"missing or of another shape"):
        Embedder(resolve(deeper), device="cpu")
    flatter = edited(encoder, tmp_path / "flatter", num_hidden_layers=1)
    with pytest.raises(BadInput, match=r"no part of the architecture"):
        Embedder(resolve(flatter), device="cpu")


def test_an_encoder_made_for_another_pooling_is_refused(encoder: Path, tmp_path: Path) -> None:
    other = edited(encoder, tmp_path / "cls")
    (other / "1_Pooling").mkdir()
    pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (other / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    with pytest.raises(BadInput, match="another pooling than the mean"):
        Embedder(resolve(other), device="cpu")
    (other / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    assert Embedder(resolve(other), device="cpu").embed([WORDS[0]]).shape == (1, 16)


def test_a_causal_model_can_be_an_encoder_too(tiny_folder: Path) -> None:
    vectors = Embedder(resolve(tiny_folder), device="cpu").embed([WORDS[0], WORDS[1]])
    assert vectors.shape == (2, 32)
    with pytest.raises(BadInput, match="has no token"):
        Embedder(resolve(tiny_folder), device="cpu").embed([""])
