"""A stream of bytes → blocks of whole events, and the events of a block: with one chunk each, and none that misleads.

What is in order stays byte for byte. Pure but for the reading.
"""

from collections.abc import AsyncIterator

from local_gateway.errors import AnswerBrokenError
from local_gateway.wire import stream_builder
from local_gateway.wire.sse import Event, EventBlock, EventSplitter, events_in
from local_gateway.wire.stream_end import COMPLETIONS

MAX_LINE_BYTES = 1_000_000  # of an answer with an object a line


async def cut(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Blocks of whole events; last what is left without its empty line, unless it was broken off."""
    splitter = EventSplitter()
    if isinstance(first, EventBlock):
        yield first
    elif block := splitter.feed(first):
        yield block
    async for piece in pieces:
        if isinstance(piece, EventBlock):
            yield piece
        elif block := splitter.feed(piece):
            yield block
    if (rest := splitter.rest()) and ((last := Event(rest)).chunk is not None or last.is_done or last.data is None):
        yield rest


async def cut_lines(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Blocks of events, of an answer with an object a line."""
    rest = b""
    async for piece in rejoined(first, pieces):
        *lines, rest = (rest + piece).split(b"\n")
        if block := b"".join(b"data: " + line + b"\n\n" for line in lines if line.strip()):
            yield block
        if len(rest) > MAX_LINE_BYTES:
            raise AnswerBrokenError("The target sent a line without an end.")
    if Event(last := b"data: " + rest + b"\n\n").chunk is not None:
        yield last


def events_of(block: bytes, path: str) -> list[Event]:
    """The events of a block, each with one chunk, which says nothing by an empty text that null says."""
    events = block.events if isinstance(block, EventBlock) else events_in(block)
    return events if _is_tidy(block) else [tidy for event in events for tidy in _tidy(event, path)]


def _is_tidy(block: bytes) -> bool:
    """Whether `_tidy` would change none of its events, as far as one look at all of them can tell."""
    return (
        b"\r" not in block
        and block.count(b"\ndata:") == block.count(b"\n\ndata:")  # each event has one line of data
        and b'"message"' not in block
        and b'"finish_reason":""' not in block
        and b'"finish_reason": ""' not in block
    )


def _tidy(event: Event, path: str) -> list[Event]:
    raw = event.raw
    if raw.count(b"data:") > 1 and event.chunk is None and (parts := _chunks_by_line(event)):
        return parts
    if path not in COMPLETIONS:
        return [event]
    if b'"message"' in raw and stream_builder.is_whole(path, event.chunk):  # a whole answer in one event
        assert isinstance(event.chunk, dict)
        if event.chunk.get("object") != "chat.completion.chunk":
            return stream_builder.stream_of(path, event.chunk)[:-1]
        for choice in event.chunk["choices"]:  # chunks that call their delta so
            choice["delta"] = choice.pop("message")
        return [Event.of(event.chunk)]
    if b'"finish_reason":""' in raw or b'"finish_reason": ""' in raw:
        return [_with_null_reasons(event)]
    return [event]


def _chunks_by_line(event: Event) -> list[Event]:
    """Of events that were written without an empty line between them. [] if it is none of those."""
    parts = [Event(b"data: " + line + b"\n\n") for line in (event.data or b"").splitlines() if line.strip()]
    return parts if all(part.chunk is not None or part.is_done for part in parts) else []


def _with_null_reasons(event: Event) -> Event:
    chunk = event.chunk
    choices = chunk.get("choices") if isinstance(chunk, dict) else None
    for choice in choices if isinstance(choices, list) else []:
        if isinstance(choice, dict) and choice.get("finish_reason") == "":
            choice["finish_reason"] = None
    return Event.of(chunk) if chunk is not None else event


async def rejoined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces, of which the first was read already."""
    if first:
        yield first
    async for piece in rest:
        yield piece
