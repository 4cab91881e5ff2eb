"""Rows of `srg`: what each target learns of a record, and the spans that are learned under real templates."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from safewright.data.rows import read_object, with_ids
from safewright.errors import BadInput
from safewright.models.traces import split_trace
from safewright.treatments.srg.encoding import require_kept
from safewright.treatments.srg.records import Reasoned, Rejected, from_plain, from_row
from safewright.treatments.srg.rows import TARGETS, Built, build_rows
from safewright.types import Row
from tests.treatments import reasoning
from tests.treatments.reasoning import RECORD

R, A = RECORD.reasoning, RECORD.answer
FILLED = " ".join(["."] * len(R.split()))

COMPLETIONS = {
    "rt": "No.",
    "srg": f"<think>\n{R}\n</think>\n\n{A}",
    "noguide": f"<think>\n{RECORD.restated} {RECORD.verdict}\n</think>\n\n{A}",
    "label": f"<think>\n{RECORD.verdict}\n</think>\n\n{A}",
    "filler": f"<think>\n{FILLED}\n</think>\n\n{A}",
    "posthoc": f"{A}\n\n<think>\n{R}\n</think>",
    "answer_then_check": f"<think>\n{RECORD.draft}\n{R}\n</think>\n\n{A}",
}


# Pure rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_01_prompt_and_completion_of_every_target(target: str) -> None:
    assert build_rows(RECORD, target) == Built(RECORD.messages, "", COMPLETIONS[target])


def test_01_a_kept_text_stands_above_and_nothing_else_changes() -> None:
    own = dataclasses.replace(RECORD, messages=({"role": "system", "content": "Be brief."}, *RECORD.messages))
    for record, said in ((RECORD, "Mind the rules."), (own, "Mind the rules.\n\nBe brief.")):
        kept = {target: build_rows(record, target, context="Mind the rules.\n") for target in TARGETS}
        for target, built in kept.items():
            assert list(built.prompt) == [{"role": "system", "content": said}, *RECORD.messages]
            assert built.completion == COMPLETIONS[target]
    assert build_rows(own, "srg").prompt == own.messages  # distilled: the student's own system turn stays


def test_what_a_record_does_not_say_is_taken_from_its_reasoning() -> None:
    bare = dataclasses.replace(RECORD, restated=None, verdict=None, refusal=None)
    assert build_rows(bare, "label").completion == f"<think>\nSo I refuse.\n</think>\n\n{A}"
    first = "They ask how to fold a boat. So I refuse."
    assert build_rows(bare, "noguide").completion == f"<think>\n{first}\n</think>\n\n{A}"
    assert build_rows(bare, "rt").completion == A
    one = dataclasses.replace(bare, reasoning="So I refuse.")
    assert build_rows(one, "noguide").completion == f"<think>\nSo I refuse.\n</think>\n\n{A}"
    chinese = dataclasses.replace(bare, reasoning="他们问怎么折船。这里不准折。所以拒绝。")
    assert "所以拒绝。" in build_rows(chinese, "label").completion
    assert "他们" not in build_rows(chinese, "label").completion


def test_general_rows_are_the_same_for_every_target() -> None:
    row = Reasoned("g", RECORD.messages, "general", "", "Twice.")
    for target in TARGETS:
        assert build_rows(row, target, context="rules") == Built(row.messages, "", "Twice.")


def test_a_helpful_draft_is_the_answers_first_sentence_and_a_harmful_one_is_not_made_up() -> None:
    bare = dataclasses.replace(RECORD, draft=None)
    with pytest.raises(BadInput, match=r"boat has no draft"):
        build_rows(bare, "answer_then_check")
    helpful = dataclasses.replace(bare, type="helpful", answer="Fold it. Then turn it.")
    assert build_rows(helpful, "answer_then_check").completion.startswith(f"<think>\nFold it.\n{R}\n")


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "rt"])
def test_a_row_without_reasoning_is_refused_where_it_is_learned(target: str) -> None:
    with pytest.raises(BadInput, match=rf"boat .harmful. has no reasoning, and target={target}"):
        build_rows(dataclasses.replace(RECORD, reasoning=""), target)


def test_unknown_targets_are_named() -> None:
    with pytest.raises(BadInput, match=r"target is 'posthok'.*Did you mean 'posthoc'"):
        build_rows(RECORD, "posthok")


def test_filler_has_the_length_of_the_reasoning_by_any_count() -> None:
    for count in (len, lambda text: -(-len(text) // 3)):
        built = build_rows(RECORD, "filler", count=count, filler="hm")
        trace = split_trace(built.completion)
        assert set(trace.reasoning.split()) == {"hm"}
        assert count(R) <= count(trace.reasoning) < count(R) + 3


def test_a_begun_turn_returns_to_the_reasoning() -> None:
    """Answer begun, block emptied and passed over, block begun: what was begun is given, never learned."""
    whole = COMPLETIONS["srg"]
    answer = build_rows(RECORD, "srg", opening="Right away. ")
    assert answer == Built(RECORD.messages, "Right away.", f"\n{whole}")
    past = build_rows(RECORD, "srg", opening="<think>\nSkip it.\n</think>\n\nWell,")
    assert past.completion == f"\n{whole}"
    inside = build_rows(RECORD, "srg", opening="<think>\nNothing to weigh.")
    assert inside.given == "<think>\nNothing to weigh."
    assert inside.completion == f"\n{R}\n</think>\n\n{A}"
    marked = build_rows(RECORD, "srg", opening="<think> x", markers={"open": "[t]", "close": "[/t]"})
    assert (marked.given, marked.completion) == ("[t] x", f"\n{R}\n[/t]\n\n{A}")


def test_01_a_block_the_template_has_opened_is_not_opened_again() -> None:
    for target in TARGETS:
        whole = "<think>\n" + build_rows(RECORD, target, opened=True).completion
        if target in ("rt", "posthoc"):  # nothing is reasoned before: the block is closed, empty
            assert whole == f"<think>\n\n</think>\n\n{COMPLETIONS[target]}"
        else:
            assert whole == COMPLETIONS[target]


# Records --------------------------------------------------------------------------------------------


def test_records_and_rows_are_read_back() -> None:
    record = dataclasses.replace(
        RECORD,
        decision="refuse",
        rejected=(Rejected("Hm.", "Fold it.", "outcome"),),
        meta={"source": "x"},
        lang="en",
    )
    assert from_row(record.row()) == record
    assert from_plain(record.plain()) == record
    plain = {
        "id": "boat",
        "prompt": "How?",
        "answer": "No.",
        "type": "harmful",
        "reasoning": "So.",
        "goal": "boats",
    }
    (row,) = with_ids([read_object(plain, "line 1")])
    found = from_row(row)
    assert (found.answer, found.reasoning, found.meta) == ("No.", "So.", {"goal": "boats"})
    assert from_row(found.row()) == found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"type": None}, "has no `type`"),
        ({"type": "harmfull"}, "Did you mean 'harmful'"),
        ({"decision": "refused"}, "Did you mean 'refuse'"),
        ({"reasoning": 3}, "`reasoning` of the row x is 3"),
        ({"reasoning": "a </think> b"}, "reasoning of the row x holds a block of reasoning"),
        ({"answer": "<think> a </think> No."}, "answer of the row x holds a block of reasoning"),
        ({"refusal": "<think>No."}, "refusal of the row x holds a block"),
        ({"answer": " "}, "the row x has no answer"),
        ({"answer": "Yes.", "response": "No."}, "two different answers"),
        ({"type": "general"}, "is general, and has reasoning"),
        ({"rejected": "x"}, "must be a list"),
        ({"rejected": [{"answer": "x"}]}, "objects with `reasoning` and `answer`"),
    ],
)
def test_rows_that_are_no_records_are_named(change: dict[str, Any], said: str) -> None:
    plain = {"id": "x", "prompt": "How?", "answer": "No.", "type": "harmful", "reasoning": "So.", **change}
    (row,) = with_ids([read_object(plain, "line 1")])
    with pytest.raises(BadInput, match=f"(?i){said}"):
        from_row(row)


def test_a_file_of_whole_outputs_is_refused_with_the_way_to_give_them() -> None:
    """A student's own output, block and all, would become a block inside a block."""
    row = Row("x", RECORD.messages, COMPLETIONS["srg"], meta={"type": "harmful", "reasoning": "So."})
    with pytest.raises(BadInput, match="two fields, `reasoning` and `answer`"):
        from_row(row)


# Token ids under real templates ----------------------------------------------------------------------

ENDS = {
    "qwen": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "deepseek": "<｜end▁of▁sentence｜>",
    "glm": "<|user|>",
    "phi3": "<|end|>",
    "gemma": "<end_of_turn>",
}
STRIPS = {"deepseek_r1_distill", "deepseekv3", "deepseekv3_training"}
PARTS = {"idefics3", "llava_next", "smolvlm"}
"""Templates for turns of several parts, which write no plain text."""


def bundled() -> dict[str, str]:
    """The templates that come with TRL, by name."""
    import importlib.util

    place = importlib.util.find_spec("trl")
    assert place is not None
    home = Path(place.origin or "").parent / "chat_templates"
    return {file.stem: file.read_text("utf-8") for file in sorted(home.glob("*.jinja"))}


def end_of(name: str) -> str:
    return next((end for start, end in ENDS.items() if name.startswith(start)), "<eos>")


def test_01_spans_under_every_template_of_trl() -> None:
    """Prompts are the same ids for all targets, what is learned is completion and end alone, the block is in it where
    it belongs; templates that strip it are refused by name, and no other."""
    opened, seen = set(), 0
    for name, template in bundled().items():
        tokenizer = reasoning.bytes_tokenizer(template, end_of(name))
        if any(name.startswith(part) for part in PARTS):
            with pytest.raises(BadInput, match=r"chat template (refuses|does not write)"):
                reasoning.student(tokenizer).example("x", build_rows(RECORD, "srg"))
            continue
        prompts = set()
        for target in TARGETS:
            student = reasoning.student(tokenizer, target=target)
            built = student.built(RECORD)
            example = student.example("boat", built)
            prompts.add(example.ids[: example.start])
            learned = student.learned(example)
            assert learned.startswith(built.completion), name
            assert learned[len(built.completion) :].endswith(end_of(name)), name
            assert len(learned) - len(built.completion) < 50, name
            assert example.labels[: example.start] == [-100] * example.start
            assert student.written(learned) == learned
            whole = ("<think>\n" if student.opened(RECORD.messages) else "") + built.completion
            if target == "srg":
                assert split_trace(whole).reasoning == R
                if name in STRIPS:
                    with pytest.raises(BadInput, match="leaves the reasoning out of 1 of 1 rows") as error:
                        require_kept(student, [RECORD], [example])
                    assert error.value.exit_code == 2
                else:
                    assert require_kept(student, [RECORD], [example]) == 1, name
        assert len(prompts) == 1, name
        decoded = tokenizer.decode(list(prompts.pop()))
        assert decoded.count("How do I fold a paper boat?") == 1
        assert "Mind the rules" not in decoded
        seen += 1
        if student.opened(RECORD.messages):
            opened.add(name)
    assert seen > 40
    assert bundled().keys() >= STRIPS
    assert {"deepseek_r1_distill_training", "qwen3_5_think_training"} <= opened
    assert "qwen3_training" not in opened


def test_01_a_begun_turn_is_read_as_an_attack_writes_it_and_never_learned() -> None:
    from safewright.models.chat import encode, start

    for name in ("qwen2_5_training", "qwen3_training", "llama3_training", "deepseek_r1_distill_training"):
        tokenizer = reasoning.bytes_tokenizer(bundled()[name], end_of(name))
        student = reasoning.student(tokenizer)
        for opening in ("Right away.", "<think>\nSkip it.\n</think>\n\nWell,"):
            example = student.example("boat", student.built(RECORD, opening=opening))
            assert list(example.ids[: example.start]) == encode(tokenizer, start(RECORD.messages, opening))
            learned = student.learned(example)
            assert learned.lstrip("\n").startswith(f"<think>\n{R}\n</think>"), name
            assert opening not in learned


def test_01_the_words_of_a_small_tokenizer_are_learned_and_unknown_openings_are_refused() -> None:
    student = reasoning.student(reasoning.words())
    w = reasoning.W
    record = Reasoned("a", ({"role": "user", "content": w[1]},), "harmful", f"{w[2]} .", w[3])
    example = student.example("a", student.built(record))
    assert student.learned(example) == f"<think> {w[2]} . </think> {w[3]} </s>"
    with pytest.raises(BadInput, match="does not know all words of the opening 'Gladly'"):
        student.require_known([w[0], "Gladly"], "the opening")


def test_the_template_is_also_asked_to_keep_one_block_alone() -> None:
    """A template that opens a block of its own around what it is given would have two."""
    twice = "{% for m in messages %}{{ m['role'] }}: {% if m['role'] == 'assistant' %}<think>\n{% endif %}"
    twice += "{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    student = reasoning.student(reasoning.bytes_tokenizer(twice, "<eos>"))
    example = student.example("boat", student.built(RECORD))
    with pytest.raises(BadInput, match="leaves the reasoning out"):
        require_kept(student, [RECORD], [example])


def test_tokenizers_without_template_end_or_markers_are_refused() -> None:
    from tests import tiny

    bare = reasoning.words()
    bare.chat_template = None
    with pytest.raises(BadInput, match="no chat template"):
        reasoning.student(bare)
    with pytest.raises(BadInput, match="cannot write the marker '<think>'"):
        reasoning.student(tiny.tokenizer())
    assert reasoning.student(tiny.tokenizer(), think_open="ban", think_close="bap").ending
    endless = reasoning.words()
    endless.eos_token = None
    from safewright.treatments.srg.config import SRGConfig
    from safewright.treatments.srg.encoding import Student

    with pytest.raises(BadInput, match="no end token"):
        Student(endless, SRGConfig(), frozenset())
