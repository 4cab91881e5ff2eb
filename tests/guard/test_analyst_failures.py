"""Whatever a model says or fails to say, the guard lets nothing through that nobody vouched for."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from safewright.guard.analyst.transport import Breaker, Failed, Guarded
from safewright.guard.engine import Guard
from safewright.guard.nouns import Verdict
from safewright.guard.policy import Policy
from tests.guard.scripted_model import (
    POLICY,
    Rows,
    Said,
    Script,
    Server,
    analyzed,
    executed,
    fused,
    in_turn,
    judged,
    new,
    note,
    serving,
    stepped,
)

GOOD = fused(new())


def faithful(body: dict) -> str:  # type: ignore[type-arg]
    """The first two of the three calls, answered well; the executor is what a case is about."""
    return stepped() if body["messages"][0]["content"].startswith("You know") else analyzed("own mailbox")


def decide(server: Server, preset: str = "hardened", seconds: float = 60.0) -> tuple[Verdict, Rows]:
    rows = Rows()
    with Guard(
        Policy.read(POLICY), backend="llm", model=server.model, preset=preset, audit=rows, deadline_s=seconds
    ) as guard:  # type: ignore[arg-type]
        return guard.check(note()), rows


def one(**other: object) -> str:
    """An executor's answer to one check, with some fields of another kind."""
    return executed({**judged("c1"), **other})


TICKS = "```"
MATRIX: dict[str, tuple[Said | str, str]] = {
    "empty text": ("", "llm_empty"),
    "blank text": (" \n\t ", "llm_empty"),
    "nothing at all": (Said(None), "llm_empty"),
    "refusal in words": ("I'm sorry, but I can't help with that.", "llm_refused"),
    "refusal as a field": (Said(None, refusal="No."), "llm_refused"),
    "content filter": (Said("", finish="content_filter"), "llm_refused"),
    "prose": ("The action is safe: True", "llm_unparsed"),
    "one block of the paper's two": (
        f'Here is my list.\n{TICKS}json\n[{{"Check Item": "x", "Delete": "False", "Result": "True"}}]\n{TICKS}',
        "llm_unparsed",
    ),
    "two blocks": (f"{TICKS}json\n{one()}\n{TICKS}\n{TICKS}json\n{one()}\n{TICKS}", "llm_unparsed"),
    "a block within words": (f"All is well:\n{TICKS}json\n{one()}\n{TICKS}", "llm_unparsed"),
    "the paper's list without a fence": ('[{"Check Item": "x", "Delete": "False"}]', "llm_unparsed"),
    "list-valued categories": ('{"Role-based": ["check one", "check two"]}', "llm_unparsed"),
    "a list for a category": (
        json.dumps({"checks": [], "same_kind": False, "judged": [], "new": [new(category=["role"])]}),
        "llm_unparsed",
    ),
    "booleans as strings": (one(delete="False", result="True"), "llm_unparsed"),
    "lower-case booleans as strings": (one(delete="false", result="true"), "llm_unparsed"),
    "one and nought for booleans": (one(delete=0, result=1), "llm_unparsed"),
    "Unsafe": (one(result="Unsafe"), "llm_unparsed"),
    "None": (one(result="None"), "llm_unparsed"),
    "false for a tool": (one(tool=False), "llm_unparsed"),
    "unknown tool": (one(tool="os_detector", result=None), "llm_unparsed"),
    "tool and result": (one(tool="shell"), "llm_unparsed"),
    "neither tool nor result": (one(result=None), "llm_unparsed"),
    "missing field": (
        executed({k: v for k, v in judged("c1").items() if k != "delete"}),
        "llm_unparsed",
    ),
    "a field too many": (one(safe=True), "llm_unparsed"),
    "a field twice": ('{"checks": [], ' + one()[1:], "llm_unparsed"),
    "not a number": (one().replace("true", "NaN"), "llm_unparsed"),
    "another check": (executed(judged("c7")), "llm_unparsed"),
    "a check twice": (executed(judged("c1"), judged("c1")), "llm_unparsed"),
    "empty list": (executed(), "llm_unparsed"),  # the check that was asked about is not answered
    "all deleted": (one(delete=True, result=None), "no_checks"),
    "truncated JSON": (one()[:-12], "llm_unparsed"),
    "truncated at the limit": (Said(one()[:-12], finish="length"), "llm_truncated"),
    "whole, yet at the limit": (Said(one(), finish="length"), "llm_truncated"),
    "1 MB of text": ("True " * 200_000, "llm_unparsed"),
    "1 MB around an answer": (one() + " " * 1_000_000, "llm_unparsed"),
    "nested too deeply": ("[" * 60_000, "llm_unparsed"),
    "no chat completion": (Said(raw=b'{"object": "list"}'), "llm_unparsed"),
    "no JSON": (Said(raw=b"<html>busy</html>"), "llm_unparsed"),
    "server error": (Said(status=500, raw=b"{}"), "llm_connection"),
    "refused key": (Said(status=401, raw=b"{}"), "llm_connection"),
}
"""What the executor says, and the failure. The hardened preset gets the same; see the next table for its own."""


@pytest.mark.parametrize("case", MATRIX)
def test_01_fail_closed_matrix(case: str) -> None:
    said, failure = MATRIX[case]

    def script(body: dict) -> Said | str:  # type: ignore[type-arg]
        return said if body["messages"][0]["content"].startswith("You carry out") else faithful(body)

    with serving(script) as server:
        verdict, rows = decide(server, "faithful")
    assert verdict.decision == verdict.found == "deny"
    assert verdict.failure == failure
    assert len(rows.rows) == 1
    assert rows.rows[0]["failure"] == failure
    assert rows.rows[0]["decision"] == "deny"
    assert len(rows.rows[0]["answers"]) >= 3  # what was said is kept, failed answers too


FUSED: dict[str, tuple[Said | str, str]] = {
    **{case: MATRIX[case] for case in MATRIX if case != "all deleted"},
    "empty list": (fused(), "no_checks"),
    "unknown category": (fused(new(category="safety")), "llm_unparsed"),
    "unknown tool in a new check": (fused(new(tool="python", result=None)), "llm_unparsed"),
    "no words in a name": (fused(new("**")), "llm_unparsed"),
    "an answer about memory that is not there": (fused(new(), old=(judged("m1"),)), "llm_unparsed"),
    "25 checks": (fused(*(new(f"check {n}") for n in range(25))), "llm_unparsed"),
}


@pytest.mark.parametrize("case", FUSED)
def test_01_fail_closed_fused(case: str) -> None:
    said, failure = FUSED[case]
    with serving(in_turn(said)) as server:
        verdict, rows = decide(server)
    assert verdict.decision == "deny"
    assert verdict.failure == failure
    assert [row["failure"] for row in rows.rows] == [failure]


def test_01_the_same_model_answering_well_is_let_through() -> None:
    """Else the matrix would hold for a guard that denies everything."""

    def script(body: dict) -> str:  # type: ignore[type-arg]
        return one() if body["messages"][0]["content"].startswith("You carry out") else faithful(body)

    with serving(script) as server:
        verdict, rows = decide(server, "faithful")
        assert (verdict.decision, verdict.failure) == ("allow", None)
        assert rows.rows[0]["decision"] == "allow"
    with serving(in_turn(GOOD)) as server:
        assert decide(server)[0].decision == "allow"


@pytest.mark.parametrize("tag", ["json", "JSON", "Json", ""])
def test_an_object_in_one_fence_is_read_as_the_bare_object(tag: str) -> None:
    with serving(in_turn(f"\n{TICKS}{tag}\n{GOOD}\n{TICKS}\n")) as server:
        verdict, _ = decide(server)
    assert (verdict.decision, verdict.usage.calls) == ("allow", 1)


def test_reasoning_before_the_answer_is_no_part_of_it() -> None:
    with serving(in_turn(f"<think>It says {{}} and False.</think>\n{GOOD}")) as server:
        assert decide(server)[0].decision == "allow"
    with serving(in_turn(f"<think>never closed {GOOD}")) as server:
        assert decide(server)[0].failure == "llm_empty"


def test_an_answer_is_repaired_once_and_only_once() -> None:
    with serving(in_turn("prose", GOOD)) as server:
        verdict, _ = decide(server)
        assert (verdict.decision, verdict.usage.calls) == ("allow", 2)
        again = server.asked[1]["messages"]
        assert [turn["role"] for turn in again] == ["system", "user", "assistant", "user"]
        assert again[:2] == server.asked[0]["messages"]
        assert again[2]["content"] == "prose"
    with serving(in_turn("prose", "prose", GOOD)) as server:
        verdict, _ = decide(server)
        assert (verdict.failure, len(server.asked)) == ("llm_unparsed", 2)


@pytest.mark.parametrize("said", ["", "I cannot help with that.", Said("{", finish="length")])
def test_what_cannot_be_repaired_is_not_asked_again(said: Said | str) -> None:
    with serving(in_turn(said, GOOD)) as server:
        verdict, _ = decide(server)
        assert verdict.decision == "deny"
        assert len(server.asked) == 1


def test_01_hung_server_ends_in_time() -> None:
    with serving(in_turn(Said(hang=True))) as server:
        verdict, rows = decide(server, seconds=1.0)
    assert (verdict.decision, verdict.failure) == ("deny", "llm_timeout")
    assert rows.rows[0]["failure"] == "llm_timeout"
    assert verdict.latency_ms < 10_000  # a hang guard, not a measurement


@pytest.fixture
def dead() -> Iterator[Server]:
    """An address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield Server(f"http://127.0.0.1:{taken.getsockname()[1]}/v1")


def test_01_dead_server(dead: Server) -> None:
    verdict, rows = decide(dead)
    assert (verdict.decision, verdict.failure) == ("deny", "llm_connection")
    assert rows.rows[0]["failure"] == "llm_connection"


@pytest.mark.parametrize(
    "noise", [b"\x00\xff" * 500, b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{", b""]
)
def test_01_garbage_server(noise: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            while True:
                try:
                    peer, _ = listening.accept()
                except OSError:
                    return
                with peer:
                    peer.recv(65_536)
                    peer.sendall(noise)

        threading.Thread(target=answer, daemon=True).start()
        verdict, rows = decide(Server(f"http://127.0.0.1:{listening.getsockname()[1]}/v1"), seconds=10.0)
        listening.shutdown(socket.SHUT_RDWR)
    assert verdict.decision == "deny"
    assert verdict.failure in ("llm_connection", "llm_timeout")
    assert len(rows.rows) == 1


def test_a_failed_model_leaves_a_denial_of_the_rules_as_it_is(dead: Server) -> None:
    policy = Policy.read(POLICY + '\n[roles.guest]\ndenied_tools = ["send_*"]\n')
    from safewright.guard.nouns import Principal

    with Guard(policy, backend="hybrid", model=dead.model, deadline_s=60) as guard:
        verdict = guard.check(note(principal=Principal("eve", "guest")))
    assert (verdict.decision, verdict.failure, verdict.usage.calls) == ("deny", None, 0)


def test_fail_mode_open_is_an_option_and_says_what_failed(dead: Server) -> None:
    with Guard(
        Policy.read(POLICY), backend="llm", model=dead.model, fail_mode="open", deadline_s=60
    ) as guard:
        verdict = guard.check(note())
    assert (verdict.decision, verdict.failure) == ("allow", "llm_connection")


def test_a_model_that_cannot_be_reached_is_not_asked_for_a_while(dead: Server) -> None:
    with Guard(Policy.read(POLICY), backend="llm", model=dead.model, deadline_s=60) as guard:
        for _ in range(3):
            assert guard.check(note()).failure == "llm_connection"
        breaker = guard.analyst.client.breaker  # type: ignore[union-attr]
        assert breaker.open
        verdict = guard.check(note())
        assert (verdict.decision, verdict.failure) == ("deny", "llm_connection")
        with pytest.raises(Failed, match="not asked"):
            breaker.enter()


def test_the_breaker_half_opens_for_one_question() -> None:
    now = [0.0]
    breaker = Breaker(2, 10.0, lambda: now[0])
    for _ in range(2):
        breaker.enter()
        breaker.left(False)
    with pytest.raises(Failed):
        breaker.enter()
    now[0] = 10.0
    breaker.enter()  # one tries
    with pytest.raises(Failed):
        breaker.enter()  # while the others are turned away
    breaker.left(False)
    now[0] = 19.9
    with pytest.raises(Failed):
        breaker.enter()
    now[0] = 20.0
    breaker.enter()
    breaker.left(None)  # whoever tried broke off: the next one may
    breaker.enter()
    breaker.left(True)
    assert not breaker.open
    breaker.enter()


def test_a_server_that_answers_badly_is_reached_all_the_same() -> None:
    with (
        serving(in_turn("prose")) as server,
        Guard(Policy.read(POLICY), backend="llm", model=server.model, deadline_s=60) as guard,
    ):
        for n in range(4):
            assert guard.check(note(session=f"s{n}")).failure == "llm_unparsed"
        assert len(server.asked) == 8


def test_no_more_questions_than_allowed_are_under_way() -> None:
    most, under_way, lock = 0, 0, threading.Lock()

    class Slow:
        async def ask(self, *_: object) -> object:
            nonlocal most, under_way
            with lock:
                under_way += 1
                most = max(most, under_way)
            await asyncio.sleep(0.02)
            with lock:
                under_way -= 1
            from safewright.guard.analyst.transport import Reply

            return Reply("{}")

        def close(self) -> None:
            pass

    client = Guarded(Slow(), concurrency=3)  # type: ignore[arg-type]

    async def all_of_them() -> None:
        await asyncio.gather(*(client.ask([], {}, 10.0, 10) for _ in range(12)))

    asyncio.run(all_of_them())
    client.close()
    assert most == 3


def test_breaking_off_a_decision_breaks_off_its_question() -> None:
    broken = threading.Event()

    class Hung:
        async def ask(self, *_: object) -> object:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                broken.set()
                raise
            raise AssertionError

        def close(self) -> None:
            pass

    client = Guarded(Hung())  # type: ignore[arg-type]

    async def impatient() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await client.ask([], {}, 30.0, 10)

    asyncio.run(impatient())
    assert broken.wait(10)
    assert not client.breaker.open
    client.close()


REFUSED = {"json_schema": b'{"error": {"message": "response_format json_schema is not supported"}}'}


def test_structured_output_falls_back_where_a_server_refuses_it() -> None:
    def picky(body: dict) -> Said | str:  # type: ignore[type-arg]
        form = body.get("response_format", {}).get("type")
        return Said(status=400, raw=REFUSED["json_schema"]) if form else GOOD

    script: Script = picky
    with (
        serving(script) as server,
        Guard(Policy.read(POLICY), backend="llm", model=server.model, deadline_s=60) as guard,
    ):
        verdict = guard.check(note())
        assert (verdict.decision, verdict.usage.calls) == ("allow", 1)
        forms = [body.get("response_format", {}).get("type") for body in server.asked]
        assert forms == ["json_schema", "json_object", None]
        guard.check(note(session="s2"))
        assert len(server.asked) == 4  # remembered


def test_options_that_a_server_refuses_are_left_out() -> None:
    def picky(body: dict) -> Said | str:  # type: ignore[type-arg]
        if "max_tokens" in body:
            return Said(status=400, raw=b'{"error": {"message": "use max_completion_tokens instead"}}')
        if "temperature" in body:
            return Said(status=400, raw=b'{"error": {"message": "temperature 0 is not supported"}}')
        return GOOD

    with serving(picky) as server:
        verdict, _ = decide(server)
        assert verdict.decision == "allow"
        assert server.asked[-1]["response_format"]["type"] == "json_schema"
