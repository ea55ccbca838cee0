"""Prefill beside decode: prompts are computed in a context of their own, on the same weights, in another thread.

A prompt in the batch of running sequences makes their step two to three times as long: its tokens are a second pass
over the weights, and no graph is reused. A second context computes it meanwhile, the GPU overlaps both, and the keys
and values are handed over through main memory (1 to 2 ms for 200 tokens, equal to the bit). This is what others call
disaggregated prefill, within one process and one GPU.

Parts are as large as the running sequences' gaps allow (part_size.py). They are as large as the context takes while
nothing generates, and in a rush: while there are more than a quarter as many prompts as running sequences. Then more
wait than could be disturbed, and a large part computes twice as many tokens a second.
"""

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from handler.engine.part_size import FixedPartSize, PartSize
from handler.engine.prefill_queue import Piece, Prefill, PrefillQueue
from handler.errors import DecodeError, ModelError

log = logging.getLogger(__name__)

MIN_TOKENS = 48  # of a prompt: fewer are computed in the running sequences' batch in less time than a hand-over takes
MAX_PAUSE = 0.1  # seconds: no step that is waited for takes longer, or none comes
RUSH = 4  # running sequences for each prompt in the lane: with fewer, it is a rush


class PrefillContext(Protocol):
    """Computes prompts, without sampling, in streams of its own. Used by the lane's thread alone."""

    num_streams: int  # prompts that can be in progress at once
    num_cells: int  # tokens of all of them
    part_tokens: int  # of a part, at most
    max_tokens: int  # of a prompt
    is_16bit: bool  # whether its weights are, and large parts therefore cheap

    def compute(self, pieces: list[Piece]) -> None:
        """Append each piece to its stream, and wait until all are done; `start` 0 empties a stream first. All pieces
        are of one adapter.

        Raises DecodeError; then none of these streams can be continued.
        """
        ...

    def state(self, stream: int) -> object:
        """A copy of what the stream holds, as a `Memory` restores it. Raises DecodeError."""
        ...

    def close(self) -> None: ...


class Successor(Protocol):
    """A context that is to take the place of another, once there is room for it."""

    def open(self) -> PrefillContext:
        """With the other's numbers; the other is closed by then. Raises ModelError."""
        ...

    def close(self) -> None:
        """It is not wanted any more."""
        ...


class _NoContext:
    """In the place of one that could not be opened."""

    is_16bit = False

    def __init__(self, former: PrefillContext) -> None:
        self.num_streams, self.num_cells = former.num_streams, former.num_cells
        self.part_tokens, self.max_tokens = former.part_tokens, former.max_tokens

    def compute(self, pieces: list[Piece]) -> None:
        raise DecodeError("There is no context for prompts any more.")

    def state(self, stream: int) -> object:
        raise DecodeError("There is no context for prompts any more.")

    def close(self) -> None:
        """There is nothing to close."""


class NoPrefillLane:
    """Every prompt is computed with the running sequences."""

    num_computed_tokens = 0
    is_exact = True

    def start(self, wake: Callable[[], None]) -> None:
        """There is no thread to start."""

    def takes(self, num_tokens: int) -> bool:
        return False

    def submit(self, prefill: Prefill) -> None:
        raise AssertionError("it takes none")

    def take_finished(self) -> list[Prefill]:
        return []

    def begin_step(self, num_generating: int, num_rows: int | None) -> None:
        """Steps need not be measured."""

    def end_step(self) -> None:
        """Steps need not be measured."""

    def close(self) -> None:
        """There is no thread to end."""


class PrefillLane:
    """Owns the prefill context and its thread. Its other methods are the engine thread's."""

    def __init__(
        self,
        context: PrefillContext,
        sizes: PartSize | FixedPartSize,
        clock: Callable[[], float] = time.perf_counter,  # seconds
        *,
        is_exact: bool = True,
    ) -> None:
        """`is_exact`: whether it always computes with the weights of the running sequences, so that a seeded one gives
        the same text wherever its prompt is computed."""
        self.context = context
        self.is_exact = is_exact
        self._sizes = sizes
        self._clock = clock
        self._submitted: SimpleQueue[Prefill | Successor | None] = SimpleQueue()  # None: close
        self._closing = threading.Lock()
        self._is_closed = False
        self._finished: SimpleQueue[Prefill] = SimpleQueue()
        self._thread: threading.Thread | None = None
        # Written by the engine thread, read by the lane's
        self._num_generating = 0
        self._part_tokens = context.part_tokens
        self._wants_quiet = False
        self._was_quiet_step = threading.Event()
        # The other way round
        self.num_computed_tokens = 0  # in all
        self._num_parts = 0  # begun so far
        self._is_computing = False
        self._last_rush = -1  # number of the last part that was as large as in a rush
        # The engine thread's: the step that runs
        self._num_rows: int | None = None
        self._sized_for: PrefillContext | None = None
        self._was_quiet = True
        self._parts_before = 0
        self._began = 0.0

    def start(self, wake: Callable[[], None]) -> None:
        """`wake` is called by the lane's thread after each part."""
        self._thread = threading.Thread(target=self._run, args=(wake,), name="prefill", daemon=True)
        self._thread.start()

    def takes(self, num_tokens: int) -> bool:
        """Whether prompts with so many tokens to compute are worth it, and fit."""
        return MIN_TOKENS <= num_tokens <= self.context.max_tokens

    def submit(self, prefill: Prefill) -> None:
        self._submitted.put(prefill)

    def take_finished(self) -> list[Prefill]:
        """Those that have come since, in order; a cancelled one may be among them."""
        finished = []
        while not self._finished.empty():
            finished.append(self._finished.get())
        return finished

    def begin_step(self, num_generating: int, num_rows: int | None) -> None:
        """The engine's next step computes a token for so many sequences, in so many rows; None: prompts are in it,
        so its time says nothing."""
        self._num_generating = num_generating
        if self._sized_for is not (context := self.context):
            self._sizes.begin(is_16bit=context.is_16bit)
            self._sized_for = context
        if num_rows is not None:
            self._part_tokens = self._sizes.tokens(num_rows)
        self._wants_quiet = num_rows is not None and self._sizes.wants_quiet(num_rows)
        self._num_rows, self._parts_before, self._began = num_rows, self._num_parts, self._clock()
        self._was_quiet = not self._is_computing

    def end_step(self) -> None:
        if self._num_rows is not None:
            is_quiet = self._was_quiet and self._num_parts == self._parts_before
            first_part = self._parts_before + self._was_quiet
            if is_quiet or self._last_rush < first_part:  # parts of a rush say nothing about smaller ones
                self._sizes.note(self._num_rows, self._clock() - self._began, is_quiet=is_quiet)
            if is_quiet:
                self._was_quiet_step.set()
        self._wants_quiet = False  # without a next step there is nothing to wait for
        self._num_rows = None

    def replace(self, successor: Successor) -> None:
        """Compute in its context once the prompts that have come are done; then it is the lane's. Any thread."""
        with self._closing:
            if self._is_closed:
                successor.close()
            else:
                self._submitted.put(successor)

    def close(self) -> None:
        """End the thread after the current part, and free the context. A successor that has not taken over yet is
        waited for."""
        with self._closing:
            self._is_closed = True
        if self._thread is not None:
            self._submitted.put(None)
            self._thread.join()
        while not self._submitted.empty():
            submitted = self._submitted.get()
            if submitted is not None and not isinstance(submitted, Prefill):
                submitted.close()
        self.context.close()

    # The lane's thread

    def _run(self, wake: Callable[[], None]) -> None:
        queue = PrefillQueue(self.context.num_streams, self.context.num_cells)
        successor: Successor | None = None
        while True:
            if successor is not None and not len(queue):
                self._succeed(successor)
                successor = None
            while successor is None and (not self._submitted.empty() or not len(queue)):
                if (submitted := self._submitted.get()) is None:
                    return
                if isinstance(submitted, Prefill):
                    queue.add(submitted)
                else:
                    successor = submitted
            if self._wants_quiet:
                self._pause()
            queue.remove_cancelled()
            is_rush = len(queue) * RUSH > self._num_generating
            pieces = queue.next_part(self.context.part_tokens if is_rush else self._part_tokens)
            if not pieces:
                continue
            self._num_parts += 1
            if is_rush:
                self._last_rush = self._num_parts
            self._is_computing = True
            over = self._compute(pieces)
            self._is_computing = False
            for prefill in over:
                queue.remove(prefill)
                self._finished.put(prefill)
            self.num_computed_tokens += sum(len(piece.token_ids) for piece in pieces)
            wake()

    def _succeed(self, successor: Successor) -> None:
        self.context.close()
        try:
            self.context = successor.open()
        except ModelError as error:
            log.error("Prompts are computed with the others from now on: %s", error)
            self.context = _NoContext(self.context)

    def _pause(self) -> None:
        """Until a step was quiet, if one comes."""
        self._was_quiet_step.clear()
        self._was_quiet_step.wait(MAX_PAUSE)

    def _compute(self, pieces: list[Piece]) -> list[Prefill]:
        """Compute a part; return the prompts that are over, with their states, or without one where it failed."""
        over = []
        try:
            self.context.compute(pieces)
            for prefill, stream, _, token_ids in pieces:
                prefill.num_computed += len(token_ids)
                if not prefill.num_left:
                    prefill.state = self.context.state(stream)
                    over.append(prefill)
        except DecodeError as error:
            log.error("%d prompts are computed with the others: %s", len(pieces), error)
        except Exception:  # without this thread every further prompt would wait for ever
            log.exception("%d prompts are computed with the others.", len(pieces))
        else:
            return over
        return [piece.prefill for piece in pieces]
