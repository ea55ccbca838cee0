"""Identical requests share one call, whoever comes, goes and fails, and in whatever order."""

import asyncio
from collections.abc import Iterable

import pytest

from local_gateway.errors import AnswerBrokenError, TargetTimeoutError
from local_gateway.sharing.coalescer import Coalescer
from local_gateway.sharing.shared_call import READ_AHEAD_BYTES
from local_gateway.wire.answer import Answer, ExecutionStats
from tests.gateway.scripted_target import END, EVENTS, FACTS, JSON, ScriptedTarget, read_to_end

ONE, TWO, THREE = b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n"


async def both(coalescer: Coalescer, target: ScriptedTarget) -> tuple[Answer, Answer]:
    """Two answers of the same flight."""
    first, second = await asyncio.gather(coalescer.join("key", target.make), coalescer.join("key", target.make))
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
    coalescer, target = Coalescer(), ScriptedTarget(headers=headers)
    requests = [asyncio.create_task(coalescer.join("key", target.make)) for _ in range(50)]
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
    coalescer, target, other = Coalescer(), ScriptedTarget(ONE, END), ScriptedTarget(TWO, END)
    answers = await asyncio.gather(coalescer.join("key", target.make), coalescer.join("other", other.make))

    assert [await read_to_end(answer) for answer in answers] == [ONE, TWO]
    assert sharings(answers) == ["miss", "miss"]


async def test_stream_is_followed_as_it_comes() -> None:
    """Nobody waits for the end."""
    target = ScriptedTarget(ONE)
    first, second = await both(Coalescer(), target)
    beginnings = [await anext(first.body), await anext(second.body)]
    target.says(TWO, END)

    assert beginnings == [ONE, ONE]
    assert [await read_to_end(first), await read_to_end(second)] == [TWO, TWO]


async def test_newcomer_gets_the_beginning() -> None:
    """While the answer is coming it can be joined: what was said is replayed, then followed."""
    coalescer, target = Coalescer(), ScriptedTarget(ONE, TWO)
    first = await coalescer.join("key", target.make)
    said = [await anext(first.body), await anext(first.body)]
    second = await coalescer.join("key", target.make)
    target.says(THREE, END)

    assert said == [ONE, TWO]
    assert await read_to_end(second) == ONE + TWO + THREE
    assert await read_to_end(first) == THREE
    assert target.num_calls == 1


async def test_newcomer_after_the_end() -> None:
    """An answer that is over is not kept: the next request makes its own call, although some still read."""
    coalescer, target, next_target = Coalescer(), ScriptedTarget(ONE, END), ScriptedTarget(TWO, END)
    first = await coalescer.join("key", target.make)
    await target.closed.wait()
    second = await coalescer.join("key", next_target.make)

    assert await read_to_end(second) == TWO
    assert await read_to_end(first) == ONE
    assert sharings([first, second]) == ["miss", "miss"]


async def test_newcomer_to_a_long_answer() -> None:
    """What is long is not kept to be replayed: the next request makes its own call."""
    coalescer, target, next_target = Coalescer(max_replay_bytes=10), ScriptedTarget(ONE), ScriptedTarget(THREE, END)
    first = await coalescer.join("key", target.make)
    assert await anext(first.body) == ONE
    target.says(TWO)
    assert await anext(first.body) == TWO
    second = await coalescer.join("key", next_target.make)
    target.says(THREE, END)

    assert [await read_to_end(second), await read_to_end(first)] == [THREE, THREE]
    assert (target.num_calls, next_target.num_calls) == (1, 1)


async def test_headers_belong_to_each_caller() -> None:
    """Who adds a header to an answer adds it to no other."""
    first, second = await both(Coalescer(), ScriptedTarget(ONE, END))
    first.headers["x-request-id"] = "mine"

    assert second.headers == EVENTS
    assert await read_to_end(first) == await read_to_end(second)


# Leaving


async def test_first_leaves_before_there_is_an_answer() -> None:
    """The call goes on for those who came later."""
    coalescer, target = Coalescer(), ScriptedTarget()
    first, second = (asyncio.create_task(coalescer.join("key", target.make)) for _ in range(2))
    await target.began.wait()
    await leave(first)
    target.answers(ONE, END)
    answer = await second

    assert (await read_to_end(answer), answer.origin.sharing) == (ONE, "miss")
    assert (target.num_calls, target.was_cancelled) == (1, False)


async def test_all_leave_before_there_is_an_answer() -> None:
    """The call is cancelled when the last one has left, and cannot be joined any more."""
    coalescer, target = Coalescer(), ScriptedTarget()
    requests = [asyncio.create_task(coalescer.join("key", target.make)) for _ in range(3)]
    await target.began.wait()
    for request in requests:
        assert not target.was_cancelled
        await leave(request)

    assert target.was_cancelled
    assert len(coalescer) == 0


async def test_leaves_at_once() -> None:
    """Also a call that has only just begun is ended."""
    coalescer, target = Coalescer(), ScriptedTarget()
    request = asyncio.create_task(coalescer.join("key", target.make))
    asyncio.get_running_loop().call_soon(request.cancel)
    with pytest.raises(asyncio.CancelledError):
        await request

    assert (target.num_calls, target.was_cancelled, len(coalescer)) == (1, True, 0)


async def test_call_that_does_not_heed_its_cancellation() -> None:
    """Its answer is closed as soon as it is there."""
    target = ScriptedTarget(ONE, END)

    async def make_although_cancelled() -> Answer:
        try:
            target.began.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return await target.make()
        raise AssertionError

    request = asyncio.create_task(Coalescer().join("key", make_although_cancelled))
    await target.began.wait()
    await leave(request)

    assert (target.num_closed, target.num_read) == (1, 0)


async def test_one_leaves_in_the_middle() -> None:
    """The others do not notice."""
    target = ScriptedTarget(ONE)
    first, second = await both(Coalescer(), target)
    await anext(first.body)
    await first.aclose()
    target.says(TWO, END)

    assert await read_to_end(second) == ONE + TWO
    assert not target.was_cancelled


async def test_all_leave_in_the_middle() -> None:
    """When the last one's `aclose` returns, the target was let go of."""
    coalescer, target = Coalescer(), ScriptedTarget(ONE)
    first, second = await both(coalescer, target)
    await anext(second.body)
    await first.aclose()
    assert target.num_closed == 0
    await second.aclose()

    assert (target.num_closed, target.was_cancelled, len(coalescer)) == (1, True, 0)


async def test_closing_again_does_nothing() -> None:
    """Also when the others are still there."""
    target = ScriptedTarget(ONE)
    first, second = await both(Coalescer(), target)
    await first.aclose()
    await first.aclose()
    target.says(END)

    assert await read_to_end(second) == ONE
    await second.aclose()
    assert target.num_closed == 1


async def test_last_one_is_cancelled_while_it_reads() -> None:
    """As a request is whose client hangs up in the middle of a stream."""
    target = ScriptedTarget(ONE)
    answer = await Coalescer().join("key", target.make)
    await anext(answer.body)
    reading = asyncio.create_task(read_to_end(answer))
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await answer.aclose()

    assert (target.num_closed, target.was_cancelled) == (1, True)


async def test_newcomer_while_the_last_one_leaves() -> None:
    """A call that is being ended is not joined."""
    coalescer, target, next_target = Coalescer(), ScriptedTarget(ONE), ScriptedTarget(TWO, END)
    first = await coalescer.join("key", target.make)
    leaving = asyncio.ensure_future(first.aclose())
    second = asyncio.create_task(coalescer.join("key", next_target.make))
    await leaving

    assert await read_to_end(await second) == TWO
    assert (target.num_closed, next_target.num_calls) == (1, 1)


# Failing


async def test_failure_reaches_all() -> None:
    """Everybody is told, and the next request tries again."""
    coalescer, target = Coalescer(), ScriptedTarget()
    requests = [asyncio.create_task(coalescer.join("key", target.make)) for _ in range(3)]
    await target.began.wait()
    target.refuses(TargetTimeoutError("slow"))
    errors = await asyncio.gather(*requests, return_exceptions=True)
    answer = await coalescer.join("key", ScriptedTarget(TWO, END).make)

    assert [(type(error), str(error)) for error in errors] == 3 * [(TargetTimeoutError, "slow")]
    assert await read_to_end(answer) == TWO


async def test_failures_do_not_grow() -> None:
    """Raised for many callers, an error tells where it happened, and not who else was told."""
    coalescer, target = Coalescer(), ScriptedTarget()
    requests = [asyncio.create_task(coalescer.join("key", target.make)) for _ in range(9)]
    await target.began.wait()
    target.refuses(ValueError("bug"))
    errors = await asyncio.gather(*requests, return_exceptions=True)

    frames, trace = 0, errors[-1].__traceback__ if isinstance(errors[-1], ValueError) else None
    while trace is not None:
        frames, trace = frames + 1, trace.tb_next
    assert 0 < frames < 9


async def test_answer_breaks_off() -> None:
    """Everybody gets what came before, then the error; so does who joined or read later."""
    coalescer, target = Coalescer(), ScriptedTarget(ONE)
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
    """Nobody waits for ever when the call's own task is ended."""
    coalescer = Coalescer()

    async def make() -> Answer:
        raise asyncio.CancelledError

    with pytest.raises(Exception, match="ended while others waited"):
        await coalescer.join("key", make)

    assert len(coalescer) == 0


# Slow readers


async def test_slow_reader_does_not_stall_the_others() -> None:
    """Each reads at its own speed, from one buffer."""
    pieces = [b"%06d" % number for number in range(2000)]
    slow, fast = await both(Coalescer(max_replay_bytes=100), ScriptedTarget(*pieces, END))

    assert await read_to_end(fast) == b"".join(pieces)
    assert await read_to_end(slow) == b"".join(pieces)


async def test_much_too_slow_reader_is_given_up() -> None:
    """It is told; the others go on, and one of them pays."""
    pieces = 5 * [b"data: 123456\n\n"]
    coalescer = Coalescer(max_replay_bytes=20, max_lag_bytes=30)
    target = ScriptedTarget(*pieces)
    slow, fast = await both(coalescer, target)
    assert [await anext(fast.body) for _ in pieces] == pieces
    target.says(TWO)
    assert await anext(fast.body) == TWO
    target.says(END)

    with pytest.raises(AnswerBrokenError, match="too slowly"):
        await anext(slow.body)
    await slow.aclose()
    assert await read_to_end(fast) == b""
    assert sharings([slow, fast]) == ["shared", "miss"]


async def test_target_is_not_read_for_nobody() -> None:
    """When all are slow the target waits for them, as it would for one."""
    piece = bytes(READ_AHEAD_BYTES // 2)
    target = ScriptedTarget(*9 * [piece], END)
    first, second = await both(Coalescer(), target)
    await anext(first.body)
    await anext(second.body)
    num_read = target.num_read

    assert num_read <= 4
    assert list(await asyncio.gather(read_to_end(first), read_to_end(second))) == [8 * piece, 8 * piece]


async def test_leaving_while_the_target_waits() -> None:
    """It is let go of."""
    piece = bytes(READ_AHEAD_BYTES)
    target = ScriptedTarget(*9 * [piece], END)
    answer = await Coalescer().join("key", target.make)
    await anext(answer.body)
    await answer.aclose()

    assert target.num_closed == 1
    assert target.num_read < 9


async def test_long_answer_is_not_kept() -> None:
    """What all have read is forgotten, so that memory does not grow with a stream."""
    pieces = [b"%06d" % number for number in range(2000)]
    coalescer, target = Coalescer(max_replay_bytes=600), ScriptedTarget()
    joining = asyncio.create_task(coalescer.join("key", target.make))
    await target.began.wait()
    flight = coalescer._flights["key"]
    target.answers()
    answer = await joining
    for piece in pieces:
        target.says(piece)
        assert await anext(answer.body) == piece
    target.says(END)

    assert await read_to_end(answer) == b""
    assert len(flight._pieces) <= 100


# Who pays


async def test_payer_leaves() -> None:
    """The next one pays; who left pays nothing."""
    target = ScriptedTarget(ONE)
    first, second = await both(Coalescer(), target)
    before = sharings([first, second])
    await first.aclose()
    after = sharings([first, second])
    target.says(END)
    await read_to_end(second)

    assert (before, after) == (["miss", "shared"], ["shared", "miss"])
    assert sharings([first, second]) == after


async def test_payer_leaves_after_the_end_without_having_read_it() -> None:
    """Only who has all of the answer knows what it cost."""
    first, second = await both(Coalescer(), ScriptedTarget(ONE, TWO, END))
    await anext(first.body)
    await read_to_end(second)
    await first.aclose()

    assert sharings([first, second]) == ["shared", "miss"]


async def test_payer_is_the_last_to_leave() -> None:
    """Then it pays for what came."""
    first, second = await both(Coalescer(), ScriptedTarget(ONE))
    await second.aclose()
    await first.aclose()

    assert sharings([first, second]) == ["miss", "shared"]


async def test_others_leaving_change_nothing_for_the_payer() -> None:
    """The first who came pays in the usual case."""
    first, second = await both(Coalescer(), ScriptedTarget(ONE, END))
    await second.aclose()
    await read_to_end(first)

    assert sharings([first, second]) == ["miss", "shared"]


async def test_payer_of_a_body_that_is_read_but_not_to_its_end() -> None:
    """A body in one piece is read when that piece is: nobody asks for a second."""
    target = ScriptedTarget(ONE, END, headers=JSON)
    first, second = await both(Coalescer(), target)
    assert [await anext(first.body), await anext(second.body)] == [ONE, ONE]
    await first.aclose()
    await second.aclose()

    assert sharings([first, second]) == ["miss", "shared"]
    assert not target.was_cancelled


# Facts


async def test_target_is_asked_once_how_it_went() -> None:
    """After it was let go of; all are told."""
    target = ScriptedTarget(ONE, END)
    answers = await both(Coalescer(), target)
    for answer in answers:
        await read_to_end(answer)
    facts = await asyncio.gather(*(answer.origin.settle() for answer in answers))

    assert facts == [FACTS, FACTS]
    assert target.num_settled == 1


async def test_facts_are_asked_for_early() -> None:
    """Who has read all need not close first; the target is let go of before it is asked."""
    target = ScriptedTarget(ONE, END)
    answer = await Coalescer().join("key", target.make)
    body = [piece async for piece in answer.body]

    assert (body, await answer.origin.settle(), target.num_closed) == ([ONE], FACTS, 1)


async def test_facts_for_who_leaves_early() -> None:
    """Nothing is known while the others go on; the last one is told."""
    target = ScriptedTarget(ONE)
    first, second = await both(Coalescer(), target)
    await first.aclose()
    early = await first.origin.settle()
    await second.aclose()

    assert (early, await second.origin.settle()) == (ExecutionStats(), FACTS)
