"""The guidelines' file: what it must have, how it is shown, and that it can be edited."""

from __future__ import annotations

from pathlib import Path

import pytest

from safewright.errors import BadInput
from safewright.runs import digest_bytes
from safewright.treatments.srg.guidelines import KINDS, Guidelines, default_bytes
from safewright.treatments.srg.synthesis import SynthesisOptions

SMALL = """
version: mine-1
sets:
  harmful:
    perspectives:
      - {name: Look, text: Look at it.}
    decision: Refuse what harms.
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "mine.yaml"
    file.write_text(text, "utf-8")
    return file


def test_our_own_have_seven_perspectives_in_250_to_400_words() -> None:
    own = Guidelines.load()
    assert tuple(own.sets) == KINDS
    texts = [one.text for one in own.sets["harmful"].perspectives] + [own.sets["harmful"].decision]
    assert len(texts) == 7
    assert 250 <= sum(len(text.split()) for text in texts) <= 400
    assert own.hash == digest_bytes(default_bytes())
    assert len(own.categories) == 10
    assert Guidelines.load("default-1") == own


def test_cases_rotate_one_that_refuses_and_one_that_complies_and_never_more_than_two() -> None:
    own = Guidelines.load()
    assert own.render("harmful", 0).count("Example request") == 0
    seen = set()
    for turn in range(4):
        shown = own.shown("harmful", 2, turn)
        assert [case.decision == "refuse" for case in shown] == [True, False]
        assert own.render("harmful", 2, turn=turn).count("Example request") == 2
        seen.add(tuple(case.request for case in shown))
    assert len(seen) == 2
    assert own.render("helpful").count("Example request") == 1
    with pytest.raises(BadInput, match="At most 2"):
        own.render("harmful", 3)


def test_a_file_of_the_users_own(tmp_path: Path) -> None:
    file = written(tmp_path, SMALL)
    mine = Guidelines.load(file)
    assert mine.hash == digest_bytes(file.read_bytes())
    assert mine.hash != Guidelines.load().hash
    assert mine.render("harmful") == "1. Look. Look at it.\n2. Decision and manner. Refuse what harms."
    assert mine.verdict.words["safe_complete"] == "safe-complete"
    with pytest.raises(BadInput, match="no set for helpful"):
        mine.render("helpful")
    options = SynthesisOptions(guidelines=str(file))
    assert options.inputs() == {"guidelines": file}
    assert SynthesisOptions().inputs() == {}
    with pytest.raises(BadInput, match="is no file"):
        SynthesisOptions(guidelines="mine.yml").inputs()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("    decision: Refuse what harms.\n", "", "harmful has no decision section"),
        ("    decision: Refuse what harms.\n", "    decision:\n", "harmful has no decision section"),
        ("version: mine-1\n", "", "has no version"),
        ("version: mine-1", "version: 1", "holds 1, not a text"),
        ("sets:", "stes:", "unknown field 'stes'.*Did you mean 'sets'"),
        ("  harmful:", "  harmfull:", "unknown field 'harmfull'.*Did you mean 'harmful'"),
        ("      - {name: Look, text: Look at it.}\n", "      []\n", "has no perspective"),
        ("text: Look at it.", "txt: Look at it.", "unknown field 'txt'"),
        ("text: Look at it.", "text: ''", "not a text"),
        ("version: mine-1", "version: [", "no readable YAML"),
        ("version: mine-1", "version: !!python/object:os.system x", "no readable YAML"),
        (SMALL, "just words", "is no mapping"),
        (SMALL, "version: x\nsets: {}", "has no set"),
        (
            "version: mine-1",
            "version: mine-1\nverdict: {line: So, refuse: stop, comply: Stop}",
            "two decisions have the same word",
        ),
        ("version: mine-1", "version: mine-1\nverdict: {line: So}", "has no comply"),
        (
            "version: mine-1",
            "version: mine-1\nverdict: {line: So, refuse: a, comply: b}\ncases:\n  - {type: harmful, decision: "
            "safe_complete, request: a, reasoning: b, answer: c}",
            "has the decision 'safe_complete'",
        ),
        ("version: mine-1", "version: mine-1\ncases: {}", "cases is no list"),
        ("version: mine-1", "version: mine-1\ncases:\n  - {type: harmful}", "has no answer"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in SMALL
    with pytest.raises(BadInput, match=said) as failed:
        Guidelines.load(written(tmp_path, SMALL.replace(old, new)))
    assert str(tmp_path) in str(failed.value)


def test_names_and_bytes_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no guidelines 'defualt'"):
        Guidelines.load("defualt")
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="no readable YAML"):
        Guidelines.load(tmp_path / "x.yaml")
