"""A target that falls silent within its answer is given up; a client that reads slowly is not the target's fault."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from local_gateway.errors import TargetTimeoutError
from local_gateway.routing.idle_limit import IdleLimit

LONG = 60.0


async def pieces(*pauses: float) -> AsyncIterator[bytes]:
    for pause in pauses:
        await asyncio.sleep(pause)
        yield b"piece"


async def test_silence_is_an_error() -> None:
    """The read that waits too long raises, and its task can go on to the next target."""
    limit = IdleLimit(pieces(0, LONG), 0.01)
    assert await anext(limit) == b"piece"
    with pytest.raises(TargetTimeoutError, match=r"nothing for 0\.01 s"):
        await anext(limit)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_slow_reader_is_no_silence() -> None:
    """Time in which no piece is asked for does not count, and later silence still does."""
    limit = IdleLimit(pieces(0, 0, LONG), 0.01)
    assert await anext(limit) == b"piece"
    await asyncio.sleep(0.03)
    assert await anext(limit) == b"piece"
    with pytest.raises(TargetTimeoutError):
        await anext(limit)


async def test_a_cancellation_from_outside_stays_one() -> None:
    """A client that leaves while the target is silent cancels the read, which is no timeout."""
    reading = asyncio.ensure_future(anext(IdleLimit(pieces(LONG), LONG)))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_the_end_is_passed_on() -> None:
    """A body that ends in time ends as without the limit."""
    limit = IdleLimit(pieces(0, 0), LONG)
    assert [piece async for piece in limit] == [b"piece", b"piece"]
    limit.close()
