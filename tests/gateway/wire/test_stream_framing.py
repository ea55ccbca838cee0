"""Streams in the framings of the world: each is read, cut anywhere, as a stream and as a whole answer."""

import json
from collections.abc import Callable

import pytest

from local_gateway.errors import AnswerBrokenError
from local_gateway.wire import sse
from local_gateway.wire.answer_reader import Wanted, read_answer
from tests.gateway.wire.test_answer_reader import (
    CHAT,
    EVENTS,
    HEAD,
    JSON,
    LINES,
    ROLE,
    STOP,
    STREAM,
    TEXT,
    USAGE,
    answer,
    chunk,
    chunks_in,
    event,
    pieces_of,
    relay,
    text_in,
    whole,
)

CHUNKS = [chunk({"role": "assistant", "content": ""}), chunk({"content": "hel"}), chunk({"content": "lo"}, "stop")]
PARTS = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]


def over_lines(body: object) -> bytes:
    """An event whose JSON goes over several lines of data."""
    return b"data: " + b"\ndata: ".join(json.dumps(body, indent=1).encode().split(b"\n")) + b"\n\n"


def twice(body: object) -> bytes:
    """An event whose data is JSON of JSON."""
    return event(json.dumps(body))


def as_written(body: object, separator: str = " ") -> bytes:
    """An event within an event, as frameworks make it of text that is one already."""
    return b"data:%s%b" % (separator.encode(), event(body))


FRAMINGS: dict[str, bytes] = {
    "B11-crlf": STREAM.replace(b"\n", b"\r\n"),
    "B11-cr": STREAM.replace(b"\n", b"\r"),
    "B11-mixed line ends": STREAM.replace(b"\n\n", b"\r\n\n", 2),
    "B11-byte order mark": b"\xef\xbb\xbf" + STREAM,
    "B11-no space": STREAM.replace(b"data: ", b"data:"),
    "B11-comments between": STREAM.replace(b"\n\n", b"\n\n: ping\n\n"),
    "B11-comments within": STREAM.replace(b"data: ", b": x\ndata: "),
    "B11-names and ids": STREAM.replace(b"data: ", b"event: message\nid: 7\nretry: 10\ndata: "),
    "B11-over lines": b"".join(map(over_lines, CHUNKS)) + sse.DONE,
    "B11-over lines with crlf": (b"".join(map(over_lines, CHUNKS)) + sse.DONE).replace(b"\n", b"\r\n"),
    "B11-json of json": b"".join(map(twice, CHUNKS)) + sse.DONE,
    "B11-data of data": b"".join(map(as_written, CHUNKS)) + b"data: " + sse.DONE,
    "B11-data of data without spaces": b"".join(as_written(each, "") for each in CHUNKS) + b"data:" + sse.DONE,
    "B11-three line ends": STREAM.replace(b"\n\n", b"\n\n\n"),
    "B11-empty event first": b"data:\n\n" + STREAM,
    "B11-empty event between": ROLE + b"event: x\ndata:\n\n" + TEXT + STOP + sse.DONE,
    "B11-unknown field": b"foo: bar\n\n" + STREAM,
    "B11-end without line ends": STREAM[:-2],
    "B11-end with a space": STREAM.replace(b"[DONE]", b"[DONE] "),
    "B11-end with a name": STREAM.replace(b"data: [DONE]", b"event: done\ndata: [DONE]"),
    "B12-heartbeats": b"data: heartbeat\n\n" + ROLE + b"data: [PING]\n\n" + TEXT + STOP + sse.DONE,
    "B12-pings": event({"type": "ping"}) + ROLE + b"event: ping\ndata: {}\n\n" + TEXT + STOP + sse.DONE,
    "B12-usage without choices": ROLE + TEXT + STOP + event({**HEAD, "usage": USAGE}) + sse.DONE,
    "B12-choices that are null": ROLE + TEXT + STOP + event({**HEAD, "choices": None, "usage": USAGE}) + sse.DONE,
    "B12-verdict on the prompt": event({"choices": [], "prompt_filter_results": []}) + STREAM,
    "B13-a delta of null": ROLE
    + TEXT
    + event({**HEAD, "choices": [{"index": 0, "delta": None, "finish_reason": "stop"}]}),
    "B13-no delta": ROLE + TEXT + event({**HEAD, "choices": [{"index": 0, "finish_reason": "stop"}]}) + sse.DONE,
    "B13-no index": STREAM.replace(b'"index": 0, ', b""),
}


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("size", [1, 17, 100_000])
@pytest.mark.parametrize("stream", FRAMINGS.values(), ids=FRAMINGS)
async def test_framing(stream: bytes, size: int, *, normalize: bool) -> None:
    """gateway.md B11 to B14: a reader of OpenAI's chunks sees the text, and each chunk has its choices and deltas."""
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    kind, body = await answer(*pieces, normalize=normalize)
    _, joined = await answer(*pieces, normalize=normalize, stream=False)

    assert (kind, text_in(body)) == (EVENTS, "hello")
    assert all(isinstance(choice["delta"], dict) for each in chunks_in(body) for choice in each["choices"])
    (choice,) = json.loads(joined)["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("hello", "stop")


@pytest.mark.parametrize(
    "text", ["日本語🎉é", "a\u2028b\u0085c\x0bd", "data: x\n\ndata: y", '"finish_reason":""', "[DONE]"]
)
@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("size", [1, 2, 5])
async def test_text_that_looks_like_framing(text: str, size: int, *, ascii_only: bool) -> None:
    """gateway.md B11: characters cut in two, line ends of Unicode, and words of the protocol are text."""
    raw = f"data: {json.dumps(chunk({'content': text}), ensure_ascii=ascii_only)}\n\n".encode() + STOP + sse.DONE
    _, body = await answer(*(raw[at : at + size] for at in range(0, len(raw), size)))

    assert text_in(body) == text


WHOLES: dict[str, tuple[bytes, str]] = {
    "B13-json of json": (json.dumps(json.dumps(whole())).encode(), JSON),
    "B13-byte order mark": (b"\xef\xbb\xbf" + json.dumps(whole()).encode(), JSON),
    "B13-indented": (b"\n\n " + json.dumps(whole(), indent=2).encode(), JSON),
    "B13-UTF-16": (json.dumps(whole()).encode("utf-16"), JSON),
    "B13-a batch of one": (json.dumps([whole()]).encode(), "text/plain"),
    "B13-a page's type": (json.dumps(whole()).encode(), "text/html; charset=utf-8"),
    "B13-lines": (LINES, "application/x-ndjson"),
    "B13-lines with an end": (LINES + b"[DONE]\n", "application/jsonl"),
    "B13-lines with crlf": (LINES.replace(b"\n", b"\r\n"), "application/x-ndjson"),
    "B13-a sequence": (b"\x1e" + LINES[:-1].replace(b"\n", b"\n\x1e") + b"\n", "application/json-seq"),
    "B13-one behind the other": (LINES.replace(b"\n", b""), JSON),
    "B13-a list of chunks": (json.dumps(CHUNKS, indent=2).encode(), JSON),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("body", "kind"), WHOLES.values(), ids=WHOLES)
async def test_whole_answers(body: bytes, kind: str, *, stream: bool) -> None:
    """gateway.md B13, B14: in other encodings, and in pieces without events: told as the client asked."""
    _, told = await answer(body, kind=kind, stream=stream)

    text = text_in(told) if stream else _whole(told)["choices"][0]["message"]["content"]
    assert text == "hello"


def _whole(body: bytes) -> dict[str, list[dict[str, dict[str, str]]]]:
    """As a client reads it, which finds out the encoding and takes a list of one for none."""
    found: dict[str, list[dict[str, dict[str, str]]]] = json.loads(body)
    return found


async def test_content_in_parts() -> None:
    """gateway.md B13: readers of streams join texts."""
    message = {"role": "assistant", "content": PARTS}
    _, told = await answer(json.dumps(whole(message)).encode(), kind=JSON)

    assert text_in(told) == "hello"


@pytest.mark.parametrize(
    "write",
    [
        lambda reason: f'"finish_reason":"{reason}"',
        lambda reason: f'"finish_reason" : "{reason}"',
        lambda reason: f'"finish_reason":\n"{reason} "',
    ],
    ids=["plain", "with spaces", "over lines"],
)
@pytest.mark.parametrize("reason", ["", "null", "None", " "])
@pytest.mark.parametrize("normalize", [False, True])
async def test_reasons_that_are_none(reason: str, write: Callable[[str], str], *, normalize: bool) -> None:
    """gateway.md B10: however null is spelled, a reader that ends at any reason sees all of the text."""
    spelled = write(reason).replace("\n", "").encode()
    stream = (ROLE + TEXT).replace(b'"finish_reason": null', spelled) + STOP + sse.DONE
    _, body = await answer(stream, normalize=normalize)
    reasons = [choice["finish_reason"] for each in chunks_in(body) for choice in each["choices"]]

    assert text_in(body) == "hello"
    assert reasons == [*[None] * (len(reasons) - 1), "stop"]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    "rest",
    [
        event({**HEAD, "choices": [], "usage": USAGE}),
        event({**HEAD, "usage": USAGE}),
        event(chunk({"content": '"finish_reason": "stop"'})),
        event(chunk({"content": "data: [DONE]"})),
        b"data: [DONE",
        event(chunk({}, "null")),
        event(chunk({}, "stop", index=1)),
        b": bye\n\n",
        b"<html>504</html>",
    ],
    ids=str,
)
async def test_ends_that_are_none(rest: bytes, *, normalize: bool) -> None:
    """gateway.md B7, B8: none of these says that the answer is complete, and no end is made up."""
    sent = bytearray()
    with pytest.raises(AnswerBrokenError):
        await _relay_all(ROLE + TEXT + rest, sent, normalize=normalize)
    assert b'"finish_reason":"stop"' not in sent
    with pytest.raises(AnswerBrokenError):
        await answer(ROLE + TEXT + rest, stream=False, normalize=normalize)


async def _relay_all(stream: bytes, sent: bytearray, *, normalize: bool) -> None:
    read = await read_answer(pieces_of(stream), EVENTS, Wanted(path=CHAT, is_stream=True, normalize=normalize))
    await relay(read.blocks, sent)
