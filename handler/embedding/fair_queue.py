"""Which inputs are computed next: all requests in turns, one input of each. Pure code."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from handler.embedding.runner import Vectors


class Work:
    """The inputs of one request, and where they are. Owned by the embedder's thread, but for `cancel`."""

    def __init__(self, inputs: Sequence[list[int]], deliver: Callable[["Vectors | Exception"], None]) -> None:
        """`deliver` is called once, by the embedder's thread, with the vectors in the order of the inputs or an error;
        not at all where the work was cancelled."""
        self.inputs = inputs
        self.deliver = deliver
        self.is_cancelled = False
        self.next = 0  # the first input that was not taken
        self.vectors: dict[int, Vectors] = {}  # by input: one vector of shape (width,)

    @property
    def is_complete(self) -> bool:
        return len(self.vectors) == len(self.inputs)

    def cancel(self) -> None:
        """What is not taken yet is left out. Any thread."""
        self.is_cancelled = True


class Part(NamedTuple):
    """One input of a request, in a batch."""

    work: Work
    number: int  # of the input, among its request's

    @property
    def token_ids(self) -> list[int]:
        return self.work.inputs[self.number]


class FairQueue:
    """Requests that wait, the next first. A request of many inputs does not hold up one that comes after it."""

    def __init__(self, *, max_tokens: int, max_seqs: int) -> None:
        """Of a batch; an input that is longer is one of its own."""
        self._max_tokens = max_tokens
        self._max_seqs = max_seqs
        self._waiting: deque[Work] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, work: Work) -> None:
        self._waiting.append(work)

    def next_batch(self) -> list[Part]:
        """As many inputs as fit, in turns; empty if nothing waits. The first that does not fit ends the batch, so that
        a long input is not passed for ever."""
        batch: list[Part] = []
        room = self._max_tokens
        while self._waiting and len(batch) < self._max_seqs:
            work = self._waiting[0]
            if work.is_cancelled:
                self._waiting.popleft()
                continue
            length = len(work.inputs[work.next])
            if batch and length > room:
                break
            batch.append(Part(work, work.next))
            room -= length
            work.next += 1
            self._waiting.popleft()
            if work.next < len(work.inputs):
                self._waiting.append(work)
        return batch

    def drain(self) -> list[Work]:
        """All that wait; none do then."""
        works = list(self._waiting)
        self._waiting.clear()
        return works
