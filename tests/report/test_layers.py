"""Figures of the logit lens."""

from __future__ import annotations

from typing import Any

from safewright.report.layers import shown, token_figures
from safewright.types import Record, Scorecard

CARD = Scorecard("lens", "1", {}, ())


def layer(*tokens: str) -> dict[str, Any]:
    return {"tokens": list(tokens), "masses": [0.5 / (i + 1) for i in range(len(tokens))]}


def record(name: str, role: str, *layers: dict[str, Any], before: bool = False) -> Record:
    lens = {"target": list(layers)} | ({"before": list(layers[:-1])} if before else {})
    return Record(name, (), None, meta={"set": role, "layers": lens})


def test_the_commonest_likeliest_tokens_are_counted_over_the_first_set() -> None:
    records = [
        record("a", "forget", layer(" at", "x"), layer("at", "y")),
        record("b", "forget", layer(" at", "z"), layer("yes", "at")),
        record("c", "forget", layer("no", "z"), layer("yes", "at")),
        record("d", "retain", layer("other", "z"), layer("other", "at")),
    ]
    counted, alone = token_figures(CARD, records, "model", several=False)
    assert counted.title == "Lens: likeliest token per layer over 3 prompts"
    assert "embedding, after 1: ␣at, 67%" in counted.svg
    assert "embedding, after 2: no, 33%" in counted.svg
    assert "layer 1, after 1: yes, 67%" in counted.svg
    assert "other" not in counted.svg
    assert "embedding, after 2: x, 25%" in alone.svg
    assert alone.caption.startswith("Record a,")


def test_models_of_other_depth_leave_cells_empty_and_titles_name_the_model() -> None:
    made = record("a", "forget", layer("x"), layer("y"), before=True)
    counted, _ = token_figures(CARD, [made], "mine", several=True)
    assert counted.title.endswith("· mine")
    assert "before 1" in counted.svg
    assert counted.svg.count('<td role="cell"></td>') == 2 * 2 * 3 - 3


def test_data_that_brings_layers_of_its_own_is_no_lens() -> None:
    for found in ({"a": [1, 2]}, {"a": "text"}, {"a": [{"tokens": [], "masses": []}]}, ["x"], {"a": []}, {}):
        assert token_figures(CARD, [Record("a", (), None, meta={"layers": found})], "m", several=False) == []


def test_a_row_that_one_model_has_no_room_for_hides_the_model_nowhere() -> None:
    records = [record("a", "forget", layer("x"), layer("y"))]
    records += [record(name, "forget", layer("x"), layer("z"), before=True) for name in ("b", "c")]
    counted, alone = token_figures(CARD, records, "m", several=False)
    assert "embedding, before 1: x, 100%" in counted.svg
    assert "layer 1, after 1: z, 67%" in counted.svg
    assert alone.caption.startswith("Record b,")


def test_what_tokens_hold_is_text_and_records_without_layers_have_no_figure() -> None:
    assert token_figures(CARD, [Record("a", (), None)], "m", several=False) == []
    counted, _ = token_figures(
        CARD, [record("<b>", "forget", layer("<script>"), layer("\n"))], "m", several=False
    )
    assert "<script>" not in counted.svg
    assert "&lt;script&gt;" in counted.svg
    assert (shown("\n"), shown(" a"), shown("")) == ("↵", "␣a", "(empty)")
