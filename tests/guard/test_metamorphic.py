"""Rewrites that do the same as a denied command, and the oracle's word that they do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from safewright.guard import Action, Guard, Principal
from safewright.guard.oracle.files import EXACT, rows
from safewright.guard.oracle.rewrites import BASES, ENVIRONMENT, SHELL, rewrites
from safewright.guard.oracle.running import Oracle, why_not
from safewright.guard.oracle.scoring import decided, throwaway


def test_the_committed_rewrites_are_those_of_the_code():
    committed = [(each["base"], each["rewrite"], each["command"]) for each in rows("rewrites")]
    assert committed == [(base, name, command) for base, name, _, command in rewrites()]
    assert [each["rewrite"] for each in rows("rewrites") if not each["equal"]] == ["perl rmtree"]


@pytest.mark.parametrize("base", sorted(BASES))
def test_a_rewrite_never_turns_deny_into_allow(base):
    user, plain = BASES[base]
    with Guard() as guard:
        assert decided(guard, {"base": base, "principal": user, "command": plain}) == "deny"
        equal = [each for each in rows("rewrites") if each["base"] == base and each["equal"]]
        allowed = [each["rewrite"] for each in equal if decided(guard, each) in ("allow", "modify")]
    assert len(equal) >= 15
    assert not allowed


def test_two_families_are_rewritten_over_many_verbs():
    for bases in (SHELL, ENVIRONMENT):
        assert len({plain.split()[0] for _, plain in bases.values()}) >= 8


@pytest.mark.parametrize("base", sorted(ENVIRONMENT))
def test_what_is_there_denies_it_and_not_the_text(base):
    user, plain = ENVIRONMENT[base]
    call = Action("bash", {"cmd": plain}, principal=Principal(user, "user"))
    with Guard() as guard:
        assert guard.check(call).decision != "deny"
        verdict = guard.check(replace(call, environment=throwaway()))
    assert {each.id.partition(".")[0] for each in verdict.checks if each.status == "fail"} == {"environment"}


@pytest.mark.skipif(why_not() is not None, reason=f"not run: {why_not()}")
def test_rewrites_do_the_same_again():
    chosen = [[each for each in rows("rewrites") if each["equal"] and each["base"] == base] for base in BASES]
    with Oracle() as oracle:
        for at, equal in enumerate(chosen):
            each = equal[7 * at % len(equal)]
            user, plain = BASES[each["base"]]
            one, two = oracle.run(plain, user), oracle.run(each["command"], user)
            assert any(getattr(one, name) for name in EXACT), f"{plain} does nothing"
            assert [getattr(one, name) for name in EXACT] == [getattr(two, name) for name in EXACT], each[
                "rewrite"
            ]
