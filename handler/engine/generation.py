"""A request's sequences as its reader sees them, on the asyncio side of the thread border."""

import asyncio
from collections.abc import Callable

from handler.engine.sequence import Sequence, SequenceOutput, SequenceUsage


class Generation:
    """An asynchronous iterator: each item has what is new since the last one, by index of the sequence.

    Belongs to the event loop and the task that reads it. Backpressure without a buffer policy: outputs that are not
    read yet are merged, one for each sequence, and the engine never waits for a reader. One sequence's error ends the
    whole generation and is raised. A reader that stops early calls `cancel()`, at any time and any number of times.
    Knows nothing of scheduling, slots and the engine's thread.
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
        """Whether everything was read, or the generation cancelled."""
        return not self._num_unfinished and not self._pending

    @property
    def prompt_usage(self) -> SequenceUsage:
        """Of the first sequence, without its answer. What it reuses of the cache is known since its first output."""
        sequence = self.sequences[0]
        return SequenceUsage(sequence.num_prompt_tokens, sequence.num_cached_tokens, 0)

    async def result(self) -> list[SequenceOutput]:
        """One output for each sequence, when all are finished. Raises what iterating raises."""
        whole: dict[int, SequenceOutput] = {}
        try:
            async for outputs in self:
                for index, output in outputs.items():
                    whole[index] = whole[index].followed_by(output) if index in whole else output
        finally:
            self.cancel()
        return [whole[index] for index in sorted(whole)]

    def put(self, sequence: Sequence, output: SequenceOutput) -> None:
        """Add an output of the engine; called in the loop's thread."""
        if not self._num_unfinished:
            return  # cancelled while this was on its way
        index = self._index[sequence]
        earlier = self._pending.get(index)
        self._pending[index] = earlier.followed_by(output) if earlier else output
        self._num_unfinished -= output.finish_reason is not None
        self._news.set()

    def cancel(self) -> None:
        """End the iteration, and free the slots within one step."""
        if self._num_unfinished:
            self._num_unfinished = 0
            self._abort(self)
            self._news.set()
