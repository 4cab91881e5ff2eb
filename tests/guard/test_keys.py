"""The deterministic key: the kind of an action, whatever its files, users and amounts."""

from __future__ import annotations

import random
from typing import Any

import pytest

from safewright.guard import Action, Policy, Principal
from safewright.guard.keys import key_of, type_of
from safewright.guard.parts import Key
from safewright.guard.views import View

POLICY = Policy.read(
    'extends="default"\n[tools.send_money]\neffect="pay"\n[tools.send_mail]\neffect="send"\n'
)
WORDS = "amber birch cedar dune ember fjord grove heath iris juniper kelp larch maple".split()  # noqa: SIM905


def key(tool: str, arguments: dict[str, Any], role: str = "user") -> Key:
    return key_of(View(Action(tool, arguments, principal=Principal("p", role)), POLICY))


def names(rng: random.Random) -> dict[str, Any]:
    one, two, three = rng.sample(WORDS, 3)
    return {
        "file": f"{one}_{rng.randint(1, 99)}.txt",
        "other": f"{two}.csv",
        "dir": three,
        "user": rng.choice(["ann", "bob", "carla", "dmitri"]),
        "host": f"{one}.example.com",
        "word": two,
        "n": rng.randint(2, 9999),
        "amount": rng.choice([rng.randint(1, 9999), round(rng.uniform(1, 500), 2)]),
        "iban": f"DE{rng.randint(10, 99)}{rng.randint(10**17, 10**18 - 1)}",
    }


SHELL = (
    "cat {file}", "cp {file} {other}", "mv {dir}/{file} {dir}/{other}", "rm -r {dir}", "rm /home/{user}/{file}",
    "grep {word} /home/{user}/{file}", "chmod 600 {file}", "mkdir -p {dir}/{word}", "ls -l /home/{user}",
    "cat {file} | sort > {other}", "tar czf {word}.tgz {dir}", "cat /etc/{file}", "touch /tmp/{file} && ls {dir}",
    "rm '{file}'", "find {dir} -name {word}", "curl https://{host}/{word}", "sudo rm /etc/{file}", "kill {n}",
)  # fmt: skip
QUERIES = (
    "SELECT {word} FROM {dir} WHERE id = {n}", "DELETE FROM {dir} WHERE owner = '{user}'", "SELECT * FROM {dir}",
    "UPDATE {dir} SET {word} = {amount} WHERE id = {n}", "INSERT INTO {dir} ({word}) VALUES ({n})",
    "DROP TABLE {dir}", "SELECT a.{word} FROM {dir} a JOIN {word} b ON a.i = b.i",
)  # fmt: skip
CALLS: tuple[tuple[str, dict[str, str]], ...] = (
    ("send_money", {"to": "{iban}", "amount": "#amount", "note": "rent for {word}"}),
    ("send_mail", {"to": "{user}@{host}", "body": "dear {user}, see {file}"}),
    ("open_page", {"url": "https://{host}/{word}?id={n}"}),
    ("read_file", {"path": "/home/{user}/{file}"}),
)


def drawn(template: int, rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A call of a kind, with names of its own."""
    given = names(rng)
    if template < len(SHELL):
        return "bash", {"cmd": SHELL[template].format(**given)}
    template -= len(SHELL)
    if template < len(QUERIES):
        return "sql", {"query": QUERIES[template].format(**given)}
    tool, arguments = CALLS[template - len(QUERIES)]
    filled = {
        name: given[text[1:]] if text.startswith("#") else text.format(**given)
        for name, text in arguments.items()
    }
    return tool, filled


KINDS = len(SHELL) + len(QUERIES) + len(CALLS)


def test_06_renaming_leaves_the_key_unchanged() -> None:
    rng = random.Random(6)
    texts: dict[int, set[str]] = {}
    for number in range(200):
        template = number % KINDS
        texts.setdefault(template, set()).add(key(*drawn(template, rng)).text)
    many = {template: found for template, found in texts.items() if len(found) > 1}
    assert not many
    assert all("unparsed" not in text for found in texts.values() for text in found)


def test_06_each_kind_has_a_key_of_its_own() -> None:
    rng = random.Random(7)
    texts = [key(*drawn(template, rng)).text for template in range(KINDS)]
    same = {text for text in texts if texts.count(text) > 1}
    # Removing a file is removing a file, quoted or not.
    assert len(same) <= 1


def test_06_privilege_changes_the_key() -> None:
    rng = random.Random(9)
    for template in range(KINDS):
        tool, arguments = drawn(template, rng)
        found = {key(tool, arguments, role).text for role in ("user", "root", "stranger")}
        assert len(found) == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cat notes.txt", "rm notes.txt"),
        ("cp a b", "mv a b"),
        ("rm /etc/hosts", "sudo rm /etc/hosts"),
        ("rm notes.txt", "rm /etc/notes.txt"),
        ("rm -r dir", "rm dir"),
        ("cat a", "cat a; rm a"),
    ],
)
def test_06_the_verb_and_its_privilege_change_the_key(one: str, other: str) -> None:
    assert key("bash", {"cmd": one}).text != key("bash", {"cmd": other}).text


@pytest.mark.parametrize(
    ("tool", "arguments", "effect"),
    [
        ("bash", {"cmd": "cat a"}, "read"),
        ("bash", {"cmd": "cat a > b"}, "write"),
        ("bash", {"cmd": "rm a"}, "delete"),
        ("bash", {"cmd": "if then ((("}, "execute"),
        ("sql", {"query": "SELECT a FROM t"}, "read"),
        ("sql", {"query": "UPDATE t SET a = 1 WHERE b = 2"}, "write"),
        ("sql", {"query": "DELETE FROM t WHERE b = 2"}, "delete"),
        ("sql", {"query": "DROP TABLE t"}, "admin"),
        ("sql", {"query": "nonsense ((("}, "execute"),
        ("sql", {}, "execute"),
        ("send_money", {"amount": 3}, "pay"),
        ("nobody_knows", {"a": 1}, "execute"),
    ],
)
def test_the_effect_follows_from_the_text(tool: str, arguments: dict[str, Any], effect: str) -> None:
    assert key(tool, arguments).effect == effect


def test_the_key_names_no_value() -> None:
    secret = {
        "to": "ann@example.com",
        "body": "the code is 7319",
        "amount": 41.5,
        "path": "/home/ann/secret.txt",
    }
    found = key("send_mail", secret)
    for value in ("ann", "7319", "41", "secret"):
        assert value not in found.text
        assert value not in found.natural


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (3, "number"), ("1,250.00", "number"), (True, "flag"), (None, "none"), ("a@b.example", "email"),
        ("https://a.example/x", "url"), ("/etc/hosts", "path"), ("~/a", "path"), ("GB33BUKB20201555555555", "account"),
        ("2024-05-01", "date"), ("+49 30 123456", "phone"), ("hello there", "text"), ("", "text"),
        ([1, 2], "list[number]"),
        (["a@b.example", 3], "list[email/number]"), ({"a": 1}, "object"),
    ],
)  # fmt: skip
def test_types_of_values(value: Any, kind: str) -> None:
    assert type_of(value) == kind
