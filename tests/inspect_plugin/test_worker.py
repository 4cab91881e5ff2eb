"""An engine in a process of its own says what the engine here says, and its end is noticed."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.model import get_model

from safewright.errors import Missing
from safewright.models import load, resolve
from safewright.models.worker import Worker
from safewright.types import Decoding, ModelRef
from tests.inspect_plugin.test_provider import ask, chats, read

GREEDY = Decoding(max_new_tokens=12)


def test_a_process_of_its_own_says_the_same_and_its_death_is_an_error(tiny_folder: Path) -> None:
    model = get_model(f"safewright/{tiny_folder}", memoize=False)
    direct: Any = load(tiny_folder)
    outputs = ask(model, chats(20), max_tokens=12)
    assert read(outputs) == direct.generate(chats(20), GREEDY)
    lengths = [output.usage.input_tokens for output in outputs]
    assert lengths == [len(direct.tokenizer(_text(direct, chat))["input_ids"]) for chat in chats(20)]
    assert asyncio.run(model.count_tokens("ban der kis")) == 3
    api: Any = model.api
    opened = asyncio.run(api.engine.opened())
    assert opened.conventions == direct.conventions
    bad = ({"role": "user", "content": "half \ud800 a character"},)
    with pytest.raises(Exception, match="lone surrogate"):
        ask(model, [bad], max_tokens=12)
    os.kill(opened.model._process.pid, signal.SIGKILL)
    with pytest.raises(Missing, match="ended with status"):
        ask(model, chats(2), max_tokens=12)
    opened.model.close()


def _text(loaded: Any, chat: Any) -> str:
    return str(loaded.tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=True))


def test_what_cannot_be_opened_there_is_raised_here(tmp_path: Path) -> None:
    ref = ModelRef("hf", str(tmp_path / "nowhere"), "sha256:0")
    with pytest.raises(Exception, match="nowhere"):
        Worker(ref, {"device": "cpu"}, 4)


def test_the_option_is_checked(tiny_folder: Path) -> None:
    with pytest.raises(PrerequisiteError, match="true or false"):
        get_model(f"safewright/{tiny_folder}", process="maybe", memoize=False)


def test_it_ends_with_its_parents_pipe(tiny_folder: Path) -> None:
    worker = Worker(resolve(tiny_folder), {"device": "cpu"}, 4)
    worker.close()
    assert worker._process.returncode == 0
    with pytest.raises(Missing, match="ended with status 0"):
        asyncio.run(worker.ask(chats(1)[0], GREEDY))
