"""What a target sends with a success → what the client asked for, in the form it asked for; or an error.

Servers answer a stream whole and a whole answer as a stream, send events under any content type, chunks as lines of
JSON, errors with status 200, and streams that merely stop. What can be converted without loss is converted; anything
else raises. Nothing is called complete that did not say so. Knows nothing of targets, retries and clients.
"""

import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from local_gateway.errors import AnswerBrokenError, TargetRefusedError
from local_gateway.wire import stream_builder, stream_collector, stream_normalizer
from local_gateway.wire.error_body import WireError, error_in, explain
from local_gateway.wire.event_blocks import cut, cut_lines, events_of
from local_gateway.wire.sse import BOM, EVENT_STREAM, Event, EventBlock
from local_gateway.wire.stream_end import COMPLETIONS, StreamEnd
from local_gateway.wire.text_events import TextEvents

JSON_TYPE = "application/json"
LINES_TYPES = ("application/x-ndjson", "application/jsonl", "application/json-lines", "application/x-jsonlines")
MAX_BODY_BYTES = 100_000_000  # of an answer that is no stream
MAX_HELD_BYTES = 1_000_000  # of a stream before its first content
MAX_ERROR_BYTES = 64_000  # of an answer that is looked at for an error which does not say "error"
SNIFFED_BYTES = 7  # tell events from JSON
BETWEEN = re.compile(r"[\s\x1e]*")  # the separator of JSON sequences (RFC 7464)
FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")  # with which an event begins
# Paths whose answers are JSON or events: a page or plain text is no answer.
TEXT_PATHS = {
    *COMPLETIONS,
    "/chat/completions/input_tokens",
    "/responses",
    "/responses/input_tokens",
    "/messages",
    "/messages/count_tokens",
    "/embeddings",
    "/rerank",
    "/tokenize",
    "/detokenize",
    "/infill",
    "/moderations",
}
MEDIA_PATHS = ("/images/", "/audio/")  # answers in JSON may be errors here too


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the client asked for."""

    path: str  # of the API, without /v1
    is_stream: bool = False
    normalize: bool = False  # see stream_normalizer


class ReadAnswer(NamedTuple):
    """`blocks` of a stream are whole events, its first content in the first one; of JSON it is one piece."""

    content_type: str
    blocks: AsyncIterator[bytes]


async def read_answer(pieces: AsyncIterator[bytes], content_type: str, wanted: Wanted) -> ReadAnswer:
    """The answer, when its first content is there.

    Raises:
        TargetRefusedError: It is an error, or a stream that begins with one.
        AnswerBrokenError: It is not what was asked for, and cannot be turned into it; or it is not complete.
    """
    is_json = content_type.startswith((JSON_TYPE, *LINES_TYPES))
    if not (is_json or content_type.startswith(EVENT_STREAM) or wanted.path in TEXT_PATHS):
        return ReadAnswer(content_type, pieces)  # speech, images, files
    first = await _first_of(pieces)
    if _is_events(first, content_type, wanted.path):
        stream = cut(first, pieces)
        if not wanted.is_stream and wanted.path in stream_collector.PATHS:
            return ReadAnswer(JSON_TYPE, _only(await _collect(stream, wanted)))
        begun = await _until_content(stream, wanted.path)
        kind = content_type if content_type.startswith(EVENT_STREAM) else EVENT_STREAM
        return ReadAnswer(kind, _relay(begun, stream, wanted))
    if content_type.startswith(LINES_TYPES) and wanted.is_stream and wanted.path in COMPLETIONS:
        stream = cut_lines(first, pieces)
        return ReadAnswer(EVENT_STREAM, _relay(await _until_content(stream, wanted.path), stream, wanted))
    body = await _all_of(first, pieces)
    return _read_whole(body, wanted, content_type if is_json else JSON_TYPE)


async def read_error(pieces: AsyncIterator[bytes], status: int) -> WireError:
    """What a body with an error's status says. Of a long one the beginning is read."""
    body = b""
    async for piece in pieces:
        body += piece
        if len(body) > MAX_HELD_BYTES:
            break
    return explain(body, status)


# What kind of answer is it?


async def _first_of(pieces: AsyncIterator[bytes]) -> bytes:
    """Enough to tell; b"" of an empty answer."""
    first = b""
    async for piece in pieces:
        if isinstance(piece, EventBlock):
            return piece
        first += piece
        if len(first.removeprefix(BOM).lstrip()) >= SNIFFED_BYTES or len(first) > MAX_HELD_BYTES:
            break
    return first


def _is_events(first: bytes, content_type: str, path: str) -> bool:
    if isinstance(first, EventBlock):
        return True
    text = first.removeprefix(BOM).lstrip()
    if content_type.startswith(EVENT_STREAM):
        return not text.startswith((b"{", b"[")) and bool(text or path not in TEXT_PATHS)
    return path in TEXT_PATHS and text.startswith(FIELDS)


# A whole answer


def _read_whole(body: bytes, wanted: Wanted, content_type: str) -> ReadAnswer:
    can_fail = wanted.path in TEXT_PATHS or wanted.path.startswith(MEDIA_PATHS)
    is_looked_at = can_fail and (len(body) <= MAX_ERROR_BYTES or b'"error"' in body)
    converts = wanted.is_stream and wanted.path in stream_builder.PATHS
    if not (is_looked_at or converts):
        return ReadAnswer(content_type, _only(body))
    try:
        parsed = _parse(body)
    except ValueError:
        return _read_lines(body, wanted)
    if isinstance(text := parsed, str) and wanted.path in TEXT_PATHS and (inner := _parsed_text(text)) is not None:
        parsed, body = inner, text.encode()  # encoded twice
    if (error := error_in(parsed)) is not None:
        raise _refusal(error)
    if isinstance(parsed, list) and wanted.path in COMPLETIONS:
        if len(parsed) != 1 or not stream_builder.is_whole(wanted.path, parsed[0]):
            return _of_chunks([Event.of(chunk) for chunk in parsed], wanted, body)
        parsed = parsed[0]  # a batch of one
        body = orjson.dumps(parsed)
    if wanted.path in stream_builder.PATHS and not isinstance(parsed, dict):
        raise AnswerBrokenError("What the target answered is no JSON object.")
    if not converts:
        return ReadAnswer(content_type, _only(body))
    if not stream_builder.is_whole(wanted.path, parsed):
        raise AnswerBrokenError("The target answered without a stream, with something that cannot be made into one.")
    return ReadAnswer(EVENT_STREAM, _only(_encode(stream_builder.stream_of(wanted.path, parsed), wanted)))


def _read_lines(body: bytes, wanted: Wanted) -> ReadAnswer:
    """Chunks, one after the other, mostly an object a line. Anything else is no answer."""
    chunks = list(objects_in(body))
    return _of_chunks([Event.of(chunk) for chunk in chunks], wanted, body)


def _of_chunks(events: list[Event], wanted: Wanted, body: bytes) -> ReadAnswer:
    """All chunks of an answer, as a stream or joined. Raises AnswerBrokenError if they are none."""
    if wanted.path not in COMPLETIONS or not events or not all(_is_chunk(event.chunk) for event in events):
        page = explain(body).error.get("message", "")
        raise AnswerBrokenError(f"What the target answered is not JSON{page and f': {page[:200]}'}.")
    for event in events:
        _refuse(event)
    if not _is_complete(events, wanted.path):
        raise _broken_off()
    if wanted.is_stream:
        return ReadAnswer(EVENT_STREAM, _only(_encode(events, wanted)))
    return ReadAnswer(JSON_TYPE, _only(orjson.dumps(stream_collector.collect(wanted.path, events))))


def objects_in(body: bytes) -> Iterator[object]:
    """JSON values one after the other, with spaces, line ends, record separators or nothing between, up to a [DONE].

    Ends with None where something else comes.
    """
    text, at, decoder = body.decode("utf-8", "replace"), 0, json.JSONDecoder()
    while (start := BETWEEN.match(text, at)) and (at := start.end()) < len(text) and not text.startswith("[DONE]", at):
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            value, at = None, len(text)
        yield value


def _parsed_text(text: str) -> object:
    try:
        return _parse(text.encode())
    except ValueError:
        return None


def _parse(body: bytes) -> Any:
    """NaN and Infinity, which Python's servers write, are numbers here. Raises ValueError."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            return json.loads(body)
        except RecursionError as error:
            raise ValueError from error


def _encode(events: Iterable[Event], wanted: Wanted) -> bytes:
    if not wanted.normalize or wanted.path not in stream_normalizer.PATHS:
        return b"".join(event.raw for event in events)
    normalizer = stream_normalizer.StreamNormalizer()
    return normalizer.repair(events) + normalizer.end()


# A stream


async def _until_content(stream: AsyncIterator[bytes], path: str) -> list[Event]:
    """All events up to the first block with content. Raises TargetError if there is an error before it, or none."""
    held: list[Event] = []
    num_bytes = 0
    async for block in stream:
        events = events_of(block, path)
        held += events
        for event in events:
            _refuse(event)
            if event.has_content:
                return held
        num_bytes += len(block)
        if num_bytes > MAX_HELD_BYTES:
            raise AnswerBrokenError("The target sends much, but no content.")
    raise AnswerBrokenError("The target's stream ended before its first content.")


async def _relay(begun: list[Event], stream: AsyncIterator[bytes], wanted: Wanted) -> AsyncIterator[bytes]:
    """The events as bytes. Raises where the target reports an error, and at an end that is none."""
    path, end = wanted.path, StreamEnd(wanted.path)
    texts = TextEvents() if path in COMPLETIONS else None
    is_repaired = wanted.normalize and path in stream_normalizer.PATHS
    normalizer = stream_normalizer.StreamNormalizer() if is_repaired else None
    shown, failed = _until_failure(begun, end)
    if block := _encoded(shown, normalizer):
        yield block
    if failed is None:
        async for piece in stream:
            if texts and (text := texts.read(piece)):
                end.saw_text()
                block = text if not normalizer or normalizer.passes(piece) else _repaired(piece, normalizer)
            else:
                shown, failed = _until_failure(events_of(piece, path), end)
                block = _encoded(shown, normalizer)
            if block:
                yield block
            if failed is not None:
                break
    is_broken = failed is not None or not end.is_complete
    if normalizer and is_broken and (block := normalizer.rest()):
        yield block
    if failed is not None:
        raise _refusal(failed)
    if is_broken:
        raise _broken_off()
    if normalizer and (block := normalizer.end()):
        yield block


def _until_failure(events: list[Event], end: StreamEnd) -> tuple[list[Event], WireError | None]:
    """The events before the first with an error that no client would understand, which `end` has seen; and that error.

    An error in OpenAI's form is an event like others: it goes on as it is.
    """
    for at, event in enumerate(events):
        if end.may_fail(event) and (error := event.error) is not None:
            if not _is_openai_error(event.chunk):
                return events[:at], error
            end.saw_error()
        end.see(event)
    return events, None


def _repaired(block: bytes, normalizer: stream_normalizer.StreamNormalizer) -> bytes:
    return normalizer.repair(block.events) if isinstance(block, EventBlock) else normalizer.feed(block)


def _is_openai_error(chunk: object) -> bool:
    error = chunk.get("error") if isinstance(chunk, dict) else None
    return isinstance(error, dict) and isinstance(error.get("message"), str)


def _encoded(events: list[Event], normalizer: stream_normalizer.StreamNormalizer | None) -> bytes:
    return normalizer.repair(events) if normalizer else b"".join(event.raw for event in events)


async def _collect(stream: AsyncIterator[bytes], wanted: Wanted) -> bytes:
    """The whole answer that a stream spells."""
    events: list[Event] = []
    num_bytes = 0
    async for block in stream:
        more = events_of(block, wanted.path)
        for event in more:
            _refuse(event)
        events += more
        num_bytes += len(block)
        if num_bytes > MAX_BODY_BYTES:
            raise _too_large()
    if not _is_complete(events, wanted.path):
        raise _broken_off()
    return orjson.dumps(stream_collector.collect(wanted.path, events))


def _is_complete(events: Iterable[Event], path: str) -> bool:
    end = StreamEnd(path)
    for event in events:
        end.see(event)
    return end.is_complete


def _is_chunk(chunk: object) -> bool:
    return isinstance(chunk, dict) and ("choices" in chunk or error_in(chunk) is not None)


def _refuse(event: Event) -> None:
    if (error := event.error) is not None:
        raise _refusal(error)


def _refusal(error: WireError) -> TargetRefusedError:
    return TargetRefusedError(error.status, error.error)


def _broken_off() -> AnswerBrokenError:
    return AnswerBrokenError("The target's stream ended before the answer was complete.")


def _too_large() -> AnswerBrokenError:
    return AnswerBrokenError("The target's answer is too large.")


# Pieces


async def _all_of(first: bytes, rest: AsyncIterator[bytes]) -> bytes:
    parts = [first.removeprefix(BOM)]
    num_bytes = len(first)
    async for piece in rest:
        parts.append(piece)
        num_bytes += len(piece)
        if num_bytes > MAX_BODY_BYTES:
            raise _too_large()
    return b"".join(parts)


class _only(AsyncIterator[bytes]):  # noqa: N801 (used like a function)
    """One piece. An asynchronous generator would be registered in the event loop and finalized by it."""

    def __init__(self, body: bytes) -> None:
        self._pieces = iter((body,))

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration
