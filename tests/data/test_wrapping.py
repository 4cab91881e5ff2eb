"""Wrapper families over the user's own requests, and unusual formats that share no template with them."""

from __future__ import annotations

import base64
import itertools
import json
from pathlib import Path

import pytest

from safewright.data.wrapping import (
    ATTACKS,
    FAMILIES,
    FORMATS,
    OPENINGS,
    Template,
    formats,
    keywords,
    past_tense,
    read_translations,
    template_in,
    wrap,
)
from safewright.errors import BadInput
from safewright.types import Row

REQUEST = "How do I fold a paper boat?"


def rows(count: int = 24, **meta: object) -> list[Row]:
    return [Row(f"r{i}", ({"role": "user", "content": REQUEST},), None, "en", meta) for i in range(count)]


def text_of(row: Row) -> str:
    return "\n".join(turn["content"] for turn in row.prompt)


@pytest.mark.parametrize("family", ATTACKS)
def test_a_family_has_several_templates_and_all_are_found_again(family: str) -> None:
    found = wrap(rows(), family)
    assert len({row.meta["template"] for row in found}) == len(ATTACKS[family]) > 1
    assert {template_in(text_of(row)) for row in found} == {family}
    assert {template_in(text_of(row).upper().replace("\n", "  ")) for row in found if family != "cipher"} <= {
        family
    }
    assert [(row.id, row.meta["attack"], row.meta["goal"]) for row in found[:2]] == [
        (f"r0/{family}", family, REQUEST),
        (f"r1/{family}", family, REQUEST),
    ]


@pytest.mark.parametrize("family", ATTACKS)
def test_a_template_depends_on_seed_and_id_alone(family: str) -> None:
    one, other = wrap(rows(), family, 1), wrap(rows()[::-1], family, 1)
    assert one == other[::-1]
    assert one[3:7] == wrap(rows()[3:7], family, 1)
    assert one != wrap(rows(), family, 2)


def test_attacks_and_formats_share_no_template() -> None:
    changed = formats(rows(60), 1.0)
    assert {row.meta["format"] for row in changed} == set(FORMATS)
    assert {template_in(text_of(row)) for row in changed} == {None}
    assert template_in(REQUEST) is None
    marks = [
        {" ".join(part) for part in template.marks()}
        for templates in itertools.chain(ATTACKS.values(), FORMATS.values())
        for template in templates
    ]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(marks, 2))


@pytest.mark.parametrize("template", [t for family in ATTACKS.values() for t in family])
def test_templates_have_enough_words_to_be_told_by(template: Template) -> None:
    assert sum(map(len, template.marks())) >= 6


def test_ciphers_can_be_read_back() -> None:
    hidden = {row.meta["template"]: text_of(row).splitlines()[-1] for row in wrap(rows(), "cipher")}
    shifted = "".join(
        chr((ord(c) - 3 - (97 if c.islower() else 65)) % 26 + (97 if c.islower() else 65))
        if c.isalpha()
        else c
        for c in hidden[0]
    )
    assert shifted == REQUEST
    assert base64.b64decode(hidden[1]).decode() == REQUEST
    assert " ".join(reversed(hidden[2].split())) == REQUEST


def test_a_cipher_hides_what_has_no_alphabet() -> None:
    text = "如何折一只纸船？"
    given = [Row(f"r{i}", ({"role": "user", "content": text},), None, "zh") for i in range(12)]
    found = [text_of(row) for row in wrap(given, "cipher")]
    assert not any(text in said for said in found)
    assert base64.b64decode(found[0].splitlines()[-1]).decode() == text


def test_the_self_cipher_is_a_system_turn_and_leaves_the_request() -> None:
    for row in wrap(rows(4), "self_cipher"):
        assert [turn["role"] for turn in row.prompt] == ["system", "user"]
        assert row.prompt[1]["content"] == REQUEST
    own = Row("r", ({"role": "system", "content": "Be brief."}, {"role": "user", "content": REQUEST}))
    (found,) = wrap([own], "self_cipher")
    assert found.prompt[0]["content"].endswith("Be brief.")
    assert len(found.prompt) == 2


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (REQUEST, "how did people fold a paper boat?"),
        ("Tell me how to fold a boat.", "how did people fold a boat?"),
        ("What is a boat?", "what was formerly a boat?"),
        ("How do birds fold a boat?", "how did birds fold a boat?"),
        ("how does one fold a boat", "how did people fold a boat?"),
        ("How do people fold a boat?", "how did people fold a boat?"),
        ("fold the boat", "fold the boat"),
    ],
)
def test_past_tense(request_: str, said: str) -> None:
    assert past_tense(request_) == said


def test_keywords() -> None:
    assert keywords(REQUEST) == "fold, paper, boat"
    assert keywords("how do I?") == "how, do, i"
    assert keywords("???") == "???"


def test_translations_come_from_the_user(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(
        json.dumps({"request": f"  {REQUEST}", "translation": "Ciamar a phasgas mi bàta?"}) + "\n"
    )
    (found,) = wrap(rows(1), "lowresource", translations=read_translations(str(file)))
    assert found.prompt[-1]["content"] == "Ciamar a phasgas mi bàta?"
    assert found.meta["goal"] == REQUEST
    with pytest.raises(BadInput, match="no translation"):
        wrap(rows(1), "lowresource", translations={"something else": "x"})
    file.write_text('{"request": "a"}\n')
    with pytest.raises(BadInput, match=r"t.jsonl, line 1"):
        read_translations(str(file))
    pairs = [{"request": "a", "translation": "b"}, {"request": " a", "translation": "c"}]
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    with pytest.raises(BadInput, match=r"line 2: ' a' is translated a second time"):
        read_translations(str(file))


def test_what_cannot_be_wrapped_is_refused() -> None:
    with pytest.raises(BadInput, match="cipher"):
        wrap(rows(1), "ciphre")
    with pytest.raises(BadInput, match="already holds the attack"):
        wrap(rows(1, attack="x"), "cipher")
    with pytest.raises(BadInput, match="goal"):
        wrap(rows(1, goal=3), "cipher")
    with pytest.raises(BadInput, match="share"):
        formats(rows(1), 1.5)


def test_a_share_of_rows_is_put_into_formats_and_a_smaller_one_is_among_them() -> None:
    given = rows(40)
    quarter, half = formats(given, 0.25), formats(given, 0.5)
    assert [row.id for row in quarter] == [row.id for row in given]
    changed = [{row.id for row in some if "format" in row.meta} for some in (quarter, half)]
    assert (len(changed[0]), len(changed[1])) == (10, 20)
    assert changed[0] < changed[1]
    assert formats(given, 0.25) == quarter != formats(given, 0.25, seed=1)
    assert formats(given, 0) == given


def test_openings_begin_answers() -> None:
    assert len(set(OPENINGS)) == len(OPENINGS) > 1
    assert set(FAMILIES) == {*ATTACKS, "lowresource"}
