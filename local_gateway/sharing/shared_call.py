"""One call to a target that several subscribers read, each from its beginning and at its own speed.

The call runs in its own task and is cancelled when the last subscriber leaves. The first subscriber to close with all
of the answer read is billed for it, and every one that closes after it is free; one that leaves before that is billed
for what it was sent. So an answer is never free for all of its readers, whatever their order.
"""

import asyncio
from dataclasses import replace
from types import TracebackType

from local_gateway.errors import AnswerBrokenError, UnavailableError
from local_gateway.routing.answer_source import AnswerSource, RoutedRequest
from local_gateway.wire.answer import Answer, Origin
from local_gateway.wire.call_ledger import CallLedger, ExecutionStats

READ_AHEAD_BYTES = 256_000  # read from the target before any subscriber asks for it
MAX_LAG_BYTES = 16_000_000  # of a stream, kept for subscribers that join late or read slowly


class SharedCall:
    """The call, and the pieces of its answer that a subscriber still needs.

    Up to `max_lag_bytes` a stream can be joined, and is kept from its beginning. Beyond that a subscriber so far behind
    the fastest is dropped, and what all have read is let go of. Knows nothing of keys and of other calls.
    """

    def __init__(self, max_lag_bytes: int, ledger: CallLedger) -> None:
        """`ledger` is that of the request whose call it is."""
        self.ledger = ledger
        self.task: asyncio.Task[None] | None = None  # that runs it
        self._max_lag_bytes = max_lag_bytes
        self._subscribers: list[Subscriber] = []  # in the order in which they came, without those that have left
        self._num_subscribed = 0
        self._pieces: list[bytes] = []
        self._num_dropped = 0  # pieces before those
        self._num_bytes = 0  # of all pieces
        self._changed = asyncio.Event()  # replaced each time it is set
        self._read = asyncio.Event()  # a subscriber has read
        self._is_closing = False
        self._is_billed = False
        self._stats: asyncio.Task[ExecutionStats] | None = None
        self._error: BaseException | None = None
        self._traceback: TracebackType | None = None
        self.answer: Answer | None = None
        self.is_over = False

    @property
    def is_joinable(self) -> bool:
        return not (self.is_over or self._is_closing or self._num_bytes > self._max_lag_bytes)

    # In its task

    async def run(self, routed: RoutedRequest, source: AnswerSource) -> None:
        """Get the answer and read it to its end, at the pace of the fastest subscriber."""
        answer: Answer | None = None
        try:
            answer = await source.answer(routed)
            if answer.is_events:
                self.answer = answer
                self._tell()
                await self._follow(answer)
            else:  # a body in one piece: announced with its end, so that a subscriber with the piece has read it all
                while self._subscribers and (piece := await anext(answer.body, None)) is not None:
                    self._append(piece)
                self.answer = answer
            self._end()
        except asyncio.CancelledError:
            self._end(UnavailableError("The request was ended while others waited for the same answer."))
            raise
        except Exception as error:
            self._end(error)
        finally:
            if answer is not None:
                await answer.aclose()

    async def _follow(self, answer: Answer) -> None:
        while self._subscribers and (piece := await anext(answer.body, None)) is not None:
            self._append(piece)
            if self._num_bytes > self._max_lag_bytes:
                self._drop_laggards()
                self._trim()
            self._tell()
            while self._subscribers and self._num_bytes - self._lead_position() > READ_AHEAD_BYTES:
                self._read.clear()
                await self._read.wait()

    def _append(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._num_bytes += len(piece)

    def _lead_position(self) -> int:
        return max((subscriber.num_bytes for subscriber in self._subscribers), default=0)

    def _drop_laggards(self) -> None:
        lead = self._lead_position()
        for subscriber in [each for each in self._subscribers if lead - each.num_bytes > self._max_lag_bytes]:
            subscriber.is_dropped = True
            self._subscribers.remove(subscriber)

    def _trim(self) -> None:
        """Let go of what all have read: no subscriber can join any more."""
        num_read = min((each.num_pieces for each in self._subscribers), default=0) - self._num_dropped
        if num_read > 0:
            del self._pieces[:num_read]
            self._num_dropped += num_read

    def _end(self, error: BaseException | None = None) -> None:
        self.is_over = True
        self._error = error
        self._traceback = error.__traceback__ if error else None
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # For its subscribers

    def subscribe(self) -> "Subscriber":
        subscriber = Subscriber(self, is_first=not self._num_subscribed)
        self._num_subscribed += 1
        self._subscribers.append(subscriber)
        return subscriber

    async def changed(self) -> None:
        """Returns when the answer, a piece or the end has come since this was called."""
        await self._changed.wait()

    def piece(self, subscriber: "Subscriber") -> bytes | None:
        """The next one for this subscriber, if it is there. Raises AnswerBrokenError if it is not kept any more."""
        if subscriber.is_dropped:
            raise AnswerBrokenError("The answer was read too slowly.")
        index = subscriber.num_pieces - self._num_dropped
        return self._pieces[index] if index < len(self._pieces) else None

    def note_read(self) -> None:
        self._read.set()

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error.with_traceback(self._traceback)  # not with that of the subscriber before

    def bill(self, subscriber: "Subscriber") -> bool:
        """Whether this subscriber, which closes now, pays for what it has read."""
        if self._is_billed:
            return False
        self._is_billed = self.is_over and subscriber.num_pieces == self._num_dropped + len(self._pieces)
        return True

    async def leave(self, subscriber: "Subscriber") -> None:
        """Returns when nothing is left to do for this subscriber: after the last one, when the target is closed."""
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)
        if self._subscribers or self.task is None:
            return
        if not self.is_over:
            self._is_closing = True
            self.task.cancel()
        await asyncio.wait([self.task])

    async def execution_stats(self) -> ExecutionStats:
        """The target is asked once for all; while the call runs nothing is known."""
        if not self.is_over or self.answer is None:
            return ExecutionStats()
        if self._stats is None:
            self._stats = asyncio.create_task(self._ask_for_stats(self.answer))
        return await asyncio.shield(self._stats)

    async def _ask_for_stats(self, answer: Answer) -> ExecutionStats:
        assert self.task is not None
        await asyncio.wait([self.task])
        return await answer.execution_stats()


class Subscriber:
    """One reader of a shared call; the body of its Answer."""

    def __init__(self, call: SharedCall, *, is_first: bool) -> None:
        self._call = call
        self._is_first = is_first
        self._is_closed = False
        self._origin: Origin | None = None
        self.num_pieces = 0  # read
        self.num_bytes = 0
        self.is_dropped = False

    async def answer(self) -> Answer:
        """Raises what the source raised."""
        call = self._call
        while call.answer is None:
            call.raise_error()
            await call.changed()
        shared = call.answer
        self._origin = replace(shared.origin, sharing="miss" if self._is_first else "shared")
        return Answer(shared.status, dict(shared.headers), self, self._origin)

    def __aiter__(self) -> "Subscriber":
        return self

    async def __anext__(self) -> bytes:
        while (piece := self._call.piece(self)) is None:
            if self._call.is_over:
                self._call.raise_error()
                raise StopAsyncIteration
            await self._call.changed()
        self.num_pieces += 1
        self.num_bytes += len(piece)
        self._call.note_read()
        return piece

    async def aclose(self) -> None:
        if not self._is_closed and self._origin is not None:
            self._origin.sharing = "miss" if self._call.bill(self) else "shared"
        self._is_closed = True
        await self._call.leave(self)

    async def execution_stats(self) -> ExecutionStats:
        return await self._call.execution_stats()
