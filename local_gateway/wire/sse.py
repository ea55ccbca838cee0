"""Server-sent events as bytes: where one ends, what is in it, whether it has content.

Nothing here changes a byte of what a target sent. Lines may end with LF, CRLF or CR; an event ends with an empty line.
"""

import re
from typing import Any

import orjson

from local_gateway.errors import AnswerBrokenError
from local_gateway.wire.error_body import WireError, error_in, explain

EVENT_STREAM = "text/event-stream"  # the content type
DONE = b"data: [DONE]\n\n"
ERROR_NAMES = (b"event: error\n", b"event:error\n", b"event: error\r", b"event:error\r")
BOM = b"\xef\xbb\xbf"  # a byte order mark, which a stream may begin with
KEEP_ALIVE = b": keep-alive\n\n"  # a comment: clients skip it
MAX_EVENT_BYTES = 32_000_000  # images come in one event
MAX_DONE_BYTES = 64  # of the event that is [DONE], with a name or an id

EVENT = re.compile(rb".*?(?:\n\n|\n\r\n|\r\r\n?)", re.DOTALL)
LINE_END = re.compile(rb"\r\n|\n|\r")
# Types of events without output: of the Responses API, and of Anthropic's Messages.
PROLOGUE = {"response.created", "response.queued", "response.in_progress", "message_start", "ping"}


class EventSplitter:
    """Cuts a stream of bytes after whole events. What goes in comes out, in the same order."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._rest = bytearray()  # the beginning of an event; holds no end of one

    def feed(self, piece: bytes) -> bytes:
        """All events that are whole now; b"" if none is. Raises AnswerBrokenError if one grows without an end."""
        if not self._rest and piece.endswith(b"\n\n"):
            return piece
        start = max(0, len(self._rest) - 2)  # an end may have begun in the last two bytes
        self._rest += piece
        end = _last_end(self._rest, start)
        whole = bytes(self._rest[:end])
        del self._rest[:end]
        if len(self._rest) > self._max_event_bytes:
            raise AnswerBrokenError(f"The target sent an event of more than {self._max_event_bytes} bytes.")
        return whole

    def rest(self) -> bytes:
        """What is left when the stream is over: an event that was broken off, or whose empty line is missing."""
        return bytes(self._rest)


def _last_end(data: bytearray, start: int) -> int:
    """Where the last event ends; 0 if none does. A CR after CRLF is half of a line end, and waited for."""
    ends = (b"\n\n", b"\n\r\n", b"\r\r") if data.find(b"\r", start) >= 0 else (b"\n\n",)
    return max(at + len(end) if (at := data.rfind(end, start)) >= 0 else 0 for end in ends)


def split_events(block: bytes) -> list[bytes]:
    """Single events, each with its empty line; last a part of one, if there is any. Joined they are `block`."""
    if b"\r" in block:
        events = EVENT.findall(block)
        rest = block[sum(map(len, events)) :]
    else:
        *bodies, rest = block.split(b"\n\n")
        events = [body + b"\n\n" for body in bodies]
    return [*events, rest] if rest else events


class Event:
    """One event: the bytes as they came, and its data, parsed at most once, however many parts of the gateway look.

    `raw` may be replaced by bytes that mean the same; `chunk` is then the caller's to keep true.
    """

    __slots__ = ("_chunk", "_is_parsed", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self._chunk: object = None
        self._is_parsed = False

    @classmethod
    def of(cls, chunk: object) -> "Event":
        """A new event."""
        event = cls(encode(chunk))
        event._chunk, event._is_parsed = chunk, True
        return event

    @property
    def data(self) -> bytes | None:
        return data_of(self.raw)

    @property
    def chunk(self) -> object:
        """The parsed data. None if it is not JSON ([DONE]) or there is none (a comment)."""
        if not self._is_parsed:
            self._chunk, self._is_parsed = _parse(self.data or b""), True
        return self._chunk

    @property
    def is_parsed(self) -> bool:
        return self._is_parsed

    @property
    def is_done(self) -> bool:
        """Whether it is [DONE]."""
        return len(self.raw) < MAX_DONE_BYTES and b"[DONE]" in self.raw and (self.data or b"").strip() == b"[DONE]"

    @property
    def error(self) -> WireError | None:
        """The error that it reports, in its data or by its name; None if it reports none."""
        if self.raw.startswith(ERROR_NAMES) and (data := self.data):
            return explain(data)
        if b'"choices":[' in self.raw and b'"error"' not in self.raw:
            return None  # a chunk as most are: one look at its bytes is enough
        return error_in(self.chunk)

    @property
    def has_content(self) -> bool:
        """Whether it has something that a person or a program waits for: after it no other target can take over.

        Text, calls of tools, reasons to finish and the end do; comments, roles, empty deltas and usage alone do not.
        What is not understood does.
        """
        chunk = self.chunk
        if not isinstance(chunk, dict):
            return bool(self.data)  # an empty one is a sign of life
        if isinstance(choices := chunk.get("choices"), list) and not chunk.get("error"):
            return any(_choice_has_content(choice) for choice in choices)
        return chunk.get("type") not in PROLOGUE


class EventBlock(bytes):
    """A piece of a stream that its source has cut into events: they travel with it, parsed as far as they were."""

    events: list[Event]

    @classmethod
    def of(cls, events: list[Event]) -> "EventBlock":
        block = cls(b"".join(event.raw for event in events))
        block.events = events
        return block


def events_in(block: bytes) -> list[Event]:
    """See split_events."""
    return [Event(raw) for raw in split_events(block)]


def data_of(event: bytes) -> bytes | None:
    """The event's data lines, joined as the standard says. None if it has none: a comment, for example."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2]
    lines = [line[5:] for line in LINE_END.split(event.removeprefix(BOM)) if line.startswith(b"data:")]
    return b"\n".join(line.removeprefix(b" ") for line in lines) if lines else None


def encode(data: object) -> bytes:
    """One event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


def encode_named(data: dict[str, Any]) -> bytes:
    """One event of Responses or Messages: its type stands in a line of its own too."""
    return b"event: " + str(data["type"]).encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"


def encode_error(body: dict[str, Any]) -> bytes:
    """The end of a stream that failed after it had begun. `body` is {"error": {...}}."""
    return encode(body) + DONE


def has_content(event: bytes) -> bool:
    """See Event.has_content."""
    return Event(event).has_content


def error_of(event: bytes) -> WireError | None:
    """See Event.error."""
    return Event(event).error


def _choice_has_content(choice: object) -> bool:
    if not isinstance(choice, dict) or not ("delta" in choice or "text" in choice):
        return True
    if choice.get("finish_reason") or choice.get("text"):
        return True
    delta = choice.get("delta") or {}
    return not isinstance(delta, dict) or any(value for key, value in delta.items() if key != "role")


def _parse(data: bytes) -> object:
    """None if it is not JSON."""
    if data == b"[DONE]":  # an exception would cost more than all the rest of the event
        return None
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
