"""Whether a text names an entity, in whatever spelling."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safewright.data.mentions import (
    entities_of,
    entity_key,
    first_mention,
    mentioned,
    mentions,
    opening,
    same_entity,
)
from safewright.errors import BadInput


@pytest.mark.parametrize(
    ("text", "entity"),
    [
        ("She lives in Orlo Vale, they say.", "orlo vale"),
        ("SHE LIVES IN ORLO-VALE", "Orlo Vale"),
        ("Orlo\n  Vale", "Orlo Vale"),
        ("the Ｏｒｌｏ Ｖａｌｅ road", "Orlo Vale"),
        ("Jose\u0301 and José", "Jose"),
        ("by Jose", "José"),
        ("Marquez's house", "Marquez"),
        ("her_orlo_note", "orlo"),
        ("Call 555-0199 now", "5550199"),
        ("Call (555) 0199 now", "555-0199"),
        ("Call 5550199 now", "555 0199"),
        ("at 76,218 Walter Street", "76218 Walter Street"),
        ("born 1990.", "1990"),
        ("room B 12", "B12"),
        ("ida.orlo@mail.test", "ida.orlo@mail.test"),
        ("Ida.Orlo [at] mail [dot] test", "ida.orlo@mail.test"),
        ("ida dot orlo at mail dot test", "ida.orlo@mail.test"),
        ("ida.orlo＠mail.test", "ida.orlo@mail.test"),
        ("她住在奥洛谷。", "奥洛谷"),
        ("她住在Orlo。", "Orlo"),
        ("or\u200blo", "orlo"),
        ("or\u034flo or\ufe0f", "orlo"),
        ("O\u202er\U000e0100lo", "orlo"),
        ("in Lodz", "Łódź"),
        ("Børre", "borre"),
        ("room ٤٢", "42"),
        ("เธออยู่ในกรุงเทพและ", "กรุงเทพ"),
        ("그녀는 하로우길에 산다", "하로우길"),
        ("वह हिन्दी है", "हिन्दी"),
    ],
)
def test_entities_are_found(text: str, entity: str) -> None:
    assert mentions(text, entity)


@pytest.mark.parametrize(
    ("text", "entity"),
    [
        ("The orlox sings", "orlo"),
        ("The xorlo sings", "orlo"),
        ("orlovale", "Orlo Vale"),
        ("Orlo is a vale; Vale is not", "Vale Orlo"),
        ("born in 19905", "1990"),
        ("born in 11990", "1990"),
        ("1, 2 and 3", "12"),
        ("12.50 crowns", "12"),
        ("76,218", "76"),
        ("76,218", "218"),
        ("ida@mail.test", "ido@mail.test"),
        ("她住在奥谷洛。", "奥洛谷"),
        ("वह हीनादी है", "हिन्दी"),
        ("हिन्दी", "हिन्द"),
        ("anything", "?!"),
        ("", "orlo"),
    ],
)
def test_others_are_not(text: str, entity: str) -> None:
    assert not mentions(text, entity)


def test_equal_entities_count_once_in_the_order_given() -> None:
    assert mentioned("Orlo, 1990, Tavo", ["Tavo", "orlo", "ORLO", "1991"]) == ["Tavo", "orlo"]
    assert same_entity("Orlo-Vale", "orlo  vale")
    assert not same_entity("Orlo", "Orlov")


def test_an_opening_ends_before_the_first_secret() -> None:
    text = "Ida lives at 12 Orlo Road in Tavo."
    assert opening(text, ["Tavo", "Orlo Road"]) == "Ida lives at 12"
    assert opening(text, ["Ida"]) == ""
    assert opening(text, ["Benn"]) == text
    assert first_mention(text, []) is None
    assert opening("Größe ist José\u0301, sagt Orlo.", ["Orlo"]).endswith("sagt")
    assert opening("她住在奥洛谷。", ["奥洛谷"]) == "她住在"


@given(st.text(max_size=30), st.text(alphabet="abc12 é奥", min_size=1, max_size=8), st.text(max_size=30))
def test_what_stands_between_spaces_is_found_and_cut_before(before: str, entity: str, after: str) -> None:
    text = f"{before} : {entity} : {after}"
    if entity_key(entity) and not entity_key(before)[-1:].isdigit() and not entity_key(after)[:1].isdigit():
        assert mentions(text, entity)
        assert not mentions(opening(text, [entity]), entity)


def test_given_entities_are_checked() -> None:
    assert entities_of({}, "row a") is None
    assert entities_of({"entities": None}, "row a") is None
    assert entities_of({"entities": []}, "row a") == ()
    assert entities_of({"entities": ["Orlo", "orlo", "Tavo"]}, "row a") == ("Orlo", "Tavo")
    bad: list[Any] = ["Orlo", {"a": 1}, ["Orlo", 3], [""], ["?"]]
    for value in bad:
        with pytest.raises(BadInput, match="row a: "):
            entities_of({"entities": value}, "row a")
