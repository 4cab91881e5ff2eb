"""Acceptance check 8 over a wire and in a run: replies are journalled, kills cost nothing, costs are told first."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safewright.data import load_data
from safewright.data.rows import write_rows
from safewright.errors import BadInput, GateFailed
from safewright.models import resolve
from safewright.runs import open_run
from safewright.treatments.srg.config import SRGConfig
from safewright.treatments.srg.records import from_row
from safewright.treatments.srg.synthesis import (
    SynthesisOptions,
    build,
    estimate,
    prompt_pool,
    synthesise,
    synthesize,
    voices,
)
from safewright.types import ModelRef
from tests.models.fault_server import FaultServer, Reply, complains, said
from tests.treatments.served_runs import bytes_of, job_of, killed_after, served
from tests.treatments.srg_teacher import Asked, harmful_rows, helpful_rows, honest, trace, understood

FILES = ("reasoned.jsonl", "manifest.json", "dropped.jsonl")
PLAIN: dict[str, Any] = {"least_words": 5, "draws": 1}


def asked_of(request: dict[str, Any]) -> Asked:
    """A request as our prompts say it; which draw it is follows from the seed."""
    kind, material, attempt = understood(request["messages"])
    seed = int(request.get("seed", 0))
    return Asked(kind, material, attempt, seed, seed, request["messages"][0]["content"])


def mock(request: dict[str, Any], number: int) -> Reply:
    """Honest; of every third draw there is no block at all."""
    asked = asked_of(request)
    if asked.kind == "write" and asked.seed % 3 == 0:
        return said("nothing to think about")
    return said(honest(asked))


def different(request: dict[str, Any], number: int) -> Reply:
    """Honest, and no two draws have one answer: the guard is asked about each."""
    asked = asked_of(request)
    if asked.kind == "write":
        answer = "I won't help with that" if asked.harmful else "Here is how it is done"
        return said(trace(asked, answer=f"{answer}, {asked.seed}."))
    return said(honest(asked))


@pytest.fixture
def server() -> Iterator[FaultServer]:
    server = FaultServer()
    server.behave = mock
    yield server
    server.close()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    write_rows(tmp_path / "harmful.jsonl", harmful_rows(6))
    write_rows(tmp_path / "helpful.jsonl", helpful_rows(8))
    return {role: tmp_path / f"{role}.jsonl" for role in ("harmful", "helpful")}


def stage(
    folder: Path, files: dict[str, Path], model: ModelRef, options: Any, seed: int = 0
) -> dict[str, Any]:
    """The stage in a run of its own."""
    with open_run(folder, {"seed": seed}) as run:
        return synthesize(job_of(run, files, {"teacher": model}, options, seed))


def repeated(server: FaultServer) -> int:
    """Requests that were made more than once."""
    plain = (json.dumps([r["messages"], r.get("seed")]) for r in server.requests)
    return sum(count > 1 for count in Counter(plain).values())


def test_08_a_rerun_asks_nothing_and_writes_the_same_bytes(
    server: FaultServer, files: dict[str, Path], tmp_path: Path
) -> None:
    options = SynthesisOptions(**PLAIN, at_once=8)
    found = stage(tmp_path / "run", files, served(server), options)
    first, count = bytes_of(tmp_path / "run", FILES), len(server.requests)
    assert found["records"] == {"harmful": 6, "helpful": 8, "records": 14}
    assert found["rejected"].keys() == {"format: no_open"}
    assert sum(found["calls"].values()) == count
    assert repeated(server) == 0
    assert server.most > 1
    stage(tmp_path / "run", files, served(server), options)
    assert len(server.requests) == count
    assert bytes_of(tmp_path / "run", FILES) == first
    manifest = json.loads(first["manifest.json"])
    assert manifest["models"]["teacher"]["model"].startswith("declared:")
    assert manifest["models"]["guard"]["judge"] == "rubric"
    assert manifest["formatted"] == 2
    assert set(manifest["prompts"]) == {"srg_synthesis", "srg_score", "srg_score_again", "srg_draft"}
    assert manifest["draws_per_request"] == manifest["candidates"] / 14
    tokens = manifest["tokens"]
    assert sum(one["share_of_tokens"] for one in tokens.values()) == pytest.approx(1.0)
    records = [
        from_row(row) for row in load_data(tmp_path / "run" / "draft" / "reasoned.jsonl", "reasoned").rows
    ]
    assert [record.type for record in records] == ["harmful"] * 6 + ["helpful"] * 8
    assert all(record.meta["guideline_hash"] == manifest["guidelines"]["digest"] for record in records)


def _child(folder: Path, files: dict[str, Path], base: str) -> None:
    stage(folder, files, resolve(f"{base}#toy"), SynthesisOptions(**PLAIN, at_once=4))


def test_08_after_a_kill_nothing_received_is_asked_again_and_the_bytes_are_the_same(
    server: FaultServer, files: dict[str, Path], tmp_path: Path
) -> None:
    after = 9  # within the first draws: what is drawn after the kill must have the seeds it would have had
    kept = killed_after(after, _child, tmp_path / "run", files, server)
    assert after <= kept < 14
    before = len(server.requests)
    options = SynthesisOptions(**PLAIN, at_once=4)
    stage(tmp_path / "run", files, served(server), options)
    assert repeated(server) <= 4  # those under way at the kill
    resumed = len(server.requests) - before
    server.requests.clear()
    stage(tmp_path / "whole", files, served(server), options)
    assert bytes_of(tmp_path / "run", FILES) == bytes_of(tmp_path / "whole", FILES)
    assert resumed == len(server.requests) - kept


def test_08_another_seed_draws_others_and_a_store_serves_other_runs(
    server: FaultServer, files: dict[str, Path], tmp_path: Path
) -> None:
    options = SynthesisOptions(**PLAIN, call_store=str(tmp_path / "store"))
    stage(tmp_path / "one", files, served(server), options)
    count = len(server.requests)
    stage(tmp_path / "two", files, served(server), options)
    assert len(server.requests) == count
    assert bytes_of(tmp_path / "one", FILES) == bytes_of(tmp_path / "two", FILES)
    stage(tmp_path / "three", files, served(server), options, seed=1)
    assert len(server.requests) > count
    assert bytes_of(tmp_path / "three", FILES) != bytes_of(tmp_path / "one", FILES)


def test_08_failed_calls_fail_the_gate_and_only_they_are_asked_again(
    server: FaultServer, files: dict[str, Path], tmp_path: Path
) -> None:
    def half(request: dict[str, Any], number: int) -> Reply:
        asked = asked_of(request)
        if asked.kind == "score" and "size" in asked.request:
            return complains(400, "no such luck")
        return different(request, number)

    server.behave = half
    options = SynthesisOptions(**PLAIN, k=3, hinted="never")
    with pytest.raises(GateFailed, match=r"of 14 requests.*8 are missing because calls failed") as failed:
        stage(tmp_path / "run", files, served(server), options)
    assert failed.value.exit_code == 10
    assert "helpful (none given): 0 of 8" in str(failed.value)
    kept = json.loads((tmp_path / "run" / "yield.json").read_text())
    assert kept["rejected"]["process: failed"] >= 8
    assert [one["id"] for one in kept["requests"]] == [f"b{n}" for n in range(8)]
    server.behave = different
    before = [json.dumps([r["messages"], r.get("seed")]) for r in server.requests]
    received = {
        one
        for one, r in zip(before, server.requests, strict=True)
        if asked_of(r).kind != "score" or "size" not in one
    }
    server.requests.clear()
    stage(tmp_path / "run", files, served(server), options)
    assert not received & {json.dumps([r["messages"], r.get("seed")]) for r in server.requests}
    assert len(load_data(tmp_path / "run" / "draft" / "reasoned.jsonl", "reasoned").rows) == 14


@pytest.mark.parametrize(
    ("set_", "harmful", "helpful", "most"),
    [
        # A draw, two guard calls (one for helpful), a score.
        ({}, 4, 3, 16),
        ({"hinted": "never"}, 4, 3, 8),
        ({"draws": 2}, 8, 6, 16),
        ({"adaptive_k": False}, 32, 24, 16),
        ({"drafts": True}, 6, 3, 16),
        ({"filter": "outcome"}, 4, 2, 16),
        ({"filter": "none"}, 1, 1, 16),
        ({"filter": "outcome", "guard": "keyword"}, 1, 1, 16),
    ],
)
def test_08_the_cost_is_told_before_anything_is_asked(
    server: FaultServer,
    files: dict[str, Path],
    set_: dict[str, Any],
    harmful: int,
    helpful: int,
    most: int,
    tmp_path: Path,
) -> None:
    data = {role: load_data(file, role) for role, file in files.items()}
    options = SynthesisOptions(**{**PLAIN, **set_})
    found = estimate({"teacher": served(server)}, data, options)
    assert found["calls"] == 6 * harmful + 8 * helpful
    assert found["calls_at_most"] >= (6 + 8) * most
    assert found["prompt_tokens"] > 100 * found["calls"] / 2
    assert "cost" not in found
    priced = SynthesisOptions(**{**PLAIN, **set_}, price_in=2.0, price_out=10.0)
    cost = estimate({"teacher": served(server)}, data, priced)["cost"]
    assert cost == pytest.approx((2 * found["prompt_tokens"] + 10 * found["new_tokens"]) / 1e6)
    assert server.requests == []
    assert estimate({}, data, options) == {}
    assert estimate({"teacher": served(server)}, {}, options) == {}
    # And it is what is asked where everything passes.
    server.behave = different
    stage(tmp_path / "run", files, served(server), options)
    assert len(server.requests) == found["calls"]


def test_08_a_small_model_on_this_machine_is_asked_too(
    tiny_folder: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    """A random model writes nothing usable: that is a reason with a count, and no crash."""
    options = SynthesisOptions(k=2, max_tokens=4, hinted="never")
    with pytest.raises(GateFailed, match="0 of 14 requests"):
        stage(tmp_path / "run", files, resolve(str(tiny_folder)), options)
    kept = json.loads((tmp_path / "run" / "yield.json").read_text())
    assert sum(kept["rejected"].values()) == 28
    assert all(reason.startswith(("format", "overlong")) for reason in kept["rejected"])


def test_08_an_inspect_model_is_a_teacher() -> None:
    pytest.importorskip("inspect_ai")
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    from safewright.models.inspect_model import InspectModel

    def reply(messages: Any, tools: Any, choice: Any, config: Any) -> Any:
        asked = asked_of(
            {"messages": [{"content": turn.text} for turn in messages], "seed": config.seed or 0}
        )
        output = ModelOutput.from_content("mockllm", honest(asked))
        output.usage = ModelUsage(output_tokens=3)
        return output

    teacher = InspectModel(get_model("mockllm/model", custom_outputs=reply))
    options = SynthesisOptions(k=1, hinted="never", least_words=5)
    pool = prompt_pool(harmful_rows(3), helpful_rows(3))
    found = synthesise(pool, voices({"teacher": teacher}, options), options=options)
    assert len(found.records) == 6
    assert found.records[0].decision == "refuse"
    assert found.manifest["models"]["teacher"]["model_kind"] == "inspect"


def test_08_build_takes_a_larger_configuration_and_leaves_nothing_but_the_records(
    server: FaultServer, files: dict[str, Path], tmp_path: Path
) -> None:
    with open_run(tmp_path / "run", {"seed": 0}) as run:
        records = build(job_of(run, files, {"teacher": served(server)}, SRGConfig(least_words=5, draws=1)))
    assert len(records) == 14
    assert all(record.draft is None for record in records)
    assert not list((tmp_path / "run" / "draft").iterdir())


def test_08_a_training_on_drafts_has_them_written(
    server: FaultServer, files: dict[str, Path], tmp_path: Path
) -> None:
    config = SRGConfig(least_words=5, draws=1, target="answer_then_check")
    with open_run(tmp_path / "run", {"seed": 0}) as run:
        records = build(job_of(run, files, {"teacher": served(server)}, config))
    assert all((record.draft is not None) == record.harmful for record in records)


def test_08_several_processes_do_not_ask_at_once(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safewright.training import processes

    monkeypatch.setattr(processes, "world_size", lambda: 2)
    with open_run(tmp_path / "run", {"seed": 0}) as run, pytest.raises(BadInput, match="several processes"):
        build(job_of(run, files, {}, SynthesisOptions()))


def test_08_the_command(
    server: FaultServer, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safewright.cli.main import run

    command = ["treat", "srg", "synthesize", "--model", f"teacher={server.base}#toy"]
    command += [f"--data={role}={file}" for role, file in files.items()]
    command += ["--set", "least_words=5", "--set", "draws=1", "--out", str(tmp_path / "rows")]
    assert run([*command, "--dry-run", "--set", "price_in=1", "--set", "price_out=2"]) == 0
    told = capsys.readouterr().err
    assert "48 calls (at most" in told
    assert "cost about" in told
    assert server.requests == []
    assert not (tmp_path / "rows").exists()
    assert run([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["records"]["records"] == 14
    count = len(server.requests)
    assert {*FILES, "provenance.json"} == {path.name for path in (tmp_path / "rows").iterdir()}
    assert run(command) == 0
    assert len(server.requests) == count
    server.behave = lambda request, number: said("I think so")
    assert run([*command[:-1], str(tmp_path / "other")]) == 10
    assert "helpful (none given): 0 of 8" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    assert run([*command, "--set", "min_scor=9"]) == 2
    assert "min_score" in capsys.readouterr().err
    write_rows(tmp_path / "evaluation.jsonl", harmful_rows(1))
    overlap = [*command[:-1], str(tmp_path / "third"), f"--data=evaluation={tmp_path / 'evaluation.jsonl'}"]
    assert run(overlap) == 2
    assert "h0 and h0 (the same request)" in capsys.readouterr().err


def test_08_the_guidelines_are_written_edited_and_used(
    server: FaultServer, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safewright.cli.main import run

    assert run(["treat", "srg", "guidelines", "--out", str(tmp_path / "own")]) == 0
    file = tmp_path / "own" / "guidelines.yaml"
    text = file.read_text("utf-8").replace("version: default-1", "version: ours-2").replace("Unwrap", "Undo")
    (tmp_path / "ours.yaml").write_text(text, "utf-8")
    command = ["treat", "srg", "synthesize", "--model", f"teacher={server.base}#toy"]
    command += [f"--data={role}={path}" for role, path in files.items()]
    command += ["--set", f"guidelines={tmp_path / 'ours.yaml'}", "--set", "least_words=5"]
    assert run([*command, "--out", str(tmp_path / "rows")]) == 0
    manifest = json.loads((tmp_path / "rows" / "manifest.json").read_text())
    assert manifest["guidelines"]["version"] == "ours-2"
    assert any("1. Undo." in request["messages"][0]["content"] for request in server.requests)
    capsys.readouterr()
    (tmp_path / "ours.yaml").write_text("version: x\nsets: {harmful: {perspectives: []}}", "utf-8")
    assert run([*command, "--out", str(tmp_path / "more")]) == 2
    assert "no decision section" in capsys.readouterr().err
