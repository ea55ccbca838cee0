"""A streamed answer: a generation turned into events, pulled at its reader's pace."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from handler.api import sse
from handler.engine.generation import Generation
from handler.engine.sequence import SequenceOutput
from handler.errors import ErrorResponse, to_response

Outputs = dict[int, SequenceOutput]
EncodeError = Callable[[ErrorResponse], str]


def encode_openai_error(response: ErrorResponse) -> str:
    return sse.encode_error(response.body)


class ChunkWriter(Protocol):
    """Writes one request's outputs as events."""

    def events(self, outputs: Outputs) -> str: ...

    def end(self) -> str:
        """What follows the last choice's finish."""
        ...


class EventStream:
    """Events, pulled at the reader's pace (backpressure): each item is text of whole events.

    A slow reader gets fewer and longer items. Belongs to one event loop.

    A reader that stops early calls `cancel()`; the iterator's own closing comes too late where its owner suspends it.
    """

    def __init__(
        self,
        generation: Generation,
        writer: ChunkWriter,
        first: Outputs,
        encode_error: EncodeError = encode_openai_error,
    ) -> None:
        self._generation = generation
        self._writer = writer
        self._first = first
        self._encode_error = encode_error
        self._is_cancelled = False

    @classmethod
    async def open(
        cls, generation: Generation, writer: ChunkWriter, encode_error: EncodeError = encode_openai_error
    ) -> "EventStream":
        """Wait for the first output, so that an error before it is still an error and not a stream."""
        try:
            first = await anext(generation)
        except BaseException:
            generation.cancel()
            raise
        return cls(generation, writer, first, encode_error)

    def cancel(self) -> None:
        """End the generation, at any time. What was not read by then is never presented as a complete answer."""
        self._is_cancelled = True
        self._generation.cancel()

    def cancel_with(self, task: asyncio.Task[Any]) -> None:
        """Cancel when the task ends, in whatever way."""
        task.add_done_callback(lambda _: self.cancel())

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            pending, self._first = self._first, {}
            while not self._is_cancelled:
                events = self._writer.events(pending)
                if self._generation.is_finished:
                    yield events + self._writer.end()
                    return
                if events:  # held back, as what may become a marker is
                    yield events
                pending = await anext(self._generation)
        except StopAsyncIteration:
            return  # cancelled while it waited
        except Exception as error:
            yield self._encode_error(to_response(error))
        finally:
            self.cancel()
