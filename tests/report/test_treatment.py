"""The page of a treatment: everything that was found, in one file, whatever the names are."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from safewright.report import render_treatment
from safewright.types import Check, Cost, ModelRef, TreatmentResult

HOSTILE = "<script>alert('x')</script>&\"\u202e"


def made(folder: Path, name: str = "model", **report: Any) -> tuple[TreatmentResult, Path]:
    parent = {"digest": "sha256:" + "a" * 64, "where": name, "kind": "hf", "base": None}
    history = folder / "provenance.json"
    found = {
        "treatment": {"name": "safe_delta", "version": "1", "stage": None, "config": {"mode": name}},
        "parents": {"aligned": parent, "tuned": parent},
        "report": report,
    }
    history.write_text(json.dumps(found))
    model = ModelRef(kind="hf", where=name, digest="sha256:" + "b" * 64)
    checks = (Check(name, True, name), Check("the other", False, "4 of 5"))
    return TreatmentResult(model, (parent["digest"],), "weights", history, checks, Cost(seconds=1.0)), history


def layers(name: str = "w") -> list[dict[str, Any]]:
    return [
        {
            "tensor": f"{name}.{i}",
            "loss": 0.5 * i,
            "loss_full": 2.0 * i,
            "held_loss": None if i % 2 else 0.1,
            "held_loss_full": None if i % 2 else 0.2,
            "kept": 0.75,
            "distance": 0.125,
            "rank": 7,
        }
        for i in range(4)
    ]


class Reader(HTMLParser):
    """Tags and their addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.append(tag)
        self.links += [value for key, value in attributes if key in ("src", "href") and value]


def test_the_page_says_what_was_found(tmp_path: Path) -> None:
    result, history = made(tmp_path, layers=layers(), notes=["thin calibration"], step_norm=1.5)
    page = render_treatment(result, history, command="safewright treat safe_delta")
    for words in ("thin calibration", "w.3", "the other", "4 of 5", "step norm", "Safety loss left"):
        assert words in page, words
    assert page.count("<tr>") >= 4 + 2
    assert "safewright treat safe_delta" in page
    assert "NO" in page


def test_what_it_took_stands_beside_what_was_estimated(tmp_path: Path) -> None:
    result, history = made(tmp_path)
    assert "What it took" not in render_treatment(result, history, run=tmp_path)
    took = {
        "estimated": {"seconds": 90.0, "memory_bytes": 2**30},
        "measured": {"seconds": 400.0, "disk_bytes": 512},
    }
    (tmp_path / "took.json").write_text(json.dumps(took))
    page = render_treatment(result, history, run=tmp_path)
    for words in ("What it took", "90 s", "7 min", "1.0 GiB", "512 B"):
        assert words in page, words
    assert "What it took" not in render_treatment(result, history)


def test_the_page_is_one_file(tmp_path: Path) -> None:
    result, history = made(tmp_path, layers=layers())
    reader = Reader()
    reader.feed(render_treatment(result, history))
    assert "svg" in reader.tags
    assert not [link for link in reader.links if not link.startswith(("#", "data:"))]
    assert "@import" not in render_treatment(result, history)


def test_hostile_names_are_text(tmp_path: Path) -> None:
    result, history = made(tmp_path, HOSTILE, layers=layers(HOSTILE), notes=[HOSTILE], **{HOSTILE: HOSTILE})
    page = render_treatment(result, history, command=HOSTILE)
    reader, plain = Reader(), Reader()
    reader.feed(page)
    plain.feed(render_treatment(*made(tmp_path, "model", layers=layers(), notes=["n"], k="v"), command="c"))
    assert "<script>alert" not in page
    assert reader.tags.count("script") == plain.tags.count("script")
    assert "&lt;script&gt;" in page
    assert "\u202e" not in page


def test_a_treatment_with_nothing_to_say_has_a_page(tmp_path: Path) -> None:
    result, history = made(tmp_path)
    page = render_treatment(result, history)
    assert "safe_delta" in page
    assert "Matrices" not in page
    bare = [{"tensor": "a", "similarity": 0.1, "projected": True}]
    page = render_treatment(*made(tmp_path, layers=bare))
    assert re.search(r">\s*a\s*<", page)


def test_dropped_rows_are_counted_by_reason_and_losses_drawn(tmp_path: Path) -> None:
    page = render_treatment(
        *made(
            tmp_path,
            coverage="34 of 36 forget rows",
            uncovered=["email-1", HOSTILE],
            drop_reasons={"answers: no verified answer": 3, f"verify: {HOSTILE}": 1200, "leak": 0},
            losses={"loss": [2.0, 1.5, 1.0], "retain_kl": [0.3, 0.2, 0.1], "empty": []},
            conventions={"kl_positions": "answer", HOSTILE: HOSTILE},
            first_and_last={"loss": [2.0, 1.0]},
        )
    )
    assert "Covered: 34 of 36 forget rows." in page
    assert "email-1" in page
    table = page[page.index("Why rows were dropped") :]
    assert table.index("1,200") < table.index("no verified answer") < table.index(">leak<")
    assert "Training: retain kl" in page
    assert page.count('class="plot"') == 2
    assert "kl positions" in page
    assert "<script" not in page
    clean = render_treatment(*made(tmp_path, coverage="36 of 36 forget rows", losses=[1.0, 0.5]))
    assert "No row was dropped." in clean
    assert clean.count('class="plot"') == 1
