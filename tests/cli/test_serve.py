"""`safewright serve` over real sockets: reasoning stays inside, whole answers stay in the log."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from safewright.cli.main import run
from safewright.models import load
from safewright.types import Decoding
from tests.models.thinking import HIDDEN, SAID, Served, save_thinking, serving

NAME = "thinker"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_thinking(tmp_path_factory.mktemp("serve") / NAME)
    (folder / "safewright_recipe.json").write_text(
        json.dumps({"decoding": {"max_new_tokens": 14}, "visible": {"open": "<think>", "close": "</think>"}})
    )
    return folder


@pytest.fixture(scope="module")
def served(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served"), str(folder)) as found:
        yield found


def ask(base: str, text: str, **more: Any) -> httpx.Response:
    payload = {"model": NAME, "messages": [{"role": "user", "content": text}], **more}
    return httpx.post(f"{base}/chat/completions", json=payload, timeout=60, trust_env=False)


def streamed(base: str, text: str, **more: Any) -> tuple[str, list[dict[str, Any]], str]:
    """The text of a stream, its last events with something to say, and all its bytes."""
    body = ask(base, text, stream=True, **more).text
    lines = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]", body
    events = [json.loads(line) for line in lines[:-1]]
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    return "".join(delta.get("content", "") for delta in deltas), events, body


def rows(served: Served) -> list[dict[str, Any]]:
    return [json.loads(line) for line in served.log.read_text("utf-8").splitlines()]


def test_11_reasoning_stays_inside_and_the_log_has_it(served: Served) -> None:
    for text in SAID:
        found = ask(served.base, text)
        assert found.status_code == 200
        reply, row = found.json(), rows(served)[-1]
        choice = reply["choices"][0]
        expected = SAID[text].rpartition("</think>")[2].strip() if "</think>" in SAID[text] else ""
        if "<think>" not in SAID[text]:
            expected = SAID[text]
        assert choice["message"]["content"] == expected
        assert reply["safewright"]["no_answer"] is (expected == "")
        assert choice["finish_reason"] == (
            "length" if "</think>" not in SAID[text] and "<" in SAID[text] else "stop"
        )
        assert "think>" not in found.text
        assert row["raw"].split()[:3] == SAID[text].split()[:3]
        assert (row["id"], row["answer"], row["shown"]) == (reply["id"], expected, expected)
        assert row["model"].endswith(load(Path(row["model"].partition("@")[0])).ref.digest)
    hidden = ask(served.base, "ban der").text
    assert HIDDEN not in hidden


@pytest.mark.parametrize("text", SAID)
def test_11_a_stream_shows_what_the_whole_shows(served: Served, text: str) -> None:
    whole = ask(served.base, text).json()
    shown, events, body = streamed(served.base, text, stream_options={"include_usage": True})
    assert shown == whole["choices"][0]["message"]["content"]
    assert events[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert events[-2]["safewright"] == whole["safewright"]
    assert events[-1]["usage"] == whole["usage"]
    assert events[-1]["choices"] == []
    assert "think>" not in body
    assert rows(served)[-1]["raw"] == rows(served)[-2]["raw"]
    assert rows(served)[-1]["shown"] == shown


def test_the_recipe_decides_until_the_client_does(served: Served, folder: Path) -> None:
    model = load(folder, device="cpu")
    chat = [({"role": "user", "content": "muv ras"},)]
    assert ask(served.base, "muv ras").json()["usage"]["completion_tokens"] == 14
    assert ask(served.base, "muv ras", max_tokens=9).json()["usage"]["completion_tokens"] == 9
    reply = ask(served.base, "ban der", temperature=1.5, seed=3, max_completion_tokens=6).json()
    row = rows(served)[-1]
    expected = model.generate([({"role": "user", "content": "ban der"},)], Decoding(6, 1.5, seed=3))[0]
    assert row["raw"] == expected.raw
    assert (row["decoding"]["seed"], row["decoding"]["temperature"]) == (3, 1.5)
    assert reply["usage"]["prompt_tokens"] == 7
    seeds = set()
    for _ in range(2):
        ask(served.base, "ban der", temperature=1.0, max_tokens=2)
        seeds.add(rows(served)[-1]["decoding"]["seed"])
    assert len(seeds) == 2  # a client that names none does not get one answer again and again
    assert model.generate(chat, Decoding(max_new_tokens=14))[0].closed is False


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"model": "other"}, 404, "thinker"),
        ({"messages": []}, 400, "at least one"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "role"),
        ({"messages": [{"role": "user", "content": 7}]}, 400, "not text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "not text"),
        ({"messages": [{"role": "system", "content": "x"}]}, 400, "no question"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": "warm"}, 400, "temperature"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": 999999}, 400, "5120"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, 400, "differ"),
        ({"n": 3}, 400, "n is not supported"),
        ({"logprobs": True}, 400, "tokens of the reasoning"),
        ({"stop": ["x"]}, 400, "stop"),
        ({"tools": [{}]}, 400, "tools"),
        ({"temprature": 1}, 400, "Did you mean 'temperature'"),
        ({"stream": "yes"}, 400, "true or false"),
        ({"continue_final_message": True}, 400, "--allow-openings"),
        ({"messages": [{"role": "user", "content": "ban " * 300}]}, 400, "context length is 128 tokens"),
    ],
)
def test_requests_that_cannot_be_met_get_a_4xx(
    served: Served, change: dict[str, Any], status: int, words: str
) -> None:
    for stream in (False, True):
        found = ask(served.base, "ban der", **{"stream": stream, **change})
        assert found.status_code == status
        assert words in found.json()["error"]["message"]


def test_bodies_that_are_none_get_a_4xx(served: Served) -> None:
    where = f"{served.base}/chat/completions"
    typed = {"content-type": "application/json"}
    for content, headers, status in (
        (b"{", typed, 400),
        (b"[" * 100_000, typed, 400),
        (b"\xff", typed, 400),
        (b"[]", typed, 400),
        (b"{}", {"content-type": "text/plain"}, 415),
        (b" " * (9 * 2**20), typed, 413),
    ):
        found = httpx.post(where, content=content, headers=headers, trust_env=False, timeout=30)
        assert (found.status_code, bool(found.json()["error"]["message"])) == (status, True)
    assert httpx.get(f"{served.base}/nothing", trust_env=False).json()["error"]["message"]
    assert httpx.get(where, trust_env=False).status_code == 405


def test_one_answer_at_a_time_and_everybody_gets_theirs(served: Served) -> None:
    texts = [text for text in SAID for _ in range(3)]
    alone = {text: ask(served.base, text).json()["choices"][0] for text in SAID}
    before = len(rows(served))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: ask(served.base, text).json(), texts))
    assert [reply["choices"][0] for reply in found] == [alone[text] for text in texts]
    assert sorted(row["id"] for row in rows(served)[before:]) == sorted(reply["id"] for reply in found)


def test_who_goes_away_ends_the_answer_and_leaves_a_line(served: Served) -> None:
    before = len(rows(served))
    payload = {"model": NAME, "messages": [{"role": "user", "content": "muv ras"}], "stream": True}
    with httpx.stream(
        "POST",
        f"{served.base}/chat/completions",
        json=payload | {"temperature": 1.9, "max_tokens": 110},
        trust_env=False,
    ) as response:
        next(response.iter_lines())
    deadline = time.monotonic() + 20
    while len(rows(served)) == before and time.monotonic() < deadline:
        time.sleep(0.05)
    row = rows(served)[before]
    assert row["broken"] == "the client went away" or row["stop"] in ("stop", "length")
    assert ask(served.base, "ban der").status_code == 200


def test_11_a_measure_sees_the_visible_answer(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": text, "lang": "en"}) + "\n" for text in SAID))
    out = tmp_path / "out"
    where = f"{served.base}#{NAME}"
    # Two of five have no visible answer: above the bound, which exit 11 says.
    assert run(["measure", "harmful_rate", where, "--data", str(file), "--out", str(out)]) == 11
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert sorted(record["output"] for record in records) == ["", "", "ban der kin", "bas", "ras sen tip"]
    silent = [record for record in records if record["status"].get("harmful") == "no_answer"]
    assert {record["input"][0]["content"] for record in silent} == {"muv ras", "tip sen"}


def test_a_client_may_begin_the_answer_only_where_allowed(folder: Path, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "ban der"}, {"role": "assistant", "content": "<think> kin lop"}]
    begun = {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    arguments = (str(folder), "--allow-openings", "--name", NAME, "--max-tokens", "20")
    with serving(tmp_path, *arguments, env={"SAFEWRIGHT_SERVE_KEY": "sesame"}) as found:
        assert ask(found.base, "ban der").status_code == 401
        with httpx.Client(headers={"Authorization": "Bearer sesame"}, trust_env=False, timeout=60) as client:
            reply = client.post(f"{found.base}/chat/completions", json={"model": NAME, **begun})
            assert reply.status_code == 200
            assert reply.json()["choices"][0]["message"]["content"] == "ras sen tip"
            assert client.get(f"{found.base}/models").json()["data"][0]["id"] == NAME
    assert "sesame" not in found.log.read_text() + found.stderr.read_text()


def test_a_template_that_opens_the_block_shows_nothing_of_it(tmp_path: Path) -> None:
    from tests import tiny

    opening = tiny.TEMPLATE.replace("assistant :{% endif %}", "assistant : <think>{% endif %}")
    folder = save_thinking(tmp_path / NAME, template=opening)
    with serving(tmp_path, str(folder), "--max-tokens", "14") as found:
        assert ask(found.base, "ban der").json()["choices"][0]["message"]["content"] == "ras sen tip"
        assert streamed(found.base, "ban der")[0] == "ras sen tip"
        shown, events, _ = streamed(found.base, "muv ras")
        assert (shown, events[-1]["safewright"]["no_answer"]) == ("", True)
        with (  # Ctrl-C while somebody waits for an answer: the server ends, and cleanly
            ThreadPoolExecutor(1) as pool,
        ):
            pool.submit(ask, found.base, "muv ras", max_tokens=14, temperature=1.0)
            found.process.send_signal(signal.SIGINT)
            assert found.process.wait(20) == 0
        assert "Traceback" not in found.stderr.read_text()
