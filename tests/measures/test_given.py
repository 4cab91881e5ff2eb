"""What a caller may hand to `measure_model` and `plan_audit`, and the words for everything else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from safewright.compose.audit import plan_audit, run_audit
from safewright.compose.folders import load_card
from safewright.errors import BadInput
from safewright.measures import measure_model
from safewright.measures.behaviour import AskOptions
from safewright.models import load
from safewright.runs import open_run
from safewright.types import Generation, ModelRef, Row
from tests import tiny
from tests.contract.fakes import Speaking, Sure

ROWS = tiny.rows(4)


def says(text: str) -> Generation:
    return Generation("Here it is.", "", "Here it is.", True, "stop", 3)


def take(folder: Path, model: Any = None, **more: Any) -> Any:
    asked = {"data": ROWS, "judge": Sure(), "run": folder, **more}
    return measure_model("harmful_rate", Speaking(says) if model is None else model, **asked)


def test_a_model_in_memory_comes_with_its_tokenizer(tiny_folder: Path, tmp_path: Path) -> None:
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder)
    with pytest.raises(BadInput, match=r"without its tokenizer.*load\(model, tokenizer=tokenizer\)"):
        take(tmp_path / "a", model)
    with pytest.raises(BadInput, match=r"load\(model, tokenizer=tokenizer\)"):
        plan_audit(model, data={"harm": ROWS, "benign": ROWS, "utility": ROWS})
    opened = load(model, tokenizer=transformers.AutoTokenizer.from_pretrained(tiny_folder))
    card = take(tmp_path / "a", opened, config={"max_new_tokens": 3})
    assert card.models["target"].kind == "live"
    with pytest.raises(BadInput, match="live model"):
        take(tmp_path / "b", opened.ref)


@pytest.mark.parametrize(
    "model", [[Path("a"), Path("b")], ("a", "b"), 3, 2.5, b"model", object(), Speaking, {1}]
)
def test_what_is_no_model_is_named(model: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=type(model).__name__):
        take(tmp_path / "a", {"target": model})
    with pytest.raises(BadInput, match=type(model).__name__):
        plan_audit(model, data={"harm": ROWS, "benign": ROWS, "utility": ROWS})
    assert not (tmp_path / "a").exists()


def test_a_model_that_cannot_do_what_is_needed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="logprobs"):
        measure_model("fake_curve", Speaking(says), data=ROWS, run=tmp_path / "a")


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ([*ROWS, ROWS[0]], "id 'r000' was already given"),
        ([{"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"}], "id 'a' was already given"),
        ([{"promt": "x"}], "promt"),
        ([{"prompt": 3}], "prompt"),
        (["just text"], "str"),
        ([None], "NoneType"),
        ({"prompt": "x"}, "dict"),
        (ROWS[0], "Row"),
        (3, "int"),
        ([], "empty"),
        ([Row(id="a", prompt="text")], "row 1"),  # type: ignore[arg-type]
        ([Row(id="a", prompt=())], "row 1"),
        ([Row(id="a", prompt=({"role": "user"},))], "content"),
        ([Row(id="a", prompt=({"role": "usr", "content": "x"},))], "usr"),
        ([Row(id=3, prompt=ROWS[0].prompt)], "id is 3"),  # type: ignore[arg-type]
        ([Row(id="a", prompt=ROWS[0].prompt, meta={"x": object()})], "row 1"),
        ([Row(id="a", prompt=ROWS[0].prompt, reference=3)], "row 1"),  # type: ignore[arg-type]
        ([Row(id="a", prompt=None)], "row 1"),  # type: ignore[arg-type]
    ],
)
def test_rows_that_cannot_be_used_are_named(data: Any, word: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=word):
        take(tmp_path / "a", data=data)
    with pytest.raises(BadInput, match=word):
        plan_audit(Speaking(says), data={"harm": data, "benign": ROWS, "utility": ROWS})
    assert not (tmp_path / "a").exists()


def test_mappings_and_generators_of_rows_are_read(tmp_path: Path) -> None:
    plain = [{"prompt": "ban der", "lang": "en"}, {"messages": [{"role": "user", "content": "kip"}]}]
    card = take(tmp_path / "a", data=plain)
    assert card.readings[0].n == 2
    assert take(tmp_path / "b", data=iter(ROWS)).readings[0].n == 4


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed"),
        ({"seed": "3"}, "seed"),
        ({"seed": True}, "seed"),
        ({"limit": 0}, "--limit"),
        ({"limit": "5"}, "--limit"),
        ({"config": 3}, "int"),
        ({"config": ["max_new_tokens"]}, "list"),
        ({"config": AskOptions()}, "AskOptions"),
        ({"config": {1: 2}}, "option 1"),
        ({"config": {"max_new_tokens": {"x": 1}}}, "max_new_tokens"),
        ({"config": {"temperature": 10**400}}, "temperature"),
        ({"judge": object()}, "object was given as the judge"),
        ({"judge": Sure}, "judge"),
        ({"judge": "keywrod"}, "keyword"),
        ({"engine": "hf"}, "EngineOptions"),
        ({"max_unscored": float("nan")}, "max_unscored"),
        ({"run": "nul\0"}, "NUL"),
    ],
)
def test_other_wrong_arguments_are_named(more: dict[str, Any], word: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=word):
        take(tmp_path / "a", **more)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": -0.1},
        {"temperature": "hot"},
        {"top_p": float("nan")},
        {"top_p": 1.5},
        {"max_new_tokens": 0},
        {"max_new_tokens": 10**12},
        {"max_new_tokens": "5"},
        {"max_new_tokens": 2.5},
        {"samples": 0},
        {"samples": "2"},
        {"samples": 10**9, "temperature": 1.0},
        {"system": 3},
    ],
)
def test_decoding_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=next(iter(options))):
        AskOptions(**options)


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"data": {"harmm": ROWS}}, "harmm"),
        ({"judges": {"harmm": "keyword"}}, "harmm"),
        ({"data": ROWS}, "list"),
        ({"seed": -1}, "seed"),
        ({"engine": "hf"}, "EngineOptions"),
        ({"options": {"utlity": {"metric": "rouge"}}}, "utlity"),
    ],
)
def test_wrong_arguments_of_an_audit_are_named(more: dict[str, Any], word: str) -> None:
    asked = {"data": {"harm": ROWS, "benign": ROWS, "utility": ROWS}, **more}
    with pytest.raises(BadInput, match=word):
        plan_audit(Speaking(says), **asked)


def test_an_audit_leaves_the_callers_model_open(tmp_path: Path) -> None:
    class Closing(Speaking):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    model = Closing(says)
    judges = {"harm": Sure(), "benign": Sure()}
    plan = plan_audit(model, data={"harm": ROWS, "benign": ROWS, "utility": ROWS}, judges=judges)
    found = run_audit(plan, out=tmp_path / "a")
    assert found.cards["harm"].readings[0].n == 4
    assert model.closed == 0


def test_new_records_never_pair_with_an_old_card(tmp_path: Path) -> None:
    """A kill between the two writes of a resumed run, which healed what had failed before."""

    def failing(text: str) -> Generation:
        return Generation("", "", "", True, "error", 0, "HTTP 500") if len(text) % 2 else says(text)

    folder = tmp_path / "a"
    take(folder, Speaking(failing), max_unscored=1.0)
    old = (folder / "scorecard.json").read_bytes()
    healed = take(folder)
    assert load_card(folder)[0] == healed
    (folder / "scorecard.json").write_bytes(old)  # as if killed after the records, before the card
    with pytest.raises(
        BadInput, match=r"records\.jsonl is not what scorecard\.json was made from"
    ) as refused:
        load_card(folder)
    assert "same --out" in refused.value.fix
    take(folder)
    assert load_card(folder)[0].readings == healed.readings


DYING = """
import os, signal, sys
from pathlib import Path
import safewright.runs.atomic as atomic
import safewright.runs.run as run
from tests.measures.test_given import take
left = int(sys.argv[2])
def counted(real):
    def call(*arguments, **more):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **more)
    return call
# Before and after every change of the folder that matters: each write, each rename, each sync.
for name in ("write", "replace", "fsync"):
    setattr(os, name, counted(getattr(os, name)))
take(Path(sys.argv[1]))
print("finished")
"""


def test_killed_before_any_write_and_resumed_is_the_same(tmp_path: Path) -> None:
    take(tmp_path / "whole")
    whole = content(tmp_path / "whole")
    done = False
    for left in range(0, 60, 3):
        folder = tmp_path / f"broken-{left}"
        process = subprocess.run(
            [sys.executable, "-c", DYING, str(folder), str(left)],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )
        done = "finished" in process.stdout
        assert done or process.returncode == -signal.SIGKILL, process.stderr
        take(folder)
        assert content(folder) == whole
        assert not list(folder.rglob("*.part"))
        with open_run(folder, {"another": "plan"}, overwrite=True) as again:
            assert again.rows("answers") == []
        shutil.rmtree(folder)
        if done:
            break
    assert done


def content(folder: Path) -> tuple[bytes, dict[str, Any]]:
    card = json.loads((folder / "scorecard.json").read_text())
    card.pop("cost")
    return (folder / "records.jsonl").read_bytes(), card


def test_a_half_judged_run_is_resumed_without_a_second_call(tmp_path: Path) -> None:
    class Dying(Sure):
        def __init__(self, after: int) -> None:
            self.after, self.calls = after, 0

        async def judge(self, items: Any) -> Any:
            if self.calls >= self.after:
                raise KeyboardInterrupt
            self.calls += len(items)
            return await super().judge(items)

    rows = tiny.rows(150)
    whole = take(tmp_path / "whole", data=rows)
    first = Dying(64)
    with pytest.raises(KeyboardInterrupt):
        take(tmp_path / "broken", data=rows, judge=first)
    second = Dying(10**6)
    card = take(tmp_path / "broken", data=rows, judge=second)
    assert (first.calls, second.calls) == (64, 86)
    assert card.cost.judge_calls == 86
    assert content(tmp_path / "broken") == content(tmp_path / "whole")
    assert whole.cost.judge_calls == 150


def test_answers_nobody_judges_are_no_judge_calls(tmp_path: Path) -> None:
    def silent(text: str) -> Generation:
        return Generation("", "", "", True, "overlong", 0, "too long")

    for _ in range(2):
        assert take(tmp_path / "a", Speaking(silent)).cost.judge_calls == 0


def test_a_reference_to_nothing_is_no_internal_error(tmp_path: Path) -> None:
    gone = ModelRef("hf", str(tmp_path / "gone"), "sha256:0")
    with pytest.raises(BadInput, match="gone"):
        take(tmp_path / "a", gone)
