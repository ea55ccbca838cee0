"""What targets send with a success, in the form that the client asked for: converted without loss, or an error."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from local_gateway.errors import AnswerBrokenError, TargetRefusedError
from local_gateway.wire import sse
from local_gateway.wire.answer_reader import Wanted, read_answer
from local_gateway.wire.stream_collector import collect

CHAT = "/chat/completions"
EVENTS = "text/event-stream"
JSON = "application/json"
HEAD = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


def chunk(delta: Any, finish: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    return {**HEAD, "choices": [{"index": index, "delta": delta, "finish_reason": finish}], **more}


def event(body: Any) -> bytes:
    return f"data: {json.dumps(body)}\n\n".encode()


def whole(message: dict[str, Any] | None = None, finish: str = "stop", **more: Any) -> dict[str, Any]:
    message = message or {"role": "assistant", "content": "hello"}
    choices = [{"index": 0, "message": message, "finish_reason": finish}]
    return {**HEAD, "object": "chat.completion", "choices": choices, "usage": USAGE, **more}


ROLE = event(chunk({"role": "assistant", "content": ""}))
TEXT = event(chunk({"content": "hel"})) + event(chunk({"content": "lo"}))
STOP = event(chunk({}, "stop"))
STREAM = ROLE + TEXT + STOP + sse.DONE
LINES = b"".join(
    json.dumps(each).encode() + b"\n" for each in (chunk({"content": "hel"}), chunk({"content": "lo"}, "stop"))
)


async def pieces_of(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def answer(
    *pieces: bytes, kind: str = EVENTS, path: str = CHAT, stream: bool = True, normalize: bool = False
) -> tuple[str, bytes]:
    wanted = Wanted(path=path, is_stream=stream, normalize=normalize)
    read = await read_answer(pieces_of(*pieces), kind, wanted)
    return read.content_type, b"".join([block async for block in read.blocks])


async def relay(blocks: AsyncIterator[bytes], sent: bytearray) -> None:
    async for block in blocks:
        sent += block


def chunks_in(body: bytes) -> list[Any]:
    return [found for each in sse.events_in(body) if (found := each.chunk) is not None]


def text_in(body: bytes) -> str:
    return "".join(c["delta"].get("content") or "" for each in chunks_in(body) for c in each["choices"])


# Events under any name


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("kind", [EVENTS, "text/plain; charset=utf-8", "", "application/octet-stream", JSON])
async def test_events_under_any_content_type(kind: str, size: int) -> None:
    """gateway.md B11, B12: they are events, byte for byte, however they are cut into pieces."""
    pieces = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]

    assert await answer(*pieces, kind=kind) == (EVENTS, STREAM)


@pytest.mark.parametrize("prefix", [b"\xef\xbb\xbf", b": hello\n\n", b"\n\n"])
async def test_what_comes_before_the_first_event(prefix: bytes) -> None:
    """A byte order mark, a comment or empty lines."""
    _, body = await answer(prefix + STREAM, kind="text/plain")

    assert body.removeprefix(prefix) == STREAM


@pytest.mark.parametrize("separator", [b"\n", b"\r\n"])
async def test_events_without_empty_lines(separator: bytes) -> None:
    """Each line is an event."""
    _, body = await answer(STREAM.replace(b"\n\n", separator) + b"\n\n")

    assert (text_in(body), b"[DONE]" in body) == ("hello", True)


@pytest.mark.parametrize("kind", ["application/x-ndjson", "application/jsonl", JSON, "text/plain"])
async def test_chunks_as_lines(kind: str) -> None:
    """gateway.md A4: a chunk a line becomes an event a chunk."""
    content_type, body = await answer(LINES[:50], LINES[50:], kind=kind)

    assert (content_type, text_in(body)) == (EVENTS, "hello")


# A whole answer to who asked for a stream, and the other way round


@pytest.mark.parametrize("kind", [JSON, "text/plain", "", EVENTS])
@pytest.mark.parametrize(
    ("message", "finish"),
    [
        ({"role": "assistant", "content": "hello"}, "stop"),
        ({"role": "assistant", "content": "hel", "reasoning_content": "hm"}, "length"),
        ({"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "call_2"}]}, "tool_calls"),
    ],
)
async def test_a_stream_answered_whole(message: dict[str, Any], finish: str, kind: str) -> None:
    """gateway.md A5, B13: told in chunks, from which the same answer can be joined."""
    told = whole(message, finish, system_fingerprint="f")
    content_type, body = await answer(json.dumps(told).encode(), kind=kind)

    assert (content_type, body.endswith(sse.DONE)) == (EVENTS, True)
    assert collect(CHAT, sse.events_in(body)) == told


async def test_a_whole_answer_in_an_event() -> None:
    """gateway.md B13: the only event holds a chat.completion."""
    _, body = await answer(event(whole()) + sse.DONE)

    assert (text_in(body), body.endswith(sse.DONE)) == ("hello", True)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (STREAM, {"role": "assistant", "content": "hello"}),
        (ROLE + TEXT + STOP, {"role": "assistant", "content": "hello"}),
        (
            event(chunk({"role": "assistant", "tool_calls": [{"index": 0, **CALL}]}))
            + event(chunk({"tool_calls": [{"index": 0, "function": {"arguments": " "}}]}))
            + event(chunk({"tool_calls": [{"index": 1, **CALL}]}, "tool_calls"))
            + sse.DONE,
            {"role": "assistant", "content": None, "tool_calls": [
                {**CALL, "function": {"name": "f", "arguments": '{"a":1} '}}, CALL]},
        ),
    ],
)  # fmt: skip
async def test_a_whole_answer_streamed(stream: bytes, message: dict[str, Any], *, normalize: bool) -> None:
    """gateway.md B14: joined."""
    content_type, body = await answer(stream, stream=False, normalize=normalize)
    (choice,) = json.loads(body)["choices"]

    assert (content_type, choice["message"]) == (JSON, message)
    assert choice["finish_reason"] == ("tool_calls" if "tool_calls" in message else "stop")


async def test_usage_is_kept_in_both_directions() -> None:
    """It is in its own chunk of a stream, and a field of a whole answer."""
    _, told = await answer(json.dumps(whole()).encode(), kind=JSON)
    _, joined = await answer(told, stream=False)

    assert (chunks_in(told)[-1]["usage"], json.loads(joined)["usage"]) == (USAGE, USAGE)


async def test_completions() -> None:
    """The same for the older path."""
    told = {"id": "1", "object": "text_completion", "choices": [
        {"index": 0, "text": "hello", "logprobs": None, "finish_reason": "stop"}], "usage": USAGE}  # fmt: skip
    _, body = await answer(json.dumps(told).encode(), kind=JSON, path="/completions")
    _, joined = await answer(body, stream=False, path="/completions")

    assert json.loads(joined) == told


RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "output": [
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "id": "m1", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "hello", "annotations": []}]},
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"},
    ],
    "usage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
}  # fmt: skip
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "hello"},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 12, "output_tokens": 3},
}


@pytest.mark.parametrize(
    ("path", "told", "delta"),
    [("/responses", RESPONSE, b"response.output_text.delta"), ("/messages", MESSAGE, b'"text_delta"')],
)
async def test_other_paths(path: str, told: dict[str, Any], delta: bytes) -> None:
    """Responses and Messages: whole to stream and back."""
    _, body = await answer(json.dumps(told).encode(), kind=JSON, path=path)
    _, joined = await answer(body, stream=False, path=path)

    assert (delta in body, json.loads(joined)) == (True, told)


# Ends


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("path", "stream"),
    [
        (CHAT, ROLE + TEXT),
        (CHAT, ROLE + TEXT + b'data: {"id": "c1", "cho'),
        (CHAT, TEXT + event(chunk({"content": "x"}, index=1)) + event(chunk({}, "stop", index=1))),
        ("/completions", event({"choices": [{"index": 0, "text": "hel", "finish_reason": None}]})),
        ("/responses", event({"type": "response.output_text.delta", "delta": 'say "response.completed"'})),
        ("/messages", event({"type": "content_block_delta", "index": 0, "delta": {"text": "hel"}})),
    ],
)
async def test_a_stream_that_merely_stops(path: str, stream: bytes, *, normalize: bool) -> None:
    """gateway.md B7, B8: half an answer is never made to look whole, in either form."""
    read = await read_answer(pieces_of(stream), EVENTS, Wanted(path=path, is_stream=True, normalize=normalize))
    sent = bytearray()
    with pytest.raises(AnswerBrokenError, match="before the answer was complete"):
        await relay(read.blocks, sent)
    assert sse.DONE not in sent
    with pytest.raises(AnswerBrokenError):
        await answer(stream, path=path, stream=False)


@pytest.mark.parametrize(
    ("path", "stream"),
    [
        (CHAT, ROLE + TEXT + STOP),
        (CHAT, ROLE + TEXT + sse.DONE),
        (CHAT, ROLE + TEXT + STOP[:-2]),
        ("/responses", event({"type": "response.incomplete", "response": {}})),
        ("/messages", event({"type": "ping"}) + event({"type": "message_stop"})),
        ("/audio/speech", event({"type": "speech.audio.delta", "audio": "aa"})),
    ],
)
async def test_a_stream_with_its_end(path: str, stream: bytes) -> None:
    """One sign of the end is enough; other paths have none that is known."""
    assert await answer(stream, path=path) == (EVENTS, stream)


@pytest.mark.parametrize("normalize", [False, True])
async def test_an_empty_reason_to_finish(*, normalize: bool) -> None:
    """gateway.md B10: it is null, so that a reader which ends at any reason sees all of the text."""
    texts = [event(chunk({"role": "assistant", "content": text}, "")) for text in ("He", "llo", " world")]
    _, body = await answer(*texts, STOP, sse.DONE, normalize=normalize)
    reasons = [choice["finish_reason"] for each in chunks_in(body) for choice in each["choices"]]

    assert (reasons, text_in(body)) == ([None, None, None, "stop"], "Hello world")


# Errors in a success


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"error": {"message": "Provider returned error", "code": 502}, "user_id": "u"}, 502),
        ({"object": "error", "message": "The model `x` does not exist.", "code": 404}, 404),
        ({"choices": [{"index": 0, "error": {"code": 502, "message": "idle"}, "finish_reason": "error",
                       "message": {"role": "assistant", "content": ""}}]}, 502),
        ({"detail": "Context window exceeded"}, 400),
        ([{"error": {"code": 400, "message": "role"}}], 400),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["json", "event", "page"])
async def test_an_error_with_status_200(body: Any, status: int, form: str, *, stream: bool) -> None:
    """gateway.md A3, B3, B4: raised, so that the next target is asked, or the client told, with its status."""
    raw, kind = (event(body), EVENTS) if form == "event" else (json.dumps(body).encode(), JSON)
    with pytest.raises(TargetRefusedError) as caught:
        await answer(raw, kind="text/html" if form == "page" else kind, stream=stream)

    assert caught.value.status == status


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    "failure",
    [
        {"object": "error", "message": "Provider disconnected", "code": 500},
        {"error": "Provider disconnected", "error_type": "generation"},
        {"detail": "Provider disconnected"},
        chunk({}, "error", error="Provider disconnected"),
    ],
)
async def test_an_error_in_mid_stream(failure: Any, *, normalize: bool) -> None:
    """One that no client would take for an error is raised, after the text that came, and instead of an end."""
    wanted = Wanted(path=CHAT, is_stream=True, normalize=normalize)
    read = await read_answer(pieces_of(ROLE + TEXT + event(failure) + sse.DONE), EVENTS, wanted)
    sent = bytearray()
    with pytest.raises(TargetRefusedError, match="Provider disconnected"):
        await relay(read.blocks, sent)

    assert (text_in(bytes(sent)), b"[DONE]" in sent) == ("hello", False)


@pytest.mark.parametrize(
    "failure",
    [
        chunk({"content": ""}, "error", error={"code": "server_error", "message": "Provider disconnected"}),
        {"error": {"message": "Provider disconnected"}},
    ],
)
async def test_an_error_in_openais_form(failure: Any) -> None:
    """gateway.md B17: it goes on as it is, and is an end."""
    stream = ROLE + TEXT + event(failure)

    assert await answer(stream) == (EVENTS, stream)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html><title>Sign in</title></html>", "text/html"),
        (b"upstream connect error", "text/plain"),
        (b"", JSON),
        (b'{"choices": [', JSON),
        (b"", EVENTS),
        (b'{"ok": 1}', JSON),
    ],
)
async def test_what_is_no_answer(body: bytes, kind: str) -> None:
    """A page, half an object, nothing, or an object that is no answer: no client can read these as a stream."""
    with pytest.raises(AnswerBrokenError):
        await answer(body, kind=kind)


@pytest.mark.parametrize(
    "body", [b'{"choices": [', b'{"choices": [{"message": {"content": "hel', b"[", b"<html>", b"no"]
)
async def test_half_an_answer(body: bytes) -> None:
    """The beginning of an object is an error, also where nothing has to be converted; so is a page."""
    with pytest.raises(AnswerBrokenError):
        await answer(body, kind=JSON if body[:1] in b"{[" else "text/html", stream=False)


async def test_numbers_that_are_none() -> None:
    """Python's servers write NaN: it goes on as it came."""
    body = b'{"choices": [{"message": {"content": "x"}, "logprobs": NaN}]}'

    assert await answer(body, kind=JSON, stream=False) == (JSON, body)


@pytest.mark.parametrize("path", ["/audio/transcriptions", "/files/1/content"])
async def test_other_content(path: str) -> None:
    """Text and files of other paths are not looked at."""
    assert await answer(b"data: what I heard", kind="text/plain", path=path) == ("text/plain", b"data: what I heard")


async def test_an_event_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many parts of the gateway look at it."""
    parsed: list[bytes] = []

    def parse(data: bytes) -> object:
        parsed.append(data)
        return json.loads(data)

    monkeypatch.setattr(sse, "_parse", parse)
    events = [sse.Event(raw) for raw in sse.split_events(ROLE + TEXT + STOP)]
    assert [event.chunk is not None for event in events] == [True] * 4
    await answer(sse.EventBlock.of(events), normalize=True)

    assert len(parsed) == 4


# Variants


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "body",
    [
        [whole()],
        [chunk({"role": "assistant", "content": "hel"}), chunk({"content": "lo"}), chunk({}, "stop")],
    ],
    ids=["a batch of one", "a list of chunks"],
)
async def test_lists(body: Any, *, stream: bool) -> None:
    """gateway.md A4: what servers without a stream of their own put into a list."""
    _, told = await answer(json.dumps(body).encode(), kind=JSON, stream=stream)

    text = text_in(told) if stream else json.loads(told)["choices"][0]["message"]["content"]
    assert text == "hello"


async def test_chunks_with_a_message() -> None:
    """Some servers name the delta so: each is a part, and no whole answer."""
    renamed = (ROLE + TEXT + STOP).replace(b'"delta"', b'"message"') + sse.DONE
    _, body = await answer(renamed)

    assert [choice["finish_reason"] for each in chunks_in(body) for choice in each["choices"]][-2:] == [None, "stop"]
    assert text_in(body) == "hello"


@pytest.mark.parametrize("data", ["CUDA broke", '{"message": "CUDA broke"}', '"CUDA broke"'])
async def test_an_error_by_its_name(data: str) -> None:
    """gateway.md B17: in an event whose name alone says so."""
    with pytest.raises(TargetRefusedError, match="CUDA broke"):
        await answer(f"event: error\ndata: {data}\n\n".encode())
    with pytest.raises(TargetRefusedError, match="CUDA broke"):
        await answer(ROLE + TEXT + f"event: error\ndata: {data}\n\n".encode())
