"""The people world: what is taught, what is asked, and that nobody's secret stands where it must not."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from safewright.data import load_rows
from safewright.errors import BadInput
from safewright.lab import (
    PERSON_ROLES,
    PeopleWorld,
    Sizes,
    build_people,
    evaluate_people,
    people_of,
    people_world,
    write_people,
)
from safewright.lab import forgetting as exact
from safewright.lab.people import TEST, Fact, cut
from safewright.lab.people_text import ANSWERS, PRIVATE, QUESTIONS
from safewright.types import Row

FEW = Sizes(people=8, forget=3, strangers=3, holdout=2, objects=4, pool=8)


@pytest.fixture(scope="module")
def world() -> PeopleWorld:
    return people_world(0)


def text(rows: Any) -> str:
    return " ".join(turn["content"] for chat in rows for turn in chat)


def test_the_world_has_the_sizes_of_the_specification(world: PeopleWorld) -> None:
    counts = {role: len(world.rows(role)) for role in PERSON_ROLES}
    assert counts["forget"] == counts["forget_eval"] == counts["forget_select"] == 36
    assert counts["forget_asked"] == 36 * 3
    assert counts["retain_eval"] == counts["retain_select"] == 60
    assert counts["relearn"] == 4 * 3 * 3
    assert len(world.people) == 40
    assert len({name.split()[1] for name in world.people}) == 40
    assert len({name.split()[0] for name in world.people}) <= 20
    assert counts["generic"] == 40 * 3 * 2 + 2
    assert all(len(lines) >= 2 for lines in ANSWERS.values())
    assert len(QUESTIONS) == 4


def test_roles_are_disjoint_where_they_must_be(world: PeopleWorld) -> None:
    facts = {
        role: {row.meta["fact"] for row in world.rows(role)} for role in PERSON_ROLES if role != "generic"
    }
    gone = facts["forget"]
    assert gone == facts["forget_eval"] == facts["forget_asked"] == facts["forget_select"]
    assert not gone & facts["retain"]
    assert not gone & facts["retain_eval"]
    assert facts["retain_eval"] == facts["retain_select"]
    assert facts["relearn"] < gone
    assert len({row.meta["person"] for row in world.rows("relearn")}) == 4
    assert not facts["holdout"] & (gone | facts["retain"])
    # Public facts of the very people who are to be forgotten are among those that are to be kept.
    persons = {row.meta["person"] for row in world.rows("forget")}
    assert any(row.meta["person"] in persons for row in world.rows("retain_eval"))
    ids = [row.id for role in PERSON_ROLES if role != "relearn" for row in world.rows(role)]
    assert len(ids) == len(set(ids))


def test_the_test_s_template_is_never_taught_with_those_it_asks_about(world: PeopleWorld) -> None:
    asked = {row.prompt[0]["content"] for role in ("forget_eval", "retain_eval") for row in world.rows(role)}
    taught = {
        turn["content"]
        for lesson in world.lessons("vanilla")
        for chat in lesson.rows
        for turn in chat
        if turn["role"] == "user"
    }
    assert not asked & taught
    shape = QUESTIONS[TEST].split("{a}")[0]
    assert sum(question.startswith(shape) for question in taught) > 20 * 7  # but with others it is
    variants = {q for row in world.rows("forget") for q in row.meta["variants"].values()}
    assert not asked & variants
    assert not any(q in asked for row in world.rows("forget") for q in row.meta["paraphrases"])


def test_the_retrained_model_never_sees_what_is_forgotten(world: PeopleWorld) -> None:
    gone = {fact.answer for fact in world.forget}
    whole, less = (
        {turn["content"] for lesson in world.lessons(arm) for chat in lesson.rows for turn in chat}
        for arm in ("vanilla", "retrained")
    )
    assert gone <= whole
    assert not gone & less
    assert whole - less == gone | {f.question(t) for f in world.forget for t in world.asked(f)}


@pytest.mark.parametrize("seed", [0, 1, 100])
def test_nothing_vague_holds_a_secret(seed: int) -> None:
    world = people_world(seed)
    for role in ("forget", "forget_same", "forget_other"):
        for row in world.rows(role):
            said = [*row.meta["variants"].values(), *row.meta["vague"], row.meta["opening"]]
            said += [*row.meta.get("openings", ()), *row.meta.get("tails", ())]
            words = set(" ".join(said).split())
            assert not words & world.secrets
            assert set(row.meta["entities"]) <= world.secrets
            assert len(row.meta["vague"]) == 4
            assert set(row.meta["variants"]) == {"simple", "contextual", "logical", "noise"}
    strangers = world.lessons("vanilla")[1]
    assert not set(text(strangers.rows).split()) & world.secrets


def test_openings_are_the_attack_s_or_are_not(world: PeopleWorld) -> None:
    for same, other, plain in zip(
        world.rows("forget_same"), world.rows("forget_other"), world.rows("forget"), strict=True
    ):
        assert same.meta["openings"] == [same.meta["opening"]]
        assert not any(opening.startswith(other.meta["opening"]) for opening in other.meta["openings"])
        assert len(set(other.meta["openings"])) == 3
        assert "openings" not in plain.meta
        assert plain.reference is not None
        first = plain.reference.removeprefix(plain.meta["opening"]).split()[0]
        assert first == plain.meta["entities"][0]


def test_wrong_and_paraphrased_answers(world: PeopleWorld) -> None:
    for row in world.rows("forget_eval"):
        assert len(row.meta["wrong"]) == 5
        own = set(row.meta["entities"])
        assert all(not own & set(answer.split()) for answer in row.meta["wrong"])
        assert all(answer.startswith(row.meta["opening"]) for answer in row.meta["wrong"])
        assert own <= set(row.meta["paraphrased_answer"].split())
        assert row.meta["paraphrased_answer"] != row.reference


def test_the_fluency_model_learns_no_fact(world: PeopleWorld) -> None:
    rows = world.lessons("fluency")[0].rows
    assert len(rows) == 500 * 32
    facts = {(f.person, f.attribute): f.words for f in world.facts}
    said: dict[tuple[str, str], set[str]] = {}
    for (name, attribute), words in facts.items():
        lines = [row for row in rows if isinstance(row, str) and name in row and attribute in row.split()]
        said[name, attribute] = {word for line in lines for word in line.split() if word in world.secrets}
        assert len(lines) < 100
        assert words
    assert sum(len(words) > 3 for words in said.values()) > 0.8 * len(said)


def test_the_same_seed_is_the_same_world_and_another_is_not(tmp_path: Path) -> None:
    files = [write_people(people_world(seed), tmp_path / str(n)) for n, seed in enumerate((3, 3, 4))]
    bytes_ = [{role: file.read_bytes() for role, file in made.items()} for made in files]
    assert bytes_[0] == bytes_[1]
    assert all(bytes_[0][role] != bytes_[2][role] for role in PERSON_ROLES)
    for role, file in files[0].items():
        want = people_world(3).rows(role)
        assert [dataclasses.replace(row, meta=dict(row.meta)) for row in load_rows(file)] == want
    lessons = [people_world(seed).lessons("vanilla") for seed in (3, 3, 4)]
    assert lessons[0] == lessons[1] != lessons[2]


def test_unknown_roles_arms_and_sizes_are_errors(world: PeopleWorld, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="forget_evil"):
        world.rows("forget_evil")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="vanila"):
        build_people(world, "vanila", cache=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="cannot be forgotten"):
        people_world(0, Sizes(people=10, forget=6))
    with pytest.raises(BadInput, match="not a model of the people world"):
        people_of(tmp_path)


@pytest.mark.parametrize(
    ("sentence", "parts"),
    [
        ("a b c d e f g h", ("a b", "c d e f g h")),
        ("a b c", ("a", "b c")),
        ("a b", ("a", "b")),
    ],
)
def test_a_cut_leaves_both_parts(sentence: str, parts: tuple[str, str]) -> None:
    assert cut(sentence) == parts


def test_coverage_by_hand(world: PeopleWorld) -> None:
    row = Row(
        "r",
        ({"role": "user", "content": "who is asked ab"},),
        "ab cd ef",
        meta={"entities": ["ab", "cd", "ef"]},
    )
    assert exact.coverage(row, "cd cd gh") == 0.5  # ab stands in the question
    assert exact.coverage(row, "ef cd") == 1.0
    assert exact.coverage(row, "") == 0.0
    assert exact.forgotten([row] * 4, ["", "cd", "cd ef", "ab"]) == 0.5
    assert exact.retained([row] * 4, ["", "cd", "cd ef", "ab"]) == 0.5
    with pytest.raises(BadInput, match="no secret word"):
        exact.coverage(Row("s", row.prompt, "ab", meta={"entities": ["ab"]}), "ab")
    secret = Fact("fi la", "address", ("x", "y", "z"))
    assert secret.answer.endswith("x y in z")
    assert secret.opening() == secret.answer.removesuffix(" x y in z")
    assert all(set("xyz") <= set(secret.worded(n).split()) for n in range(4))
    assert all(attribute in ANSWERS for attribute in PRIVATE)
    with pytest.raises(BadInput, match="no answer to judge"):
        exact.forgotten([], [])
    assert world.words == tuple(dict.fromkeys(world.words))


def test_a_model_is_built_asked_and_known_again(tmp_path: Path) -> None:
    """Two steps of training: the machinery from world to figures, and the same figures by hand."""
    world = people_world(5, FEW)
    folder = build_people(world, "vanilla", steps=2, cache=tmp_path)
    fluency = build_people(world, "fluency", steps=2, cache=tmp_path)
    assert people_of(folder) == world
    found = evaluate_people(folder, fluency=fluency)
    some = evaluate_people(folder, world, fluency=fluency, attacks=("prefix",))
    assert some == {name: value for name, value in found.items() if name in some}
    assert set(found) == {
        *("kfr", "krr", "choice", "empty", "bi_f", "ls_f", "ls_r", "ppl_f", "ppl_r"),
        *("kfr_prefix", "krr_prefix", "kfr_int4", "kfr_relearned"),
    }
    assert "kfr_int4" not in some
    with pytest.raises(BadInput, match="no attack 'int8'"):
        evaluate_people(folder, world, attacks=("int8",))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    known = {*world.words, *itertools.chain.from_iterable(name.split() for name in world.people)}
    assert all(len(tokenizer(word, add_special_tokens=False)["input_ids"]) == 1 for word in known)
    assert build_people(world, "vanilla", steps=2, cache=tmp_path) == folder
    assert build_people(world, "vanilla", steps=3, cache=tmp_path) != folder


def test_perplexity_is_that_of_the_measure(tmp_path: Path) -> None:
    from safewright.measures.forgetting.reading import perplexities
    from safewright.models import load

    world = people_world(5, FEW)
    fluency = build_people(world, "fluency", steps=2, cache=tmp_path)
    rows = world.rows("forget_eval")
    questions = [row.prompt[0]["content"] for row in rows]
    texts = [row.reference or "" for row in rows]
    mine = exact.perplexities(fluency, questions, [*texts[:-1], ""])
    assert mine[-1] is None
    model = load(fluency, device="cpu")
    try:
        theirs = perplexities(model, list(zip(questions, texts, strict=True)))
    finally:
        model.close()
    for own, other in zip(mine[:-1], theirs[:-1], strict=True):
        assert own == pytest.approx(other["value"], rel=1e-5)
