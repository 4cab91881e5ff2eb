"""The store of received answers: asked once, written down at once, read back after a kill."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from safewright.errors import BadInput
from safewright.runs import Calls, call_key


def test_equal_questions_at_once_are_asked_once() -> None:
    calls, asked = Calls(), []

    async def ask() -> str:
        asked.append(1)
        await asyncio.sleep(0.01)
        return "said"

    async def all_at_once() -> list[str]:
        return await asyncio.gather(*(calls.get("k", ask) for _ in range(16)))

    assert asyncio.run(all_at_once()) == ["said"] * 16
    assert len(asked) == 1
    assert calls.asked == 1


def test_threads_with_loops_of_their_own_share_one_answer() -> None:
    calls, asked, said = Calls(), [], []

    async def ask() -> str:
        asked.append(1)
        await asyncio.sleep(0.05)
        return "said"

    threads = [
        threading.Thread(target=lambda: said.append(asyncio.run(calls.get("k", ask)))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == ["said"] * 5
    assert len(asked) == 1


def test_a_failure_is_handed_on_and_asked_again() -> None:
    calls, tries = Calls(), []

    async def ask() -> str:
        tries.append(1)
        await asyncio.sleep(0)
        if len(tries) == 1:
            raise RuntimeError("down")
        return "up"

    async def both() -> list[Any]:
        first = await asyncio.gather(calls.get("k", ask), calls.get("k", ask), return_exceptions=True)
        return [*first, await calls.get("k", ask)]

    one, two, three = asyncio.run(both())
    assert isinstance(one, RuntimeError)
    assert isinstance(two, RuntimeError)
    assert three == "up"
    assert len(tries) == 2


def test_what_is_not_kept_is_asked_again(tmp_path: Path) -> None:
    calls = Calls.in_folder(tmp_path / "calls")

    async def ask() -> dict[str, str]:
        return {"stop": "error"}

    for _ in range(2):
        asyncio.run(calls.get("k", ask, keep=lambda value: value["stop"] != "error"))
    assert calls.asked == 2
    assert list((tmp_path / "calls").glob("*.jsonl")) == []


def test_answers_survive_kill_9_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "calls"
    code = (
        "import asyncio, os, signal, sys\n"
        "from safewright.runs import Calls\n"
        f"calls = Calls.in_folder({str(folder)!r})\n"
        "async def ask(): return 'said'\n"
        "for n in range(3): asyncio.run(calls.get(f'k{n}', ask))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    (file,) = folder.glob("*.jsonl")
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    with open(file, "a") as handle:
        handle.write('{"key": "k9", "val')
    calls = Calls.in_folder(folder)
    for n in range(3):
        assert calls.claim(f"k{n}") == ("said", None, False)
    assert calls.claim("k9")[2]
    assert calls.asked == 1


def test_what_one_run_received_is_written_into_the_next_that_uses_it() -> None:
    calls, first, second = Calls(), [], []
    detach = calls.attach([], first.append)

    async def ask() -> str:
        return "said"

    asyncio.run(calls.get("k", ask))
    detach()
    calls.attach([], second.append)
    asyncio.run(calls.get("k", ask))
    asyncio.run(calls.get("k", ask))
    assert first == second == [{"key": "k", "value": "said"}]
    assert calls.asked == 1


def test_a_run_that_ends_takes_only_its_own_journal_away() -> None:
    calls, first, second = Calls(), [], []

    async def ask() -> str:
        return "said"

    detach = calls.attach([], first.append)
    calls.attach([], second.append)
    detach()
    asyncio.run(calls.get("k", ask))
    assert (first, second) == ([], [{"key": "k", "value": "said"}])


def test_who_waits_for_an_answer_that_cannot_be_written_down_hears_of_it() -> None:
    calls = Calls()

    def full(row: object) -> None:
        raise OSError("no space left")

    calls.attach([], full)

    async def ask() -> str:
        await asyncio.sleep(0.01)
        return "said"

    async def both() -> list[Any]:
        return await asyncio.wait_for(
            asyncio.gather(calls.get("k", ask), calls.get("k", ask), return_exceptions=True), timeout=5
        )

    assert [type(found) for found in asyncio.run(both())] == [OSError, OSError]


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "calls"
    folder.mkdir()
    (folder / "a.jsonl").write_text(json.dumps({"key": "k"}) + "\n")
    with pytest.raises(BadInput, match=r"a\.jsonl, line 1 is damaged"):
        Calls.in_folder(folder)


def test_a_key_depends_on_model_words_decoding_and_draw() -> None:
    chat = [{"role": "user", "content": "q"}]
    keys = {
        call_key("m", chat, {"t": 0}),
        call_key("n", chat, {"t": 0}),
        call_key("m", [*chat, *chat], {"t": 0}),
        call_key("m", chat, {"t": 1}),
        call_key("m", chat, {"t": 0}, 1),
    }
    assert len(keys) == 5
