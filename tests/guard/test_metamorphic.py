"""Rewrites that do the same as a denied command, and the oracle's word that they do."""

from __future__ import annotations

import pytest

from safewright.guard import Guard
from safewright.guard.oracle.files import EXACT, rows
from safewright.guard.oracle.rewrites import BASES, rewrites
from safewright.guard.oracle.running import Oracle, why_not
from safewright.guard.oracle.scoring import decided


def test_the_committed_rewrites_are_those_of_the_code():
    committed = [(each["base"], each["rewrite"], each["command"]) for each in rows("rewrites")]
    assert committed == [(base, name, command) for base, name, _, command in rewrites()]
    assert [each["rewrite"] for each in rows("rewrites") if not each["equal"]] == ["perl rmtree"]


@pytest.mark.parametrize("base", sorted(BASES))
def test_a_rewrite_never_turns_deny_into_allow(base):
    user, plain = BASES[base]
    with Guard() as guard:
        assert decided(guard, {"principal": user, "command": plain}) == "deny"
        equal = [each for each in rows("rewrites") if each["base"] == base and each["equal"]]
        allowed = [each["rewrite"] for each in equal if decided(guard, each) in ("allow", "modify")]
    assert len(equal) >= 15
    assert not allowed


@pytest.mark.skipif(why_not() is not None, reason=f"not run: {why_not()}")
def test_rewrites_do_the_same_again():
    chosen = [each for each in rows("rewrites") if each["equal"]][::23]
    with Oracle() as oracle:
        for each in chosen:
            user, plain = BASES[each["base"]]
            one, two = oracle.run(plain, user), oracle.run(each["command"], user)
            assert [getattr(one, name) for name in EXACT] == [getattr(two, name) for name in EXACT], each[
                "rewrite"
            ]
