"""`memorisation` on tiny models: against formulas worked out by hand from the models' own logits."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from safewright.errors import BadInput, NumericalFailure
from safewright.measures import measure_model
from safewright.models import load
from safewright.models.scoring import encode_answer
from safewright.types import Row, Scorecard
from tests import tiny
from tests.contract.fakes import Stopping

W = tiny.WORDS
SMALL = {"max_new_tokens": 4}


def text(start: int, count: int) -> str:
    return " ".join(W[(start + 7 * j) % len(W)] for j in range(count))


def row(name: str, question: str, answer: str, **meta: Any) -> Row:
    return Row(name, ({"role": "user", "content": question},), answer, "en", meta)


def rows(count: int, seed: int, *, options: bool = True) -> list[Row]:
    return [
        row(
            f"r{i}",
            text(seed + 3 * i, 3 + i % 3),
            text(seed + 5 * i, 2 + i % 4),
            **(
                {
                    "paraphrased_answer": text(seed + 5 * i + 1, 3),
                    "wrong": [text(seed + 11 * i + k, 2 + k) for k in range(3)],
                }
                if options
                else {}
            ),
        )
        for i in range(count)
    ]


DATA: Mapping[str, Sequence[Row]] = {
    "forget": rows(8, 1),
    "retain": rows(6, 2),
    "holdout": rows(7, 3, options=False),
    "real_authors": rows(3, 4),
    "world_facts": rows(3, 5),
    "verbatim": rows(3, 6, options=False),
    "knowledge_forget": rows(2, 7, options=False),
    "knowledge_retain": rows(2, 8, options=False),
    "examples": rows(1, 9, options=False),
}


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_tiny(tmp_path_factory.mktemp("other") / "model", seed=5)


@pytest.fixture(scope="module")
def whole(tiny_folder: Path, other_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every role."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    models = {"target": tiny_folder, "reference": other_folder, "retrained": other_folder}
    measure_model("memorisation", models, data=DATA, config=SMALL, run=folder)
    return folder


def card_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "scorecard.json").read_text())
    found["by_name"] = {reading["name"]: reading for reading in found["readings"]}
    return found


def records_of(folder: Path) -> dict[str, dict[str, Any]]:
    lines = (folder / "records.jsonl").read_text().splitlines()
    return {record["id"]: record for record in map(json.loads, lines)}


class Plain:
    """Per-row losses and hits of a folder's model in float64."""

    def __init__(self, folder: Path) -> None:
        import transformers

        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder).double().eval()
        self.words = transformers.AutoTokenizer.from_pretrained(folder)

    def logs(self, row: Row, answer: str | None = None) -> tuple[torch.Tensor, list[int]]:
        item = encode_answer(self.words, row.prompt, answer or row.reference or "")
        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([[*item.prompt, *item.answer]])).logits[0]
        return torch.log_softmax(logits[len(item.prompt) - 1 : -1], dim=-1), list(item.answer)

    def loss(self, row: Row, answer: str | None = None) -> float:
        logs, ids = self.logs(row, answer)
        return -sum(float(logs[t, v]) for t, v in enumerate(ids)) / len(ids)

    def ratio(self, row: Row) -> float:
        wrong = np.exp(-np.mean([self.loss(row, w) for w in row.meta["wrong"]]))
        return float(wrong / (np.exp(-self.loss(row, row.meta["paraphrased_answer"])) + 1e-10))


def test_every_score_equals_its_formula_on_float64_logits(
    whole: Path, tiny_folder: Path, other_folder: Path
) -> None:
    plain, other = Plain(tiny_folder), Plain(other_folder)
    found = records_of(whole)
    for item in DATA["forget"]:
        scores, meta = found[f"forget/{item.id}"]["scores"], found[f"forget/{item.id}"]["meta"]
        logs, ids = plain.logs(item)
        loss = plain.loss(item)
        hits = [int(line.argmax()) == v for line, v in zip(logs, ids, strict=True)]
        picked = [float(logs[t, v]) for t, v in enumerate(ids)]
        count = max(1, int(0.4 * len(ids)))
        moments = [(float((p := line.exp()) @ line), line, p) for line in logs]
        z = [
            (v - mean) / math.sqrt(max(float(p @ (line - mean) ** 2), 1e-6))
            for v, (mean, line, p) in zip(picked, moments, strict=True)
        ]
        assert scores["probability"] == pytest.approx(math.exp(-loss), rel=1e-4)
        assert scores["exact_memorisation"] == sum(hits) / len(hits)
        assert scores["loss"] == pytest.approx(loss, abs=1e-4)
        assert scores["min_k"] == pytest.approx(-np.mean(sorted(picked)[:count]), abs=1e-4)
        assert scores["min_k_plus"] == pytest.approx(-np.mean(sorted(z)[:count]), abs=1e-3)
        assert scores["reference"] == pytest.approx(loss - other.loss(item), abs=1e-4)
        assert meta["truth_ratio"] == pytest.approx(plain.ratio(item), rel=1e-3)
        assert scores["truth_ratio"] == pytest.approx(min(plain.ratio(item), 1 / plain.ratio(item)), rel=1e-3)
        assert meta["retrained"]["truth_ratio"] == pytest.approx(other.ratio(item), rel=1e-3)
        assert meta["tokens"] == len(ids)
    item = DATA["real_authors"][0]
    scores = found[f"real_authors/{item.id}"]["scores"]
    right, wrong = math.exp(-plain.loss(item)), [math.exp(-plain.loss(item, w)) for w in item.meta["wrong"]]
    assert scores["probability_normalised/set/real_authors"] == pytest.approx(
        right / (right + sum(wrong) + 1e-10), rel=1e-3
    )
    assert scores["truth_ratio/set/real_authors"] == pytest.approx(max(0, 1 - plain.ratio(item)), abs=1e-4)


def test_readings_sum_up_the_records(whole: Path, tiny_folder: Path, other_folder: Path) -> None:
    from scipy import stats

    card, found = card_of(whole), records_of(whole)
    names = card["by_name"]

    def scores(role: str, name: str) -> list[float]:
        own = [record["scores"][name] for record in found.values() if record["meta"]["set"] == role]
        return [score for score in own if score is not None]

    for name in ("probability", "truth_ratio", "exact_memorisation", "rouge_l_recall"):
        assert names[name]["value"] == pytest.approx(np.mean(scores("forget", name)))
        assert names[name]["n"] == len(scores("forget", name)) == 8 - names[name]["unscored"]
    forget, holdout = scores("forget", "min_k"), scores("holdout", "min_k/set/holdout")
    area = np.mean([[float(h > g) for h in holdout] for g in forget])
    assert names["mia_min_k"]["value"] == pytest.approx(area)
    assert {f"mia_{a}" for a in ("loss", "zlib", "min_k", "min_k_plus", "reference", "gradient_norm")} <= set(
        names
    )
    kept = {
        role: [r["meta"]["retrained"]["min_k"] for r in found.values() if r["meta"]["set"] == role]
        for role in ("forget", "holdout")
    }
    retrained = np.mean([[float(h > g) for h in kept["holdout"]] for g in kept["forget"]])
    leak = names["priv_leak"]
    assert leak["value"] == pytest.approx(100 * ((1 - area) - (1 - retrained)) / (1 - retrained))
    assert leak["interval"]["low"] <= leak["value"] <= leak["interval"]["high"]
    parts = [
        np.mean(scores(role, f"{name}/set/{role}"))
        for role in ("retain", "real_authors", "world_facts")
        for name in (
            "probability" if role == "retain" else "probability_normalised",
            "rouge_l_recall",
            "truth_ratio",
        )
    ]
    expected = 0.0 if min(parts) == 0 else 9 / sum(1 / part for part in parts)
    assert names["model_utility"]["value"] == pytest.approx(expected)
    assert names["count/model_utility_parts"]["value"] == 9
    own = [r["meta"]["truth_ratio"] for r in found.values() if r["meta"]["set"] == "forget"]
    other = [r["meta"]["retrained"]["truth_ratio"] for r in found.values() if r["meta"]["set"] == "forget"]
    (test,) = card["tests"]
    assert (test["name"], test["p"]) == ("forget_quality", stats.ks_2samp(own, other).pvalue)
    assert card["conventions"]["method"]["decoding"]["max_new_tokens"] == 4
    for reading in card["readings"]:
        if reading["interval"] is not None:
            assert reading["interval"]["low"] <= reading["value"] <= reading["interval"]["high"]


def test_batches_of_any_size_give_the_same_numbers(whole: Path, tiny_folder: Path, tmp_path: Path) -> None:
    card = measure_model(
        "memorisation", load(tiny_folder, batch_size=1), data=DATA, config=SMALL, run=tmp_path / "one"
    )
    others = card_of(whole)["by_name"]
    assert "mia_reference" not in {reading.name for reading in card.readings}
    assert "priv_leak" not in {reading.name for reading in card.readings}
    assert not card.tests
    for reading in card.readings:
        assert reading.value == pytest.approx(others[reading.name]["value"], abs=1e-4), reading.name


def test_a_run_killed_anywhere_goes_on_to_the_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    data = {"forget": DATA["forget"], "holdout": DATA["holdout"]}

    def go(model: Any, folder: Path) -> bytes:
        measure_model("memorisation", model, data=data, config=SMALL, run=folder)
        return (folder / "records.jsonl").read_bytes()

    expected = go(load(tiny_folder, batch_size=3), tmp_path / "whole")
    stopped = 0
    for _ in range(60):
        try:
            found = go(Stopping(load(tiny_folder, batch_size=3), 7), tmp_path / "broken")
            break
        except KeyboardInterrupt:
            stopped += 1
    assert stopped > 3
    assert found == expected


def spoken(folder: Path, count: int) -> list[Row]:
    """Rows whose answers are what the model says by itself, and rows whose answers it finds least likely."""
    loaded: Any = load(folder)
    made = []
    for i in range(count):
        question = text(4 * i, 3)
        item = encode_answer(loaded.tokenizer, ({"role": "user", "content": question},), W[0])
        for how in ("argmax", "argmin"):
            ids = list(item.prompt)
            for _ in range(4):
                with torch.no_grad():
                    logits = loaded.model(input_ids=torch.tensor([ids])).logits[0, -1]
                # Only ordinary words: specials are no text.
                words = logits[len(logits) - len(W) :]
                ids.append(len(logits) - len(W) + int(getattr(words, how)()))
                if how == "argmax" and int(logits.argmax()) != ids[-1]:
                    break
            else:
                said = loaded.tokenizer.decode(ids[len(item.prompt) :])
                made.append(row(f"{how}{i}", question, said))
    return made


def test_11_what_a_model_says_by_itself_is_memorised_and_the_opposite_is_not(
    tiny_folder: Path, tmp_path: Path
) -> None:
    made = spoken(tiny_folder, 30)
    right = [r for r in made if r.id.startswith("argmax")]
    assert len(right) >= 2
    data = {"forget": right, "retain": [r for r in made if r.id.startswith("argmin")]}
    card = measure_model("memorisation", tiny_folder, data=data, config={"rouge": False}, run=tmp_path / "a")
    found = {reading.name: reading.value for reading in card.readings}
    assert found["exact_memorisation"] == found["extraction_strength"] == 1.0
    assert found["exact_memorisation/set/retain"] == found["extraction_strength/set/retain"] == 0.0


def test_11_an_answer_without_tokens_is_excluded_and_counted(tiny_folder: Path, tmp_path: Path) -> None:
    # The context holds 128 tokens: the prompt leaves no room, or one token of three.
    long = [
        row("full", text(0, 126), text(1, 3)),
        row("cut", text(0, 122), text(1, 3)),
        row("empty", text(3, 2), "  "),
    ]
    data = {"forget": [*rows(4, 1), *long], "holdout": rows(3, 3, options=False)}
    card = measure_model("memorisation", tiny_folder, data=data, config={"rouge": False}, run=tmp_path / "a")
    found = {reading.name: reading for reading in card.readings}
    records = records_of(tmp_path / "a")
    assert records["forget/cut"]["meta"]["cut"] == 2
    assert records["forget/cut"]["status"]["probability"] == "ok"
    for name in ("full", "empty"):
        assert records[f"forget/{name}"]["meta"]["tokens"] == 0
        assert set(records[f"forget/{name}"]["status"].values()) == {"no_answer"}
        assert set(records[f"forget/{name}"]["scores"].values()) == {None}
    assert (found["probability"].n, found["probability"].unscored) == (5, 2)
    assert found["mia_loss"].unscored == 2
    assert found["count/answers_without_tokens"].value == 2
    assert found["count/answers_cut"].value == 2
    assert card.unscored == {"no_answer": 2}


def test_generations_that_fail_are_unscored_and_few_shot_examples_come_first(
    whole: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    class Noting(Stopping):
        asked: list[Any] = []  # noqa: RUF012

        def stream(self, chats: Any, how: Any, *, done: frozenset[int] = frozenset()) -> Any:
            self.asked += list(chats)
            for ready in self.inner.stream(chats, how, done=done):
                yield [
                    (i, dataclasses.replace(said, stop="error", error="lost") if i == 0 else said)
                    for i, said in ready
                ]

    model = Noting(load(tiny_folder), 10**9)
    card = measure_model("memorisation", model, data=DATA, config=SMALL, run=tmp_path / "a")
    found = {reading.name: reading for reading in card.readings}
    without = card_of(whole)["by_name"]["rouge_l_recall"]
    assert found["rouge_l_recall"].unscored == without["unscored"] + 1
    assert found["rouge_l_recall"].n + found["rouge_l_recall"].unscored == 8
    assert card.unscored["error"] == 1
    assert found["probability"].unscored == 0
    knowing = [chat for chat in model.asked if len(chat) > 1]
    assert len(knowing) == 4
    example = DATA["examples"][0]
    assert all(
        chat[:2] == (*example.prompt, {"role": "assistant", "content": example.reference}) for chat in knowing
    )
    assert len((tmp_path / "a" / "journal" / "generations.jsonl").read_text().splitlines()) == 26


def test_rouge_is_recall_and_f1_of_the_stemmed_longest_common_subsequence(whole: Path) -> None:
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    for record in records_of(whole).values():
        if not record["output"] or record["meta"]["set"] != "forget":
            continue
        expected = scorer.score(record["reference"], record["output"])["rougeL"]
        assert record["scores"]["rouge_l_recall"] == pytest.approx(expected.recall)
        assert record["scores"]["rouge_l_f1"] == pytest.approx(expected.fmeasure)


def measured(data: Any, tmp_path: Path, **models: Any) -> Scorecard:
    return measure_model(
        "memorisation", models, data=data, config={"rouge": False}, run=tmp_path / "run", overwrite=True
    )


def test_what_was_given_in_vain_is_an_error(tiny_folder: Path, other_folder: Path, tmp_path: Path) -> None:
    plain = {"forget": rows(3, 1, options=False)}
    with pytest.raises(BadInput, match="without holdout"):
        measured(plain, tmp_path, target=tiny_folder, reference=other_folder)
    with pytest.raises(BadInput, match="nothing that it is compared on"):
        measured(plain, tmp_path, target=tiny_folder, retrained=other_folder)
    with pytest.raises(BadInput, match="no question that they come before"):
        measured({**plain, "examples": rows(1, 2)}, tmp_path, target=tiny_folder)
    with pytest.raises(BadInput, match="knowledge_retain were given, but nothing is generated"):
        measured({**plain, "knowledge_retain": rows(1, 2)}, tmp_path, target=tiny_folder)
    bare = [dataclasses.replace(item, reference=None) for item in plain["forget"]]
    with pytest.raises(BadInput, match="have no answer"):
        measured({"forget": bare}, tmp_path, target=tiny_folder)
    with pytest.raises(BadInput, match="min_k"):
        measure_model("memorisation", tiny_folder, data=plain, config={"min_k": 0})


@pytest.mark.parametrize("wrong", [5, {"a": W[0]}, [W[0], 5]])
def test_wrong_answers_that_are_no_texts_are_an_error(wrong: Any, tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="row forget/a has the wrong answers"):
        measured({"forget": [row("a", W[3], W[4], wrong=wrong)]}, tmp_path, target=tiny_folder)
    with pytest.raises(BadInput, match="row forget/a has the paraphrased answer"):
        measured({"forget": [row("a", W[3], W[4], paraphrased_answer=[W[5]])]}, tmp_path, target=tiny_folder)


def test_a_holdout_without_tokens_leaves_attacks_without_value_and_says_so(
    tiny_folder: Path, other_folder: Path, tmp_path: Path
) -> None:
    data = {"forget": rows(4, 1), "holdout": [row("empty", text(3, 2), " ")]}
    card = measured(data, tmp_path, target=tiny_folder, retrained=other_folder)
    found = {reading.name: reading for reading in card.readings}
    for name in ("mia_loss", "mia_gradient_norm", "mia_min_k/model/retrained", "priv_leak"):
        assert (found[name].value, found[name].interval, found[name].unscored) == (None, None, 1), name
    assert "mia_reference" not in found
    assert json.loads((tmp_path / "run" / "scorecard.json").read_text())["readings"]


def test_a_model_that_says_nothing_has_no_utility(tiny_folder: Path, tmp_path: Path) -> None:
    class Silent(Stopping):
        def stream(self, chats: Any, how: Any, *, done: frozenset[int] = frozenset()) -> Any:
            for ready in self.inner.stream(chats, how, done=done):
                yield [(i, dataclasses.replace(said, answer="", raw="")) for i, said in ready]

    data = {"forget": rows(3, 1), "retain": [*rows(4, 2), *rows(6, 2, options=False)[4:]]}
    card = measure_model(
        "memorisation", Silent(load(tiny_folder), 10**9), data=data, config=SMALL, run=tmp_path / "a"
    )
    found = {reading.name: reading for reading in card.readings}
    utility = found["model_utility"]
    assert (utility.value, utility.interval, utility.n, utility.unscored) == (None, None, 0, 6)
    assert found["count/model_utility_parts"].value == 3
    # Without ROUGE nothing is lacking: rows without wrong answers were never asked for a truth ratio.
    card = measured(data, tmp_path, target=tiny_folder)
    found = {reading.name: reading for reading in card.readings}
    assert (found["model_utility"].n, found["model_utility"].unscored) == (6, 0)
    assert found["truth_ratio/set/retain"].n == 4


def test_a_token_without_any_probability_is_told(tiny_folder: Path, tmp_path: Path) -> None:
    loaded: Any = load(tiny_folder)
    forward = type(loaded.model).forward

    def barred(self: Any, *given: Any, **more: Any) -> Any:
        said = forward(self, *given, **more)
        said.logits[..., loaded.tokenizer.convert_tokens_to_ids(W[0])] = -math.inf
        return said

    loaded.model.forward = barred.__get__(loaded.model)
    with pytest.raises(NumericalFailure, match="answer of forget/a no probability at all"):
        measured({"forget": [row("a", W[3], W[0])]}, tmp_path, target=loaded)


@pytest.mark.parametrize("role", ["reference", "retrained"])
def test_another_model_with_another_tokenizer_is_refused(
    role: str, tiny_folder: Path, tmp_path: Path
) -> None:
    strange = tiny.save_tiny(tmp_path / "strange", more=("zz",))
    words = json.loads((strange / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary[W[0]], vocabulary[W[1]] = vocabulary[W[1]], vocabulary[W[0]]
    (strange / "tokenizer.json").write_text(json.dumps(words))
    data = {"forget": [row("a", W[3], f"{W[0]} {W[1]} {W[2]}")], "holdout": rows(2, 3, options=False)}
    with pytest.raises(BadInput, match=f"The {role} model cuts an answer of forget/a into other tokens"):
        measured(data, tmp_path, target=tiny_folder, **{role: strange})


def test_multiple_choice_is_decided_by_the_letters(tmp_path: Path) -> None:
    folder = tiny.save_tiny(tmp_path / "letters", more=("A", "B", "C", "D"))
    loaded: Any = load(folder)

    def choice(name: str, question: str, **meta: Any) -> Row:
        return Row(name, ({"role": "user", "content": question},), meta=meta)

    items = [choice(f"c{i}", W[i], choices=[W[i + 1], W[i + 2], W[i + 3]], answer=i % 3) for i in range(6)]
    data = {"forget": rows(2, 1), "choices": items}
    card = measured(data, tmp_path, target=folder)
    found = {reading.name: reading for reading in card.readings}["multiple_choice"]
    records = records_of(tmp_path / "run")
    letters = loaded.tokenizer.convert_tokens_to_ids(["A", "B", "C"])
    right = 0
    for i, item in enumerate(items):
        asked = records[f"choices/{item.id}"]["input"]
        assert f"C. {W[i + 3]}" in asked[-1]["content"]
        prompt = encode_answer(loaded.tokenizer, asked, "A").prompt
        with torch.no_grad():
            logits = loaded.model(input_ids=torch.tensor([prompt])).logits[0, -1]
        best = int(logits[letters].argmax())
        right += best == i % 3
        assert records[f"choices/{item.id}"]["scores"] == {"multiple_choice": float(best == i % 3)}
    assert (found.value, found.n) == (right / 6, 6)
    for wrong, message in (
        ({"choices": [W[0]]}, "2 to 26"),
        ({"choices": [W[0], W[1]]}, "which of its choices"),
        ({"choices": [W[0], W[1]], "answer": 2}, "which of its choices"),
    ):
        with pytest.raises(BadInput, match=message):
            measured({"forget": rows(2, 1), "choices": [choice("x", W[0], **wrong)]}, tmp_path, target=folder)
