"""Formats, ids and the round trip through a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safewright.data import load_rows, rows_digest, write_rows
from safewright.data.rows import read_object, with_ids
from safewright.errors import BadInput
from safewright.types import Row


def read(obj: Any, **kwargs: Any) -> Row:
    return read_object(obj, "f.jsonl, line 1", **kwargs).row


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_prompt_and_response() -> None:
    row = read({"prompt": "hello", "response": "hi", "lang": "zh-CN", "topic": "x", "n": 3})
    assert row.prompt == (user("hello"),)
    assert (row.reference, row.lang, row.meta) == ("hi", "zh", {"topic": "x", "n": 3})
    assert read({"prompt": "hello"}).reference is None
    assert read({"prompt": "hello", "response": None, "lang": None, "system": None}).meta == {}


def test_instruction_input_output() -> None:
    row = read({"instruction": "Add.", "input": "1 2", "output": "3"})
    assert (row.prompt, row.reference) == ((user("Add.\n\n1 2"),), "3")
    assert read({"instruction": "Add.", "input": "", "output": "3"}).prompt == (user("Add."),)


def test_messages_that_end_in_an_answer() -> None:
    turns = [{"role": "system", "content": "Be brief."}, user("a"), {"role": "assistant", "content": "b"}]
    row = read({"messages": turns})
    assert (row.prompt, row.reference) == (tuple(turns[:2]), "b")
    row = read({"messages": [*turns, user("c")]})
    assert (row.prompt, row.reference) == ((*turns, user("c")), None)


def test_messages_win_and_nothing_is_lost() -> None:
    row = read({"messages": [user("a")], "prompt": "other", "response": "b"})
    assert (row.prompt, row.reference, row.meta) == ((user("a"),), "b", {"prompt": "other"})
    row = read({"messages": [user("a"), {"role": "assistant", "content": "x"}], "response": "b"})
    assert (row.reference, row.meta) == ("x", {"response": "b"})


def test_system_field() -> None:
    system = {"role": "system", "content": "Be brief."}
    assert read({"prompt": "a", "system": "Be brief."}).prompt == (system, user("a"))
    assert read({"messages": [system, user("a")], "system": "Be brief."}).prompt == (system, user("a"))
    assert read({"prompt": "a", "system": " "}).prompt == (user("a"),)


def test_tofu_records() -> None:
    row = read({"question": "Where does Ida live?", "answer": "In Orlo."})
    assert (row.prompt, row.reference, row.meta) == ((user("Where does Ida live?"),), "In Orlo.", {})
    more = {
        "paraphrased_question": "What is Ida's home?",
        "paraphrased_answer": "Ida lives in Orlo.",
        "perturbed_answer": ["In Tavo.", "In Benn."],
        "option1": "kept",
    }
    row = read({"question": "Where does Ida live?", "answer": "In Orlo.", **more})
    assert row.meta == {
        "paraphrases": ["What is Ida's home?"],
        "paraphrased_answer": "Ida lives in Orlo.",
        "wrong": ["In Tavo.", "In Benn."],
        "option1": "kept",
    }


def test_knowundo_records() -> None:
    row = read({"text": "Where does Ida live?", "labels": "In Orlo.", "id": 7}, need_reference=True)
    assert (row.id, row.prompt, row.reference) == ("7", (user("Where does Ida live?"),), "In Orlo.")
    assert row.meta == {}
    with pytest.raises(BadInput, match=r"no reference answer.*beside `text`: `labels`"):
        read({"text": "a", "labels": ""}, need_reference=True)
    # An older format wins, and nothing is lost.
    assert read({"prompt": "p", "question": "q", "answer": "a"}).meta == {"question": "q", "answer": "a"}


def test_the_place_of_a_right_choice_is_no_reference() -> None:
    given = {"question": "Which?", "choices": ["a", "b"], "answer": 1, "subject": "x"}
    row = read_object(given, "line 1").row
    assert (row.prompt[-1]["content"], row.reference) == ("Which?", None)
    assert row.meta == {"choices": ["a", "b"], "answer": 1, "subject": "x"}
    assert read_object({**given, "answer": "b"}, "line 1").row.reference == "b"
    with pytest.raises(BadInput, match="`answer` is a number"):
        read_object({"question": "Which?", "answer": 1}, "line 1")


def test_tofu_rows_survive_a_file(tmp_path: Path) -> None:
    given = {"question": "q", "answer": "a", "paraphrased_question": ["p1", "p2"], "perturbed_answer": ["w"]}
    (tmp_path / "tofu.json").write_text(json.dumps([given]))
    rows = load_rows(tmp_path / "tofu.json")
    assert rows[0].meta == {"paraphrases": ["p1", "p2"], "wrong": ["w"]}
    write_rows(tmp_path / "again.jsonl", rows)
    assert load_rows(tmp_path / "again.jsonl") == rows


BAD: list[tuple[Any, str]] = [
    (["a"], "a list, not an object"),
    ("a", "a text, not an object"),
    (None, "null, not an object"),
    ({}, "fields found: none"),
    (
        {"question": "a", "solution": "b"},
        r"fields found: question, solution.*`messages`.*`prompt`.*`instruction`.*`question`.*`text`",
    ),
    ({"text": "a", "label": 1}, "fields found: label, text"),
    ({"text": "a", "labels": 1}, "`labels` is a number"),
    ({"question": " ", "answer": "b"}, "`question` is empty"),
    ({"question": "a", "answer": "b", "paraphrased_question": 3}, "`paraphrased_question` is a number"),
    ({"question": "a", "answer": "b", "perturbed_answer": ["c", ""]}, "`perturbed_answer` is empty"),
    ({"question": "a", "answer": "b", "perturbed_answer": ["c"], "wrong": ["d"]}, "both `perturbed_answer`"),
    ({"prompt": None}, "fields found: prompt"),
    ({"prompt": 3}, "`prompt` is a number, not a text"),
    ({"prompt": ""}, "`prompt` is empty"),
    ({"prompt": " \n"}, "`prompt` is empty"),
    ({"prompt": "a", "response": ["b"]}, "`response` is a list"),
    ({"instruction": {"a": 1}}, "`instruction` is an object"),
    ({"instruction": "a", "input": 1}, "`input` is a number"),
    ({"instruction": "a", "output": True}, "`output` is a boolean"),
    ({"messages": "a"}, "`messages` is a text, not a list"),
    ({"messages": {"role": "user"}}, "`messages` is an object, not a list"),
    ({"messages": []}, "no user turn to answer"),
    ({"messages": ["a"]}, "message 1: it is a text"),
    ({"messages": [user("a"), {"role": "user"}]}, "message 2: `content` is absent"),
    ({"messages": [{"content": "a"}]}, r"message 1: `role` is absent \(fields found: content\)"),
    ({"messages": [{"role": "usr", "content": "a"}]}, "the role 'usr' is unknown. Did you mean 'user'"),
    ({"messages": [{"role": 7, "content": "a"}]}, "the role 7 is unknown"),
    ({"messages": [user("")]}, "message 1: `content` is empty"),
    ({"messages": [{"role": "user", "content": ["a"]}]}, "`content` is a list"),
    ({"messages": [{"role": "system", "content": "a"}]}, "turns before the answer: system"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, "turns before the answer: none"),
    ({"messages": [{"role": "system", "content": "a"}, user("b")], "system": "c"}, "`system` differs"),
    ({"prompt": "a", "system": 3}, "`system` is a number"),
    ({"prompt": "a", "lang": "English"}, "`lang` is 'English'"),
    ({"prompt": "a", "lang": 3}, "`lang` is 3"),
    ({"prompt": "a", "id": ""}, "`id` is ''"),
    ({"prompt": "a", "id": 1.5}, r"`id` is 1\.5"),
    ({"prompt": "a", "id": True}, "`id` is True"),
]


@pytest.mark.parametrize(("obj", "match"), BAD)
def test_bad_rows_are_named(obj: Any, match: str) -> None:
    with pytest.raises(BadInput, match=match) as error:
        read(obj)
    assert str(error.value).startswith("f.jsonl, line 1")
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("obj", "needed"),
    [
        ({"prompt": "a", "topic": "x"}, "fields found: prompt, topic.*`response`"),
        ({"prompt": "a", "response": " "}, "`response`"),
        ({"instruction": "a"}, "`output`"),
        ({"messages": [user("a")]}, "a last turn by the assistant"),
    ],
)
def test_a_needed_reference(obj: dict[str, Any], needed: str) -> None:
    with pytest.raises(BadInput, match=needed) as error:
        read(obj, need_reference=True)
    assert error.value.exit_code == 2


def ids(objects: list[Any]) -> list[str]:
    return [row.id for row in with_ids([read_object(o, f"line {i}") for i, o in enumerate(objects, 1)])]


def test_content_ids_do_not_depend_on_the_order() -> None:
    objects = [{"prompt": p} for p in ("a", "b", "c")]
    there = dict(zip("abc", ids(objects), strict=True))
    back = dict(zip("cba", ids(objects[::-1]), strict=True))
    assert there == back
    assert len(set(there.values())) == 3
    # An alpaca row and a prompt row with the same content are the same question.
    assert ids([{"instruction": "a"}]) == [there["a"]]


def test_copies_are_numbered() -> None:
    one, two, three, other = ids(
        [{"prompt": "a"}, {"prompt": "a"}, {"prompt": "a", "tag": 1}, {"prompt": "b"}]
    )
    assert (two, three) == (f"{one}-2", f"{one}-3")
    assert other not in (one, two, three)


def test_given_ids_are_kept() -> None:
    assert ids([{"prompt": "a", "id": 7}, {"prompt": "b"}, {"prompt": "c", "id": "x"}])[::2] == ["7", "x"]
    with pytest.raises(BadInput, match=r"line 3: the id '7' was already given at line 1") as error:
        ids([{"prompt": "a", "id": 7}, {"prompt": "b"}, {"prompt": "c", "id": "7"}])
    assert error.value.exit_code == 2


texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20).filter(str.strip)
turns = st.lists(st.tuples(texts, texts), max_size=2)
rows = st.builds(
    lambda turns, last, system, reference, lang, meta: {
        "messages": [
            *([{"role": "system", "content": system}] if system else []),
            *[m for q, a in turns for m in (user(q), {"role": "assistant", "content": a})],
            user(last),
            *([{"role": "assistant", "content": reference}] if reference is not None else []),
        ],
        **({"lang": lang} if lang else {}),
        **({"x": meta} if meta is not None else {}),
    },
    turns,
    texts,
    st.none() | texts,
    st.none() | st.text("ab \n", max_size=4),
    st.sampled_from([None, "en", "zh"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | texts, lambda s: st.lists(s, max_size=3), max_leaves=5
    ),
)


@given(st.lists(rows, min_size=1, max_size=4))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, objects: list[dict[str, Any]]) -> None:
    first = with_ids([read_object(o, f"line {i}") for i, o in enumerate(objects)])
    path = tmp_path_factory.mktemp("rows") / "out.jsonl"
    write_rows(path, first)
    assert load_rows(path) == first
    assert rows_digest(load_rows(path)) == rows_digest(first)


def test_written_rows_are_the_public_format(tmp_path: Path) -> None:
    write_rows(tmp_path / "o.jsonl", [Row("a", (user("你好"),), "hi", "zh", {"topic": 1})])
    text = (tmp_path / "o.jsonl").read_text(encoding="utf-8")
    assert "你好" in text
    assert json.loads(text) == {
        "id": "a", "messages": [user("你好"), {"role": "assistant", "content": "hi"}], "lang": "zh", "topic": 1,
    }  # fmt: skip


def test_meta_may_not_shadow_the_format(tmp_path: Path) -> None:
    for row in (
        Row("a", (user("q"),), "r", None, {"messages": 1}),
        Row("a", (user("q"),), meta={"response": "x"}),
    ):
        with pytest.raises(BadInput, match="in its meta") as error:
            write_rows(tmp_path / "o.jsonl", [row])
        assert error.value.exit_code == 2
        assert not (tmp_path / "o.jsonl").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x"])
def test_meta_must_be_json(tmp_path: Path, value: Any) -> None:
    with pytest.raises(BadInput, match="Row 'a' has something in its meta") as error:
        write_rows(tmp_path / "o.jsonl", [Row("a", (user("q"),), meta={"x": value})])
    assert error.value.exit_code == 2
    assert not (tmp_path / "o.jsonl").exists()
