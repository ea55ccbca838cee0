"""A request's sequences as its reader sees them, on the asyncio side of the thread border."""

import asyncio
from collections.abc import Callable

from handler.engine.sequence import Sequence, SequenceOutput


class Generation:
    """Iterate over it: each item is what is new since the last, by index of the sequence.

    A reader who comes late gets everything at once, merged into one output a sequence. One sequence's error ends the
    whole generation. Belongs to the event loop it was made in. Whoever stops reading early calls `cancel()`, which may
    come at any time and any number of times.
    """

    def __init__(self, sequences: list[Sequence], abort: Callable[["Generation"], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.sequences = sequences
        self._index = {sequence: index for index, sequence in enumerate(sequences)}
        self._abort = abort
        self._pending: dict[int, SequenceOutput] = {}
        self._news = asyncio.Event()
        self._num_unfinished = len(sequences)

    def __aiter__(self) -> "Generation":
        return self

    async def __anext__(self) -> dict[int, SequenceOutput]:
        while not self._pending:
            if not self._num_unfinished:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        outputs, self._pending = self._pending, {}
        for output in outputs.values():
            if output.error is not None:
                self.cancel()
                raise output.error
        return outputs

    @property
    def is_finished(self) -> bool:
        """Whether everything has been read, or the reader left."""
        return not self._num_unfinished and not self._pending

    async def result(self) -> list[SequenceOutput]:
        """Everything at once, when all sequences are finished."""
        whole: dict[int, SequenceOutput] = {}
        try:
            async for outputs in self:
                for index, output in outputs.items():
                    whole[index] = whole[index].followed_by(output) if index in whole else output
        finally:
            self.cancel()
        return [whole[index] for index in sorted(whole)]

    def put(self, sequence: Sequence, output: SequenceOutput) -> None:
        """Called by the engine, in the loop's thread."""
        if not self._num_unfinished:
            return  # cancelled while this was on its way
        index = self._index[sequence]
        earlier = self._pending.get(index)
        self._pending[index] = earlier.followed_by(output) if earlier else output
        self._num_unfinished -= output.finish_reason is not None
        self._news.set()

    def cancel(self) -> None:
        """Free the slots within one step; the iteration ends."""
        if self._num_unfinished:
            self._num_unfinished = 0
            self._abort(self)
            self._news.set()
