"""Prefill beside decode: prompts are computed in a context of their own, on the same weights, in another thread.

A prompt in the batch of running sequences makes their step two to three times as long: its tokens are a second pass
over the weights, and no graph is reused. A second context computes it meanwhile, the GPU overlaps both, and the keys
and values are handed over through main memory (about 2 ms for 200 tokens, equal to the bit). This is what others call
disaggregated prefill, within one process and one GPU.

The lane is used while others generate. Where nothing runs, a burst of prompts in one batch is faster.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Protocol

from handler.engine.sequence import Sequence
from handler.errors import DecodeError

log = logging.getLogger(__name__)

MIN_TOKENS = 48  # of a prompt: fewer are computed in the running sequences' batch in less time than a hand-over takes


class KVState(Protocol):
    """Keys and values of a prompt, as a `Memory` restores them."""


class PrefillContext(Protocol):
    """Computes prompts, without sampling, in a few streams of its own. Used by the lane's thread alone."""

    num_streams: int  # prompts that can be in progress at once
    part_tokens: int  # computed at once: more are faster in all, fewer disturb the running sequences less
    max_tokens: int  # of a prompt

    def compute(self, stream: int, start: int, token_ids: list[int]) -> None:
        """Append one part to a stream, and wait until it is done; `start` 0 empties it first. Raises DecodeError."""
        ...

    def state(self, stream: int) -> KVState:
        """A copy of what the stream holds."""
        ...

    def close(self) -> None: ...


@dataclass(eq=False, slots=True)
class Prefill:
    """One prompt on its way through the lane: all of its tokens but the last, whose logits give the first token."""

    sequence: Sequence
    token_ids: list[int]
    num_computed: int = 0
    state: KVState | None = None  # None until it is finished, and for ever if it failed
    is_cancelled: bool = False  # set by the engine thread; the lane looks between two parts

    @property
    def num_left(self) -> int:
        return len(self.token_ids) - self.num_computed


class NoPrefillLane:
    """Every prompt is computed with the running sequences."""

    def start(self, wake: Callable[[], None]) -> None:
        """There is no thread to start."""

    def takes(self, num_tokens: int) -> bool:
        return False

    def submit(self, prefill: Prefill) -> None:
        raise AssertionError("it takes none")

    def take_finished(self) -> list[Prefill]:
        return []

    def close(self) -> None:
        """There is no thread to end."""


@dataclass
class PrefillLane:
    """Owns the prefill context and its thread. Its other methods are the engine thread's."""

    context: PrefillContext
    _submitted: SimpleQueue[Prefill | None] = field(default_factory=SimpleQueue)  # None: close
    _finished: SimpleQueue[Prefill] = field(default_factory=SimpleQueue)
    _thread: threading.Thread | None = None

    def start(self, wake: Callable[[], None]) -> None:
        """`wake` is called by the lane's thread when a prompt is finished."""
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

    def close(self) -> None:
        """End the thread after the current part, and free the context."""
        if self._thread is not None:
            self._submitted.put(None)
            self._thread.join()
        self.context.close()

    # The lane's thread

    def _run(self, wake: Callable[[], None]) -> None:
        waiting: list[Prefill] = []
        streams: dict[int, Prefill] = {}  # by stream, oldest first
        takes_oldest = True
        while True:
            while not self._submitted.empty() or not (waiting or streams):
                if (submitted := self._submitted.get()) is None:
                    return
                waiting.append(submitted)
            streams = {stream: prefill for stream, prefill in streams.items() if not prefill.is_cancelled}
            waiting = [prefill for prefill in waiting if not prefill.is_cancelled]
            for stream in range(self.context.num_streams):
                if waiting and stream not in streams:
                    streams[stream] = waiting.pop(0)
            if not streams:
                continue
            # In turns the oldest one and the one with the least left: short prompts pass long ones, which still end.
            by_turn = next(iter(streams)) if takes_oldest else min(streams, key=lambda each: streams[each].num_left)
            takes_oldest = not takes_oldest
            if self._advance(by_turn, streams[by_turn]):
                self._finished.put(streams.pop(by_turn))
                wake()

    def _advance(self, stream: int, prefill: Prefill) -> bool:
        """Compute a part; whether it was the last one."""
        start = prefill.num_computed
        part = prefill.token_ids[start : start + self.context.part_tokens]
        try:
            self.context.compute(stream, start, part)
            prefill.num_computed += len(part)
            if prefill.num_left:
                return False
            prefill.state = self.context.state(stream)
        except DecodeError as error:
            log.error("A prompt of %d tokens is computed with the others: %s", len(prefill.token_ids), error)
        except Exception:  # without this thread every further prompt would wait for ever
            log.exception("A prompt of %d tokens is computed with the others.", len(prefill.token_ids))
        return True
