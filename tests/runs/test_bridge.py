"""Coroutines beside synchronous code."""

from __future__ import annotations

import asyncio

import pytest

from safewright.runs import Background


def test_a_task_that_ends_with_an_interrupt_does_not_take_the_loop_with_it() -> None:
    async def interrupted() -> None:
        raise KeyboardInterrupt

    async def whole() -> str:
        await asyncio.sleep(0.01)
        return "said"

    with Background() as background:
        other = background.submit(whole())
        with pytest.raises(KeyboardInterrupt):
            background.submit(interrupted()).result(timeout=10)
        assert other.result(timeout=10) == "said"
        assert background.submit(whole()).result(timeout=10) == "said"


def test_what_still_runs_at_the_end_is_cancelled_and_waited_for() -> None:
    ended = []

    async def endless() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(True)

    with Background() as background:
        background.submit(endless())
        background.submit(asyncio.sleep(0.01)).result(timeout=10)
    assert ended == [True]
