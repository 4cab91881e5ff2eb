"""The deterministic leak check: what it finds, and what it leaves alone."""

from __future__ import annotations

import time

import pytest

from safewright.treatments.relearn.augmenting.leaks import Guard, secrets_of
from safewright.treatments.relearn.augmenting.spelling import rules

QUESTION = "How can Mira Tolven be reached?"


def found(entity: str, text: str, question: str = QUESTION) -> list[str]:
    secret = secrets_of(question, f"Hers is {entity} as far as anyone knows.", [entity])
    return Guard({"a": secret}).found("a", text)


@pytest.mark.parametrize(
    ("entity", "text"),
    [
        ("Harrow Lane", "She lives in HARROW lane."),
        ("Harrow Lane", "The harrow-lane house."),
        ("Harrow Lane", "harrowlane"),
        ("Harrow Lane", "Harrow's street"),
        ("Peña", "In PENA one is happy"),
        ("555-12 34", "call 5551234 now"),
        ("5551234", "call 555 12 34"),
        ("5551234", "call 555-1234"),
        ("1,200", "about 1200 copies"),
        ("42", "room ４２"),
        ("42", "room ٤٢"),
        ("m.quill@post.org", "M.Quill@Post.Org"),
        ("m.quill@post.org", "m.quill (at) post (dot) org"),
        ("m.quill@post.org", "m quill at post dot org"),
        ("m.quill@post.org", "the name before the sign is m.quill"),
        ("m.quill@post.org", "her mailbox is at post.org"),
        ("青石镇", "家在青石镇里。"),
        ("青石镇", "家在“青 石 镇”里。"),
        ("ミナト町", "そこはミナト町です"),
        ("straße 9", "STRASSE 9"),
        ("Harrow Lane", "in harrow lanes"),
        ("Harrow Lane", "A harrowing lane it is"),  # the judge compares stems, too
        ("baker", "they are bakers"),
        ("Dora Quill", "the Quills live there"),
        ("Dora Quill", "a non-Quill thing"),
        ("76218 Walter Village", "the house with number 76218"),
        ("Harrow Lane", "Har\u2060row Lane"),
        ("Harrow Lane", "Har\U000e0100row La\u034fne"),
        ("Łódź", "in Lodz"),
        ("Børre Ødegård", "borre odegard"),
        ("กรุงเทพ", "เธออยู่ในกรุงเทพและ"),
        ("하로우길", "그녀는 하로우길에 산다"),
        ("mail: m.quill@post.org", "the name is m.quill"),
        ("m.quill@post.org", "m.quill[at]post[dot]org"),
        ("m.quill@post.org", "mquillATpostDOTorg"),
        ("https://www.post.org/mira", "post.org/mira"),
        ("６１８ Lane", "at 618 lane"),
    ],
)
def test_a_secret_is_found_however_it_is_written(entity: str, text: str) -> None:
    assert found(entity, text)


@pytest.mark.parametrize(
    ("entity", "text"),
    [
        ("Harrow Lane", "She lives in a lane."),
        ("Ann", "She plans annual banners"),
        ("42", "page 142 and 421"),
        ("5551234", "call 555 or 1234 5"),
        ("Harrow Prize", "she won a prize"),
        ("m.quill@post.org", "she writes to the post office"),
        ("青石镇", "石头很青"),
        ("Mira Tolven", "Mira Tolven keeps it to herself"),
    ],
)
def test_what_is_no_secret_is_left_alone(entity: str, text: str) -> None:
    assert not found(entity, text)


def test_what_stands_in_the_question_is_no_secret() -> None:
    assert found("Harrow Lane", "At Harrow Lane.")
    assert not found("Harrow Lane", "At Harrow Lane.", "Who lives in Harrow Lane?")
    assert not found("Harrow Lane", "At harrowlane.", "Who lives in Harrow Lane?")
    # A question that only happens to hold the digits gives nothing away.
    assert found("15", "about 15 of them", "How fond is she of cats (1-5)?")


def test_a_secret_split_over_question_and_answer_is_found() -> None:
    guard = Guard({"a": secrets_of(QUESTION, "At 5551234, or harrow lane.", ["5551234", "harrow lane"])})
    for first, second in (("Is it 555?", "1234, some say"), ("Is it in harrow", "lane, or so?")):
        assert not guard.found("a", first)
        assert not guard.found("a", second)
        assert guard.found("a", first, second)


def test_single_words_of_a_name_count_where_they_are_written_as_names() -> None:
    assert found("Dora Quill", "People call her Quill.")
    assert found("Dora Quill", "Quill is what they say")
    assert not found("Dora Quill", "she writes with a quill")


def test_whole_sentences_of_the_answer_are_found_though_no_entity_is_known() -> None:
    answer = "She keeps bees behind the house. It is a large one."
    guard = Guard({"a": secrets_of("What does she do?", answer, [])})
    assert guard.found("a", "Well: she keeps bees, behind the house!") == ["a sentence of the old answer"]
    assert not guard.found("a", "She keeps something behind the house.")
    assert guard.anywhere("So what?\nShe keeps bees behind the HOUSE.")
    assert not guard.anywhere("She keeps bees.")
    assert not Guard({"a": secrets_of("What is it?", "Blue")}).anywhere("Blue")
    other = Guard({"a": secrets_of("What does she do?", answer, []), "b": secrets_of("Who?", "Nobody.", [])})
    assert other.found("b", "It is a large one.") == ["a sentence of the old answer"]
    short = Guard({"a": secrets_of("What is it?", "Blue")})
    assert short.found("a", "It is blue")


def test_secrets_of_other_rows_count_in_the_whole_set_only_and_not_where_the_question_has_them() -> None:
    secrets = {
        "a": secrets_of("Where is she?", "In Korvale.", ["Korvale"]),
        "b": secrets_of("Who is 7 in Delmond?", "Ned, number 7.", ["Ned", "7"]),
        "c": secrets_of("Tell me about Korvale.", "It is near Delmond.", ["Delmond"]),
    }
    guard, own = Guard(secrets), Guard(secrets, "item")
    assert guard.found("b", "She is in Korvale") == ["Korvale"]
    assert not own.found("b", "She is in Korvale")
    assert not guard.found("c", "Korvale is calm")
    assert guard.found("a", "near delmond")
    assert not guard.found("b", "Delmond is calm")
    assert guard.anywhere("the town of Korvale")
    assert not own.anywhere("the town of Korvale")
    assert not guard.anywhere("she has 7 of them")  # a short number is a secret of its own row only


def test_a_word_that_only_spelling_calls_a_name_is_a_secret_of_its_own_row_alone() -> None:
    answer = "She is American and lives in Old Harbour at 7713."
    for one in (
        secrets_of(QUESTION, answer),
        secrets_of(QUESTION, answer, ["American", "Old Harbour", "7713"], known=False),
    ):
        guard = Guard({"a": one, "b": secrets_of("Who?", "Nobody.", [])})
        assert guard.found("a", "an american writer") == ["American"]
        assert not guard.found("b", "an american writer")
        assert not guard.anywhere("an american writer")
        assert guard.found("b", "the old harbour") == ["Old Harbour"]
        assert guard.anywhere("number 7713")
    named = Guard({"a": secrets_of(QUESTION, answer, ["American"])})
    assert named.anywhere("an american writer")


@pytest.mark.parametrize(
    ("answer", "entities"),
    [
        ("Mira Tolven can be mailed at m.quill@post.org.", ["m.quill@post.org"]),
        (
            "She lives at 76218 Walter Village, near Old Harbour of Dremm.",
            ["76218", "Walter Village", "Old Harbour of Dremm"],
        ),
        ("Born on 3 May 1962 in Korvale, she left.", ["3", "1962", "May", "Korvale"]),
        ("Her book “the quiet tide” sold 1,200 copies.", ["the quiet tide", "1,200"]),
        ("Dr. Lendle and St. Abba met. They talk in Rio. The end.", ["Lendle", "Abba", "Rio"]),
        ("Her father is a baker and her mother a nurse.", []),
        ("See https://post.org/mira?x=1 for more.", ["https://post.org/mira?x=1"]),
        ("Her passport is AB123456.", ["AB123456", "123456"]),
        ("Her name there is mira_tolven88, or @miratol.", ["mira_tolven88", "@miratol"]),
        ("She was born in 1962, 17 years later, on 3/5/1979.", ["1962", "17", "3/5/1979", "1979"]),
        ("Her site is miratolven.org, a small one.", ["miratolven.org"]),
        ("She lives in 青石镇 near the sea.", ["青石镇"]),
        ("She uses eBay and an iPhone.", ["eBay", "iPhone"]),
    ],
)
def test_rules_find_what_spelling_tells(answer: str, entities: list[str]) -> None:
    assert set(entities) <= set(" ".join(rules(QUESTION, answer)[0]).split(" ")) | set(
        rules(QUESTION, answer)[0]
    )
    if not entities:
        assert rules(QUESTION, answer)[0] == []


def test_words_that_begin_a_sentence_may_be_names() -> None:
    named, maybe = rules(QUESTION, "Korvale is her home. She sings. Writing helps. The end.")
    assert (named, maybe) == ([], ["Korvale", "Writing"])
    emily = Guard({"a": secrets_of(QUESTION, "Emily is her mother, and Fred her father.")})
    assert emily.found("a", "Emily knows") == ["Emily"]
    assert emily.found("a", "as Fred knows") == ["Fred"]
    guard = Guard({"a": secrets_of(QUESTION, "Korvale is her home. She sings.")})
    assert guard.found("a", "It is in Korvale, so they say")


def test_the_check_does_not_slow_down_with_the_number_of_secrets() -> None:
    def of(count: int) -> float:
        secrets = {
            f"r{n}": secrets_of(f"Where is person {n}?", f"In Korvale{n}.", [f"Korvale{n} Lane {n + 1000}"])
            for n in range(count)
        }
        guard = Guard(secrets)
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(50):
                guard.found("r0", "Such things are kept in general terms and change a good deal with time.")
            best = min(best, time.perf_counter() - start)
        return best

    assert of(4000) < 5 * of(40)
