"""Clients that send without end, or do not go on: a connection costs little, and ends."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.gateway.hostile_stage import Stage, stage

pytestmark = pytest.mark.asyncio(loop_scope="module")

NUM_BYTES = 60_000_000
MAX_GROWTH = 2_000_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with stage(tmp_path_factory.mktemp("gateway")) as here:
        yield here


@pytest_asyncio.fixture(loop_scope="module")
async def here(module_stage: Stage) -> AsyncIterator[Stage]:
    """As new; and each story leaves a gateway behind that answers."""
    module_stage.reset()
    yield module_stage
    await module_stage.still_answers()


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
ENDLESS = {
    "headers": (HEAD, b"x-aaaaaa: b\r\n"),
    "one header": (HEAD + b"x: ", b"y"),
    "one header's name": (HEAD, b"y"),
    "an address": (b"GET /", b"y"),
    "a method": (b"", b"Y"),
    "trailers": (CHUNKED + b"0\r\n", b"x-aaaaaa: b\r\n"),
    "one trailer": (CHUNKED + b"0\r\nx: ", b"y"),
    "trailers after a chunk": (CHUNKED + b"1\r\n{\r\n0\r\n", b"x-aaaaaa: b\r\n"),
    "a chunk's extension": (CHUNKED + b"1;", b"y"),
    "a chunk's size": (CHUNKED, b"0"),
    "a body that is not asked for": (HEAD + b"content-length: 900000\r\n\r\n", b"y"),
}


@pytest.mark.parametrize(("begin", "part"), ENDLESS.values(), ids=ENDLESS)
async def test_sixty_megabytes(here: Stage, begin: bytes, part: bytes) -> None:
    """Without a key, of everything that a request may have much of: it is refused before it is held."""
    await here.still_answers()
    before = here.gateway.memory
    most = before
    piece = part * (60_000 // len(part))
    async with here.connection() as (reader, writer):
        reading = asyncio.create_task(reader.read())
        try:
            writer.write(begin)
            for _ in range(NUM_BYTES // len(piece)):
                writer.write(piece)
                await writer.drain()
                most = max(most, here.gateway.memory)
        except ConnectionError:
            pass
        most = max(most, here.gateway.memory)
        reading.cancel()

    assert most - before <= MAX_GROWTH
