"""`safewright serve --upstream` before a running server, and the parts of serving without any."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from safewright.cli.main import run
from safewright.errors import BadInput, Incomplete
from safewright.models.chat import THINK, start
from safewright.models.serving.app import check_opening
from safewright.models.serving.events import End, Opening, Piece
from safewright.models.serving.local import unseen_tokens
from safewright.models.serving.replies import Log, Telling
from safewright.models.serving.requests import Asked, Refused, read_request
from safewright.models.serving.upstream import goes_on_inside
from tests import tiny
from tests.models.fault_server import FaultServer, Reply, complains, said
from tests.models.thinking import Served, serving

THOUGHT = "<think>the secret plan</think>\n\nFold it twice."


@pytest.fixture(scope="module")
def behind() -> Iterator[FaultServer]:
    server = FaultServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def served(behind: FaultServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    arguments = ("--upstream", f"{behind.base}#toy", "--timeout", "20")
    with serving(tmp_path_factory.mktemp("up"), *arguments, env={"SAFEWRIGHT_API_KEY": "sesame"}) as found:
        yield found


def ask(base: str, **more: Any) -> httpx.Response:
    payload = {"model": "toy", "messages": [{"role": "user", "content": "a paper boat"}], **more}
    return httpx.post(f"{base}/chat/completions", json=payload, timeout=60, trust_env=False)


def sent(*deltas: dict[str, Any], end: str | None = "stop") -> Reply:
    """A stream of deltas, as servers send it."""
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    if end:
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": end}]})
        chunks.append({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}})
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return Reply(("".join([*lines, ": a comment\n\n", "data: [DONE]\n\n"] if end else lines)).encode())


def text_of(response: httpx.Response) -> str:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")]
    choices = [choice for line in lines for choice in json.loads(line).get("choices", [])]
    return "".join(choice["delta"].get("content", "") for choice in choices)


def last_row(served: Served) -> dict[str, Any]:
    return dict(json.loads(served.log.read_text("utf-8").splitlines()[-1]))


def test_11_the_filter_stands_before_a_running_server(served: Served, behind: FaultServer) -> None:
    behind.behave = lambda request, number: said(THOUGHT)
    reply = ask(served.base, temperature=0.5, max_tokens=50).json()
    assert reply["choices"][0]["message"]["content"] == "Fold it twice."
    assert "secret" not in json.dumps(reply)
    asked = behind.requests[-1]
    assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("toy", 0.5, 50)
    assert (last_row(served)["raw"], last_row(served)["reasoning"]) == (THOUGHT, "the secret plan")


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_11_streams_in_pieces_of_any_size(served: Served, behind: FaultServer, size: int) -> None:
    pieces = [{"content": THOUGHT[i : i + size]} for i in range(0, len(THOUGHT), size)]
    behind.behave = lambda request, number: sent(*pieces)
    found = ask(served.base, stream=True, stream_options={"include_usage": True})
    assert text_of(found) == "Fold it twice."
    assert "secret" not in found.text
    assert '"completion_tokens": 7' in found.text
    assert last_row(served)["raw"] == THOUGHT


def test_11_without_a_closing_marker_there_is_no_answer(served: Served, behind: FaultServer) -> None:
    behind.behave = lambda request, number: sent(
        {"content": "<think>the sec"}, {"content": "ret"}, end="length"
    )
    found = ask(served.base, stream=True)
    assert (text_of(found), '"no_answer": true' in found.text) == ("", True)
    assert '"finish_reason": "length"' in found.text
    assert (last_row(served)["raw"], last_row(served)["no_answer"]) == ("<think>the secret", True)


def test_11_a_block_that_the_unseen_template_opened(served: Served, behind: FaultServer) -> None:
    behind.behave = lambda request, number: sent(
        {"content": "the secret"}, {"content": " plan</think> Fold."}
    )
    found = ask(served.base, stream=True)
    assert (text_of(found), "secret" in found.text) == ("Fold.", False)


def test_11_an_unseen_template_and_too_few_tokens_show_nothing(served: Served, behind: FaultServer) -> None:
    behind.behave = lambda request, number: sent(
        {"content": "the secret"}, {"content": " plan"}, end="length"
    )
    found = ask(served.base, stream=True, max_tokens=2)
    assert ("secret" in found.text, '"no_answer": true' in found.text) == (False, True)
    row = last_row(served)
    assert (row["shown"], row["answer"], row["closed"], row["reasoning"]) == (
        "",
        "",
        False,
        "the secret plan",
    )


def test_11_reasoning_that_the_server_split_off_is_not_passed_on(served: Served, behind: FaultServer) -> None:
    deltas = ({"reasoning_content": "the </think> sec"}, {"reasoning_content": "ret"}, {"content": "Fold."})
    behind.behave = lambda request, number: sent(*deltas)
    found = ask(served.base, stream=True)
    assert (text_of(found), "sec" in text_of(found)) == ("Fold.", False)
    assert "ret" not in found.text
    assert last_row(served)["raw"] == "<think>the </think> secret</think>Fold."
    message = {"content": "Fold.", "reasoning": "the secret"}
    reply = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    behind.behave = lambda request, number: Reply(json.dumps(reply).encode())
    whole = ask(served.base)
    assert whole.json()["choices"][0]["message"] == {"role": "assistant", "content": "Fold."}
    assert "secret" not in whole.text


@pytest.mark.parametrize(
    ("reply", "status", "words"),
    [
        (complains(400, "max_tokens is too large"), 400, "too large"),
        (complains(500, "worker died"), 502, "worker died"),
        (complains(401, "bad key sesame"), 502, "bad key ***"),
        (Reply(b"<html>welcome</html>"), 502, "not JSON"),
        (Reply(b"{}"), 502, "choices"),
        (complains(307, "elsewhere"), 502, "elsewhere"),
        (Reply(b'{"choices": [{"message": {"content": 7}, "finish_reason": "stop"}]}'), 502, "no text"),
        (Reply(b'{"choices": [{"message": {"content": "x"}}]}'), 502, "broke"),
    ],
)
def test_what_goes_wrong_behind_is_told(
    served: Served, behind: FaultServer, reply: Reply, status: int, words: str
) -> None:
    behind.behave = lambda request, number: reply
    found = ask(served.base)
    assert (found.status_code, words in found.json()["error"]["message"]) == (status, True)


def test_a_stream_that_breaks_off_ends_with_an_error(served: Served, behind: FaultServer) -> None:
    behind.behave = lambda request, number: sent({"content": "<think>a</think>Fold"}, end=None)
    found = ask(served.base, stream=True)
    assert text_of(found) == "Fold"
    assert '"error"' in found.text
    assert "[DONE]" not in found.text
    assert (last_row(served)["broken"], last_row(served)["shown"]) == (
        "The server behind broke its answer off.",
        "Fold",
    )


def test_half_a_character_gets_a_reply(served: Served, behind: FaultServer) -> None:
    behind.behave = lambda request, number: said("<think>a</think>Fold \ud83d")
    found = ask(served.base)
    assert (found.status_code, json.loads(found.content)["choices"][0]["message"]["content"]) == (
        200,
        "Fold \ud83d",
    )
    typed = {"content-type": "application/json"}
    where = f"{served.base}/chat/completions"
    odd = httpx.post(where, content=b'{"\\ud83d": 1}', headers=typed, trust_env=False, timeout=30)
    assert odd.status_code == 400


def test_a_folder_says_how_the_server_behind_is_read(behind: FaultServer, tmp_path: Path) -> None:
    opening = tiny.TEMPLATE.replace("assistant :{% endif %}", "assistant : [plan]{% endif %}")
    folder = tiny.save_tiny(tmp_path / "model", template=opening)
    recipe = {"decoding": {"max_new_tokens": 33}, "visible": {"open": "[plan]", "close": "[/plan]"}}
    (folder / "safewright_recipe.json").write_text(json.dumps(recipe))
    behind.behave = lambda request, number: sent(
        {"content": "the secret"}, {"content": " plan [/plan] Fold."}
    )
    with serving(tmp_path, str(folder), "--upstream", f"{behind.base}#toy") as found:
        assert text_of(ask(found.base, stream=True)) == "Fold."
        assert behind.requests[-1]["max_tokens"] == 33
        behind.behave = lambda request, number: sent({"content": "the secret without an end"})
        assert text_of(ask(found.base, stream=True)) == ""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "No model"),
        (["/nowhere/at/all"], 2, "/nowhere/at/all"),
        (["http://127.0.0.1:9/v1#x"], 2, "--upstream"),
        (["--upstream", "http://127.0.0.1:9/v1#x"], 5, "never answered"),
        (["--upstream", "ftp://x"], 2, "ftp://x"),
        (["--upstream", "http://127.0.0.1:9/v1#x", "--name", "y"], 2, "--name"),
        (["m", "--host", "0.0.0.0"], 2, "SAFEWRIGHT_SERVE_KEY"),
        (["m", "--host", "203.0.113.7"], 2, "203.0.113.7"),
        (["m", "--port", "70000"], 2, "70000"),
        (["m", "--timeout", "3"], 2, "--timeout"),
        (["m", "--uptsream", "x"], 2, "--upstream"),
    ],
)
def test_what_cannot_be_served_is_told(
    arguments: list[str], code: int, words: str, capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    port = [] if "--port" in arguments else ["--port", "0"]
    assert run(["serve", *arguments, *port]) == code
    assert words in capsys.readouterr().err


def test_a_taken_port_and_a_shared_log_are_told(served: Served, behind: FaultServer, capsys: Any) -> None:
    port = served.base.rpartition(":")[2].partition("/")[0]
    upstream = ["serve", "--upstream", f"{behind.base}#toy"]
    assert run([*upstream, "--port", port]) == 2
    assert "Address already in use" in capsys.readouterr().err
    assert run([*upstream, "--port", "0", "--log", str(served.log)]) == 2
    assert "Another server writes" in capsys.readouterr().err
    assert run([*upstream, "--port", "0", "--log", str(served.log.parent)]) == 2


def test_without_fastapi_the_install_line_is_told() -> None:
    program = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from safewright.cli.main import run; sys.exit(run(['serve', 'm', '--port', '0']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, "safewright[serve]" in done.stderr) == (5, True)


def test_the_log_is_only_added_to_and_survives_a_torn_line(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text('{"id": "old"}\n{"id": "to')
    log = Log(file)
    log.write({"id": "new"})
    with pytest.raises(BadInput, match="Another server"):
        Log(file)
    log.close()
    assert file.read_text() == '{"id": "old"}\n{"id": "to\n{"id":"new"}\n'
    other = tmp_path / "other.jsonl"
    Log(other).close()
    assert os.stat(other).st_mode & 0o077 == 0


def test_a_full_disk_is_told_and_leaves_no_part_of_a_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no device that is always full")
    log = Log(Path("/dev/full"))
    with pytest.raises((Incomplete, OSError)):
        log.write({"id": "x"})
    log.close()


def test_a_telling_that_is_left_says_so() -> None:
    asked = Asked("toy", ({"role": "user", "content": "a"},), {}, stream=True)
    telling = Telling("one", asked, {"open": "<think>", "close": "</think>"}, "toy@x")
    telling.take(Opening(False, True, {}))
    assert telling.take(Piece("<think>a</think>Fold", "<think>a</think>Fold")) == "Fold"
    row = telling.row()
    assert (row["broken"], row["shown"], row["answer"], row["no_answer"]) == (
        "the client went away",
        "Fold",
        "",
        True,
    )
    telling.take(End("stop", 3, 4))
    assert (telling.row()["broken"], telling.answer, telling.no_answer) == ("", "Fold", False)


def test_the_end_of_what_broke_off_is_not_told_as_shown() -> None:
    asked = Asked("toy", ({"role": "user", "content": "a"},), {}, stream=True)
    telling = Telling("one", asked, THINK, "toy@x")
    telling.take(Opening(False, True, {}))
    assert telling.take(Piece("Fold <thi", "Fold <thi")) == "Fold"
    assert telling.take(End("error", error="gone")) == ""
    assert (telling.row()["shown"], telling.row()["broken"]) == ("Fold", "gone")
    split = Telling("two", asked, THINK, "toy@x")
    split.take(Opening(False, False, {}))
    split.take(Piece("the secret", "the secret", thought=True))
    assert split.take(End("length")) == ""
    assert (split.row()["closed"], split.row()["no_answer"]) == (False, True)


@pytest.mark.parametrize(
    ("opening", "template", "expected"),
    [
        ("<think> the user", False, (True, True)),
        ("<think> the user", None, (True, True)),
        ("<think></think> Sure", True, (False, True)),
        ("plan </think> Sure", None, (False, True)),
        ("Sure", True, (True, True)),
        ("Sure", None, (False, False)),
        (None, False, (False, True)),
    ],
)
def test_11_a_block_that_a_client_began_before_a_running_server(
    opening: str | None, template: bool | None, expected: tuple[bool, bool]
) -> None:
    chat: Any = ({"role": "user", "content": "a <think>"},)
    asked = Asked("toy", chat if opening is None else start(chat, opening), {})
    assert goes_on_inside(asked, THINK, template) == expected


def test_11_a_client_cannot_begin_half_a_marker() -> None:
    chat: Any = ({"role": "user", "content": "a <thi"},)
    check_opening(Asked("toy", chat, {}), THINK)
    check_opening(Asked("toy", start(chat, "<think> a"), {}), THINK)
    for opening in ("<thi", "Sure <think", "Sure <th\n"):
        with pytest.raises(Refused, match="inside the marker"):
            check_opening(Asked("toy", start(chat, opening), {}), THINK)


def test_11_markers_of_several_special_tokens_stay_in_the_text() -> None:
    class Words:
        all_special_ids = (1, 2, 3, 4)
        all_special_tokens = ("<|channel|>", "<|message|>", "<|end|>", "<pad>")

    visible = {"open": "<|channel|>analysis<|message|>", "close": "<|end|>"}
    assert unseen_tokens(Words, visible) == {4}


def test_neutral_values_are_taken_however_they_are_written() -> None:
    plain = {"model": "toy", "messages": [{"role": "user", "content": "a"}]}
    read_request({**plain, "frequency_penalty": 0.0, "n": 1, "logprobs": False}, ["toy"], most_tokens=9)
    for change in ({"n": True}, {"logprobs": 0}, {"presence_penalty": 0.1}):
        with pytest.raises(Refused, match="not supported"):
            read_request({**plain, **change}, ["toy"], most_tokens=9)
