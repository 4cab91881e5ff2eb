"""Policy files: read strictly, extended, linted, and tested by their own cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safewright.cli.main import run
from safewright.errors import BadInput
from safewright.guard import Action, Policy, Principal
from safewright.guard.linting import lint, run_tests

OWN = """
extends = "default"
name = "ours"
on_unknown = "deny"

[tools.wire]
effect = "pay"
identities = ["account"]
amounts = ["amount"]

[roles.guest]
denied_tools = ["wire"]

[[test]]
name = "guests wire nothing"
expect = "deny"
action = { tool = "wire", arguments = { account = "1", amount = 2 }, principal = { id = "gil", role = "guest" } }
"""


def test_a_policy_extends_the_default_one() -> None:
    policy = Policy.read(OWN)
    assert (policy.name, policy.on_unknown) == ("ours", "deny")
    assert policy.spec("wire").effect == "pay"  # type: ignore[union-attr]
    assert policy.spec("bash") is not None
    assert policy.roles["root"].privileged
    assert policy.settings == Policy.default().settings
    assert len(policy.tests) == 1
    assert policy.digest != Policy.default().digest


def test_own_patterns_come_before_those_that_are_extended() -> None:
    policy = Policy.read(
        'extends = "default"\n[tools."send_*"]\neffect = "pay"\n[tools."send_m*"]\neffect = "read"'
    )
    assert policy.spec("send_mail").effect == "pay"  # type: ignore[union-attr]
    policy = Policy.read('extends = "default"\n[tools."send_m*"]\neffect = "read"')
    assert policy.spec("send_mail").effect == "read"  # type: ignore[union-attr]
    assert policy.spec("send_x").effect == "send"  # type: ignore[union-attr]


def test_a_file_tool_is_judged_like_its_command() -> None:
    from safewright.guard import Guard

    ann = Principal("ann", "user")
    with Guard("coding") as guard:
        for tool, path, decision in (
            ("Read", "src/app.py", "allow"),
            ("Write", "src/app.py", "allow"),
            ("Write", "/etc/passwd", "deny"),
            ("Edit", "/home/ann/.bashrc", "deny"),
            ("Read", "/etc/shadow", "deny"),
            ("Write", "a file; rm -rf /", "allow"),
        ):
            found = guard.check(Action(tool, {"file_path": path}, principal=ann))
            assert found.decision == decision, (tool, path, found)
        assert guard.check(Action("Write", {"content": "no path"}, principal=ann)).decision != "allow"


def test_tests_do_not_change_the_digest() -> None:
    assert Policy.read(OWN).digest == Policy.read(OWN[: OWN.index("[[test]]")]).digest


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "TOML"),
        ('extends = "other"', "other"),
        ('on_unknown = "allow"', "on_unknown"),
        ("[tols.bash]\nkind = 'shell'", "tols"),
        ("[tools.bash]\nkind = 'fish'", "fish"),
        ("[tools.bash]\nefect = 'read'", "efect"),
        ("[tools.bash]\nidentities = 'to'", "identities"),
        ("[roles.user]\nprivileged = 'yes'", "privileged"),
        ("[shell]\nno_such_key = 1", "no_such_key"),
        ("tools = 3", "tools"),
        ("[criteria]\nhonesty = ''", "honesty"),
        ("[[test]]\nname = 'x'", "expect|action"),
    ],
)
def test_mistakes_are_named(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Policy.read(text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none\.toml"):
        Policy.load(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("principal", "privilege"),
    [
        (None, "least"),
        (Principal("ann"), "least"),
        (Principal("ann", "nobody"), "least"),
        (Principal("ann", "user"), "user"),
        (Principal("root", "root"), "privileged"),
        (Principal("root", "user"), "user"),
    ],
)
def test_privilege_follows_the_role_and_nothing_else(principal: Principal | None, privilege: str) -> None:
    assert Policy.default().privilege(Action("bash", {}, principal=principal)) == privilege


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "[tools]"),
        ("", "[roles]"),
        ("", "[[test]]"),
        ('[tools."*"]', "[tools.'*']"),
        ('[tools."a*"]\n[tools."ab*"]', "[tools.'ab*']"),
        ("[tools.x]\neffect = 'send'\nidentities = []", "[tools.'x']"),
        ("[tools.x]\nidentities = ['a']\ncontent = ['a']", "[tools.'x']"),
        ("[roles.x]\ndenied_tools = ['gone']", "[roles.x]"),
        ("[intent]\nenabled = false", "[intent]"),
        ("[[test]]\nexpect = 'alow'\naction = { tool = 'x' }", "[[test]] 'test 1'"),
    ],
)
def test_lint_finds(text: str, where: str) -> None:
    assert where in [each.where for each in lint(Policy.read(text))]


def test_lint_is_silent_on_the_default_policy() -> None:
    assert lint(Policy.default()) == []


def test_the_default_policy_holds_its_own_cases() -> None:
    outcomes = run_tests(Policy.default())
    assert len(outcomes) >= 15
    assert [each for each in outcomes if not each.right] == []


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "ours.toml"
    file.write_text(OWN)
    assert run(["guard", "policy", "test", str(file)]) == 0
    assert "1 of 1 as expected" in capsys.readouterr().out
    file.write_text(OWN.replace('expect = "deny"', 'expect = "allow"'))
    assert run(["guard", "policy", "test", str(file)]) == 10
    assert "guests wire nothing: expected allow, got deny (tool.permitted" in capsys.readouterr().out
    assert run(["guard", "policy", "lint", str(file)]) == 0
    assert run(["guard", "policy", "show"]) == 0
    assert 'name = "default"' in capsys.readouterr().out
    file.write_text("[tools.x]\nkind = 'generic'")
    assert run(["guard", "policy", "lint", str(file)]) == 10
    assert run(["guard", "policy", "test", str(file)]) == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--tool", "wire", "--arg", "account=1", "--user", "guest:gil"], 10),
        (["--tool", "wire", "--arg", "account"], 2),
        ([], 2),
        (["calls.jsonl", "--tool", "x"], 2),
        (["no-such-file.jsonl"], 2),
    ],
)
def test_guard_check(tmp_path: Path, arguments: Any, code: int) -> None:
    file = tmp_path / "ours.toml"
    file.write_text(OWN)
    assert run(["guard", "check", *arguments, "--policy", str(file)]) == code


def test_guard_check_reads_files_and_names_the_bad_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "calls.jsonl"
    file.write_text('{"tool": "wire", "arguments": {}}\n{"tol": "wire"}\n')
    assert run(["guard", "check", str(file)]) == 2
    error = capsys.readouterr().err
    assert "call 2" in error
    assert "'tol'" in error
