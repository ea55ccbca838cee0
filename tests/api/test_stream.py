"""What becomes of a stream whose reader leaves, or whose model fails."""

import asyncio
import logging
from typing import Any

import pytest

from handler.errors import DecodeError, EngineError
from tests.engine.fakes import TIMEOUT
from tests.fake_worker import FakeWorker, events, fake_worker, read

USAGE = {"stream_options": {"include_usage": True}}


async def first_step(worker: FakeWorker) -> None:
    await asyncio.to_thread(worker.runner.wait_for_step)


async def test_error_before_the_first_token_is_an_error() -> None:
    """Nothing has been sent, so the status can still tell it."""
    with fake_worker() as worker:
        worker.runner.failures.append(DecodeError("llama_decode returned -3."))
        with pytest.raises(EngineError):
            await worker.stream_chat()

        assert await worker.still_answers()


@pytest.mark.parametrize("endpoint", [FakeWorker.stream_chat, FakeWorker.stream_completion])
async def test_error_after_the_first_token_ends_the_stream(endpoint: Any) -> None:
    """One event tells it, and no finish is told for an answer that has none."""
    with fake_worker(held=True) as worker:
        worker.runner.failures += [None, DecodeError("llama_decode returned -3.")]
        worker.permit()
        stream = await endpoint(worker, **USAGE)
        worker.let_go()
        *items, error = await read(stream)

        assert events(error) == [
            {
                "error": {
                    "message": "The model failed to compute this request.",
                    "type": "server_error",
                    "param": None,
                    "code": "engine_error",
                }
            }
        ]
        assert "[DONE]" not in "".join(items)
        assert await worker.still_answers()


@pytest.mark.parametrize("endpoint", [FakeWorker.stream_chat, FakeWorker.stream_completion])
async def test_cancelled_stream_ends_without_a_word(endpoint: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Its slot is free, and what has gathered is never told as if it were the whole answer."""
    with fake_worker(held=True) as worker:
        worker.permit(3)
        stream = await endpoint(worker, "endless", **USAGE)
        items = aiter(stream)
        await anext(items)
        stream.cancel()
        worker.let_go()
        await worker.drops_all()

        assert "[DONE]" not in "".join([item async for item in items])
        assert await worker.still_answers()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_stream_cancelled_before_it_is_read() -> None:
    """A client may be gone before the first byte."""
    with fake_worker(held=True) as worker:
        worker.permit()
        stream = await worker.stream_chat("endless", **USAGE)
        stream.cancel()
        stream.cancel()
        worker.let_go()

        assert await read(stream) == []
        await worker.drops_all()


async def test_reader_that_waits_is_woken_by_a_cancel() -> None:
    """The watcher of a connection cancels while the sender waits for the next token."""
    with fake_worker(held=True) as worker:
        worker.permit()
        stream = await worker.stream_chat("endless")
        reading = asyncio.create_task(read(stream))
        for _ in range(2):
            await first_step(worker)  # the second is held: there is nothing to read
        stream.cancel()

        async with asyncio.timeout(TIMEOUT):
            assert "[DONE]" not in "".join(await reading)
        worker.let_go()
        await worker.drops_all()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_cancelled_before_the_first_token(stream: bool) -> None:
    """Who waits for an answer can be cancelled, and the slot is free."""
    with fake_worker(held=True) as worker:
        waiting = asyncio.create_task(worker.stream_chat("endless") if stream else worker.chat("endless"))
        await first_step(worker)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        worker.let_go()

        await worker.drops_all()
        assert await worker.still_answers()


async def test_reader_that_stops_frees_its_slot() -> None:
    """An iterator that is closed cancels by itself."""
    with fake_worker(held=True) as worker:
        worker.permit()
        items = aiter(await worker.stream_chat("endless"))
        await anext(items)
        await items.aclose()  # type: ignore[attr-defined]  # it is an async generator
        worker.let_go()

        await worker.drops_all()


async def test_engine_that_stops_ends_the_stream() -> None:
    """A client that still reads is told that the worker is stopping."""
    with fake_worker(num_cells=1_000_000) as worker:
        items = aiter(await worker.stream_chat("endless"))
        await anext(items)
        await asyncio.to_thread(worker.engine.close)
        told = "".join([item async for item in items])

    assert events(told)[-1]["error"]["code"] == "unavailable"
