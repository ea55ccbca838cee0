"""Inputs of many requests become batches, and each request gets its own vectors, or an error."""

import asyncio
from collections.abc import Callable

import pytest

from handler.embedding import embedder as module
from handler.errors import DecodeError, EngineError, InvalidRequestError, QueueFullError, UnavailableError
from tests.embedding.fakes import fake_embedder
from tests.waiting import eventually


async def test_vectors_come_in_the_order_of_the_inputs() -> None:
    """However the inputs were batched."""
    with fake_embedder() as (embedder, runner):
        inputs = [[number] * length for number, length in enumerate((3, 16, 1, 5, 5, 5, 2), start=10)]
        vectors = await embedder.embed(inputs)

    assert [(int(row[0]), int(row[1])) for row in vectors] == [(len(ids), ids[0]) for ids in inputs]
    assert max(map(len, runner.batches)) > 1
    assert all(sum(map(len, batch)) <= 12 or len(batch) == 1 for batch in runner.batches)
    assert runner.is_closed


async def test_requests_share_a_batch() -> None:
    """What comes while a batch is computed is computed together."""
    with fake_embedder() as (embedder, runner):
        runner.hold()
        requests = [asyncio.create_task(embedder.embed([[number]])) for number in range(5)]
        await eventually(lambda: embedder._num_requests == 5)
        runner.may_compute.release(5)
        answers = await asyncio.gather(*requests)

    assert [int(vectors[0, 1]) for vectors in answers] == list(range(5))
    assert len(runner.batches) == 2
    assert embedder.stats.num_finished == embedder.stats.num_inputs == 5


async def test_a_cancelled_request_ends_after_its_batch() -> None:
    """What is left of it is not computed, and its place is free."""
    with fake_embedder(max_requests=1) as (embedder, runner):
        runner.hold()
        async with asyncio.TaskGroup() as group:
            request = group.create_task(embedder.embed([[1] * 12 for _ in range(9)]))
            await eventually(lambda: embedder._num_requests == 1)
            request.cancel()
        runner.may_compute.release(100)
        vectors = await embedder.embed([[7]])

    assert int(vectors[0, 1]) == 7
    assert len(runner.batches) <= 2


async def test_a_full_queue_is_refused() -> None:
    """At once, with an error that says so."""
    with fake_embedder(max_requests=2) as (embedder, runner):
        runner.hold()
        requests = [asyncio.create_task(embedder.embed([[number]])) for number in range(2)]
        await eventually(lambda: embedder._num_requests == 2)
        with pytest.raises(QueueFullError):
            await embedder.embed([[3]])
        runner.may_compute.release(2)
        await asyncio.gather(*requests)
        runner.may_compute.release()
        assert len(await embedder.embed([[4]])) == 1


async def test_too_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work of one request has a bound."""
    monkeypatch.setattr(module, "MAX_REQUEST_TOKENS", 20)
    with fake_embedder() as (embedder, runner), pytest.raises(InvalidRequestError, match="have 21 tokens"):
        await embedder.embed([[1] * 7] * 3)

    assert not runner.batches


async def test_a_failed_batch() -> None:
    """Its requests get an error; the next one is computed."""
    with fake_embedder() as (embedder, runner):
        runner.fail = failing(times=1)
        with pytest.raises(EngineError):
            await embedder.embed([[1] * 12, [2] * 12])
        assert len(await embedder.embed([[3]])) == 1
        assert embedder.is_healthy


async def test_batches_that_keep_failing() -> None:
    """The embedder is unhealthy then, and refuses what comes."""
    with fake_embedder() as (embedder, runner):
        runner.fail = failing(times=9)
        for _ in range(3):
            with pytest.raises(EngineError):
                await embedder.embed([[1]])
        await eventually(lambda: not embedder.is_healthy)
        with pytest.raises(UnavailableError):
            await embedder.embed([[1]])


async def test_a_breakdown() -> None:
    """An error that nothing expects ends all requests and the thread."""

    def break_down() -> None:
        raise ZeroDivisionError

    with fake_embedder() as (embedder, runner):
        runner.fail = break_down
        requests = [embedder.embed([[number] * 12] * 3) for number in range(3)]
        outcomes = await asyncio.gather(*requests, return_exceptions=True)

    assert {type(outcome) for outcome in outcomes} <= {EngineError, UnavailableError}
    assert not embedder.is_healthy


async def test_closing_ends_what_waits() -> None:
    """The batch that runs is finished, the rest gets an error."""
    with fake_embedder() as (embedder, runner):
        runner.hold()
        request = asyncio.create_task(embedder.embed([[1] * 12] * 5))
        await eventually(lambda: embedder._num_requests == 1)
        closing = asyncio.get_running_loop().run_in_executor(None, embedder.close)
        await eventually(lambda: embedder._is_closing)
        runner.may_compute.release(100)
        await closing
        with pytest.raises(UnavailableError):
            await request
        with pytest.raises(UnavailableError):
            await embedder.embed([[1]])


def failing(times: int) -> Callable[[], None]:
    """So often, then no more."""
    left = iter(range(times))

    def fail() -> None:
        if next(left, None) is not None:
            raise DecodeError("as the test wants it")

    return fail
