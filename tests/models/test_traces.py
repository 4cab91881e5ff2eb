"""Traces for training are read strictly: exactly one block and an answer, or an error that says why."""

from __future__ import annotations

import random

import pytest

from safewright.models.chat import THINK, split_reasoning
from safewright.models.traces import SAID, FormatError, Trace, holds_marker, join_trace, split_trace

GOOD = "<think>\nIt is a craft. So I answer.\n</think>\n\nFold it twice."


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "no_open"),
        ("Fold it twice.", "no_open"),
        ("a craft </think> Fold it.", "no_open"),
        ("</think> x <think> y", "no_open"),
        ("<think> a craft", "no_close"),
        ("<think> a <think> b", "no_close"),
        ("so: <think> a", "text_before"),
        ("Well. <think> a </think> b", "text_before"),
        ("<think> a </think> b <think> c </think> d", "two_blocks"),
        ("<think> a </think> b <think> c", "two_blocks"),
        ("<think> a </think> b </think> c", "two_blocks"),
        ("<think> a <think> b </think> c </think> d", "nested"),
        ("<think> a <think> b </think> c", "nested"),
        ("<think> a </think>", "empty_answer"),
        ("<think> a </think> \n ", "empty_answer"),
        ("<think></think> b", "empty_reasoning"),
        ("<think> \n </think>", "empty_reasoning"),
        # In code a marker is a marker: nobody else knows what is code.
        ("<think> write `</think>` here </think> b", "two_blocks"),
        ("<think> write ```\n<think>\n``` here </think> b", "nested"),
        ("<think> a </think> the tag is `<think>`", "two_blocks"),
    ],
)
def test_02_what_is_no_trace_is_named_and_never_mended(text: str, kind: str) -> None:
    with pytest.raises(FormatError) as error:
        split_trace(text)
    assert error.value.kind == kind
    assert SAID[error.value.kind] in str(error.value)


def test_02_a_trace_has_two_parts_without_the_layout() -> None:
    assert split_trace(GOOD) == Trace("It is a craft. So I answer.", "Fold it twice.")
    assert split_trace(f" \n{GOOD}\n") == split_trace(GOOD)
    assert split_trace("<think>a</think>b") == Trace("a", "b")
    heading = {"open": "# Thoughts", "close": "# Answer"}
    assert split_trace("# Thoughts\na\n# Answer\nb <think>", heading) == Trace("a", "b <think>")
    assert join_trace("It is a craft. So I answer.", "Fold it twice.") == GOOD


def test_02_markers_where_one_begins_with_the_other() -> None:
    marks = {"open": "##", "close": "## Answer"}
    assert split_trace("## a ## Answer b", marks) == Trace("a", "b")
    assert split_trace(join_trace("a", "b", marks), marks) == Trace("a", "b")
    for same in ({"open": "x", "close": "x"}, {"open": " ", "close": "x"}):
        with pytest.raises(ValueError, match="two different texts"):
            split_trace("a", same)


@pytest.mark.parametrize(
    ("reasoning", "answer", "kind"),
    [("", "b", "empty_reasoning"), ("a", " ", "empty_answer"), ("a </think> c", "b", "two_blocks")],
)
def test_02_what_cannot_be_read_back_is_not_written(reasoning: str, answer: str, kind: str) -> None:
    with pytest.raises(FormatError) as error:
        join_trace(reasoning, answer)
    assert error.value.kind == kind


def test_02_a_thousand_random_strings() -> None:
    """The parser is total, what it reads is written back as it was read, and the lenient reader agrees with it."""
    draw = random.Random(7)
    parts = [
        "<think>",
        "</think>",
        "<think",
        "think>",
        "</",
        ">",
        "a",
        " b ",
        "\n",
        "`",
        "ß",
        "\u200b",
        "```\n",
    ]
    read = 0
    kinds = set()
    for _ in range(1000):
        text = "".join(draw.choice(parts) for _ in range(draw.randrange(12)))
        if draw.random() < 0.3:
            text = f"<think>{text}"
        try:
            trace = split_trace(text)
        except FormatError as error:
            kinds.add(error.kind)
            continue
        read += 1
        assert trace.reasoning
        assert trace.answer
        assert split_trace(join_trace(trace.reasoning, trace.answer)) == trace
        assert split_reasoning(text) == (trace.reasoning, trace.answer, True)
        assert not holds_marker(trace.reasoning + trace.answer)
    assert kinds == set(SAID)
    assert read > 20
    assert THINK["open"] == "<think>"
