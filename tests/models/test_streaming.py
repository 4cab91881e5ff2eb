"""The streaming filter: whatever the pieces, the outcome is that of splitting the whole."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safewright.models import load
from safewright.models.chat import THINK, opens_reasoning, split_reasoning
from safewright.models.hf import HfModel
from safewright.models.streaming import Detokenizer, ReasoningFilter
from safewright.types import Decoding
from tests import tiny

MARKERS = (
    THINK,
    {"open": "[plan]", "close": "[/plan]"},
    {"open": "ab", "close": "aab"},
    {"open": "t>", "close": "<t>a"},
    {"open": "||", "close": "||"},
)


def run(pieces: list[str], **how: object) -> tuple[ReasoningFilter, str, bool]:
    found = ReasoningFilter(**how)  # type: ignore[arg-type]
    shown = "".join(found.feed(piece) for piece in pieces)
    rest, no_answer = found.close()
    return found, shown + rest, no_answer


@st.composite
def outputs(draw: st.DrawFn) -> tuple[dict[str, str], list[str]]:
    """Markers, and an output full of them and of their parts, cut anywhere."""
    markers = draw(st.sampled_from(MARKERS))
    parts = sorted({*markers.values(), *markers["open"], *markers["close"], *markers["close"][1:], " ", "\n"})
    whole = "".join(draw(st.lists(st.sampled_from([*parts, "x", " y "]), max_size=25)))
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    edges = [0, *cuts, len(whole)]
    return dict(markers), [whole[a:b] for a, b in itertools.pairwise(edges)]


@settings(max_examples=500, deadline=None)
@given(outputs(), st.booleans(), st.booleans())
def test_11_any_pieces_give_what_the_whole_gives(
    given_: tuple[dict[str, str], list[str]], opened: bool, known: bool
) -> None:
    markers, pieces = given_
    whole = "".join(pieces)
    reasoning, answer, closed = split_reasoning(whole, markers, opened=opened, prompt_known=known)
    found, shown, no_answer = run(pieces, visible=markers, opened=opened, prompt_known=known)
    assert (found.reasoning, found.answer, found.closed) == (reasoning, answer, closed)
    assert no_answer == (not answer)
    assert shown == found.shown
    if closed:
        assert shown == answer
    else:  # what was let through stood before the block that never closed
        ended = f"{whole}\0{markers['close']}"
        assert shown == split_reasoning(ended, markers, opened=opened, prompt_known=known)[1]


@pytest.mark.parametrize("size", range(1, 12))
def test_11_a_marker_split_over_pieces_lets_no_reasoning_through(size: int) -> None:
    whole = "<think>\nthe user wants a boat . </think>\n\nFold the paper < twice >."
    pieces = [whole[i : i + size] for i in range(0, len(whole), size)]
    for known in (False, True):
        found, shown, no_answer = run(pieces, prompt_known=known)
        assert shown == "Fold the paper < twice >."
        assert found.reasoning == "the user wants a boat ."
        assert not no_answer


def test_11_an_unclosed_block_is_no_answer_and_never_shown() -> None:
    for pieces in (["<thi", "nk>secret", " words</thin"], ["<think>secret"], ["  <think>"]):
        _, shown, no_answer = run(pieces, prompt_known=True)
        assert (shown, no_answer) == ("", True)
    _, shown, no_answer = run(["secret ", "words"], opened=True, prompt_known=True)
    assert (shown, no_answer) == ("", True)


def test_11_a_template_that_opens_the_block() -> None:
    _, shown, no_answer = run(["plan ", "</th", "ink> do"], opened=True, prompt_known=True)
    assert (shown, no_answer) == ("do", False)
    _, shown, _ = run(["<thi", "nk>plan</think>do"], opened=True, prompt_known=True)
    assert shown == "do"


def test_a_prompt_nobody_saw_keeps_text_back_until_it_is_clear() -> None:
    blind = ReasoningFilter()
    assert blind.feed("plan of the template's own block ") == ""
    assert blind.feed("</think> do ") == "do"
    plain = ReasoningFilter()
    assert plain.feed("no block at all") == ""
    assert plain.close() == ("no block at all", False)
    cut = ReasoningFilter()
    cut.feed("who knows what <thi")
    assert cut.close(cut=True) == ("", True)
    assert cut.reasoning == "who knows what <thi"
    clear = ReasoningFilter()
    assert clear.feed("<think>a</think>b") == "b"  # it opened the block itself: what follows is clear


def test_a_plain_answer_streams_at_once() -> None:
    plain = ReasoningFilter(prompt_known=True)
    assert [plain.feed(piece) for piece in ("Take ", "a < b", " and", " <t", "o")] == [
        "Take",
        " a < b",
        " and",
        "",
        " <to",
    ]
    assert plain.close() == ("", False)


@pytest.mark.parametrize(
    ("opening", "inside"),
    [
        ("Sure, here is", False),
        ("<think> the user wants", True),
        ("<think></think> Sure", False),
        ("a <think> b </think> c <think>", True),
        ("", False),
    ],
)
def test_an_opening_of_the_answer_may_begin_a_block(opening: str, inside: bool) -> None:
    prompt = f"user : what does <think> mean assistant : {opening}"
    assert opens_reasoning(prompt, opening=opening) is inside
    # Where the template itself opens the block, an opening without markers stands inside it.
    assert opens_reasoning(f"assistant : <think>{opening}", opening=opening) is (
        inside or "</think>" not in opening
    )


def test_nothing_visible_is_no_answer() -> None:
    assert run([], prompt_known=True)[1:] == ("", True)
    assert run(["<think>a</think>  \n"], prompt_known=True)[1:] == ("", True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=30))
def test_pieces_of_tokens_are_the_text_of_all(tokens: list[int]) -> None:
    words = tiny.tokenizer(more=tiny.THINKING)
    piecewise = Detokenizer(words)
    text = "".join(piecewise.feed([token]) for token in tokens) + piecewise.close()
    assert text == words.decode(tokens, skip_special_tokens=False)


def test_characters_of_several_tokens_come_whole() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    bytewise = PreTrainedTokenizerFast(tokenizer_object=core)
    text = "naïve 折纸船 🛶 ok"
    tokens = bytewise(text)["input_ids"]
    piecewise = Detokenizer(bytewise)
    pieces = [piecewise.feed([token]) for token in tokens]
    assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces) + piecewise.close() == text
    torn = Detokenizer(bytewise)
    assert "".join(torn.feed([token]) for token in tokens[:3]) == "na"  # the ï is not whole yet
    assert torn.close() == "\ufffd"


def test_followed_answers_are_those_of_the_engine(tiny_folder: Path) -> None:
    model = load(tiny_folder, device="cpu", dtype="float32", batch_size=1)
    assert isinstance(model, HfModel)
    for how in (Decoding(max_new_tokens=9), Decoding(max_new_tokens=9, temperature=1.0, seed=4)):
        for row in tiny.rows(3):
            heard: list[int] = []
            found = model.follow(row.prompt, how, lambda tokens, heard=heard: heard.extend(tokens) or True)  # type: ignore[misc]
            assert found == model.generate([row.prompt], how)[0]
            assert len(heard) == found.tokens


def test_a_followed_answer_ends_when_nobody_listens(tiny_folder: Path) -> None:
    model = load(tiny_folder, device="cpu", dtype="float32")
    assert isinstance(model, HfModel)
    chat = tiny.rows(1)[0].prompt
    whole = model.follow(chat, Decoding(max_new_tokens=20), lambda _: True)
    count = itertools.count(1)
    found = model.follow(chat, Decoding(max_new_tokens=20), lambda _: next(count) < 3)
    assert 3 <= found.tokens <= 4 < whole.tokens  # versions look at the criterion before or after a token
    assert (found.stop, whole.raw.startswith(found.raw)) == ("length", True)
    long = ({"role": "user", "content": " ".join(tiny.WORDS * 4)},)
    assert model.follow(long, Decoding(max_new_tokens=20), lambda _: True).stop == "overlong"
