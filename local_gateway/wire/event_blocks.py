"""A stream of bytes → blocks of whole events, and the events of a block: with one chunk each, and none that misleads.

What is in order stays byte for byte. Pure but for the reading.
"""

import re
from collections.abc import AsyncIterator

from local_gateway.errors import AnswerBrokenError
from local_gateway.wire import stream_builder
from local_gateway.wire.sse import Event, EventBlock, EventSplitter, events_in, split_events
from local_gateway.wire.stream_end import COMPLETIONS

NO_REASON = re.compile(rb'"finish_reason"\s*:\s*(?:"\s*(?:null|none)?\s*"|false)', re.IGNORECASE)
NO_REASONS = ("", "null", "none", "false")  # to finish
WRAPPED = re.compile(rb'^data: ?(?:data:|")', re.MULTILINE)  # data that is an event or a text itself
PULSE = re.compile(rb"\W*(?:ping|pong|heartbeat|keep-?alive)?\W*", re.IGNORECASE)  # a sign of life
PULSE_COMMENT = b": ping\n\n"
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
    is_tidy = _is_tidy(block) and (path not in COMPLETIONS or _has_usual_chunks(block))
    return events if is_tidy else [tidy for event in events for tidy in _tidy(event, path)]


def _has_usual_chunks(block: bytes) -> bool:
    """Whether each event of a completion has its list of choices, and each choice its part, as far as that is seen."""
    num_lists = block.count(b'"choices":[') + block.count(b'"choices": [')
    has_parts = b'"delta":null' not in block and b'"delta": null' not in block
    return (
        has_parts and num_lists == block.count(b"\n\n") and block.count(b'"delta"') >= block.count(b'"finish_reason"')
    )


def _is_tidy(block: bytes) -> bool:
    """Whether `_tidy` would change none of its events, as far as one look at all of them can tell."""
    return (
        b"\r" not in block
        and block.count(b"\ndata:") == block.count(b"\n\ndata:")  # each event has one line of data
        and WRAPPED.search(block) is None
        and b'"message"' not in block
        and NO_REASON.search(block) is None
    )


def _tidy(event: Event, path: str) -> list[Event]:  # noqa: PLR0911 (one shape after the other)
    raw = event.raw
    if raw.count(b"data:") > 1 and event.chunk is None and (parts := _chunks_by_line(event)):
        return parts
    if isinstance(event.chunk, str) or (event.data or b"").startswith(b"data:"):
        return _unwrapped(event, path)
    if path not in COMPLETIONS:
        return [event]
    event = _usual(event, path)
    if b'"message"' in raw and stream_builder.is_whole(path, event.chunk):  # a whole answer in one event
        assert isinstance(event.chunk, dict)
        if event.chunk.get("object") != "chat.completion.chunk":
            return stream_builder.stream_of(path, event.chunk)[:-1]
        for choice in event.chunk["choices"]:  # chunks that call their delta so
            choice["delta"] = choice.pop("message")
        return [Event.of(event.chunk)]
    if NO_REASON.search(raw) is not None:
        return [_with_null_reasons(event)]
    return [event]


def _unwrapped(event: Event, path: str) -> list[Event]:
    """Of an event whose data is an event in writing, or a text that is a chunk: servers that encode twice."""
    text = event.chunk.encode() if isinstance(event.chunk, str) else event.data or b""
    inner = [Event(raw.rstrip() + b"\n\n") for raw in split_events(text if text[:5] == b"data:" else b"data: " + text)]
    if all(isinstance(each.chunk, dict) or each.is_done for each in inner):
        return [tidy for each in inner for tidy in _tidy(each, path)]
    return [event]


def _usual(event: Event, path: str) -> Event:
    """A chunk of a completion with its list of choices, each with its part; a sign of life as a comment."""
    chunk = event.chunk
    if not isinstance(chunk, dict):
        is_sign = chunk is None and event.data is not None and PULSE.fullmatch(event.data) is not None
        return Event(PULSE_COMMENT) if is_sign else event
    if not isinstance(choices := chunk.get("choices"), list):
        if chunk in ({}, {"type": "ping"}):
            return Event(PULSE_COMMENT)
        return event if event.error or "type" in chunk else Event.of({**chunk, "choices": []})
    is_chat = path == "/chat/completions" and b'"message"' not in event.raw
    bare = [each for each in choices if isinstance(each, dict) and is_chat and not isinstance(each.get("delta"), dict)]
    if not bare or event.error:
        return event
    return Event.of({**chunk, "choices": [{**each, "delta": {}} if each in bare else each for each in choices]})


def _chunks_by_line(event: Event) -> list[Event]:
    """Of events that were written without an empty line between them. [] if it is none of those."""
    parts = [Event(b"data: " + line + b"\n\n") for line in (event.data or b"").splitlines() if line.strip()]
    return parts if all(part.chunk is not None or part.is_done for part in parts) else []


def _with_null_reasons(event: Event) -> Event:
    chunk = event.chunk
    choices = chunk.get("choices") if isinstance(chunk, dict) else None
    for choice in choices if isinstance(choices, list) else []:
        if isinstance(choice, dict) and str(choice.get("finish_reason")).strip().lower() in NO_REASONS:
            choice["finish_reason"] = None
    return Event.of(chunk) if chunk is not None else event


async def rejoined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces, of which the first was read already."""
    if first:
        yield first
    async for piece in rest:
        yield piece
