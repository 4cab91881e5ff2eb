"""Asking an endpoint from a running event loop: shared connections, a shared limit, and the rules of `stream`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from contextlib import aclosing
from typing import Any

import pytest

from safewright.errors import BadInput, Missing
from safewright.models._http import Failure, Line
from safewright.models.endpoint import Endpoint
from safewright.types import Decoding, Generation
from tests.models.fault_server import FaultServer, Reply, complains, echo, said
from tests.models.test_endpoint import GREEDY, chats, impatient, opened, server

__all__ = ["impatient", "server"]


def word(request: dict[str, Any]) -> int:
    return int(request["messages"][0]["content"].split()[1])


async def each(model: Endpoint, count: int, how: Decoding = GREEDY) -> list[Generation | BaseException]:
    """What callers of one question each are told."""
    calls = (model.agenerate([chat], how) for chat in chats(count))
    found = await asyncio.gather(*calls, return_exceptions=True)
    return [one[0] if isinstance(one, list) else one for one in found]


def test_answers_keep_their_order_and_are_those_of_stream(server: FaultServer) -> None:
    server.behave = lambda request, number: Reply(echo(request, number).body, delay=0.01 * (number % 4))
    model = opened(server)
    found = asyncio.run(model.agenerate(chats(30), GREEDY))
    assert found == model.generate(chats(30), GREEDY)
    assert [g.answer for g in found] == [f"WORD {i}" for i in range(30)]
    assert asyncio.run(model.agenerate([], GREEDY)) == []


def test_all_callers_share_one_limit_and_its_connections(server: FaultServer) -> None:
    server.behave = lambda request, number: Reply(echo(request, number).body, delay=0.01)
    model = opened(server, concurrency=3)

    async def ask() -> list[Any]:
        many = asyncio.gather(*(model.agenerate(chats(7), GREEDY) for _ in range(3)))
        return [await many, await each(model, 12)]

    several, single = asyncio.run(ask())
    assert server.most == 3
    assert len(server.requests) == 33
    assert len(server.connections) == 3
    assert [g.answer for g in single] == [f"WORD {i}" for i in range(12)]
    assert all([g.answer for g in one] == [f"WORD {i}" for i in range(7)] for one in several)


def test_each_answer_is_handed_over_when_it_arrives(server: FaultServer) -> None:
    gate = threading.Event()

    def last_waits(request: dict[str, Any], number: int) -> Reply:
        if word(request) == 9:
            gate.wait(20)
        return echo(request, number)

    server.behave = last_waits
    seen: dict[int, Generation] = {}

    def received(index: int, generation: Generation) -> None:
        seen[index] = generation
        if len(seen) == 9:
            gate.set()

    found = asyncio.run(opened(server, concurrency=4).agenerate(chats(10), GREEDY, received=received))
    assert gate.is_set()
    assert [seen[i] for i in range(10)] == found


def test_a_journal_that_breaks_stops_its_own_caller_only(server: FaultServer) -> None:
    model = opened(server, concurrency=1)

    def full(index: int, generation: Generation) -> None:
        raise OSError("no space left")

    async def ask() -> list[Any]:
        calls = (model.agenerate(chats(20), GREEDY, received=full), model.agenerate(chats(2), GREEDY))
        return await asyncio.gather(*calls, return_exceptions=True)

    broken, sound = asyncio.run(ask())
    assert isinstance(broken, OSError)
    assert [g.answer for g in sound] == ["WORD 0", "WORD 1"]
    assert len(server.requests) == 3


def test_half_of_the_requests_failing_loses_and_doubles_nothing(server: FaultServer, impatient: None) -> None:
    failed: set[int] = set()

    def first_fails(request: dict[str, Any], number: int) -> Reply:
        if word(request) not in failed:
            failed.add(word(request))
            return complains(500, "try later")
        return echo(request, number)

    server.behave = first_fails
    found = asyncio.run(each(opened(server), 40))
    assert [g.answer for g in found if isinstance(g, Generation)] == [f"WORD {i}" for i in range(40)]
    assert len(server.requests) == 80


def test_a_question_that_fails_first_waits_for_what_the_server_tells_others(
    server: FaultServer, impatient: None
) -> None:
    def odd_is_refused(request: dict[str, Any], number: int) -> Reply:
        odd = word(request) % 2
        return complains(400, "not this") if odd else Reply(echo(request, number).body, delay=0.2)

    server.behave = odd_is_refused
    found = asyncio.run(each(opened(server), 8))
    assert [getattr(one, "stop", None) for one in found] == ["stop", "error"] * 4
    server.behave = lambda request, number: complains(400, "not this")
    with pytest.raises(BadInput, match="not this"):
        asyncio.run(opened(server).agenerate(chats(1), GREEDY))


def test_a_server_that_has_answered_once_is_never_given_up(server: FaultServer, impatient: None) -> None:
    model = opened(server)

    async def ask() -> list[Generation]:
        first = await model.agenerate(chats(1), GREEDY)
        server.behave = lambda request, number: complains(500, "broken")
        return first + await model.agenerate(chats(1), GREEDY) + await model.agenerate(chats(20), GREEDY)

    assert [g.stop for g in asyncio.run(ask())] == ["stop"] + ["error"] * 21


def test_a_server_that_answers_nobody_is_missing_for_all(server: FaultServer, impatient: None) -> None:
    server.behave = lambda request, number: complains(500, "out of order")
    model = opened(server, concurrency=4)

    async def ask() -> list[Any]:
        failed = await each(model, 30)
        server.behave = echo
        return [*failed, await model.agenerate(chats(1), GREEDY)]

    *failed, again = asyncio.run(ask())
    assert {type(one) for one in failed} == {Missing}
    assert "out of order" in str(failed[0])
    assert again[0].answer == "WORD 0"
    with pytest.raises(Missing, match="never answered"):
        asyncio.run(refused_at_once(server, model))


async def refused_at_once(server: FaultServer, model: Endpoint) -> None:
    server.behave = lambda request, number: complains(500, "out of order")
    await model.agenerate(chats(3), GREEDY)


def test_who_waits_for_others_is_not_forgotten_when_they_leave(server: FaultServer, impatient: None) -> None:
    def first_refused(request: dict[str, Any], number: int) -> Reply:
        return complains(400, "not this") if word(request) == 0 else Reply(said("late").body, delay=5)

    server.behave = first_refused
    model = opened(server)

    async def ask() -> None:
        slow = asyncio.create_task(model.agenerate(chats(2)[1:], GREEDY))
        failing = asyncio.create_task(model.agenerate(chats(1), GREEDY))
        await asyncio.sleep(0.3)
        assert not failing.done()
        slow.cancel()
        begun = time.monotonic()
        with pytest.raises(BadInput, match="not this"):
            await failing
        assert time.monotonic() - begun < 2

    asyncio.run(ask())


def test_a_cancelled_caller_leaves_the_others_their_connections(server: FaultServer) -> None:
    server.behave = lambda request, number: Reply(echo(request, number).body, delay=0.1)
    model = opened(server, concurrency=2)

    async def ask() -> list[Any]:
        cancelled = asyncio.create_task(model.agenerate(chats(50), GREEDY))
        await asyncio.sleep(0.15)
        cancelled.cancel()
        return await each(model, 6)

    found = asyncio.run(ask())
    assert [g.answer for g in found] == [f"WORD {i}" for i in range(6)]
    assert server.most <= 4  # the server still works on what was cancelled
    assert len(server.requests) <= 6 + 4


@pytest.mark.parametrize("broken", ["cancelled", "out of time"])
def test_a_broken_off_exchange_takes_its_connection_with_it(server: FaultServer, broken: str) -> None:
    server.behave = lambda request, number: Reply(echo(request, number).body, delay=0.5 if number == 2 else 0)
    payload = {"messages": [{"role": "user", "content": "word"}]}

    async def ask() -> None:
        async with aclosing(Line(server.base)) as line:

            async def post(timeout: float = 20) -> Any:
                return await line.exchange(
                    "POST", f"{server.base}/chat/completions", payload, timeout=timeout
                )

            await post()
            if broken == "cancelled":
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(post(), 0.2)
            else:
                with pytest.raises(Failure, match=r"within 0\.2 s"):
                    await post(0.2)
            assert len(server.connections) == 1
            await post()
            await post()

    asyncio.run(ask())
    assert len(server.requests) == 4
    assert len(server.connections) == 2


def test_sampled_chats_of_one_call_have_seeds_of_their_own(server: FaultServer) -> None:
    same = [chats(1)[0]] * 5
    asyncio.run(opened(server).agenerate(same, Decoding(temperature=0.7, seed=5)))
    assert len({request["seed"] for request in server.requests}) == 5


# --- connections -----------------------------------------------------------------------------------

ASK = """
import asyncio, sys, threading
from safewright.models import load
from safewright.types import Decoding
model = load(sys.argv[1])
chat = ({"role": "user", "content": "word 1"},)
async def ask():
    (found,) = await model.agenerate([chat], Decoding())
    assert found.answer == "WORD 1"
"""
ENDINGS = {
    "the loop ends": "asyncio.run(ask()); asyncio.run(ask())",
    "close afterwards": "asyncio.run(ask()); model.close()",
    "aclose": "async def both():\n    await ask(); await model.aclose(); await ask()\nasyncio.run(both())",
    "close inside": "async def both():\n    await ask(); model.close(); await ask()\nasyncio.run(both())",
    "close between": (
        "loop = asyncio.new_event_loop(); loop.run_until_complete(ask())\nmodel.close(); loop.close()"
    ),
    "close from elsewhere": (
        "loop = asyncio.new_event_loop()\nthread = threading.Thread(target=loop.run_forever); thread.start()\n"
        "asyncio.run_coroutine_threadsafe(ask(), loop).result(); model.close()\n"
        "loop.call_soon_threadsafe(loop.stop); thread.join(); loop.close()"
    ),
}


@pytest.mark.parametrize("ending", sorted(ENDINGS))
def test_no_connection_is_left_open(server: FaultServer, ending: str) -> None:
    code = ASK + ENDINGS[ending] + "\nassert not model._wires\n"
    command = [sys.executable, "-W", "always", "-c", code, f"{server.base}#toy"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stderr) == (0, "")
