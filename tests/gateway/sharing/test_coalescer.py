"""Identical requests share one call, whichever request comes, goes or fails, in whatever order."""

import asyncio
from collections.abc import Iterable

import pytest

from local_gateway.errors import AnswerBrokenError, TargetTimeoutError, UnavailableError
from local_gateway.routing.answer_source import RoutedRequest
from local_gateway.sharing.coalescer import Coalescer
from local_gateway.sharing.shared_call import READ_AHEAD_BYTES
from local_gateway.wire.answer import Answer
from local_gateway.wire.call_ledger import ExecutionStats
from tests.gateway.targets.never_asked import routed_of
from tests.gateway.targets.scripted import END, EVENTS, JSON, STATS, ScriptedSource, read_to_end

ROUTED = routed_of()
ONE, TWO, THREE = b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n"


def shared_pair(*steps: bytes | None) -> tuple[Coalescer, ScriptedSource]:
    return Coalescer(), ScriptedSource(*steps)


async def both(coalescer: Coalescer, target: ScriptedSource) -> tuple[Answer, Answer]:
    """Two answers of the same flight."""
    first, second = await asyncio.gather(
        coalescer.answer("key", ROUTED, target), coalescer.answer("key", ROUTED, target)
    )
    return first, second


def sharings(answers: Iterable[Answer]) -> list[str]:
    return [answer.origin.sharing for answer in answers]


async def leave(task: "asyncio.Task[Answer]") -> None:
    """What happens to a request whose client hangs up."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# One call for all


@pytest.mark.parametrize("headers", [EVENTS, JSON], ids=["stream", "body"])
async def test_fifty_requests_make_one_call(headers: dict[str, str]) -> None:
    """All fifty get the whole answer, and one of them pays."""
    coalescer, target = Coalescer(), ScriptedSource(headers=headers)
    requests = [asyncio.create_task(coalescer.answer("key", ROUTED, target)) for _ in range(50)]
    await target.began.wait()
    target.answers(ONE, TWO, THREE, END)
    answers = await asyncio.gather(*requests)
    bodies = await asyncio.gather(*map(read_to_end, answers))

    assert bodies == 50 * [ONE + TWO + THREE]
    assert {(answer.status, answer.is_events) for answer in answers} == {(200, headers is EVENTS)}
    assert sorted(sharings(answers)) == ["miss", *49 * ["shared"]]
    assert (target.num_calls, target.num_closed, len(coalescer)) == (1, 1, 0)


async def test_different_requests_do_not_share() -> None:
    """The key says what is identical."""
    coalescer, target, other = Coalescer(), ScriptedSource(ONE, END), ScriptedSource(TWO, END)
    answers = await asyncio.gather(coalescer.answer("key", ROUTED, target), coalescer.answer("other", ROUTED, other))

    assert [await read_to_end(answer) for answer in answers] == [ONE, TWO]
    assert sharings(answers) == ["miss", "miss"]


async def test_stream_is_followed_as_it_comes() -> None:
    """No client waits for the end."""
    target = ScriptedSource(ONE)
    first, second = await both(Coalescer(), target)
    beginnings = [await anext(first.body), await anext(second.body)]
    target.says(TWO, END)

    assert beginnings == [ONE, ONE]
    assert [await read_to_end(first), await read_to_end(second)] == [TWO, TWO]


async def test_newcomer_gets_the_beginning() -> None:
    """While the answer is coming it can be joined: what was said is replayed, then followed."""
    coalescer, target = Coalescer(), ScriptedSource(ONE, TWO)
    first = await coalescer.answer("key", ROUTED, target)
    said = [await anext(first.body), await anext(first.body)]
    second = await coalescer.answer("key", ROUTED, target)
    target.says(THREE, END)

    assert said == [ONE, TWO]
    assert await read_to_end(second) == ONE + TWO + THREE
    assert await read_to_end(first) == THREE
    assert target.num_calls == 1


async def test_newcomer_after_the_end() -> None:
    """An answer that is over is not kept: the next request makes its own call, although some still read."""
    coalescer, target, next_target = Coalescer(), ScriptedSource(ONE, END), ScriptedSource(TWO, END)
    first = await coalescer.answer("key", ROUTED, target)
    await target.closed.wait()
    second = await coalescer.answer("key", ROUTED, next_target)

    assert await read_to_end(second) == TWO
    assert await read_to_end(first) == ONE
    assert sharings([first, second]) == ["miss", "miss"]


async def test_newcomer_to_a_long_answer() -> None:
    """What is long is not kept to be replayed: the next request makes its own call."""
    coalescer, target, next_target = Coalescer(max_lag_bytes=10), ScriptedSource(ONE), ScriptedSource(THREE, END)
    first = await coalescer.answer("key", ROUTED, target)
    assert await anext(first.body) == ONE
    target.says(TWO)
    assert await anext(first.body) == TWO
    second = await coalescer.answer("key", ROUTED, next_target)
    target.says(THREE, END)

    assert [await read_to_end(second), await read_to_end(first)] == [THREE, THREE]
    assert (target.num_calls, next_target.num_calls) == (1, 1)


async def test_headers_belong_to_each_caller() -> None:
    """Who adds a header to an answer adds it to no other."""
    first, second = await both(Coalescer(), ScriptedSource(ONE, END))
    first.headers["x-request-id"] = "mine"

    assert second.headers == EVENTS
    assert await read_to_end(first) == await read_to_end(second)


# Leaving


async def test_first_leaves_before_there_is_an_answer() -> None:
    """The call goes on for the requests that came later."""
    coalescer, target = Coalescer(), ScriptedSource()
    first, second = (asyncio.create_task(coalescer.answer("key", ROUTED, target)) for _ in range(2))
    await target.began.wait()
    await leave(first)
    target.answers(ONE, END)
    answer = await second

    assert (await read_to_end(answer), answer.origin.sharing) == (ONE, "miss")
    assert (target.num_calls, target.was_cancelled) == (1, False)


async def test_all_leave_before_there_is_an_answer() -> None:
    """The call is cancelled when the last one has left, and cannot be joined any more."""
    coalescer, target = Coalescer(), ScriptedSource()
    requests = [asyncio.create_task(coalescer.answer("key", ROUTED, target)) for _ in range(3)]
    await target.began.wait()
    for request in requests:
        assert not target.was_cancelled
        await leave(request)

    assert target.was_cancelled
    assert len(coalescer) == 0


async def test_leaves_at_once() -> None:
    """Also a call that has only just begun is ended."""
    coalescer, target = Coalescer(), ScriptedSource()
    request = asyncio.create_task(coalescer.answer("key", ROUTED, target))
    asyncio.get_running_loop().call_soon(request.cancel)
    with pytest.raises(asyncio.CancelledError):
        await request

    assert (target.num_calls, target.was_cancelled, len(coalescer)) == (1, True, 0)


async def test_call_that_does_not_heed_its_cancellation() -> None:
    """Its answer is closed as soon as it is there."""
    target = ScriptedSource(ONE, END)

    class AnswersAlthoughCancelled:
        async def answer(self, routed: RoutedRequest) -> Answer:
            try:
                target.began.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return await target.answer(routed)
            raise AssertionError

    request = asyncio.create_task(Coalescer().answer("key", ROUTED, AnswersAlthoughCancelled()))
    await target.began.wait()
    await leave(request)

    assert (target.num_closed, target.num_read) == (1, 0)


async def test_one_leaves_in_the_middle() -> None:
    """The others do not notice."""
    target = ScriptedSource(ONE)
    first, second = await both(Coalescer(), target)
    await anext(first.body)
    await first.aclose()
    target.says(TWO, END)

    assert await read_to_end(second) == ONE + TWO
    assert not target.was_cancelled


async def test_all_leave_in_the_middle() -> None:
    """When the last one's `aclose` returns, the target was let go of."""
    coalescer, target = Coalescer(), ScriptedSource(ONE)
    first, second = await both(coalescer, target)
    await anext(second.body)
    await first.aclose()
    assert target.num_closed == 0
    await second.aclose()

    assert (target.num_closed, target.was_cancelled, len(coalescer)) == (1, True, 0)


async def test_closing_again_does_nothing() -> None:
    """Also when the others are still there."""
    target = ScriptedSource(ONE)
    first, second = await both(Coalescer(), target)
    await first.aclose()
    await first.aclose()
    target.says(END)

    assert await read_to_end(second) == ONE
    await second.aclose()
    assert target.num_closed == 1


async def test_last_one_is_cancelled_while_it_reads() -> None:
    """As a request is whose client hangs up in the middle of a stream."""
    target = ScriptedSource(ONE)
    answer = await Coalescer().answer("key", ROUTED, target)
    await anext(answer.body)
    reading = asyncio.create_task(read_to_end(answer))
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await answer.aclose()

    assert (target.num_closed, target.was_cancelled) == (1, True)


async def test_newcomer_while_the_last_one_leaves() -> None:
    """A call that is being ended is not joined."""
    coalescer, target, next_target = Coalescer(), ScriptedSource(ONE), ScriptedSource(TWO, END)
    first = await coalescer.answer("key", ROUTED, target)
    leaving = asyncio.ensure_future(first.aclose())
    second = asyncio.create_task(coalescer.answer("key", ROUTED, next_target))
    await leaving

    assert await read_to_end(await second) == TWO
    assert (target.num_closed, next_target.num_calls) == (1, 1)


# Failing


async def test_failure_reaches_all() -> None:
    """Everybody is told, and the next request tries again."""
    coalescer, target = Coalescer(), ScriptedSource()
    requests = [asyncio.create_task(coalescer.answer("key", ROUTED, target)) for _ in range(3)]
    await target.began.wait()
    target.refuses(TargetTimeoutError("slow"))
    errors = await asyncio.gather(*requests, return_exceptions=True)
    answer = await coalescer.answer("key", ROUTED, ScriptedSource(TWO, END))

    assert [(type(error), str(error)) for error in errors] == 3 * [(TargetTimeoutError, "slow")]
    assert await read_to_end(answer) == TWO


async def test_failures_do_not_grow() -> None:
    """Raised for many callers, an error tells where it happened, and not who else was told."""
    coalescer, target = Coalescer(), ScriptedSource()
    requests = [asyncio.create_task(coalescer.answer("key", ROUTED, target)) for _ in range(9)]
    await target.began.wait()
    target.refuses(ValueError("bug"))
    errors = await asyncio.gather(*requests, return_exceptions=True)

    frames, trace = 0, errors[-1].__traceback__ if isinstance(errors[-1], ValueError) else None
    while trace is not None:
        frames, trace = frames + 1, trace.tb_next
    assert 0 < frames < 9


async def test_answer_breaks_off() -> None:
    """Everybody gets what came before, then the error; so does who joined or read later."""
    coalescer, target = Coalescer(), ScriptedSource(ONE)
    first, second = await both(coalescer, target)
    await anext(first.body)
    target.says(TWO, AnswerBrokenError("gone"))
    await target.closed.wait()

    for answer, rest in ((first, [TWO]), (second, [ONE, TWO])):
        assert [await anext(answer.body) for _ in rest] == rest
        with pytest.raises(AnswerBrokenError, match="gone"):
            await anext(answer.body)
        await answer.aclose()
    assert sharings([first, second]) == ["miss", "shared"]
    assert len(coalescer) == 0


async def test_call_that_is_cancelled_by_others() -> None:
    """No request waits for ever when the call's own task is ended."""
    coalescer = Coalescer()

    class Cancelled:
        async def answer(self, routed: RoutedRequest) -> Answer:
            raise asyncio.CancelledError

    with pytest.raises(UnavailableError, match="ended while others waited"):
        await coalescer.answer("key", ROUTED, Cancelled())

    assert len(coalescer) == 0


# Slow readers


async def test_slow_reader_does_not_stall_the_others() -> None:
    """Each reads at its own speed, from one buffer."""
    pieces = [b"%06d" % number for number in range(2000)]
    slow, fast = await both(Coalescer(max_lag_bytes=100), ScriptedSource(*pieces, END))

    assert await read_to_end(fast) == b"".join(pieces)
    assert await read_to_end(slow) == b"".join(pieces)


async def test_much_too_slow_reader_is_given_up() -> None:
    """It is told; the others go on, and one of them pays."""
    pieces = 5 * [b"data: 123456\n\n"]
    coalescer = Coalescer(max_lag_bytes=30)
    target = ScriptedSource(*pieces)
    slow, fast = await both(coalescer, target)
    assert [await anext(fast.body) for _ in pieces] == pieces
    target.says(TWO)
    assert await anext(fast.body) == TWO
    target.says(END)

    with pytest.raises(AnswerBrokenError, match="too slowly"):
        await anext(slow.body)
    await slow.aclose()
    assert await read_to_end(fast) == b""
    assert sharings([slow, fast]) == ["miss", "miss"]


async def test_target_is_not_read_without_a_client() -> None:
    """When all are slow the target waits for them, as it would for one."""
    piece = bytes(READ_AHEAD_BYTES // 2)
    target = ScriptedSource(*9 * [piece], END)
    first, second = await both(Coalescer(), target)
    await anext(first.body)
    await anext(second.body)
    num_read = target.num_read

    assert num_read <= 4
    assert list(await asyncio.gather(read_to_end(first), read_to_end(second))) == [8 * piece, 8 * piece]


async def test_leaving_while_the_target_waits() -> None:
    """It is let go of."""
    piece = bytes(READ_AHEAD_BYTES)
    target = ScriptedSource(*9 * [piece], END)
    answer = await Coalescer().answer("key", ROUTED, target)
    await anext(answer.body)
    await answer.aclose()

    assert target.num_closed == 1
    assert target.num_read < 9


async def test_long_answer_is_not_kept() -> None:
    """What all have read is forgotten, so that memory does not grow with a stream."""
    pieces = [b"%06d" % number for number in range(2000)]
    coalescer, target = Coalescer(max_lag_bytes=600), ScriptedSource()
    joining = asyncio.create_task(coalescer.answer("key", ROUTED, target))
    await target.began.wait()
    call = coalescer._calls["key"]
    target.answers()
    answer = await joining
    for piece in pieces:
        target.says(piece)
        assert await anext(answer.body) == piece
    target.says(END)

    assert await read_to_end(answer) == b""
    assert len(call._pieces) <= 100


# Billing


async def test_first_to_have_read_all_is_billed() -> None:
    """The others share its answer and cost nothing, whether they read to the end or not."""
    first, second, third = await asyncio.gather(
        *(coalescer.answer("key", ROUTED, target) for coalescer, target in [shared_pair(ONE, END)] for _ in range(3))
    )
    await read_to_end(first)
    await read_to_end(second)
    await third.aclose()

    assert sharings([first, second, third]) == ["miss", "shared", "shared"]


async def test_subscriber_that_leaves_early() -> None:
    """It is billed for what it was sent, and the first that reads all for all: no order makes an answer free."""
    target = ScriptedSource(ONE)
    first, second = await both(Coalescer(), target)
    await anext(first.body)
    await first.aclose()
    target.says(END)
    await read_to_end(second)

    assert sharings([first, second]) == ["miss", "miss"]


async def test_billed_body_is_read_but_not_to_its_end() -> None:
    """A body in one piece is read when that piece is: its reader asks for no second."""
    target = ScriptedSource(ONE, END, headers=JSON)
    first, second = await both(Coalescer(), target)
    assert [await anext(first.body), await anext(second.body)] == [ONE, ONE]
    await first.aclose()
    await second.aclose()

    assert sharings([first, second]) == ["miss", "shared"]
    assert not target.was_cancelled


# Execution statistics


async def test_target_is_asked_once_how_it_went() -> None:
    """After it was let go of; all are told."""
    target = ScriptedSource(ONE, END)
    answers = await both(Coalescer(), target)
    for answer in answers:
        await read_to_end(answer)
    stats = await asyncio.gather(*(answer.execution_stats() for answer in answers))

    assert stats == [STATS, STATS]
    assert target.num_asked_for_stats == 1


async def test_stats_are_asked_for_early() -> None:
    """Who has read all need not close first; the target is let go of before it is asked."""
    target = ScriptedSource(ONE, END)
    answer = await Coalescer().answer("key", ROUTED, target)
    body = [piece async for piece in answer.body]

    assert (body, await answer.execution_stats(), target.num_closed) == ([ONE], STATS, 1)


async def test_stats_for_who_leaves_early() -> None:
    """Nothing is known while the others go on; the last one is told."""
    target = ScriptedSource(ONE)
    first, second = await both(Coalescer(), target)
    await first.aclose()
    early = await first.execution_stats()
    await second.aclose()

    assert (early, await second.execution_stats()) == (ExecutionStats(), STATS)
