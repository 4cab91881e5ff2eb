"""From ``--judge TEXT`` to a judge, without touching a model."""

from __future__ import annotations

import subprocess
import sys

import pytest

from safewright.errors import BadInput
from safewright.judges import (
    JUDGES,
    KeywordJudge,
    LegacyKeywordJudge,
    LlamaGuardJudge,
    Qwen3GuardJudge,
    RubricJudge,
    resolve,
)
from safewright.judges.classifier import LLAMA_GUARD, QWEN3GUARD


def test_every_judge_resolves_and_is_what_its_line_says() -> None:
    for name, entry in JUDGES.items():
        judge = resolve(f"{name}:no/such-model" if entry.model == "required" else name)
        assert judge.name == name == entry.name
        assert judge.answers == frozenset(entry.answers)
        assert entry.summary.endswith(".")
        if entry.model == "none":
            assert judge.conventions["strength"] == entry.strength


def test_kinds() -> None:
    assert isinstance(resolve("keyword"), KeywordJudge)
    assert isinstance(resolve("keyword-legacy"), LegacyKeywordJudge)
    assert isinstance(resolve("rubric:/a/folder"), RubricJudge)
    assert isinstance(resolve("llama-guard"), LlamaGuardJudge)
    assert isinstance(resolve("qwen3guard"), Qwen3GuardJudge)


def test_models_and_options_are_read() -> None:
    rubric = resolve("rubric:http://127.0.0.1:1/v1#a:b?threshold=3&tries=1&partial=compliance")
    assert isinstance(rubric, RubricJudge)
    assert (rubric.model._model, rubric.threshold, rubric.tries) == ("http://127.0.0.1:1/v1#a:b", 3, 1)
    assert rubric.partial == "compliance"
    guard = resolve("qwen3guard:/a/folder?controversial=safe")
    assert isinstance(guard, Qwen3GuardJudge)
    assert (guard.model._model, guard.controversial) == ("/a/folder", "safe")
    other = resolve("qwen3guard?controversial=unscored")
    assert isinstance(other, Qwen3GuardJudge)
    assert (other.model._model, other.controversial) == (QWEN3GUARD, "unscored")
    llama = resolve("llama-guard")
    assert isinstance(llama, LlamaGuardJudge)
    assert llama.model._model == LLAMA_GUARD


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("keywrod", "Did you mean 'keyword'"),
        ("", "Valid names"),
        ("qwen-guard:/x", "'?qwen3guard|rubric"),
        ("org/model", "rubric:org/model"),
        ("models/agent", "rubric:models/agent"),
        ("http://host:1/v1#m", "rubric:http://host:1/v1#m"),
        ("agent:http://host:1/v1#m", "Did you mean 'agents'"),
        ("rubric", "rubric:MODEL"),
        ("rubric:", "no model after the colon"),
        ("keyword:/a/folder", "takes no model"),
        ("qwen3guard?controversal=safe", "'controversial'"),
        ("qwen3guard?controversial=never", "controversial is 'never'"),
        ("qwen3guard?controversial=safe&controversial=safe", "twice"),
        ("rubric:/m?threshold=high", "whole number"),
        ("rubric:/m?threshold=9", "2, 3, 4 or 5"),
        ("rubric:/m?threshold", "cannot be read"),
        ("keyword?x=1", "no option 'x'"),
    ],
)
def test_bad_specs_are_refused_with_what_to_write(spec: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        resolve(spec)


def test_resolving_imports_no_model_library() -> None:
    code = (
        "import sys; from safewright.judges import JUDGES, resolve; resolve('rubric:/m'); resolve('llama-guard');"
        "print([m for m in ('torch', 'transformers', 'httpx', 'datasets', 'peft') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
