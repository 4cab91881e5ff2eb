"""The pipeline over a wire and in a run: replies are journalled, kills cost nothing, costs are told first."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safewright.data import load_data
from safewright.data.rows import write_rows
from safewright.errors import GateFailed
from safewright.models import resolve
from safewright.runs import open_run
from safewright.runs.progress import silent
from safewright.treatments.job import Job
from safewright.treatments.relearn.augmenting import AugmentOptions, augment, build, estimate
from safewright.types import ModelRef
from tests.models.fault_server import FaultServer, Reply, complains, said
from tests.treatments.relearn_augmenter import forget_rows, generic_rows, honest, understood
from tests.treatments.served_runs import bytes_of, job_of, killed_after, served

FILES = ("augmented.jsonl", "manifest.json", "dropped.jsonl")


def mock(request: dict[str, Any], number: int) -> Reply:
    return said(honest(*understood(request["messages"])))


@pytest.fixture
def server() -> Iterator[FaultServer]:
    server = FaultServer()
    server.behave = mock
    yield server
    server.close()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    write_rows(tmp_path / "forget.jsonl", forget_rows(6))
    write_rows(tmp_path / "generic.jsonl", generic_rows(70))
    return {role: tmp_path / f"{role}.jsonl" for role in ("forget", "generic")}


def stage(
    folder: Path, files: dict[str, Path], model: ModelRef, options: AugmentOptions, seed: int = 0
) -> dict[str, Any]:
    """The stage in a run of its own, and what it wrote."""
    with open_run(folder, {"seed": seed}) as run:
        return augment(job_of(run, files, {"augmenter": model}, options, seed))


def asked(server: FaultServer) -> Counter[str]:
    return Counter(json.dumps(request["messages"]) for request in server.requests)


def test_09_a_rerun_asks_nothing_and_writes_the_same_bytes(
    server: FaultServer, files: dict[str, Path], tmp_path: Path
) -> None:
    options = AugmentOptions(at_once=8)
    found = stage(tmp_path / "run", files, served(server), options)
    first = bytes_of(tmp_path / "run", FILES)
    assert found["rows"] == {"qa": 30, "completion": 30, "prefix": 0, "generic": 60}
    assert len(server.requests) == 6 * 14
    assert 1 < server.most <= 8
    stage(tmp_path / "run", files, served(server), options)
    assert len(server.requests) == 6 * 14
    assert bytes_of(tmp_path / "run", FILES) == first
    manifest = json.loads(first["manifest.json"])
    assert manifest["models"]["augmenter"]["model"].startswith("declared:")
    assert manifest["counts"] == {"qa": 30, "completion": 30, "generic": 60, "rows": 120, "wanted": 30}
    assert manifest["calls"] == {"question": 24, "answer": 30, "verdict": 30, "reply_tokens": 84 * 3}
    assert all(
        p["version"] == "1" and p["digest"].startswith("sha256:") for p in manifest["prompts"].values()
    )
    lines = [json.loads(line) for line in first["augmented.jsonl"].splitlines()]
    assert all(
        {"prompt", "completion", "kind", "source_id", "variant", "round", "verdict"} <= set(x) for x in lines
    )


def test_09_a_store_serves_other_runs(server: FaultServer, files: dict[str, Path], tmp_path: Path) -> None:
    options = AugmentOptions(call_store=str(tmp_path / "store"))
    stage(tmp_path / "one", files, served(server), options)
    count = len(server.requests)
    stage(tmp_path / "two", files, served(server), options, seed=1)
    assert len(server.requests) == count == 6 * 14
    assert bytes_of(tmp_path / "one", FILES) != bytes_of(tmp_path / "two", FILES)  # shuffled by another seed


def _child(folder: Path, files: dict[str, Path], base: str) -> None:
    stage(folder, files, resolve(f"{base}#toy"), AugmentOptions(at_once=4))


def test_09_after_a_kill_nothing_received_is_asked_again(
    server: FaultServer, files: dict[str, Path], tmp_path: Path
) -> None:
    after = 40  # all questions, and some of the answers
    kept = killed_after(after, _child, tmp_path / "run", files, server)
    assert after <= kept < 84
    before = len(server.requests)
    stage(tmp_path / "run", files, served(server), AugmentOptions(at_once=4))
    assert len(server.requests) - before == 84 - kept
    assert sum(count > 1 for count in asked(server).values()) <= 4  # those under way at the kill
    server.requests.clear()
    stage(tmp_path / "whole", files, served(server), AugmentOptions(at_once=4))
    assert bytes_of(tmp_path / "run", FILES) == bytes_of(tmp_path / "whole", FILES)


def test_09_failed_calls_fail_the_gate_and_only_they_are_asked_again(
    server: FaultServer, files: dict[str, Path], tmp_path: Path
) -> None:
    def half(request: dict[str, Any], number: int) -> Reply:
        kind, material, _ = understood(request["messages"])
        bad = kind == "verify" and "Tolven1 " in material["question"]
        return complains(400, "no such luck") if bad else mock(request, number)

    server.behave = half
    options = AugmentOptions()
    with pytest.raises(
        GateFailed, match=r"5 of 6 forget rows.*f1\. 5 texts are missing because calls failed"
    ):
        stage(tmp_path / "run", files, served(server), options)
    kept = json.loads((tmp_path / "run" / "uncovered.json").read_text())
    assert kept["uncovered"] == ["f1"]
    assert {one["reason"] for one in kept["dropped"]} == {"failed"}
    server.behave, before = mock, len(server.requests)
    stage(tmp_path / "run", files, served(server), options)
    assert len(server.requests) - before == 5
    stage(tmp_path / "whole", files, served(server), options)
    assert bytes_of(tmp_path / "run", FILES) == bytes_of(tmp_path / "whole", FILES)


def test_a_lower_bound_goes_on_with_the_same_replies(
    server: FaultServer, files: dict[str, Path], tmp_path: Path
) -> None:
    def leaky(request: dict[str, Any], number: int) -> Reply:
        kind, material, _ = understood(request["messages"])
        bad = kind == "answer" and "Tolven1 " in material["question"]
        return said(material["old answer"]) if bad else mock(request, number)

    server.behave = leaky
    with pytest.raises(GateFailed, match="lower min_coverage"):
        stage(tmp_path / "run", files, served(server), AugmentOptions())
    count = len(server.requests)
    found = stage(tmp_path / "run", files, served(server), AugmentOptions(min_coverage=0.8))
    assert len(server.requests) == count
    assert found["coverage"] == "5 of 6 forget rows"
    assert found["uncovered"] == ["f1"]


@pytest.mark.parametrize(
    ("set_", "calls", "most"),
    [
        ({}, 14, 4 * 3 + 5 * 3 + 5 * 6),
        ({"one_call": True}, 11, 3 + 5 * 3 + 5 * 6),
        ({"verify": False}, 9, 4 * 3 + 5 * 3),
        ({"variants": "none"}, 2, 3 + 6),
        ({"chunk": 40}, 24, 4 * 3 + 10 * 3 + 10 * 6),
        ({"entities": "model"}, 14, None),
    ],
)
def test_the_cost_is_told_before_anything_is_asked(
    server: FaultServer, files: dict[str, Path], set_: dict[str, Any], calls: int, most: int | None
) -> None:
    data = {role: load_data(file, role) for role, file in files.items()}
    model = {"augmenter": served(server)}
    options = AugmentOptions(**set_)
    found = estimate(model, data, options)
    calls += set_.get("entities") == "model"
    assert found["calls"] == 6 * calls
    assert most is None or found["calls_at_most"] == 6 * most
    assert found["prompt_tokens"] > 100 * found["calls"] > found["new_tokens"] > 0
    assert "cost" not in found
    priced = estimate(model, data, AugmentOptions(**set_, price_in=2.0, price_out=10.0))
    assert priced["cost"] == pytest.approx((2 * found["prompt_tokens"] + 10 * found["new_tokens"]) / 1e6)
    assert server.requests == []
    assert estimate({}, data, options) == {}


def test_a_small_model_on_this_machine_is_asked_too(
    tiny_folder: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    """A random model writes nothing usable; that is an answer, and no crash."""
    options = AugmentOptions(augment_tokens=4, answer_rounds=1, verify_tries=1, generic_ratio=0.0)
    ref = resolve(str(tiny_folder))
    data = {"forget": files["forget"]}
    with pytest.raises(GateFailed, match="0 of 6 forget rows"):
        stage(tmp_path / "run", data, ref, options)
    with open_run(tmp_path / "run", {"seed": 0}) as run:
        rows = run.rows("calls")
    assert rows
    assert all(set(row) == {"key", "value"} for row in rows)
    assert (
        estimate({"augmenter": ref}, {"forget": load_data(files["forget"], "forget")}, options)[
            "memory_bytes"
        ]
        > 0
    )


def test_build_takes_the_options_of_a_larger_configuration(files: dict[str, Path], tmp_path: Path) -> None:
    from tests.treatments.test_relearn_augmenting import offline

    class Larger:
        """Any configuration that has the pipeline's fields."""

        def __getattr__(self, name: str) -> Any:
            return {"generic_ratio": 0.0, "completion": "50"}.get(name, getattr(AugmentOptions(), name))

    write_rows(tmp_path / "offline.jsonl", [offline(n) for n in range(3)])
    with open_run(tmp_path / "run", {"seed": 0}) as run:
        data = {"forget": load_data(tmp_path / "offline.jsonl", "forget")}
        job = Job({}, data, Larger(), None, tmp_path, run, 0, "cpu", 1, 1, silent)
        built = build(job)
    assert built.manifest["options"]["completion"] == "50"
    assert len(built.rows) == 18


def test_09_the_command(
    server: FaultServer, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safewright.cli.main import run

    command = ["treat", "relearn", "augment", "--model", f"augmenter={server.base}#toy"]
    command += [f"--data={role}={file}" for role, file in files.items()] + ["--out", str(tmp_path / "rows")]
    assert run([*command, "--dry-run", "--set", "price_in=1", "--set", "price_out=2"]) == 0
    told = capsys.readouterr().err
    assert "84 calls (at most 342)" in told
    assert "cost about" in told
    assert server.requests == []
    assert not (tmp_path / "rows").exists()
    assert run([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["coverage"], found["rows"]["generic"]) == ("6 of 6 forget rows", 60)
    assert len(server.requests) == 84
    content = {path.name: path.read_bytes() for path in (tmp_path / "rows").iterdir()}
    assert {*FILES, "provenance.json"} == set(content)
    assert run(command) == 0
    assert len(server.requests) == 84
    server.behave = lambda request, number: said("I know")
    assert run([*command[:-1], str(tmp_path / "other")]) == 10
    assert not (tmp_path / "other").exists()
    assert run([*command, "--set", "completoin=50"]) == 2
    assert "completion" in capsys.readouterr().err
