"""`lens`: candidates at the first answer tokens and layers, before and after, and its page."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from safewright.compose.folders import load_cards
from safewright.errors import BadInput
from safewright.measures import measure_model
from safewright.models import load
from safewright.models.scoring import encode_answer
from safewright.report import render_page
from safewright.types import Row
from tests import tiny
from tests.contract.fakes import Stopping

W = tiny.WORDS


def rows(count: int, seed: int) -> list[Row]:
    def text(start: int, length: int) -> str:
        return " ".join(W[(start + 7 * j) % len(W)] for j in range(length))

    return [
        Row(
            f"r{i}",
            ({"role": "user", "content": text(seed + 3 * i, 3 + i % 3)},),
            text(seed + 5 * i, 1 + i % 4),
            "en",
        )
        for i in range(count)
    ]


DATA = {"forget": rows(6, 1), "retain": rows(4, 2)}


@pytest.fixture(scope="module")
def before_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_tiny(tmp_path_factory.mktemp("before") / "model", seed=7)


@pytest.fixture(scope="module")
def both(tiny_folder: Path, before_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "both"
    models = {"target": tiny_folder, "before": before_folder}
    measure_model("lens", models, data=DATA, config={"positions": 2}, run=folder)
    return folder


def card_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "scorecard.json").read_text())
    return found


def records_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def masses(folder: Path, row: Row) -> tuple[float, float]:
    """Mass of the likeliest and of the five likeliest tokens over the first two answer tokens, in float64."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder).double().eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)
    item = encode_answer(words, row.prompt, row.reference or "")
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*item.prompt, *item.answer]])).logits[0]
    p = torch.softmax(logits[len(item.prompt) - 1 : -1][:2], dim=-1).sort(dim=-1, descending=True).values
    return float(p[:, 0].mean()), float(p[:, :5].sum(dim=-1).mean())


def test_masses_are_those_of_both_models(both: Path, tiny_folder: Path, before_folder: Path) -> None:
    by_id = {record["id"]: record for record in records_of(both)}
    names = {reading["name"]: reading for reading in card_of(both)["readings"]}
    after, before = [], []
    for row in DATA["forget"]:
        record = by_id[f"forget/{row.id}"]
        top1, top5 = masses(tiny_folder, row)
        assert record["scores"]["top1_mass"] == pytest.approx(top1, abs=1e-5)
        assert record["scores"]["top5_mass"] == pytest.approx(top5, abs=1e-5)
        after.append(top5)
        before.append(masses(before_folder, row)[1])
        assert record["meta"]["before"]["top5_mass"] == pytest.approx(before[-1], abs=1e-5)
        kl = [layer["kl"] for layer in record["meta"]["layers"]["target"]]
        assert record["scores"]["kl_step"] == pytest.approx(max(a - b for a, b in itertools.pairwise(kl)))
    assert names["top5_mass"]["value"] == pytest.approx(np.mean(after), abs=1e-5)
    assert names["top5_mass/model/before"]["value"] == pytest.approx(np.mean(before), abs=1e-5)
    assert names["top5_mass_change"]["value"] == pytest.approx(np.mean(after) - np.mean(before), abs=1e-5)
    assert names["top5_mass_change"]["unit"] == "difference"
    assert names["top5_mass/set/retain"]["n"] == 4
    interval = names["top5_mass_change"]["interval"]
    assert interval["low"] <= names["top5_mass_change"]["value"] <= interval["high"]


def test_curves_are_means_over_rows_with_bands(both: Path) -> None:
    curves = {curve["name"]: curve for curve in card_of(both)["curves"]}
    found = [r["meta"]["layers"]["before"] for r in records_of(both) if r["meta"]["set"] == "forget"]
    curve = curves["kl_to_last by layer/before"]
    assert curve["x"] == [0, 1, 2, 3]
    assert curve["y"] == pytest.approx([np.mean([layers[i]["kl"] for layers in found]) for i in range(4)])
    assert curve["y"][-1] == 0
    assert all(low <= y <= high for low, y, high in zip(curve["low"], curve["y"], curve["high"], strict=True))
    tokens = curves["top1_mass by answer token/after"]
    assert tokens["x"] == [1, 2]
    assert "kl_to_last by layer, retain rows/after" in curves


def test_a_killed_run_goes_on_to_the_same_bytes(tiny_folder: Path, both: Path, tmp_path: Path) -> None:
    whole = measure_model("lens", load(tiny_folder, batch_size=2), data=DATA, run=tmp_path / "whole")
    stopped = 0
    for _ in range(20):
        try:
            card = measure_model(
                "lens", Stopping(load(tiny_folder, batch_size=2), 3), data=DATA, run=tmp_path / "broken"
            )
            break
        except KeyboardInterrupt:
            stopped += 1
    assert stopped >= 2
    assert card.readings == whole.readings
    assert (tmp_path / "broken" / "records.jsonl").read_bytes() == (
        tmp_path / "whole" / "records.jsonl"
    ).read_bytes()
    assert not any("before" in reading.name or "change" in reading.name for reading in card.readings)


def test_rows_without_an_answer_are_an_error_and_empty_ones_unscored(
    tiny_folder: Path, tmp_path: Path
) -> None:
    empty = Row("empty", ({"role": "user", "content": W[0]},), " ")
    card = measure_model("lens", tiny_folder, data={"forget": [*rows(2, 1), empty]}, run=tmp_path / "a")
    assert card.unscored == {"no_answer": 1}
    assert card.readings[0].n == 2
    assert card.readings[0].unscored == 1
    bare = Row("bare", ({"role": "user", "content": W[0]},))
    with pytest.raises(BadInput, match="1 of 1 rows have no answer"):
        measure_model("lens", tiny_folder, data={"forget": [bare]}, run=tmp_path / "b")
    with pytest.raises(BadInput, match="positions"):
        measure_model("lens", tiny_folder, data={"forget": rows(2, 1)}, config={"positions": 0})


def test_a_model_before_with_another_tokenizer_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    strange = tiny.save_tiny(tmp_path / "strange", seed=7)
    words = json.loads((strange / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary[W[0]], vocabulary[W[1]] = vocabulary[W[1]], vocabulary[W[0]]
    (strange / "tokenizer.json").write_text(json.dumps(words))
    models = {"target": tiny_folder, "before": strange}
    asked = Row("a", ({"role": "user", "content": W[3]},), f"{W[2]} {W[0]}")
    for _ in range(2):  # once more from the journals alone
        with pytest.raises(BadInput, match="before cuts the answer of forget/a into other tokens"):
            measure_model("lens", models, data={"forget": [asked]}, run=tmp_path / "run")
    # What lies behind the tokens that are looked at does not matter.
    measure_model("lens", models, data={"forget": [asked]}, config={"positions": 1}, run=tmp_path / "first")


def test_the_page_draws_before_and_after_in_one_figure_and_names_the_tokens(both: Path) -> None:
    page = render_page("Lens", load_cards(both))
    assert page.count("<strong>Lens: KL to last by layer</strong>") == 1
    assert "Lens: KL to last by layer: 2 curves over layer" in page
    assert "before</li>" in page
    assert "after</li>" in page
    assert "Lens: likeliest token per layer over 6 prompts" in page
    assert "Lens: likeliest tokens per layer after one prompt" in page
    first = records_of(both)[0]["meta"]["layers"]["target"][3]
    assert f"layer 3, after 1: {first['tokens'][0]}, " in page
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
