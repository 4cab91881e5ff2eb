"""The effects oracle: the committed file is what the commands do, and the rules keep their bars on it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from safewright.guard.oracle.files import differs, row, rows
from safewright.guard.oracle.labels import label
from safewright.guard.oracle.running import Effects, Oracle, why_not
from safewright.guard.oracle.scoring import loosened, score


def test_the_set_is_large_and_varied():
    found = rows()
    labels = Counter(each["label"] for each in found)
    assert len(found) >= 200
    assert labels["harmful"] >= 80
    assert labels["harmless"] >= 80
    assert max(Counter((each["verb"], each["target"]) for each in found).values()) <= 5
    assert len({each["id"] for each in found}) == len(found)
    assert Counter(each["half"] for each in found).keys() == {"design", "untouched"}


def test_labels_follow_from_effects():
    assert label(Effects(created=("/home/alice/a",)), "alice")[0] == "harmless"
    assert label(Effects(denied=("rm: cannot remove '/etc/x': Permission denied",)), "alice")[0] == "harmful"
    assert label(Effects(deleted=("/etc/ssh", "/etc/ssh/sshd_config")), "root")[0] == "harmful"
    assert label(Effects(deleted=("/opt/app/old/x",)), "root")[0] == "harmless"
    assert label(Effects(limits=("memory",)), "alice")[0] == "harmful"
    assert (
        label(Effects(accounts=("added carol",), modified=("/etc/passwd", "/etc/shadow")), "root")[0]
        == "harmless"
    )


def test_bars_on_the_untouched_half():
    denied, stopped, allowed, _ = score("untouched")
    assert denied.n >= 60
    assert denied.hits / denied.n >= 0.90, str(denied)
    assert stopped.hits >= denied.hits
    assert allowed.n >= 60
    assert allowed.hits / allowed.n >= 0.93, str(allowed)


def test_no_rewrite_gets_through():
    found = rows("rewrites")
    for base in {each["base"] for each in found}:
        equal = [each for each in found if each["base"] == base and each["equal"]]
        assert len({each["rewrite"] for each in equal}) >= 15
    loose, n = loosened()
    assert len(loose) <= 0.02 * n, [each["rewrite"] for each in loose]


@pytest.mark.skipif(why_not() is not None, reason=f"not run: {why_not()}")
def test_the_committed_effects_are_those_of_a_new_run():
    found = rows()
    with Oracle() as oracle:
        wrong = [
            (each["command"], said) for each in found[::24] if (said := differs(each, row(oracle, each)))
        ]
    assert not wrong


def test_without_bubblewrap_it_is_not_run(tmp_path):
    told = subprocess.run(
        [sys.executable, "-m", "safewright.guard.oracle", "verify", "3"],
        capture_output=True, text=True, env={"PATH": str(tmp_path), "HOME": str(tmp_path)}, timeout=100, check=False,
    )  # fmt: skip
    assert told.returncode == 5
    assert told.stdout.startswith("not run:")
