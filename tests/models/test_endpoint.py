"""The endpoint engine against a real socket: answers, faults, order, counts, cancelling."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safewright.errors import BadInput, ExitCode, Missing
from safewright.models import endpoint as module
from safewright.models import load
from safewright.models._http import backoff, context_limit, retry_after
from safewright.models.endpoint import Endpoint, endpoint_ref, parse_endpoint
from safewright.types import Chat, Decoding, Generation
from tests.models.fault_server import FaultServer, Reply, answered, complains, echo, said

GREEDY = Decoding(max_new_tokens=8)


def chats(count: int) -> list[Chat]:
    return [({"role": "user", "content": f"word {i}"},) for i in range(count)]


@pytest.fixture
def server() -> Iterator[FaultServer]:
    running = FaultServer()
    yield running
    running.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back off for milliseconds, so that what is tested is the counting."""
    monkeypatch.setattr(module, "FIRST_WAIT", 0.002)


def opened(server: FaultServer, **options: Any) -> Endpoint:
    return Endpoint(endpoint_ref(f"{server.base}#toy"), **options)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- references ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "base", "model"),
    [
        ("http://127.0.0.1:8000/v1#toy", "http://127.0.0.1:8000/v1", "toy"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1", None),
        ("http://localhost:8000#a/b", "http://localhost:8000/v1", "a/b"),
        ("http://[::1]:8000/v1#/srv/models/a#b", "http://[::1]:8000/v1", "/srv/models/a#b"),
        ("https://example.org/api/v1/chat/completions#m", "https://example.org/api/v1", "m"),
        ("https://example.org/openai/#m", "https://example.org/openai", "m"),
    ],
)
def test_a_reference_is_read_as_base_and_model(text: str, base: str, model: str | None) -> None:
    assert parse_endpoint(text) == (base, model)


@pytest.mark.parametrize(
    "text",
    ["http://", "ftp://host/v1#m", "http://host:eighty/v1#m", "http://a b/v1#m", "http://host:99999999/v1"],
)
def test_what_is_no_address_is_bad_input(text: str) -> None:
    with pytest.raises(BadInput):
        parse_endpoint(text)


def test_a_host_no_name_server_knows_how_to_spell_is_bad_input() -> None:
    with pytest.raises(BadInput, match="malformed"):
        endpoint_ref("http://xn--\u2603-/v1#m")


@pytest.mark.parametrize(
    "text",
    [
        "http://me:s3cret@host/v1#m",
        "https://host/v1?key=s3cret#m",
        "http://me:s3cret@host:eighty/v1",
        "ftp://me:s3cret@host/v1",
    ],
)
def test_credentials_in_a_reference_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_endpoint(text)
    assert "s3cret" not in str(caught.value)


def test_the_only_model_a_server_lists_is_taken(server: FaultServer) -> None:
    assert endpoint_ref(server.base) == endpoint_ref(f"{server.base}#toy")
    ref = endpoint_ref(server.base)
    assert (ref.kind, ref.where) == ("served", f"{server.base}#toy")
    assert ref.digest.startswith("declared:sha256:")


def test_several_models_are_listed_and_none_is_chosen(server: FaultServer) -> None:
    server.models = answered({"data": [{"id": "first"}, {"id": "second"}]})
    with pytest.raises(BadInput, match=r"2 models \(first, second\).*#first"):
        endpoint_ref(server.base)
    server.models = answered({"data": []})
    with pytest.raises(BadInput, match="serves 0 models"):
        endpoint_ref(server.base)


@pytest.mark.parametrize(
    "reply", [complains(500, "no cache"), Reply(b"<html>"), answered({"data": [{"name": 1}]}), answered([])]
)
def test_a_server_that_cannot_list_needs_the_name(server: FaultServer, impatient: None, reply: Reply) -> None:
    server.models = reply
    with pytest.raises(BadInput, match="#MODEL-NAME"):
        endpoint_ref(server.base)
    assert endpoint_ref(f"{server.base}#toy").where.endswith("#toy")


def test_the_declared_digest_follows_the_weights_and_not_the_date(server: FaultServer) -> None:
    def digest(**facts: Any) -> str:
        server.models = answered({"data": [{"id": "toy", **facts}, {"id": "other", "root": "x"}]})
        return endpoint_ref(f"{server.base}#toy").digest

    first = digest(root="a", created=1, permission=[{"id": "p1"}])
    assert digest(root="a", created=2, permission=[{"id": "p2"}]) == first
    assert digest(root="b", created=1) != first
    assert endpoint_ref(f"{server.base}#other").digest != first


def test_a_server_that_is_down_is_missing_and_quickly_so() -> None:
    begun = time.monotonic()
    with pytest.raises(Missing, match="never answered") as caught:
        endpoint_ref(f"http://127.0.0.1:{free_port()}/v1#toy")
    assert caught.value.exit_code == ExitCode.MISSING
    assert time.monotonic() - begun < 15


# --- answers -------------------------------------------------------------------------------------


def test_load_opens_a_served_model_and_its_answers_keep_their_order(server: FaultServer) -> None:
    server.behave = lambda request, number: Reply(echo(request, number).body, delay=0.02 * (number % 5))
    loaded = load(f"{server.base}#toy", need=frozenset({"generate"}))
    answers = loaded.generate(chats(40), GREEDY)
    assert [answer.answer for answer in answers] == [f"WORD {i}" for i in range(40)]
    assert answers[0] == Generation("WORD 0", "", "WORD 0", True, "stop", 3)
    assert len(server.requests) == 40
    assert loaded.ref.digest.startswith("declared:")
    assert loaded.conventions["engine"] == "endpoint"


def test_what_is_sent_is_the_least_a_server_must_know(server: FaultServer) -> None:
    model = opened(server)
    chat = ({"role": "system", "content": "s"}, {"role": "user", "content": "u"})
    model.generate([chat], Decoding(max_new_tokens=7))
    assert server.requests == [
        {
            "model": "toy",
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
            "temperature": 0.0,
            "max_tokens": 7,
        }
    ]
    assert set(server.paths) == {"/v1/models", "/v1/chat/completions"}


def test_sampled_repeats_of_one_question_have_seeds_of_their_own(server: FaultServer) -> None:
    how = Decoding(temperature=0.7, top_p=0.9, seed=5)
    same = [chats(1)[0]] * 6
    opened(server).generate(same, how)
    seeds = {request["seed"] for request in server.requests}
    assert len(seeds) == 6
    assert {request["top_p"] for request in server.requests} == {0.9}
    assert not any("top_k" in request for request in server.requests)
    server.requests.clear()
    list(opened(server).stream(same, how, done=frozenset(range(5))))
    assert server.requests[0]["seed"] in seeds


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (said("yes", finish="length"), ("", "yes", True, "length")),
        (said(""), ("", "", True, "stop")),
        (said("<think>hm</think> yes"), ("hm", "yes", True, "stop")),
        (said("hm</think> yes"), ("hm", "yes", True, "stop")),
        (said("<think>hm, still", finish="length"), ("hm, still", "", False, "length")),
        (said("yes", reasoning_content=" hm "), ("hm", "yes", True, "stop")),
        (said("yes", reasoning="hm"), ("hm", "yes", True, "stop")),
        (said(None, reasoning_content="hm", finish="length"), ("hm", "", False, "length")),
        (said("", reasoning_content="hm", finish="length"), ("hm", "", False, "length")),
        (said(None, refusal="no thanks"), ("", "no thanks", True, "stop")),
    ],
)
def test_reasoning_and_answer_are_told_apart(
    server: FaultServer, reply: Reply, expected: tuple[str, str, bool, str]
) -> None:
    server.behave = lambda request, number: reply
    (found,) = opened(server).generate(chats(1), GREEDY)
    assert (found.reasoning, found.answer, found.closed, found.stop) == expected


def test_the_markers_of_a_model_can_be_told(server: FaultServer) -> None:
    server.behave = lambda request, number: said("[plan] a [/plan] b")
    model = opened(server, visible={"open": "[plan]", "close": "[/plan]"})
    assert model.generate(chats(1), GREEDY)[0].answer == "b"


def test_text_no_file_can_hold_is_made_writable(server: FaultServer) -> None:
    server.behave = lambda request, number: said("a\ud800b")
    (found,) = opened(server).generate(chats(1), GREEDY)
    assert found.raw.encode("utf-8") == b"a?b"


def test_tokens_the_server_does_not_count_are_zero(server: FaultServer) -> None:
    body = {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], "usage": None}
    server.behave = lambda request, number: answered(body)
    assert opened(server).generate(chats(1), GREEDY)[0].tokens == 0


def test_a_server_offers_generation_and_says_so(server: FaultServer) -> None:
    model = opened(server)
    assert model.able == {"generate"}
    with pytest.raises(BadInput, match=r"log-probabilities.*folder"):
        model.logprobs(chats(1), ["a"])
    with pytest.raises(BadInput, match=r"hidden states.*folder"):
        model.hidden(chats(1), [0], "last")
    with pytest.raises(BadInput, match="does not offer logprobs"):
        load(f"{server.base}#toy", need=frozenset({"generate", "logprobs"}))


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"timeout": 0.0}])
def test_options_without_sense_are_bad_input(server: FaultServer, options: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        opened(server, **options)


# --- the stream ----------------------------------------------------------------------------------


def test_no_more_requests_are_under_way_than_allowed(server: FaultServer) -> None:
    server.behave = lambda request, number: Reply(echo(request, number).body, delay=0.01)
    opened(server, concurrency=3).generate(chats(30), GREEDY)
    assert server.most == 3


def test_answers_are_handed_over_before_the_last_one_is_there(server: FaultServer) -> None:
    gate = threading.Event()

    def last_waits(request: dict[str, Any], number: int) -> Reply:
        if request["messages"][0]["content"] == "word 9":
            gate.wait(20)
        return echo(request, number)

    server.behave = last_waits
    seen: list[int] = []
    for ready in opened(server, concurrency=2).stream(chats(10), GREEDY):
        seen += [index for index, _ in ready]
        if len(seen) == 9:
            gate.set()
    assert gate.is_set()
    assert sorted(seen) == list(range(10))


def test_what_is_done_is_not_asked_again(server: FaultServer) -> None:
    done = frozenset({0, 2, 4})
    found = dict(pair for ready in opened(server).stream(chats(6), GREEDY, done=done) for pair in ready)
    assert sorted(found) == [1, 3, 5]
    assert len(server.requests) == 3
    assert list(opened(server).stream(chats(2), GREEDY, done=frozenset({0, 1}))) == []


def threads() -> list[str]:
    """Threads of the endpoint's loop; a worker of another test's model may stay until the process ends."""
    return [thread.name for thread in threading.enumerate() if thread.name == "safewright-endpoint"]


def test_closing_early_cancels_what_is_under_way(server: FaultServer) -> None:
    def first_answers(request: dict[str, Any], number: int) -> Reply:
        if number > 1:
            server._open.wait(20)
        return echo(request, number)

    server.behave = first_answers
    stream = opened(server, concurrency=4).stream(chats(50), GREEDY)
    first = next(stream)
    server.hold()
    begun = time.monotonic()
    stream.close()
    assert time.monotonic() - begun < 2
    assert len(first) >= 1
    asked = len(server.requests)
    server.release()
    time.sleep(0.2)
    assert len(server.requests) - asked <= 4
    assert not threads()


def test_ctrl_c_in_the_caller_cancels_too(server: FaultServer) -> None:
    def interrupted() -> None:
        for _ in opened(server, concurrency=2).stream(chats(200), GREEDY):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    time.sleep(0.1)
    asked = len(server.requests)
    assert asked < 200
    time.sleep(0.2)
    assert len(server.requests) == asked
    assert not threads()


def test_a_stream_nobody_closed_does_not_keep_the_interpreter(server: FaultServer) -> None:
    code = (
        "from safewright.models import load; from safewright.types import Decoding\n"
        f"model = load({server.base + '#toy'!r})\n"
        "chats = [({'role': 'user', 'content': f'word {i}'},) for i in range(100_000)]\n"
        "for ready in model.stream(chats, Decoding()):\n"
        "    raise KeyboardInterrupt\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=20)
    assert ended.returncode != 0
    assert b"KeyboardInterrupt" in ended.stderr


# --- faults --------------------------------------------------------------------------------------


def test_half_of_the_requests_failing_loses_and_doubles_nothing(server: FaultServer, impatient: None) -> None:
    failed: set[str] = set()

    def first_fails(request: dict[str, Any], number: int) -> Reply:
        text = request["messages"][0]["content"]
        if text not in failed:
            failed.add(text)
            return complains(500, "try later")
        return echo(request, number)

    server.behave = first_fails
    seen = [pair for ready in opened(server).stream(chats(60), GREEDY) for pair in ready]
    assert sorted(index for index, _ in seen) == list(range(60))
    assert all(found.answer == f"WORD {index}" for index, found in seen)
    assert len(server.requests) == 120


def test_questions_that_always_fail_are_errors_of_their_own(server: FaultServer, impatient: None) -> None:
    def odd_fails(request: dict[str, Any], number: int) -> Reply:
        odd = int(request["messages"][0]["content"].split()[1]) % 2
        return complains(500, "broken") if odd else echo(request, number)

    server.behave = odd_fails
    found = opened(server).generate(chats(40), GREEDY)
    assert [answer.stop for answer in found] == ["stop", "error"] * 20
    assert found[1].error == 'HTTP 500 after 5 tries: {"error": {"message": "broken"}}'
    assert (found[1].answer, found[1].tokens) == ("", 0)
    assert len(server.requests) == 20 + 20 * 5


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"<html>busy</html>"),
        Reply(b""),
        Reply(b"[" * 100_000),
        Reply(b"\xff\xfe\x00"),
        answered([1, 2]),
        answered({"choices": []}),
        answered({"choices": [3]}),
        answered({"choices": [{"message": {"content": 5}, "finish_reason": "stop"}]}),
        said(None),
        said("cut", finish=None),
        said("cut", finish="abort"),
        said("cut", finish=["stop"]),
        Reply(said("half").body, cut=True),
        Reply(b"no gzip", headers={"Content-Encoding": "gzip"}),
    ],
    ids=range(14),
)
def test_garbage_is_asked_again_and_then_an_error(server: FaultServer, impatient: None, reply: Reply) -> None:
    def second_is_garbage(request: dict[str, Any], number: int) -> Reply:
        return reply if request["messages"][0]["content"] == "word 1" else echo(request, number)

    server.behave = second_is_garbage
    found = opened(server, concurrency=1).generate(chats(2), GREEDY)
    assert [answer.stop for answer in found] == ["stop", "error"]
    assert "after 5 tries" in found[1].error
    assert len(server.requests) == 1 + 5


def test_a_server_of_nothing_but_garbage_has_answered(server: FaultServer, impatient: None) -> None:
    server.behave = lambda request, number: Reply(b"<html>")
    found = opened(server).generate(chats(20), GREEDY)
    assert {answer.stop for answer in found} == {"error"}


def test_a_server_of_nothing_but_500_never_answered(server: FaultServer, impatient: None) -> None:
    server.behave = lambda request, number: complains(500, "out of order")
    with pytest.raises(Missing, match=r"never answered: HTTP 500 after 5 tries.*out of order"):
        opened(server, concurrency=4).generate(chats(1000), GREEDY)
    assert len(server.requests) <= (8 + 4) * 5


def test_a_server_that_goes_down_before_it_answers_is_missing_and_quickly_so(server: FaultServer) -> None:
    model = opened(server)
    server.close()
    begun = time.monotonic()
    with pytest.raises(Missing, match="never answered: ConnectError after 5 tries"):
        model.generate(chats(1000), GREEDY)
    assert time.monotonic() - begun < 15


def test_a_hung_server_is_given_up(server: FaultServer, impatient: None) -> None:
    server.hold()
    with pytest.raises(Missing, match=r"no answer within 0.2 s after 2 tries"):
        opened(server, timeout=0.2).generate(chats(30), GREEDY)
    assert len(server.requests) <= 2 * 30


def test_one_hung_question_does_not_keep_the_others(server: FaultServer, impatient: None) -> None:
    def third_hangs(request: dict[str, Any], number: int) -> Reply:
        slow = request["messages"][0]["content"] == "word 3"
        return Reply(echo(request, number).body, delay=0.5 if slow else 0.0)

    server.behave = third_hangs
    found = opened(server, timeout=0.2).generate(chats(8), GREEDY)
    assert [answer.stop for answer in found] == ["stop"] * 3 + ["error"] + ["stop"] * 4
    assert found[3].error == "no answer within 0.2 s after 5 tries"


def test_a_dripping_reply_does_not_outlive_the_timeout(server: FaultServer, impatient: None) -> None:
    server.behave = lambda request, number: Reply(said("a").body, drip=0.05)
    begun = time.monotonic()
    with pytest.raises(Missing):
        opened(server, timeout=0.3).generate(chats(1), GREEDY)
    assert time.monotonic() - begun < 2


def test_retry_after_is_honoured(server: FaultServer, impatient: None) -> None:
    times: list[float] = []

    def busy_once(request: dict[str, Any], number: int) -> Reply:
        times.append(time.monotonic())
        return complains(429, "busy", Retry_After="0.4") if number == 1 else echo(request, number)

    server.behave = busy_once
    (found,) = opened(server).generate(chats(1), GREEDY)
    assert found.stop == "stop"
    assert times[1] - times[0] >= 0.4


def test_retry_after_reads_seconds_and_dates_and_has_a_cap() -> None:
    assert retry_after("3") == 3.0
    assert retry_after("86400") == 30.0
    assert retry_after("-1") == 0.0
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert retry_after("Wed, 21 Oct 2099 07:28:00 GMT") == 30.0
    assert retry_after("soon") is retry_after("nan") is retry_after(None) is None


def test_backing_off_doubles_up_to_a_bound() -> None:
    for tries, most in ((1, 0.5), (2, 1.0), (4, 4.0), (20, 8.0)):
        assert most / 2 <= backoff(tries, 0.5) <= most


@pytest.mark.parametrize("status", [400, 404, 422])
def test_other_refusals_are_not_asked_again(server: FaultServer, status: int) -> None:
    def second_refused(request: dict[str, Any], number: int) -> Reply:
        refused = request["messages"][0]["content"] == "word 1"
        return complains(status, "not this") if refused else echo(request, number)

    server.behave = second_refused
    found = opened(server, concurrency=1).generate(chats(3), GREEDY)
    assert [answer.stop for answer in found] == ["stop", "error", "stop"]
    assert found[1].error.startswith(f"HTTP {status}: ")
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "SAFEWRIGHT_API_KEY"), (404, "model's name"), (400, "own words")]
)
def test_a_server_that_refuses_everything_is_bad_input(server: FaultServer, status: int, hint: str) -> None:
    server.behave = lambda request, number: complains(status, "not for you")
    with pytest.raises(BadInput, match=rf"HTTP {status}.*not for you.*{hint}"):
        opened(server, concurrency=4).generate(chats(1000), GREEDY)
    assert len(server.requests) <= 8 + 4


def test_a_resumed_run_can_finish_with_questions_the_server_cannot_take(
    server: FaultServer, impatient: None
) -> None:
    server.behave = lambda request, number: complains(500, "broken")
    done = frozenset(range(8))
    pairs = [pair for ready in opened(server).stream(chats(10), GREEDY, done=done) for pair in ready]
    assert sorted(index for index, _ in pairs) == [8, 9]
    assert {found.stop for _, found in pairs} == {"error"}


def test_a_resumed_run_without_its_server_is_missing(server: FaultServer, impatient: None) -> None:
    model = opened(server)
    server.close()
    with pytest.raises(Missing):
        list(model.stream(chats(10), GREEDY, done=frozenset(range(8))))


@pytest.mark.parametrize(
    "words",
    [
        "This model's maximum context length is 64 tokens. However, your request has 80 input tokens.",
        "Prompt is too long for this model",
        "the request exceeds the available context size",
        "context_length_exceeded",
        "`inputs` tokens + `max_new_tokens` must be <= 64. Given: 80 `inputs` tokens and 8",
    ],
)
def test_a_prompt_the_context_cannot_hold_is_overlong(server: FaultServer, words: str) -> None:
    server.behave = lambda request, number: complains(400, words)
    found = opened(server).generate(chats(20), GREEDY)
    assert {answer.stop for answer in found} == {"overlong"}
    assert words[:20] in found[0].error
    assert len(server.requests) == (40 if context_limit(words) else 20)


@pytest.mark.parametrize(("length", "asked"), [(60, [8, 1, 4]), (63, [8, 1]), (64, [8, 1])])
def test_an_answers_limit_that_does_not_fit_is_lowered_to_what_does(
    server: FaultServer, length: int, asked: list[int]
) -> None:
    """The words are those of vLLM 0.30, which counts a long prompt only so far."""

    def strict(request: dict[str, Any], number: int) -> Reply:
        wanted = request["max_tokens"]
        if length + wanted > 64:
            words = (
                "This model's maximum context length is 64 tokens. However, you requested {} output tokens"
            )
            rest = "and your prompt contains at least {} input tokens, for a total of at least 65 tokens."
            return complains(400, f"{words.format(wanted)} {rest.format(65 - wanted)}")
        return said("cut", finish="length", tokens=wanted, prompt=length)

    server.behave = strict
    (found,) = opened(server).generate(chats(1), GREEDY)
    assert [request["max_tokens"] for request in server.requests] == asked
    expected = {60: ("cut", "length", 4), 63: ("cut", "length", 1), 64: ("", "overlong", 0)}[length]
    assert (found.answer, found.stop, found.tokens) == expected


def test_the_size_of_a_context_is_read_only_where_it_is_said() -> None:
    assert context_limit("maximum context length is 64 tokens. However, you requested 70 tokens") == 64
    assert context_limit("context_length_exceeded") is None


def test_a_server_that_wants_the_other_limit_gets_it(server: FaultServer) -> None:
    def modern(request: dict[str, Any], number: int) -> Reply:
        if "max_tokens" in request:
            return complains(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return echo(request, number)

    server.behave = modern
    model = opened(server, concurrency=1)
    assert [found.stop for found in model.generate(chats(5), GREEDY)] == ["stop"] * 5
    assert len(server.requests) == 6
    assert server.requests[-1]["max_completion_tokens"] == 8


@pytest.mark.parametrize(
    "reply", [said("", finish="content_filter"), complains(400, "blocked: content_filter")]
)
def test_what_a_content_filter_keeps_back_is_an_error_and_never_an_answer(
    server: FaultServer, reply: Reply
) -> None:
    server.behave = lambda request, number: reply
    found = opened(server).generate(chats(12), GREEDY)
    assert {(answer.stop, answer.answer) for answer in found} == {("error", "")}
    assert "content filter" in found[0].error
    assert len(server.requests) == 12


def test_a_reply_without_end_is_cut_off(
    server: FaultServer, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safewright.models._http.LARGEST_REPLY", 1000)
    server.behave = lambda request, number: said("a" * 5000) if number > 1 else echo(request, number)
    found = opened(server, concurrency=1).generate(chats(2), GREEDY)
    assert found[1].error.startswith("a reply of more than 1000 bytes after 5 tries")


# --- the key -------------------------------------------------------------------------------------


def test_the_key_travels_as_bearer_and_shows_nowhere(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "other-key")
    monkeypatch.setenv("SAFEWRIGHT_API_KEY", "k-12345-secret")

    def leaks(request: dict[str, Any], number: int) -> Reply:
        return echo(request, number) if number == 1 else complains(400, "bad key k-12345-secret given")

    server.behave = leaks
    model = opened(server, concurrency=1)
    found = model.generate(chats(2), GREEDY)
    assert set(server.keys) == {"Bearer k-12345-secret"}
    assert "bad key ***" in found[1].error
    assert "k-12345" not in repr((model.ref, model.conventions, found))
    server.behave = lambda request, number: complains(401, "bad key k-12345-secret given")
    with pytest.raises(BadInput) as caught:
        model.generate(chats(2), GREEDY)
    assert "k-12345" not in str(caught.value)


@pytest.mark.parametrize("key", ["two words", "k\u00e9y", "a\nb"])
def test_a_key_no_header_can_carry_is_bad_input(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("SAFEWRIGHT_API_KEY", key)
    with pytest.raises(BadInput, match="SAFEWRIGHT_API_KEY") as caught:
        endpoint_ref(f"{server.base}#toy")
    assert key not in str(caught.value)


def test_without_a_key_none_is_sent(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAFEWRIGHT_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    opened(server).generate(chats(1), GREEDY)
    assert set(server.keys) == {None}


def test_questions_for_this_machine_never_go_through_a_proxy(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert opened(server).generate(chats(1), GREEDY)[0].stop == "stop"


def test_a_missing_package_is_named_with_its_extra(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened(server)
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(Missing, match=r"safewright\[endpoint\]"):
        model.generate(chats(1), GREEDY)


def test_importing_the_engine_does_not_import_httpx(tmp_path: Path) -> None:
    code = "import safewright.models.endpoint, sys; sys.exit(int('httpx' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0
