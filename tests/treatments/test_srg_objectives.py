"""`treat srg` by its further objectives: what is trained on what, kills, processes, and bad input."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from safewright.data import load_data
from safewright.errors import BadInput
from safewright.training.fitting import History
from safewright.treatments import plan_treatment, run_treatment, treat
from safewright.treatments.srg.config import SRGConfig
from safewright.treatments.srg.objectives import contexts_of, displaced, ends_of, pairs_of
from safewright.treatments.srg.records import Reasoned, Rejected, from_row
from tests.treatments import folders, reasoning
from tests.treatments.reasoning import RECORD, W

FEW = {"steps": 4, "batch": 8, "lr": 3e-3, "formats": 0.0, "lora_rank": 0, "warmup": 0.0}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("srg")
    rows = reasoning.objects(16)
    for row in rows[::2]:
        row["rejected"] = [
            {"reasoning": f"{W[5]} {W[6]} .", "answer": f"{W[7]} {W[row_word(row)]}", "why": "outcome"},
            {"reasoning": "", "answer": W[7], "why": "format"},
        ]
    general = [{"id": f"g{i}", "prompt": f"{W[i]} {W[i + 1]}", "response": W[i + 2]} for i in range(4)]
    (home / "text.txt").write_text(f"{W[30]} {W[31]} {W[32]}\n")
    return {
        "student": reasoning.save(home / "student"),
        "reasoned": reasoning.write(home / "reasoned.jsonl", rows),
        "plain": reasoning.write(home / "plain.jsonl", reasoning.objects(8)),
        "general": reasoning.write(home / "general.jsonl", general),
        "text": home / "text.txt",
    }


def row_word(row: dict[str, Any]) -> int:
    return int(row["id"][1:]) % 9


def teach(given: dict[str, Path], out: Path, data: str = "reasoned", **config: Any) -> dict[str, Any]:
    """The report of a training."""
    rows = {"reasoned": given[data], "general": given["general"]}
    treat("srg", {"student": given["student"]}, rows, config={**FEW, **config}, out=out)
    found: dict[str, Any] = json.loads((out / "provenance.json").read_text())
    return {**found["report"], "checks": found["checks"]}


def test_dpo_learns_from_pairs_and_from_all_rows(given: dict[str, Path], tmp_path: Path) -> None:
    report = teach(given, tmp_path / "out", objective="dpo")
    assert report["objective"] == "dpo"
    assert report["pairs"] == 8
    assert report["rejected_because"] == {"outcome": 8}
    assert report["pairs_left_out"] == {"no trace": 8}
    assert report["rows"] == {"harmful": 8, "helpful": 8, "general": 4}
    assert set(report["first_and_last_of"]) == {
        "pairs", "rows", "margin_nats", "kept_preferred", "chosen_nll", "rejected_nll", "learned_ce",
    }  # fmt: skip
    assert report["first_and_last_of"]["pairs"].startswith("0.6931 to ")
    assert any("8 of 20 records have rejected candidates: 8 pairs" in note for note in report["notes"])
    assert all(check["passed"] for check in report["checks"])
    assert (tmp_path / "out" / "safewright_recipe.json").exists()


def test_on_policy_reads_requests_and_a_text_but_no_answers(given: dict[str, Path], tmp_path: Path) -> None:
    how = {"objective": "on_policy_kl", "context_file": str(given["text"]), "kl_tokens": 5}
    report = teach(given, tmp_path / "out", **how)
    assert report["requests"] == 20
    assert report["drawn"] == 4 * 8
    assert report["shown"] == str(given["text"])
    assert any("answers of the records were not read" in note for note in report["notes"])
    other = reasoning.objects(16)
    for row in other:
        row["answer"], row["reasoning"] = W[1], f"{W[2]} {W[3]} ."
    changed = {**given, "reasoned": reasoning.write(tmp_path / "other.jsonl", other)}
    teach(changed, tmp_path / "again", **how)
    weights = "model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (tmp_path / "again" / weights).read_bytes()


def test_on_policy_needs_neither_teacher_nor_answers(given: dict[str, Path], tmp_path: Path) -> None:
    asked = [{"id": row["id"], "prompt": row["prompt"]} for row in reasoning.objects(8)]
    data = {
        "harmful": reasoning.write(tmp_path / "harmful.jsonl", asked[::2]),
        "helpful": reasoning.write(tmp_path / "helpful.jsonl", asked[1::2]),
    }
    how = {**FEW, "objective": "on_policy_kl", "context_file": str(given["text"]), "kl_tokens": 4}
    plan = plan_treatment("srg", {"student": given["student"]}, data, config=how, out=tmp_path / "out")
    assert "calls" not in plan.estimate()
    run_treatment(plan)
    report = json.loads((tmp_path / "out" / "provenance.json").read_text())["report"]
    assert (report["rows"], report["requests"]) == ({"harmful": 4, "helpful": 4}, 8)


@pytest.mark.parametrize("objective", ["dpo", "on_policy_kl"])
def test_an_adapter_is_trained_and_resumed_to_the_same_bytes(
    given: dict[str, Path], tmp_path: Path, objective: str
) -> None:
    how: dict[str, Any] = {"objective": objective, "lora_rank": 2, "lora_dropout": 0.1, "save_every": 2}
    if objective == "on_policy_kl":
        how |= {"context_file": str(given["text"]), "kl_tokens": 4}
    teach(given, tmp_path / "whole", **how)
    assert (tmp_path / "whole" / "adapter_model.safetensors").exists()

    def stop(what: str, done: int, total: int) -> None:
        if what == "training" and done == 3:
            raise KeyboardInterrupt

    rows = {"reasoned": given["reasoned"], "general": given["general"]}
    with pytest.raises(KeyboardInterrupt):
        treat(
            "srg",
            {"student": given["student"]},
            rows,
            config={**FEW, **how},
            out=tmp_path / "out",
            progress=stop,
        )
    teach(given, tmp_path / "out", **how)
    assert folders.content(tmp_path / "out") == folders.content(tmp_path / "whole")


def test_pairs_are_kept_traces_beside_rejected_ones() -> None:
    student = reasoning.student(reasoning.bytes_tokenizer(TEMPLATE, "<eos>"))
    others = (
        Rejected("They ask. So I answer.", "First fold it.", "outcome"),
        Rejected(RECORD.reasoning, RECORD.answer, "score"),
        Rejected("", "No.", "format"),
        Rejected("<think>", "No.", "format"),
        Rejected("long " * 90, "No.", "length"),
    )
    record = dataclasses.replace(RECORD, rejected=others)
    general = Reasoned("g", RECORD.messages, "general", "", "Yes.", rejected=others)
    kept, other, left, why = pairs_of(student, [record, general], 400)
    assert [example.id for example in kept] == [example.id for example in other] == ["boat/0"]
    assert dict(left) == {"the same": 1, "no trace": 2, "too long": 1}
    assert dict(why) == {"outcome": 1}
    assert student.says(kept[0], RECORD.answer)
    assert student.says(other[0], "First fold it.")
    assert not student.says(other[0], "refuse")
    shared = kept[0].start
    assert kept[0].ids[:shared] == other[0].ids[:shared]
    label = reasoning.student(reasoning.bytes_tokenizer(TEMPLATE, "<eos>"), target="label")
    _, other, _, _ = pairs_of(label, [record], 400)
    assert label.says(other[0], "So I answer.")
    assert not label.says(other[0], "Decision: refuse.")


TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% if m['role'] == 'assistant' %}<eos>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def test_the_frozen_student_is_shown_guidelines_of_the_requests_type(tmp_path: Path) -> None:
    shown = contexts_of(SRGConfig(objective="on_policy_kl", most_words=120))
    harmful, helpful = shown("harmful"), shown("helpful")
    assert harmful != helpful
    assert "between <think> and </think>" in harmful
    assert "at most 120 words" in harmful
    file = tmp_path / "text.txt"
    file.write_text("Fold nothing.\n")
    assert (
        contexts_of(SRGConfig(objective="on_policy_kl", context_file=str(file)))("harmful") == "Fold nothing."
    )


def test_kept_traces_that_become_less_likely_are_told() -> None:
    def seen(*values: float) -> History:
        return History(len(values), [{"chosen_nll": value, "loss": 1.0} for value in values])

    assert displaced(seen(9.0, 5.0, 8.0)) == []
    (note,) = displaced(seen(8.0, 5.0, 9.0))
    assert "NLL 8 to 9 a trace" in note
    assert "dpo_beta" in note
    assert ends_of(seen(2.0, 1.0)) == {"chosen_nll": "2 to 1"}


@pytest.mark.parametrize(
    ("data", "config", "message"),
    [
        ("plain", {"objective": "dpo"}, "none of 12 records has rejected candidates.*adaptive_k=false"),
        ("plain", {"objective": "on_policy_kl"}, "requests do not fit into 128 tokens|kl_tokens is 512"),
        (
            "plain",
            {"objective": "on_policy_kl", "context_file": "TEXT", "kl_tokens": 200},
            "kl_tokens is 200",
        ),
        (
            "plain",
            {"objective": "on_policy_kl", "context": "kept", "context_file": "TEXT"},
            "on_policy_kl, and context=kept",
        ),
        ("plain", {"objective": "on_policy_kl", "kl_temperature": -1}, "kl_temperature is -1"),
        ("reasoned", {"objective": "dpo", "dpo_beta": 0}, "dpo_beta is 0"),
        ("reasoned", {"objective": "dpo", "dpo_learned": -1}, "dpo_learned is -1"),
        ("reasoned", {"objective": "ppo"}, "objective is 'ppo'"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    given: dict[str, Path], tmp_path: Path, data: str, config: dict[str, Any], message: str
) -> None:
    config = {key: str(given["text"]) if value == "TEXT" else value for key, value in config.items()}
    with pytest.raises(BadInput, match=f"(?s){message}"):
        teach(given, tmp_path / "out", data, **config)
    assert not (tmp_path / "out").exists()


# What is drawn, and so what is learned, is the same on two processes -----------------------------------------


def _fitted(student: str, reasoned: str, accumulation: int) -> list[dict[str, float]]:
    import torch
    import transformers

    from safewright.training.encoding import Example
    from safewright.training.fitting import FitOptions, fit, with_lora
    from safewright.training.pairing import Pairs, collate_pairs
    from safewright.training.references import Live
    from safewright.treatments.srg.on_policy import GUIDED, PROMPT, OnPolicy

    torch.set_num_threads(1)
    tokenizer = reasoning.words()
    own = reasoning.student(tokenizer)
    records = [from_row(row) for row in load_data(reasoned, "reasoned").rows]
    plain, guided = [], []
    for record in records:
        ids = own.prompt(record.messages)
        below = own.prompt(({"role": "system", "content": f"{W[30]} {W[31]}"}, *record.messages))
        plain.append(Example(record.id, tuple(ids), len(ids)))
        guided.append(Example(record.id, tuple(below), len(below)))
    model = with_lora(transformers.AutoModelForCausalLM.from_pretrained(student), 4, 8, seed=1)
    made = OnPolicy(plain, guided, Live(0), stops=frozenset({2}), pad=0, new_tokens=4, seed=2)
    options = FitOptions(
        steps=4, batch=4, accumulation=accumulation, lr=1e-2, optimiser="sgd", schedule="constant"
    )
    data = Pairs(plain, beside={GUIDED: guided}, lead=PROMPT)
    return fit(model, data, collate_pairs(0), made, options).losses


def _beside(student: str, reasoned: str, file: Path, rank: int, port: int) -> None:
    os.environ.update(
        OMP_NUM_THREADS="1", RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    losses = _fitted(student, reasoned, 1)
    import torch.distributed as group

    if rank == 0:
        file.with_suffix(".part").write_text(json.dumps({"world": group.get_world_size(), "losses": losses}))
        file.with_suffix(".part").rename(file)


def test_12_two_processes_draw_and_learn_what_one_does(given: dict[str, Path], tmp_path: Path) -> None:
    where = [str(given["student"]), str(given["reasoned"])]
    alone = _fitted(*where, 2)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers.trainer", "peft"])
    file = tmp_path / "told.json"
    started = [context.Process(target=_beside, args=(*where, file, rank, port)) for rank in range(2)]
    for process in started:
        process.start()
    end = time.monotonic() + 100
    while not file.exists() and all(p.exitcode is None for p in started) and time.monotonic() < end:
        time.sleep(0.02)
    for process in started:
        process.join(3 if file.exists() else 0.5)
        process.kill()
        process.join()
    told = json.loads(file.read_text())
    assert told["world"] == 2
    for one, two in zip(alone, told["losses"], strict=True):
        assert two["on_policy"] == pytest.approx(one["on_policy"], abs=1e-4)
        # Not a token was drawn differently.
        assert two["drawn_tokens"] == one["drawn_tokens"]
        assert two["ended"] == one["ended"]
