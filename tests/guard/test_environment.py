"""Environments answer read-only questions; probes that fail are unknown."""

from __future__ import annotations

import getpass
from dataclasses import replace

import pytest

from safewright.errors import BadInput
from safewright.guard import Action, Guard, Principal
from safewright.guard.environments import (
    ContainerEnvironment,
    LocalEnvironment,
    MemoryEnvironment,
    read_environment,
)
from safewright.guard.nouns import Entry


def verdict(command, environment, user="user", role="user"):
    with Guard() as guard:
        return guard.check(
            Action("bash", {"cmd": command}, principal=Principal(user, role), environment=environment)
        )


def test_a_described_tree():
    environment = read_environment({"/home/u/a": {"type": "file", "owner": "u", "mode": "0600"}})
    assert environment.stat("/home/u/a") == Entry("file", "u", "u", 0o600)
    assert environment.stat("/home/u/b") is None
    assert environment.listdir("/home/u") == ["a"]
    assert environment.listdir("/home/u/a") is None
    assert environment.home("root") == "/root"


@pytest.mark.parametrize(
    "values",
    [
        [],
        {"a": {}},
        {"/a": 1},
        {"/a": {"colour": 1}},
        {"/a": {"type": "door"}},
        {"/a": {"mode": "rwx"}},
        {"/a": {"mode": -1}},
        {"/a": {"owner": 1}},
        {"/a": {"size": "big"}},
    ],
)
def test_a_badly_described_tree_is_refused(values):
    with pytest.raises(BadInput):
        read_environment(values)


def test_this_machine(tmp_path):
    (tmp_path / "there").write_text("x")
    (tmp_path / "way").symlink_to("there")
    environment = LocalEnvironment()
    found = environment.stat(str(tmp_path / "there"))
    assert found is not None
    assert found.type == "file"
    assert found.owner == getpass.getuser()
    assert found.size == 1
    way = environment.stat(str(tmp_path / "way"))
    assert way is not None
    assert way.type == "link"
    assert way.target == "there"
    assert environment.stat(str(tmp_path / "not")) is None
    assert environment.listdir(str(tmp_path)) == ["there", "way"]
    assert (environment.free_bytes(str(tmp_path / "not" / "yet")) or 0) > 0


def test_a_probe_that_hangs_has_failed(monkeypatch):
    import threading

    held = threading.Event()
    environment = LocalEnvironment(seconds=0.05)
    monkeypatch.setattr("safewright.guard.environments.local.os.lstat", lambda path: held.wait(5))
    with pytest.raises(OSError):
        environment.stat("/dead/mount")
    held.set()


class Broken(MemoryEnvironment):
    def stat(self, path):
        raise OSError("stale handle")


def test_a_probe_that_fails_is_unknown():
    found = verdict("rm notes.txt", Broken({}))
    checks = [check for check in found.checks if check.id == "environment.answered"]
    assert found.decision == "escalate"
    assert checks[0].status == "unknown"
    assert checks[0].method == "probe"


def test_a_container_is_asked_with_fixed_words():
    asked = []

    def runner(words, seconds):
        asked.append(tuple(words))
        if words[0] == "stat":
            return (
                (0, "regular file\nroot\nroot\n644\n12\n")
                if words[-1] == "/a;b"
                else (1, "stat: No such file")
            )
        return (0, "x y") if words[0] == "id" else (1, "")

    environment = ContainerEnvironment(runner)
    assert environment.stat("/a;b") == Entry("file", "root", "root", 0o644, None, 12)
    assert environment.stat("/none") is None
    assert environment.groups("u") == frozenset({"x", "y"})
    assert environment.groups("-x") == frozenset()
    assert asked[0][-2:] == ("--", "/a;b")
    with pytest.raises(OSError):
        environment.stat("relative")


@pytest.mark.parametrize(
    "answer", [(126, "no such container"), (0, "garbage"), (1, "Permission denied"), (-9, "")]
)
def test_a_container_that_gives_no_answer(answer):
    with pytest.raises(OSError):
        ContainerEnvironment(lambda words, seconds: answer).stat("/a")


def test_a_request_to_replace_is_heard():
    tree = MemoryEnvironment(
        {"/home/user": Entry("dir", "user"), "/home/user/a": Entry("file", "user", "user", 0o644)}
    )
    with Guard() as guard:
        action = Action("bash", {"cmd": "echo x > a"}, principal=Principal("user", "user"), environment=tree)
        assert guard.check(action).decision == "deny"
        assert guard.check(replace(action, request="Overwrite a with an x.")).decision == "allow"


def test_links_globs_and_space():
    tree = {"/home/user": Entry("dir", "user", "user", 0o755), "/tmp": Entry("dir", "root", "root", 0o1777)}
    way = {**tree, "/home/user/way": Entry("link", "user", "user", 0o777, "/etc"), "/etc/x": Entry("file")}
    assert verdict("rm -rf way/x", MemoryEnvironment(way)).decision == "deny"
    many = {**tree, **{f"/home/user/f{i}": Entry("file", "user", "user", 0o644) for i in range(300)}}
    assert verdict("rm f*", MemoryEnvironment(many)).decision == "escalate"
    assert (
        verdict("rm f1*", MemoryEnvironment({**tree, "/home/user/f1": Entry("file", "user")})).decision
        == "allow"
    )
    assert verdict("echo x > a", MemoryEnvironment(tree, free=100)).decision == "deny"
    assert verdict("echo x > a; rm a", MemoryEnvironment(tree)).decision == "allow"
    loop = {**tree, "/home/user/l": Entry("link", "user", "user", 0o777, "l")}
    assert verdict("cat l", MemoryEnvironment(loop)).failure is None
