"""Server-sent events: cut where they end, byte for byte; what is in them."""

import random
from typing import Any

import orjson
import pytest

from local_gateway.errors import AnswerBrokenError, InvalidRequestError
from local_gateway.wire import sse
from local_gateway.wire.sse import EventSplitter

STREAMS = {
    "LF": b": hi\n\ndata: 1\n\nevent: x\ndata: 2\ndata: 3\n\ndata: [DONE]\n\n",
    "CRLF": b": hi\r\n\r\ndata: 1\r\n\r\nevent: x\r\ndata: 2\r\n\r\ndata: [DONE]\r\n\r\n",
    "CR": b": hi\r\rdata: 1\r\revent: x\rdata: 2\r\rdata: [DONE]\r\r",
    "mixed": b"data: 1\r\n\ndata: 2\n\r\ndata: 3\n\n\ndata: \xc3\xa9\n\n\n\ndata: [DONE]\n\n",
    "with a rest": b"data: 1\n\ndata: 2\n\ndata: [DONE]\n",
    "empty": b"",
    "one empty line": b"\n\n",
}


def chunk(delta: object = None, **more: Any) -> bytes:
    return sse.encode({"choices": [{"index": 0, "delta": delta, "finish_reason": None, **more}]})


# Where events end


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS.keys())
def test_nothing_is_changed(stream: bytes) -> None:
    """However a stream arrives, the same bytes go on, and never a part of an event."""
    dice = random.Random(1)
    for max_piece in (1, 2, 3, 5, 100):
        splitter, blocks, at = EventSplitter(), [], 0
        while at < len(stream):
            size = dice.randint(1, max_piece)
            blocks.append(splitter.feed(stream[at : at + size]))
            at += size

        assert b"".join(blocks) + splitter.rest() == stream
        assert all(block.endswith((b"\n\n", b"\n\r\n", b"\r\r")) for block in blocks if block)
        assert splitter.rest() == (b"data: [DONE]\n" if stream == STREAMS["with a rest"] else b"")


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_nothing_is_held_back(end: bytes) -> None:
    """An event is given out with the last byte of its empty line, not with the next event."""
    splitter = EventSplitter()

    assert [splitter.feed(bytes([byte])) for byte in b"data: 1" + end][-1] == b"data: 1" + end


def test_an_event_without_an_end() -> None:
    """Memory is bounded."""
    splitter = EventSplitter(max_event_bytes=100)
    splitter.feed(b"data: 1\n\n" + 100 * b"x")

    with pytest.raises(AnswerBrokenError, match="more than 100 bytes"):
        splitter.feed(b"x")


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS.keys())
def test_single_events(stream: bytes) -> None:
    """Joined, they are the block."""
    events = sse.split_events(stream)

    assert b"".join(events) == stream
    assert all(sse.EVENT.fullmatch(event) for event in events[:-1])


def test_where_single_events_end() -> None:
    """After each empty line."""
    assert sse.split_events(b"data: 1\n\n: hi\n\ndata: 2") == [b"data: 1\n\n", b": hi\n\n", b"data: 2"]
    assert sse.split_events(b"data: 1\r\n\r\ndata: 2\r\r") == [b"data: 1\r\n\r\n", b"data: 2\r\r"]


# What is in them


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: 1\n\n", b"1"),
        (b"data:1\n\n", b"1"),
        (b"data:  1\r\n\r\n", b" 1"),
        (b"data: 1\r\r", b"1"),
        (b"event: x\nid: 7\ndata: 1\ndata: 2\n\n", b"1\n2"),
        (b"data: broken off", b"broken off"),
        (b"data:\n\n", b""),
        (sse.DONE, b"[DONE]"),
        (sse.KEEP_ALIVE, None),
        (b"event: ping\n\n", None),
        (b"\n\n", None),
    ],
)
def test_data(event: bytes, data: bytes | None) -> None:
    """The data lines without their name, or None."""
    assert sse.data_of(event) == data


@pytest.mark.parametrize(
    "event",
    [
        chunk({"content": "Hi"}),
        chunk({"role": "assistant", "content": "Hi"}),
        chunk({"reasoning_content": "Hm"}),
        chunk({"tool_calls": [{"index": 0}]}),
        chunk({}, finish_reason="stop"),
        sse.encode({"choices": [{"index": 0, "text": "Hi", "finish_reason": None}]}),
        sse.encode({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}),
        sse.encode({"choices": [{"message": {"content": "Hi"}}]}),
        sse.encode({"type": "response.output_text.delta", "delta": "Hi"}),
        sse.encode({"type": "response.failed"}),
        sse.encode({"error": {"message": "No."}}),
        sse.encode({"choices": [], "error": {"message": "No."}}),
        sse.encode([1]),
        sse.DONE,
        b"data: what is this?\n\n",
    ],
)
def test_content(event: bytes) -> None:
    """After these the answer has begun; what is not understood is one of them."""
    assert sse.has_content(event)


@pytest.mark.parametrize(
    "event",
    [
        chunk({"role": "assistant", "content": ""}),
        chunk({"role": "assistant", "content": None}),
        sse.encode({"error": None, "choices": [{"index": 0, "delta": {"content": ""}}]}),
        chunk({}),
        chunk(None),
        sse.encode({"choices": [{"index": 0, "text": "", "finish_reason": None}]}),
        sse.encode({"choices": []}),
        sse.encode({"choices": [], "usage": {"total_tokens": 3}}),
        sse.encode({"type": "response.created"}),
        sse.encode({"type": "response.in_progress"}),
        sse.KEEP_ALIVE,
        b"event: ping\n\n",
    ],
)
def test_no_content(event: bytes) -> None:
    """While only these came, another target may still answer."""
    assert not sse.has_content(event)


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({"error": {"message": "No."}, "status": 400}, 400, {"message": "No."}),
        ({"error": {"message": "No.", "code": 503}}, 503, {"message": "No.", "code": 503}),
        ({"error": {"message": "No.", "code": "queue_full"}}, 500, {"message": "No.", "code": "queue_full"}),
        ({"error": {"message": "No."}, "status": 200}, 500, {"message": "No."}),
        ({"error": "No.", "status": "x"}, 500, {"message": "No."}),
    ],
)
def test_error(body: dict[str, Any], status: int, error: dict[str, Any]) -> None:
    """Our worker tells HTTP's status beside it; others may tell it as a code, or not at all."""
    assert sse.error_of(sse.encode(body)) == (status, error)


@pytest.mark.parametrize(
    "event", [chunk({"content": "x"}), sse.DONE, sse.KEEP_ALIVE, b"data: {\n\n", sse.encode({"error": None})]
)
def test_no_error(event: bytes) -> None:
    """Everything else is none."""
    assert sse.error_of(event) is None


def test_an_error_after_the_beginning() -> None:
    """It is an event, and the end."""
    event, done = sse.split_events(sse.encode_error(InvalidRequestError("No.").body))

    assert orjson.loads(sse.data_of(event) or b"")["error"]["message"] == "No."
    assert done == sse.DONE
