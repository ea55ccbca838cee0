"""Outputs on their way from the engine thread to the event loops of their readers."""

import asyncio
from collections import defaultdict

from handler.engine.generation import Generation
from handler.engine.sequence import Sequence, SequenceOutput

Item = tuple[Generation, Sequence, SequenceOutput]


class Outbox:
    """Queues outputs by event loop until `flush`. Engine thread only.

    Waking an event loop releases the GIL, and a GPU would idle until this thread has it again. So outputs are queued
    when a step is over, and flushed while the device computes the next one.
    """

    def __init__(self) -> None:
        self._queues: defaultdict[asyncio.AbstractEventLoop, list[Item]] = defaultdict(list)

    @property
    def is_empty(self) -> bool:
        return not self._queues

    def put(self, generation: Generation, sequence: Sequence, output: SequenceOutput) -> None:
        self._queues[generation.loop].append((generation, sequence, output))

    def flush(self) -> set[Generation]:
        """Deliver everything, with one call for each loop; return the generations whose loop is closed."""
        queues, self._queues = self._queues, defaultdict(list)
        unread: set[Generation] = set()
        for loop, items in queues.items():
            try:
                loop.call_soon_threadsafe(_put_all, items)
            except RuntimeError:  # the loop is closed
                unread.update(generation for generation, _, _ in items)
        return unread


def _put_all(items: list[Item]) -> None:
    for generation, sequence, output in items:
        generation.put(sequence, output)
