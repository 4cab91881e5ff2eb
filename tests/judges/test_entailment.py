"""Contradiction by a classifier from a real folder, by a chat model, and what is no answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safewright.errors import BadInput
from safewright.judges import CoverageJudge, models_of, resolve
from safewright.judges.encoder import JudgeEncoder
from safewright.judges.entailment import Entailment, relations
from safewright.judges.model import JudgeModel
from safewright.runs import run_sync
from safewright.types import JudgeItem, ModelRef
from tests.models.test_encoders import NLI, save_bert
from tests.tiny import WORDS

PAIRS = [(" ".join(WORDS[i : i + 2]), " ".join(WORDS[2 * i : 2 * i + 3])) for i in range(10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = ("Contradiction", "ENTAILMENT", "neutral")
    return save_bert(tmp_path_factory.mktemp("nli") / "bert", labels=labels, scale=1.5)


def test_a_folder_with_a_classifier_is_read_as_one(folder: Path) -> None:
    nli = Entailment(str(folder))
    assert isinstance(nli.model, JudgeEncoder)
    found = run_sync(nli.relate(PAIRS))
    assert {relation.status for relation in found} == {"ok"}
    assert {relation.label for relation in found} <= set(NLI)
    assert len({relation.label for relation in found}) > 1
    assert run_sync(nli.relate(PAIRS[3:4])) == found[3:4]
    said = nli.conventions()
    assert (said["kind"], said["model"]) == ("classifier", nli.model.ref.digest)
    assert run_sync(nli.relate([])) == []
    nli.close()


def test_a_chat_model_is_asked_in_words(scripted: Any) -> None:
    replies = iter(["It is neutral.", '{"relation": "neutral"}'])
    model = scripted(lambda chat: next(replies))
    nli = Entailment(model)
    assert isinstance(nli.model, JudgeModel)
    (found,) = run_sync(nli.relate([("It rains in Orlo.", "The sun shines in Orlo.")]))
    assert (found.label, found.status, found.tokens) == ("neutral", "ok", 20)
    prompt = model.chats[0][0]["content"]
    assert prompt.index("It rains") < prompt.index("The sun shines")
    assert "not one JSON object" in model.chats[1][-1]["content"]
    assert nli.conventions()["kind"] == "chat model"
    assert set(nli.conventions()["prompts"]) == {"coverage_relation", "coverage_relation_again"}


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        ('{"relation": "contradicts"}', "unparsed"),
        ('{"relation": ["contradiction"]}', "unparsed"),
        ('{"relation": "contradiction", "sure": true}', "unparsed"),
        ("contradiction", "unparsed"),
        ("I cannot help with that.", "refused"),
        ('{"relation": "contradiction"}', "ok"),
    ],
)
def test_replies_are_read_strictly(scripted: Any, reply: str, status: str) -> None:
    (found,) = run_sync(Entailment(scripted(lambda chat: reply), tries=1).relate([("a", "b")]))
    assert (found.status, found.label) == (status, "contradiction" if status == "ok" else None)


@pytest.mark.parametrize(
    "labels",
    [
        ("LABEL_0", "LABEL_1", "LABEL_2"),
        ("entailment", "not_entailment"),
        ("entailment", "neutral"),
        ("entailment", "Entailment", "contradiction"),
        (),
    ],
)
def test_labels_that_could_mean_anything_are_an_error(labels: tuple[str, ...]) -> None:
    with pytest.raises(BadInput, match=r"labels are .*id2label"):
        relations(labels)
    assert relations(("Contradiction", "neutral")) == {"Contradiction": "contradiction", "neutral": "neutral"}


def test_unknown_labels_of_a_folder_stop_the_judge(tmp_path: Path) -> None:
    unnamed = save_bert(tmp_path / "bert", labels=("LABEL_0", "LABEL_1", "LABEL_2"))
    judge = resolve("coverage", {"nli": str(unnamed)})
    item = JudgeItem("q", WORDS[0], "forgotten", WORDS[1], meta={"entities": [WORDS[1]]})
    with pytest.raises(BadInput, match="LABEL_0, LABEL_1, LABEL_2"):
        run_sync(judge.judge([item]))


def test_the_judge_uses_real_folders_for_both_parts(folder: Path, scripted: Any, tmp_path: Path) -> None:
    encoder = save_bert(tmp_path / "encoder", seed=3)
    model = scripted(lambda chat: f'{{"entities": ["{WORDS[5]}", "{WORDS[6]}"]}}')
    judge = CoverageJudge(model, nli=folder, embedder=encoder)
    items = [
        JudgeItem("q", answer, "forgotten", reference, meta={"entities": [WORDS[5], WORDS[9]]})
        for answer, reference in PAIRS
    ]
    found = run_sync(judge.judge(items))
    assert [j.status for j in found] == ["ok"] * len(items)
    assert len({j.notes["nli"] for j in found}) > 1
    for judgement in found:
        assert judgement.notes["matched"][0] == WORDS[5]
        contradicted = judgement.notes["nli"] == "contradiction"
        assert judgement.value == float(contradicted)
        assert judgement.notes["rule"] == ("contradiction" if contradicted else "neither")
    kinds = [type(model) for model in models_of(judge)]
    assert kinds == [JudgeModel, JudgeEncoder, JudgeEncoder]
    said = judge.conventions
    assert said["nli"]["model"] != said["similarity"]["model"] != said["model"]
    judge.close()
    assert run_sync(judge.judge(items)) == found  # opened again


def test_a_served_model_is_no_classifier() -> None:
    nli = Entailment(ModelRef("served", "http://127.0.0.1:9/v1#m", "declared:m"))
    assert isinstance(nli.model, JudgeModel)
