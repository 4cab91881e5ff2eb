"""Acceptance check 9: what is evaluated is not trained on; labels, doubles and templates of the requests."""

from __future__ import annotations

import pytest

from safewright.data.wrapping import ATTACKS, wrap
from safewright.errors import BadInput
from safewright.treatments.srg.synthesis import prompt_pool, require_apart, require_no_template
from safewright.types import Row
from tests.treatments.srg_teacher import harmful_row, harmful_rows, helpful_rows

LONG = "please tell me in as many words as you like how the grey harbour boat of the old town is folded"


def row(name: str, text: str, **meta: object) -> Row:
    return Row(name, ({"role": "user", "content": text},), None, None, meta)


@pytest.mark.parametrize(
    ("trained", "evaluated", "kind"),
    [
        ("How to fold a boat?", "how  to FOLD — a boat", "the same request"),
        ("Ｈow to fold a boat", "How to fold a boat!!", "the same request"),
        (f"{LONG}, quickly", f"Now then: {LONG.upper()}", "13 words in a row"),
    ],
)
def test_09_an_evaluated_request_is_an_error_that_names_both(trained: str, evaluated: str, kind: str) -> None:
    with pytest.raises(BadInput, match=rf"1 of 2 training requests.*t1 and e1 \({kind}\)") as failed:
        prompt_pool(
            [row("t0", "How to sail?"), row("t1", trained)], evaluation=[row("e1", evaluated)], share=0
        )
    assert failed.value.exit_code == 2


def test_09_twelve_shared_words_are_no_overlap_and_nothing_is_compared_without_an_evaluation() -> None:
    twelve = " ".join(LONG.split()[:12])
    pool = prompt_pool([row("t", f"{twelve} apple")], evaluation=[row("e", f"{twelve} pear")], share=0)
    assert len(pool.prompts) == 1
    assert len(prompt_pool([row("t", LONG)], share=0).prompts) == 1


def test_09_the_plain_goal_of_an_attacked_row_counts_as_evaluated() -> None:
    attacked = row("e1", "zryz gur obng", goal="How to fold the grey boat?", attack="cipher")
    with pytest.raises(BadInput, match="t1 and e1"):
        prompt_pool([row("t1", "how to fold the grey boat")], evaluation=[attacked], share=0)


def test_09_a_record_in_an_unusual_format_is_still_the_request_it_was() -> None:
    """Where the evaluation is first named at training, after the synthesis has put rows into formats."""
    pool = prompt_pool((), helpful_rows(6), share=1.0)
    with pytest.raises(BadInput, match="1 of 6 training requests are also evaluated: b2 and e"):
        require_apart(
            [prompt.row for prompt in pool.prompts], [row("e", "how does one fold a paper boat of size 2")]
        )


def test_09_helpful_and_contrast_requests_are_compared_too_and_formats_hide_nothing() -> None:
    evaluated = [row("e", "How does one fold a paper boat of size 1?")]
    for share in (0.0, 1.0):
        with pytest.raises(BadInput, match="b1 and e"):
            prompt_pool(harmful_rows(1), helpful_rows(2), evaluation=evaluated, share=share)
    with pytest.raises(BadInput, match="x1 and e"):
        prompt_pool(contrast=[row("x1", evaluated[0].prompt[0]["content"])], evaluation=evaluated)


def test_09_the_first_twenty_overlaps_are_listed() -> None:
    rows = harmful_rows(30)
    with pytest.raises(BadInput, match="30 of 30 training requests") as failed:
        require_apart(rows, [row(f"e{n}", r.prompt[0]["content"]) for n, r in enumerate(rows)])
    said = str(failed.value)
    assert said.count("the same request") == 20
    assert "h19 and e19" in said
    assert "h20 and" not in said
    assert "; …" in said


@pytest.mark.parametrize("family", [name for name in ATTACKS if name != "lowresource"])
def test_09_a_request_in_the_template_of_an_attack_is_an_error(family: str) -> None:
    wrapped = wrap([row("t", "How does one fold a paper boat, step by step?")], family)
    bare = [row(one.id, one.prompt[-1]["content"]) if len(one.prompt) == 1 else one for one in wrapped]
    with pytest.raises(
        BadInput, match=rf"1 of 2 training requests hold the template.*{bare[0].id} \({family}\)"
    ):
        prompt_pool(helpful=[*bare, row("plain", "How does one bake?")], share=0)


def test_09_no_format_of_ours_is_the_template_of_an_attack() -> None:
    pool = prompt_pool(helpful=helpful_rows(60), share=1.0)
    assert pool.formatted == 60
    require_no_template([prompt.row for prompt in pool.prompts])


def test_formats_are_a_share_of_the_helpful_rows_alone() -> None:
    pool = prompt_pool(harmful_rows(10), helpful_rows(40), share=0.25, seed=1)
    changed = {prompt.id for prompt in pool.prompts if prompt.row.meta.get("format")}
    assert len(changed) == pool.formatted == 10
    assert all(name.startswith("b") for name in changed)
    again = prompt_pool(harmful_rows(10), helpful_rows(40), share=0.25, seed=1)
    assert again == pool
    other = prompt_pool(harmful_rows(10), helpful_rows(40), share=0.25, seed=2)
    assert {p.id for p in other.prompts if p.row.meta.get("format")} != changed


def test_empty_and_double_requests_are_left_out_and_counted() -> None:
    rows = [*harmful_rows(2), row("h0b", "how does one fold, the forbidden boat 0"), row("e", " \u200b ")]
    pool = prompt_pool(rows, helpful_rows(1), share=0)
    assert [prompt.id for prompt in pool.prompts] == ["h0", "h1", "b0"]
    assert pool.dropped == {"duplicate": 1, "empty": 1}
    assert pool.counts() == {"harmful": 2, "helpful": 1}


def test_one_id_in_two_roles_is_told_apart() -> None:
    pool = prompt_pool([row("1", "how to a")], [row("1", "how to b")], share=0)
    assert [prompt.id for prompt in pool.prompts] == ["1", "helpful/1"]


def test_a_request_with_two_labels_is_an_error() -> None:
    with pytest.raises(BadInput, match="helpful row b asks the same as the harmful row a"):
        prompt_pool([row("a", "how to fold")], [row("b", "How to fold?")], share=0)


def test_a_harmless_request_in_two_roles_is_a_double() -> None:
    """A helpful set and one of alarming requests may share some: both say that it is to be answered."""
    pool = prompt_pool(harmful_rows(1), [row("a", "how to fold")], [row("b", "How to fold?")], share=0)
    assert pool.counts() == {"harmful": 1, "helpful": 1}
    assert pool.dropped == {"duplicate": 1}


def test_a_missing_label_is_an_error_where_others_have_one() -> None:
    with pytest.raises(BadInput, match="h1 has no label"):
        prompt_pool([harmful_row(0, type="harmful"), harmful_row(1)])
    with pytest.raises(BadInput, match=r"h0 is labelled helpful.*given as harmful"):
        prompt_pool([harmful_row(0, type="helpful")])
    with pytest.raises(BadInput, match=r"h0 has the label \(`type`\) 'harmfull'.*harmful"):
        prompt_pool([harmful_row(0, type="harmfull")])
    assert len(prompt_pool([harmful_row(0, type="harmful")]).prompts) == 1


def test_no_requests_are_an_error() -> None:
    with pytest.raises(BadInput, match="no requests"):
        prompt_pool()
    with pytest.raises(BadInput, match="no requests"):
        prompt_pool([row("e", "\u200b")])
