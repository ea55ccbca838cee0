"""A client that hangs up, at any moment."""

import asyncio

import pytest
from starlette.types import Message

from local_gateway.edge.disconnect import DisconnectWatch
from local_gateway.edge.request import ClientLeftError


class Connection:
    """Its client hangs up when told to."""

    def __init__(self) -> None:
        self.hangs_up = asyncio.Event()

    async def receive(self) -> Message:
        await self.hangs_up.wait()
        return {"type": "http.disconnect"}


async def test_client_that_stays() -> None:
    """Nothing happens."""
    async with DisconnectWatch(Connection().receive):
        await asyncio.sleep(0)


async def test_client_that_leaves() -> None:
    """What is done for it ends where it is, and cleans up; what comes after is not disturbed."""
    connection = Connection()
    cleaned = asyncio.Event()

    async def work() -> None:
        async with DisconnectWatch(connection.receive):
            connection.hangs_up.set()
            try:
                await asyncio.Event().wait()
            finally:
                cleaned.set()

    with pytest.raises(ClientLeftError):
        await work()
    await asyncio.sleep(0)

    assert cleaned.is_set()


async def test_error_of_the_work() -> None:
    """It passes."""
    with pytest.raises(ValueError, match="x"):
        async with DisconnectWatch(Connection().receive):
            raise ValueError("x")


async def test_cancelled_from_outside() -> None:
    """A server that stops is not a client that leaves."""
    inside = asyncio.Event()

    async def work() -> None:
        async with DisconnectWatch(Connection().receive):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
