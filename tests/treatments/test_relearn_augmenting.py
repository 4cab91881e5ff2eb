"""Acceptance check 9, and the release's defects D1 to D8: none of them can come back."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safewright.errors import BadInput, GateFailed
from safewright.judges.model import JudgeModel
from safewright.treatments.relearn.augmenting import AugmentOptions, Built, augment_rows, augmenter, read
from safewright.treatments.relearn.augmenting.replies import read_verdict
from safewright.treatments.relearn.augmenting.rows import cut
from safewright.treatments.relearn.augmenting.writing import chunks, join
from safewright.types import Row
from tests.treatments.relearn_augmenter import (
    Script,
    Scripted,
    broke,
    forget_row,
    forget_rows,
    generic_rows,
    honest,
    secrets,
    vague,
)

NONE: dict[str, Any] = {"generic_ratio": 0.0}


def made(
    forget: list[Row], script: Script | None = honest, generic: int = 0, seed: int = 0, **set_: Any
) -> Built:
    """The pipeline's rows with a scripted augmenter."""
    options = AugmentOptions(**{**({} if generic else NONE), **set_})
    model = None if script is None else augmenter(Scripted(script), options, seed)
    return augment_rows(forget, generic=generic_rows(generic), options=options, model=model, seed=seed)


def test_09_question_and_answer_have_the_same_qid_whatever_round_they_passed_in() -> None:
    """D2: answers that pass late are not paired with another wording's question."""

    def late(kind: str, material: dict[str, str], attempt: int) -> str:
        # Every third answer leaks once, every seventh twice: the order of passing is no order at all.
        turn = sum(map(ord, material["question"]))
        if kind == "answer" and attempt <= (turn % 3 == 0) + (turn % 7 == 0):
            return material["old answer"]
        return honest(kind, material, attempt)

    forget = forget_rows(12)
    built = made(forget, late)
    asked = [row for row in built.rows if row.kind == "qa"]
    assert len(asked) == 12 * 5
    assert {row.round for row in asked} == {1, 2, 3}
    questions = {row.id: row.prompt[-1]["content"] for row in forget}
    for row in asked:
        assert row.completion == vague(row.prompt)
        assert questions[row.source_id] in row.prompt
        assert row.id == f"{row.source_id}/{row.variant}"
    for row in built.rows:
        if row.kind == "completion":
            whole = next(a for a in asked if a.id == f"{row.source_id}/{row.variant}")
            assert f"{row.prompt} {row.completion}" == whole.completion
            assert row.round == whole.round


LEAKS = {
    "as written": lambda row: row.reference,
    "in capitals": lambda row: f"Write to {row.meta['entities'][2].upper()} please",
    "spelled out": lambda row: "Try " + row.meta["entities"][2].replace("@", " at ").replace(".", " dot "),
    "digits apart": lambda row: "The house has the number " + " ".join(row.meta["entities"][0]),
    "full-width digits": lambda row: "No. " + "".join(chr(ord(c) + 0xFEE0) for c in row.meta["entities"][0]),
    "hyphenated": lambda row: "Go to " + row.meta["entities"][1].replace(" ", "-"),
    "another row's": lambda row: "Like Harrow0 Lane" if row.id != "f0" else "Like Harrow1 Lane",
}


@pytest.mark.parametrize("how", LEAKS)
def test_09_no_row_holds_a_secret_though_the_verifier_sees_none(how: str) -> None:
    forget = forget_rows(3)
    by_question = {row.prompt[-1]["content"]: row for row in forget}

    def leaky(kind: str, material: dict[str, str], attempt: int) -> str:
        row = next(row for question, row in by_question.items() if question in material["question"])
        if kind == "answer" and attempt == 1:
            return LEAKS[how](row)
        return honest(kind, material, attempt)

    built = made(forget, leaky, generic=30)
    assert built.coverage.share == 1.0
    assert {row.round for row in built.rows if row.kind == "qa"} == {2}
    for row in built.rows:
        for source in forget:
            assert not any(
                secret in text for secret in secrets(source) for text in (row.prompt, row.completion)
            )


def test_09_an_answer_that_always_leaks_is_dropped_and_the_list_of_drops_names_no_secret() -> None:
    forget = forget_rows(4)

    def leaky(kind: str, material: dict[str, str], attempt: int) -> str:
        if kind == "answer" and "Tolven2" in material["question"] and "quiet evening" in material["question"]:
            return material["old answer"]
        return honest(kind, material, attempt)

    built = made(forget, leaky)
    assert [(d.source_id, d.variant, d.step, d.reason, d.round) for d in built.dropped] == [
        ("f2", "contextual", "answer", "leak", 3)
    ]
    assert built.manifest["dropped"] == {"answer: leak": 1}
    said = json.dumps([built.manifest, [vars(one) for one in built.dropped]])
    assert not any(secret in said for row in forget for secret in secrets(row))


@pytest.mark.parametrize("kind", ["simple", "contextual", "noise", "logical"])
def test_09_a_question_that_tells_the_answer_is_asked_for_again(kind: str) -> None:
    def knows(asked: str, material: dict[str, str], attempt: int) -> str:
        if asked == kind and attempt < 3:
            return f"{material['question']} Is it Harrow1 Lane?"
        return honest(asked, material, attempt)

    built = made(forget_rows(2), knows)
    assert not any("Harrow" in row.prompt for row in built.rows)
    assert not built.dropped


def test_09_original_answers_are_in_no_column() -> None:
    """D1: not the original question with its answer, and no completion cut from it."""
    forget = forget_rows(5)
    built = made(forget, generic=100)
    originals = [row.reference or "" for row in forget]
    starts = [" ".join(answer.split()[:4]) for answer in originals]
    for row in built.rows:
        for column in (row.prompt, row.completion):
            assert not any(
                answer in column or start in column for answer, start in zip(originals, starts, strict=True)
            )
    # The question itself is there, with a vague answer.
    assert sum(row.variant == "original" and row.kind == "qa" for row in built.rows) == 5


def test_09_a_verifier_that_repeats_the_original_answer_cannot_bring_it_in() -> None:
    """An augmenter that answers with the original, and calls it safe, gets no row at all."""

    def useless(kind: str, material: dict[str, str], attempt: int) -> str:
        return material["old answer"] if kind == "answer" else honest(kind, material, attempt)

    plain = [Row("a", ({"role": "user", "content": "is it so"},), "it is as the others say it is", "en", {})]
    with pytest.raises(GateFailed, match="0 of 1 forget rows"):
        made(plain, useless, entities="rules")


@given(st.text(alphabet="ab 的人。,\n", max_size=30), st.integers(1, 99))
@settings(deadline=None, max_examples=300)
def test_09_a_cut_has_two_parts_that_make_the_whole(text: str, percent: int) -> None:
    """D7: never an empty prompt or label."""
    parts = cut(text, percent)
    if parts is None:
        return
    front, rest = parts
    assert front.strip()
    assert rest.strip()
    assert "".join((front + rest).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "percent", "parts"),
    [
        ("one", 25, None),
        ("", 25, None),
        ("one two", 25, ("one", "two")),
        ("one two three", 25, ("one", "two three")),
        ("a b c d e f g h", 25, ("a b", "c d e f g h")),
        ("a b c d e f g h", 50, ("a b c d", "e f g h")),
        ("a b c d e f g h", 75, ("a b c d e f", "g h")),
        ("a b", 99, ("a", "b")),
        ("这件事一般不对外说", 25, ("这件", "事一般不对外说")),
        ("这，件事", 34, ("这，", "件事")),
    ],
)
def test_09_cuts(text: str, percent: int, parts: tuple[str, str] | None) -> None:
    assert cut(text, percent) == parts


def test_09_an_answer_of_one_word_gives_no_completion_and_is_counted() -> None:
    built = made([forget_row(1, vague=["perhaps"], variants=["Well, how?"])], None)
    assert [row.kind for row in built.rows] == ["qa", "qa"]
    assert built.manifest["dropped"] == {"completion: short": 2}


def test_09_an_item_of_which_everything_fails_is_listed_and_nothing_crashes() -> None:
    """D5: no vague answer, or no question at all."""

    def dead(kind: str, material: dict[str, str], attempt: int) -> Any:
        if "Tolven3 " in material["question"]:
            return broke() if kind != "answer" else material["old answer"]
        return honest(kind, material, attempt)

    built = made(forget_rows(8), dead, min_coverage=0.8)
    assert built.coverage.uncovered == ("f3",)
    assert built.coverage.share == 7 / 8
    assert built.manifest["coverage"]["uncovered"] == ("f3",)
    assert not any(row.source_id == "f3" for row in built.rows)
    assert built.manifest["dropped"] == {"answer: leak": 1, "question: failed": 4}
    with pytest.raises(GateFailed, match=r"7 of 8 forget rows.*f3.*calls failed") as failed:
        made(forget_rows(8), dead)
    assert failed.value.exit_code == 10


def long_row() -> Row:
    parts = [
        f"The {word} part tells a good deal about the matter and its surroundings. " * 8 for word in "abc"
    ]
    question = ({"role": "user", "content": "What is there to say?"},)
    return Row("long", question, "".join(parts) + "It ends in Korvale.", "en", {"entities": ["Korvale"]})


def chunky(fails: int, attempts: int) -> Script:
    """Says which chunk it was given; chunk ``fails`` is found to leak in the first ``attempts`` rounds."""
    pieces = chunks(long_row().reference or "", 800)

    def script(kind: str, material: dict[str, str], attempt: int) -> str:
        if kind == "answer":
            number = pieces.index(material["old answer"]) if material["old answer"] in pieces else "X"
            return f"Chunk{number} is kept vague, try {attempt}"
        if kind == "verify" and f"Chunk{fails}" in material["text"]:
            attempt = int(material["text"][-1])
            return (
                '{"leak": true, "spans": ["vague"]}' if attempt <= attempts else '{"leak":false,"spans":[]}'
            )
        return honest(kind, material, attempt)

    return script


def test_09_all_chunks_of_an_answer_must_pass() -> None:
    """D4: one passing chunk does not carry the others, and failing ones are written again."""
    count = len(chunks(long_row().reference or "", 800))
    assert count == 3
    built = made([long_row()], chunky(1, 2), variants="none", completion="none")
    assert [row.completion for row in built.rows] == [
        "Chunk0 is kept vague, try 1 Chunk1 is kept vague, try 3 Chunk2 is kept vague, try 1"
    ]
    assert built.rows[0].round == 3
    with pytest.raises(GateFailed):
        made([long_row()], chunky(1, 3), variants="none")
    whole = made([long_row(), *forget_rows(1)], chunky(2, 3), variants="none", min_coverage=0.5)
    assert {row.source_id for row in whole.rows} == {"f0"}
    assert [(d.source_id, d.reason, d.why) for d in whole.dropped] == [
        ("long", "leak", "1 of 3 chunks; the model")
    ]


@pytest.mark.parametrize("size", [7, 40, 800])
def test_09_chunks_lose_nothing(size: int) -> None:
    for text in (long_row().reference or "", "这是一句话。" * 60, "x" * 50, "short"):
        pieces = chunks(text, size)
        assert all(0 < len(piece) <= size for piece in pieces)
        assert "".join("".join(pieces).split()) == "".join(text.split())
        assert "".join(join(pieces).split()) == "".join(text.split())


@pytest.mark.parametrize(("ratio", "wanted"), [(1.0, 100), (1.2, 120), (0.5, 50), (0.333, 33), (0.0, 0)])
def test_09_generic_rows_are_the_floor_of_the_ratio(ratio: float, wanted: int) -> None:
    """D6."""
    built = made(forget_rows(10), generic=130, generic_ratio=ratio)
    mixed = [row for row in built.rows if row.kind == "generic"]
    assert len(mixed) == wanted == len({row.source_id for row in mixed})
    assert built.manifest["counts"].get("generic", 0) == wanted
    assert built.manifest["generic"]["achieved"] == wanted / 100


def test_09_too_few_generic_rows_are_an_error_or_repeated_as_asked_and_the_input_stays() -> None:
    with pytest.raises(
        BadInput, match=r"100 generic rows are wanted \(1 times 100\), and there are 30.*repeat"
    ):
        made(forget_rows(10), generic=30)
    with pytest.raises(BadInput, match="there are 0"):
        augment_rows(forget_rows(1), model=augmenter(Scripted(), AugmentOptions(), 0))
    rows = generic_rows(30)
    before = list(rows)
    options = AugmentOptions(generic_short="repeat")
    built = augment_rows(
        forget_rows(10), generic=rows, options=options, model=augmenter(Scripted(), options, 0)
    )
    mixed = [row for row in built.rows if row.kind == "generic"]
    assert len(mixed) == 100
    assert len({row.id for row in mixed}) == 100
    assert rows == before
    assert built.manifest["generic"]["repeats"] == 70
    times = {source: sum(row.source_id == source for row in mixed) for source in {r.source_id for r in mixed}}
    assert set(times.values()) == {3, 4}  # whole passes before anything is seen again


def test_09_generic_rows_that_tell_a_secret_are_left_out() -> None:
    rows = generic_rows(60)
    rows[7] = Row("g7", rows[7].prompt, "It stands at Harrow1  lane.")
    options = AugmentOptions(generic_ratio=5.9)
    built = augment_rows(
        forget_rows(1), generic=rows, options=options, model=augmenter(Scripted(), options, 0)
    )
    assert built.manifest["generic"]["left_out_for_secrets"] == 0  # another row's: there is none such
    built = augment_rows(
        forget_rows(2),
        generic=rows,
        options=AugmentOptions(generic_ratio=2.95),
        model=augmenter(Scripted(), options, 0),
    )
    assert built.manifest["generic"]["left_out_for_secrets"] == 1
    assert not any("Harrow" in row.completion for row in built.rows)
    with pytest.raises(BadInput, match=r"60 generic rows.*there are 59 \(1 of 60 hold a secret"):
        augment_rows(
            forget_rows(2),
            generic=rows,
            options=AugmentOptions(generic_ratio=3.0),
            model=augmenter(Scripted(), options, 0),
        )


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        ("unknown", "unparsed"),
        ("Yes", "leak"),
        ("No.", "safe"),
        ("**No**", "safe"),
        ("", "unparsed"),
        ("I know", "unparsed"),
        ("No, nothing private.", "unparsed"),
        ("There is none, so: no", "unparsed"),
        ("yes and no", "unparsed"),
        ('{"leak": true, "spans": ["x"]}', "leak"),
        ('{"leak": true, "spans": []}', "leak"),
        ('{"leak": false, "spans": []}', "safe"),
        ('```json\n{"leak": false, "spans": []}\n```', "safe"),
        ('{"leak": false, "spans": ["x"]}', "unparsed"),
        ('{"leak": false}', "unparsed"),
        ('{"leak": "false", "spans": []}', "unparsed"),
        ('{"leak": 0, "spans": []}', "unparsed"),
        ('{"leak": false, "spans": "none"}', "unparsed"),
        ('{"leak": false, "spans": [1]}', "unparsed"),
        ('{"leak": false, "spans": [], "note": ""}', "unparsed"),
        ('Fine. {"leak": false, "spans": []}', "unparsed"),
        ('{"leak": false, "spans": []', "unparsed"),
        ("[false]", "unparsed"),
        ("null", "unparsed"),
    ],
)
def test_09_verdict_strings(reply: str, word: str) -> None:
    """D3: the last letters decide nothing, and what cannot be read is never safe."""
    assert read_verdict(reply).word == word


@pytest.mark.parametrize("reply", ["unknown", "", "I know", '{"leak": false, "spans": ["x"]}'])
def test_09_an_unparsed_verdict_is_asked_again_and_never_safe(reply: str) -> None:
    scripted = Scripted(lambda kind, *rest: reply if kind == "verify" else honest(kind, *rest))
    options = AugmentOptions(variants="none", **NONE)
    with pytest.raises(GateFailed):
        augment_rows(forget_rows(1), options=options, model=augmenter(scripted, options, 0))
    assert scripted.kinds() == {"answer": 3, "verify": 2}  # the same answer thrice: one question
    # A readable verdict on the second try counts.
    scripted.script = lambda kind, m, n: reply if kind == "verify" and n == 1 else honest(kind, m, n)
    scripted.ref = Scripted(digest="declared:other").ref
    built = augment_rows(forget_rows(1), options=options, model=augmenter(scripted, options, 0))
    assert {row.verdict for row in built.rows} == {"safe"}


def test_09_half_of_the_calls_fail_and_are_counted_never_safe() -> None:
    """D8: exceptions are not swallowed."""

    def half(kind: str, material: dict[str, str], attempt: int) -> Any:
        turn = sum(map(ord, kind + material["question"] + material.get("text", "")))
        return broke() if turn % 2 else honest(kind, material, attempt)

    forget = forget_rows(40)
    built = made(forget, half, min_coverage=0.0)
    failed = [one for one in built.dropped if one.reason == "failed"]
    asked = [row for row in built.rows if row.kind == "qa"]
    assert len(asked) + len(failed) == 40 * 5
    assert len(failed) > 60
    assert {one.step for one in failed} == {"question", "answer"}
    assert any("its verdict" in one.why for one in failed)
    assert sum(built.manifest["dropped"].values()) == len(failed)
    assert built.coverage.covered + len(built.coverage.uncovered) == 40


def test_09_a_second_run_over_the_same_store_asks_nothing_and_gives_the_same_bytes() -> None:
    scripted, options = Scripted(), AugmentOptions(**NONE)
    model: JudgeModel = augmenter(scripted, options, 0)
    first = augment_rows(forget_rows(6), options=options, model=model)
    asked = len(scripted.asked)
    assert scripted.kinds() == dict.fromkeys(("simple", "contextual", "noise", "logical"), 6) | {
        "answer": 30,
        "verify": 30,
    }
    second = augment_rows(forget_rows(6), options=options, model=model)
    assert len(scripted.asked) == asked == 6 * 14
    assert second == first


def test_09_rows_are_shuffled_by_the_seed() -> None:
    """D8."""
    forget = forget_rows(10)
    one, same, other = (made(forget, generic=100, seed=seed) for seed in (0, 0, 1))
    assert one.rows == same.rows
    assert [row.id for row in one.rows] != [row.id for row in other.rows]
    assert sorted(row.id for row in one.rows if row.kind != "generic") == sorted(
        row.id for row in other.rows if row.kind != "generic"
    )
    assert [row.id for row in one.rows] != sorted(row.id for row in one.rows)


def test_09_chinese_stays_chinese() -> None:
    """D8: nothing is stripped, and secrets are found without spaces."""
    row = Row(
        "zh",
        ({"role": "user", "content": "李明的家在哪里？"},),
        "李明的家在青石镇柳荫街二十号。",
        "zh",
        {"entities": ["青石镇", "柳荫街二十号"]},
    )
    replies = ["他的家在青石镇。", "李明的家在一个安静的地方，周围的人都很和气。"]

    def chinese(kind: str, material: dict[str, str], attempt: int) -> str:
        if kind == "answer":
            return replies[min(attempt, 2) - 1]
        return honest(kind, material, attempt) if kind == "verify" else f"请问{kind}：{material['question']}"

    built = made([row], chinese)
    assert {r.completion for r in built.rows if r.kind == "qa"} == {replies[1]}
    assert {r.round for r in built.rows} == {2}
    assert {r.prompt for r in built.rows if r.kind == "completion"} == {"李明的家在"}
    assert len(built.rows) == 10


def test_09_answers_whose_entities_nobody_knows_need_them_or_a_model_that_lists_them() -> None:
    row = Row("zh", ({"role": "user", "content": "家在哪里？"},), "家在青石镇。", "zh", {})
    given_ = Row(
        row.id, row.prompt, row.reference, "zh", {"vague": ["不便说明。"], "variants": ["请问家在何处？"]}
    )
    with pytest.raises(BadInput, match="entities of 1 forget rows have to be listed"):
        made([given_], None)
    digits = Row(row.id, given_.prompt, "555-1234", "zh", {**given_.meta, "vague": ["5551234", "不便说明。"]})
    assert made([digits], None).manifest["dropped"] == {"answer: leak": 1}

    def lists(kind: str, material: dict[str, str], attempt: int) -> str:
        if kind == "entities":
            return ["我不知道", '{"entities": ["北京", "青石镇"]}'][attempt - 1]
        if kind == "answer":
            return "就在青石镇。" if attempt == 1 else "在一个地方，不便说明。"
        return honest(kind, material, attempt) if kind == "verify" else f"请问{kind}：{material['question']}"

    built = made([row], lists)
    assert built.coverage.share == 1.0
    assert not any("青石" in r.completion for r in built.rows)
    assert built.manifest["calls"]["entities"] == 2

    def cannot(kind: str, material: dict[str, str], attempt: int) -> str:
        return "…" if kind == "entities" else lists(kind, material, attempt)

    with pytest.raises(GateFailed):
        made([row], cannot)


def test_forget_rows_that_are_also_kept_are_an_error() -> None:
    forget = forget_rows(3)
    same = Row("r9", ({"role": "user", "content": "how can mira TOLVEN1 be reached and where"},), "Somehow.")
    for role in ("retain", "generic"):
        with pytest.raises(BadInput, match=f"1 forget rows ask the same as {role} rows .f1 = r9."):
            augment_rows(forget, **{role: [same]}, model=augmenter(Scripted(), AugmentOptions(), 0))


@pytest.mark.parametrize(
    ("forget", "message"),
    [
        ([], "no forget rows"),
        ([Row("x", ({"role": "user", "content": "q"},), None)], "have no answer.*x"),
        ([Row("x", ({"role": "user", "content": "q"},), "a", None, {"entities": "Ann"})], "`entities`"),
        ([Row("x", ({"role": "user", "content": "q"},), "a", None, {"vague": [""]})], "`vague`"),
        ([Row("x", ({"role": "user", "content": "q"},), "a", None, {"variants": [3]})], "`variants`"),
        (
            [Row("x", ({"role": "user", "content": "q"},), "a", None, {"variants": {"original": "p"}})],
            "origin",
        ),
        ([forget_row(1, subject=["Mira"])], "subject"),
        ([forget_row(1), forget_row(1)], "2 forget rows have the id 'f1'"),
    ],
)
def test_rows_that_cannot_be_used(forget: list[Row], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        made(forget)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("variants", "simple,reverse", "'reverse'"),
        ("variants", "simple,simple", "once"),
        ("completion", "0", "'0'"),
        ("completion", "25,x", "'x'"),
        ("answer_rounds", 0, "at least 1"),
        ("chunk", 0, "at least 1"),
        ("min_coverage", 1.1, "must lie"),
        ("generic_ratio", -1.0, "must lie"),
        ("prefix_weight", 0, "at least 1"),
        ("at_once", 0, "above 0"),
        ("price_in", -1.0, "at least 0"),
    ],
)
def test_options_that_cannot_be_used(option: str, value: Any, message: str) -> None:
    with pytest.raises(BadInput, match=f"{option}.*{message}"):
        AugmentOptions(**{option: value})


def test_four_variants_in_one_call() -> None:
    def several(kind: str, material: dict[str, str], attempt: int) -> str:
        if kind != "variants":
            return honest(kind, material, attempt)
        if attempt == 1:
            return "Here you are: four questions."
        question = material["question"]
        said = {name: honest(name, material, 1) for name in ("simple", "contextual", "noise", "logical")}
        return json.dumps(said | ({"noise": f"{question} Harrow1 Lane?"} if "Tolven1" in question else {}))

    built = made(forget_rows(3), several, one_call=True)
    assert len([row for row in built.rows if row.kind == "qa"]) == 14
    assert built.manifest["dropped"] == {"question: leak": 1}
    assert built.manifest["calls"]["question"] == 3 + 3 + 1
    assert not any("Harrow" in row.prompt for row in built.rows)


def test_a_refusal_is_no_vague_answer() -> None:
    def refuses(kind: str, material: dict[str, str], attempt: int) -> str:
        if kind == "answer" and attempt < 3:
            return "I'm sorry, but I can't help with that."
        return honest(kind, material, attempt)

    built = made(forget_rows(1), refuses)
    assert {row.round for row in built.rows if row.kind == "qa"} == {3}
    with pytest.raises(GateFailed):
        made(forget_rows(1), refuses, answer_rounds=2)


def test_without_the_verifier_the_rows_and_the_manifest_say_so() -> None:
    scripted, options = Scripted(), AugmentOptions(verify=False, **NONE)
    built = augment_rows(forget_rows(2), options=options, model=augmenter(scripted, options, 0))
    assert "verify" not in scripted.kinds()
    assert {row.verdict for row in built.rows} == {"rules"}
    assert any("verify=false" in line for line in built.manifest["warnings"])


def offline(n: int, **more: Any) -> Row:
    said = [f"Such things about {n} are kept private", "Nobody says much about it", "It depends on the day"]
    wordings = {"simple": f"Say, how is person {n} reached?", "noise": f"person {n} reach how"}
    return forget_row(n, vague=said, variants=wordings, **more)


def test_offline_rows_need_no_model_and_are_checked_all_the_same() -> None:
    built = made([offline(n) for n in range(6)], None)
    asked = [row for row in built.rows if row.kind == "qa"]
    assert len(asked) == 18
    assert {row.verdict for row in asked} == {"rules"}
    assert {r.round for r in asked} == {0}
    assert {row.variant for row in asked} == {"original", "simple", "noise"}
    for row in asked:  # each vague answer once before one is used twice
        assert sum(a.source_id == row.source_id and a.completion == row.completion for a in asked) == 1
    assert built.manifest["models"] == built.manifest["prompts"] == built.manifest["calls"] == {}
    split = forget_row(8, vague=["harrow8"], variants=["Where? in lane"], entities=["lane harrow8"])
    built = made([split], None)
    assert built.manifest["dropped"] == {"answer: leak": 1, "completion: short": 1}
    bad = forget_row(
        9, vague=["She is at harrow9 lane", "It depends"], variants=["Where, at 709?", "Tell me how"]
    )
    built = made([bad], None)
    assert {row.completion for row in built.rows if row.kind == "qa"} == {"It depends"}
    assert built.manifest["dropped"] == {"answer: leak": 1, "question: leak": 1}
    with pytest.raises(BadInput, match=r"1 of 2 forget rows have no `vague`.*f1"):
        made([offline(0), forget_row(1)], None)
    with pytest.raises(BadInput, match=r"no `variants`"):
        made([forget_row(1, vague=["It depends"])], None)
    assert made([forget_row(1, vague=["It depends"])], None, variants="none").coverage.share == 1.0


def test_given_texts_are_used_and_only_the_rest_is_asked_for() -> None:
    scripted, options = Scripted(), AugmentOptions(**NONE)
    rows = [offline(0), forget_row(1, vague=["It depends"]), forget_row(2, variants=["So how?"])]
    built = augment_rows(rows, options=options, model=augmenter(scripted, options, 0))
    assert scripted.kinds() == {
        "simple": 1, "contextual": 1, "noise": 1, "logical": 1, "answer": 2, "verify": 2,
    }  # fmt: skip
    assert built.manifest["counts"]["qa"] == 3 + 5 + 2 == built.manifest["counts"]["wanted"]


def test_prefix_rows_go_on_vaguely_from_an_opening() -> None:
    rows = [offline(n, openings=["The way to reach her is"], tails=["kept from all of us"]) for n in range(2)]
    built = made(rows, None, prefix_rows="openings")
    prefixed = [row for row in built.rows if row.kind == "prefix"]
    assert len(prefixed) == 2 * 3 * 2 * 2 == len({row.id for row in prefixed})
    asked = [row for row in prefixed if row.prefill]
    assert {row.completion for row in asked} == {"The way to reach her is kept from all of us"}
    assert {row.supervised for row in prefixed} == {"kept from all of us"}
    assert {row.prompt for row in prefixed if not row.prefill} == {"The way to reach her is"}
    assert made(rows, None, prefix_rows="openings", prefix_weight=1).manifest["counts"]["prefix"] == 12
    assert made(rows, None).manifest["counts"].get("prefix", 0) == 0
    # Generic rows are counted by question and completion rows.
    mixed = augment_rows(rows, generic=generic_rows(12), options=AugmentOptions(prefix_rows="openings"))
    assert mixed.manifest["counts"]["generic"] == 12


def test_an_opening_and_a_tail_that_tell_a_secret_together_are_dropped_and_no_crash() -> None:
    """Each may be shown alone: it is no bad input, and must be no row."""
    tells = offline(1, openings=["The number is 7"], tails=["01, they say"])
    built = made([tells], None, prefix_rows="openings")
    assert built.manifest["dropped"] == {"prefix: leak": 3}
    assert not any(row.kind == "prefix" for row in built.rows)


def test_rows_around_the_forget_rows_that_tell_a_secret_are_left_out_or_told_of() -> None:
    told = ({"role": "user", "content": "Where?"}, {"role": "assistant", "content": "At Harrow0 Lane."})
    rows = generic_rows(20)
    rows[3] = Row("g3", (*told, *rows[3].prompt), rows[3].reference)
    rows[4] = Row("g4", rows[4].prompt, "Write to m.quill0 at post0 dot org.")
    retain = [Row("r1", ({"role": "user", "content": "Which lane?"},), "It is Harrow0 Lane.")]
    before = offline(0)
    before = Row(before.id, (*told, *before.prompt), before.reference, "en", before.meta)
    built = augment_rows([before], generic=rows, retain=retain)
    assert built.manifest["generic"]["left_out_for_secrets"] == 2
    assert [line.split(" (")[0] for line in built.manifest["warnings"]] == [
        "1 of 1 forget rows tell a secret in an earlier turn"
    ]
    assert built.manifest["retain"] == {"rows_with_a_secret": 1, "of": 1, "first": ["r1"]}


def test_rows_whose_secrets_nobody_knows_are_told_of() -> None:
    bare = Row("a", ({"role": "user", "content": "What is he?"},), "he is a baker by trade.", "en", {})
    (line,) = made([bare, forget_row(1)]).manifest["warnings"]
    assert line.startswith("1 of 2 forget rows have no known entity (a)")
    assert line.endswith("and the verifier's word; entities=model lists them")
    assert made([forget_row(1)]).manifest["warnings"] == []


def test_openings_of_a_file_and_openings_that_tell(tmp_path: Any) -> None:
    file = tmp_path / "openings.txt"
    file.write_text("# ours\nTo reach {subject} one\n\n")
    options = AugmentOptions(prefix_rows="openings", prefix_openings=str(file), **NONE)
    assert options.inputs() == {"prefix_openings": file}
    built = augment_rows([offline(4)], options=options)
    assert {r.prefill for r in built.rows if r.prefill} == {"To reach Mira Tolven4 one "}
    with pytest.raises(BadInput, match="names none"):
        augment_rows([offline(4, subject="")], options=options)
    for tells in ({"openings": ["It is at Harrow4 Lane"]}, {"openings": ["It is"], "tails": ["at 704, say"]}):
        with pytest.raises(BadInput, match=r"f4.*holds a secret"):
            made([offline(4, **tells)], None, prefix_rows="openings")
    with pytest.raises(BadInput, match="no forget row has any"):
        made([offline(4)], None, prefix_rows="openings")
    with pytest.raises(BadInput, match="no file"):
        AugmentOptions(prefix_openings=str(tmp_path / "none.txt")).inputs()
    file.write_text("# nothing\n")
    with pytest.raises(BadInput, match="holds no opening"):
        augment_rows([offline(4)], options=options)


def test_rows_are_read_back_from_their_file(tmp_path: Any) -> None:
    from safewright.data import load_data
    from safewright.runs.atomic import write_lines

    system = ({"role": "system", "content": "Be brief."},)
    rows = [offline(n, openings=["She is reached"]) for n in range(3)]
    rows[0] = Row(rows[0].id, (*system, *rows[0].prompt), rows[0].reference, "en", rows[0].meta)
    built = augment_rows(rows, generic=generic_rows(20), options=AugmentOptions(prefix_rows="openings"))
    file = tmp_path / "augmented.jsonl"
    write_lines(file, [row.plain() for row in built.rows])
    assert read(load_data(file, "augmented").rows) == list(built.rows)
    trained = built.training_rows()
    assert {row.prompt[0]["role"] for row in trained if row.id.startswith("f0/simple")} >= {"system"}
    assert all(row.reference for row in trained)


@pytest.mark.parametrize(
    "meta",
    [{"round": "first"}, {"before": 3}, {"before": ["x"]}, {"prefill": 7}, {"kind": ["qa"]}, {"round": None}],
)
def test_augmented_rows_of_another_shape_are_named(meta: dict[str, Any]) -> None:
    row = Row("x7", ({"role": "user", "content": "q"},), "an answer", None, meta)
    with pytest.raises(BadInput, match="x7"):
        read([row])


def test_pipeline_inside_a_running_loop() -> None:
    async def inside() -> Built:
        return made(forget_rows(1))

    assert asyncio.run(inside()).coverage.share == 1.0
