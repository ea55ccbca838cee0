"""One call to a target that several callers read, each from its beginning and at its own speed.

It runs in its own task and belongs to no caller: whoever leaves does not disturb the others, and with the last one it
ends at once. One caller pays for all: the first of those who are there, until somebody has all of the answer and so
knows what it cost.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import TracebackType

from local_gateway.errors import AnswerBrokenError, UnavailableError
from local_gateway.wire.answer import Answer, ExecutionStats

Make = Callable[[], Awaitable[Answer]]

READ_AHEAD_BYTES = 256_000  # read from the target before any caller asks for it


class SharedCall:
    """The call, and what came of it as far as somebody still needs it.

    Above `max_replay_bytes` nobody can join; `max_lag_bytes` behind the fastest, a caller is given up.
    """

    def __init__(self, max_replay_bytes: int, max_lag_bytes: int) -> None:
        self._max_replay_bytes = max_replay_bytes
        self._max_lag_bytes = max_lag_bytes
        self._callers: list[Caller] = []  # as they came, without those who left
        self._pieces: list[bytes] = []
        self._num_dropped = 0  # pieces before those
        self._num_bytes = 0  # of all pieces
        self._news = asyncio.Event()  # replaced each time it is set
        self._read_event = asyncio.Event()  # somebody has read
        self._is_paid = False  # its payer is known for good
        self._payer: Caller | None = None
        self._stats: asyncio.Task[ExecutionStats] | None = None
        self._error: BaseException | None = None
        self._traceback: TracebackType | None = None
        self.answer: Answer | None = None
        self.is_over = False

    # Its task

    def start(self, make: Make, close_to_newcomers: Callable[[], object]) -> asyncio.Task[None]:
        self._close: Callable[[], object] | None = close_to_newcomers
        self._task = asyncio.create_task(self._run(make))
        return self._task

    async def _run(self, make: Make) -> None:
        try:
            self.answer = await make()
            await self._follow(self.answer)
            self._end()
        except asyncio.CancelledError:
            self._end(UnavailableError("The request was ended while others waited for the same answer."))
            raise
        except Exception as error:
            self._end(error)
        finally:
            if self.answer is not None:
                await self.answer.aclose()

    async def _follow(self, answer: Answer) -> None:
        self._tell()
        while self._callers and (piece := await anext(answer.body, None)) is not None:
            self._append(piece)
            while self._callers and self._num_bytes - self._lead_position() > READ_AHEAD_BYTES:
                self._read_event.clear()
                await self._read_event.wait()

    def _append(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._num_bytes += len(piece)
        if self._num_bytes > self._max_replay_bytes:
            self._close_to_newcomers()
            self._leave_behind()
            self._forget()
        self._tell()

    def _leave_behind(self) -> None:
        """Who is too far behind the fastest reader cannot have the rest."""
        furthest = self._lead_position()
        for caller in [caller for caller in self._callers if furthest - caller.num_bytes > self._max_lag_bytes]:
            caller.is_behind = True
            self._remove(caller)

    def _forget(self) -> None:
        """What all have read, and no newcomer will."""
        num_read = min((caller.num_pieces for caller in self._callers), default=0) - self._num_dropped
        if num_read > 0:
            del self._pieces[:num_read]
            self._num_dropped += num_read

    def _end(self, error: BaseException | None = None) -> None:
        self.is_over = True
        self._error = error
        self._traceback = error.__traceback__ if error else None
        self._close_to_newcomers()
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _close_to_newcomers(self) -> None:
        if self._close is not None:
            self._close()
            self._close = None

    def _lead_position(self) -> int:
        return max((caller.num_bytes for caller in self._callers), default=0)

    # For its callers

    def add(self, caller: "Caller") -> None:
        self._callers.append(caller)
        if self._payer is None:
            self._payer = caller

    def is_payer(self, caller: "Caller") -> bool:
        return caller is self._payer

    async def news(self) -> None:
        """Returns when something has come since this was called, the answer, a piece or the end."""
        await self._news.wait()

    def piece(self, caller: "Caller") -> bytes | None:
        """The next one for this caller, if it is there. Raises AnswerBrokenError if it is not kept any more."""
        if caller.is_behind:
            raise AnswerBrokenError("The answer was read too slowly.")
        index = caller.num_pieces - self._num_dropped
        return self._pieces[index] if index < len(self._pieces) else None

    def has_read(self, caller: "Caller") -> None:
        """The first who has all of it knows what it cost, and pays."""
        self._read_event.set()
        if self.is_over and not self._is_paid and caller.num_pieces == self._num_dropped + len(self._pieces):
            self._is_paid = True
            self._give_role(caller)

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error.with_traceback(self._traceback)  # not with that of the caller before

    async def leave(self, caller: "Caller") -> None:
        """Returns when nothing is left to do for this caller: after the last one, when the target was let go of."""
        self._remove(caller)
        if not self._callers:
            await asyncio.wait([self._task])

    def _remove(self, caller: "Caller") -> None:
        if caller not in self._callers:
            return
        self._callers.remove(caller)
        if self._callers:
            if caller is self._payer and not self._is_paid:
                self._give_role(self._callers[0])
        elif not self.is_over:
            self._close_to_newcomers()
            self._task.cancel()

    def _give_role(self, caller: "Caller") -> None:
        before, self._payer = self._payer, caller
        for changed in (before, caller):
            if changed is not None:
                changed.mark()

    async def settle(self) -> ExecutionStats:
        """The target is asked once for all."""
        if not self.is_over or self.answer is None:
            return ExecutionStats()
        if self._stats is None:
            self._stats = asyncio.create_task(self._settle(self.answer))
        return await asyncio.shield(self._stats)

    async def _settle(self, answer: Answer) -> ExecutionStats:
        await asyncio.wait([self._task])
        return await answer.origin.settle()


class Caller:
    """One reader of a flight; the body of its Answer."""

    def __init__(self, flight: SharedCall) -> None:
        self._flight = flight
        self._answer: Answer | None = None
        self.num_pieces = 0  # read
        self.num_bytes = 0
        self.is_behind = False
        flight.add(self)

    async def answer(self) -> Answer:
        """Raises what `make` raised."""
        flight = self._flight
        while flight.answer is None:
            flight.raise_error()
            await flight.news()
        shared = flight.answer
        origin = replace(shared.origin, settle=flight.settle)
        self._answer = Answer(shared.status, dict(shared.headers), self, origin, self.aclose)
        self.mark()
        return self._answer

    def mark(self) -> None:
        """Say in the answer whether this caller pays."""
        if self._answer is not None:
            self._answer.origin.sharing = "miss" if self._flight.is_payer(self) else "shared"

    def __aiter__(self) -> "Caller":
        return self

    async def __anext__(self) -> bytes:
        while (piece := self._flight.piece(self)) is None:
            if self._flight.is_over:
                self._flight.has_read(self)
                self._flight.raise_error()
                raise StopAsyncIteration
            await self._flight.news()
        self.num_pieces += 1
        self.num_bytes += len(piece)
        self._flight.has_read(self)
        return piece

    async def aclose(self) -> None:
        await self._flight.leave(self)
