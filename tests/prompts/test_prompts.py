"""Prompts: versioned text files, filled with data and with nothing missing."""

from __future__ import annotations

import pytest

from safewright import prompts
from safewright.errors import BadInput
from safewright.prompts.prompt import parse
from safewright.runs import digest_bytes


def test_every_prompt_loads_with_a_version_and_its_digest() -> None:
    assert {"harm_rubric", "refusal_rubric"} <= set(prompts.names())
    for name in prompts.names():
        prompt = prompts.load(name)
        assert prompt.version.isdigit()
        assert prompt.digest.startswith("sha256:")
        assert "version:" not in prompt.text
        filled = prompt.render(**dict.fromkeys(prompt.variables(), "VALUE"))
        assert filled.count("VALUE") >= len(prompt.variables())


def test_the_digest_covers_the_version_line() -> None:
    one, two = (f"{{# version: {number} #}}\nSay {{{{ word }}}}.".encode() for number in (1, 2))
    assert parse("p", one).digest == digest_bytes(one) != parse("p", two).digest
    assert (parse("p", two).version, parse("p", two).text) == ("2", "Say {{ word }}.")


def test_values_are_data() -> None:
    prompt = parse("p", b"{# version: 1 #}\n<{{ word }}>")
    assert prompt.render(word="{{ 7 * 7 }}{% if x %}<b>&") == "<{{ 7 * 7 }}{% if x %}<b>&>"


def test_missing_and_unknown_values_are_named() -> None:
    prompt = parse("p", b"{# version: 1 #}\n{{ question }} {{ answer }}")
    with pytest.raises(BadInput, match="needs a value for answer"):
        prompt.render(question="q")
    with pytest.raises(BadInput, match=r"no placeholder 'anwser'.*'answer'"):
        prompt.render(question="q", answer="a", anwser="b")


def test_unknown_names_and_files_without_a_version_are_refused() -> None:
    with pytest.raises(BadInput, match="harm_rubric"):
        prompts.load("harm_rubrik")
    with pytest.raises(BadInput, match="version line"):
        parse("p", b"Say something.")
