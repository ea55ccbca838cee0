"""What the load generator makes of the bytes that come back."""

import json
from typing import Any

import pytest

from benchmarks.client import Answer, counter, reader
from benchmarks.connection import Response, request


def event(**parts: Any) -> bytes:
    return b"data: " + json.dumps(parts).encode() + b"\n\n"


def chunked(*pieces: bytes) -> bytes:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def fed(data: bytes, size: int) -> tuple[Response, bytes]:
    """A response that has come in pieces of this size, and its body."""
    response = Response()
    body = b"".join(response.feed(data[place : place + size]) for place in range(0, len(data), size))
    return response, body


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_chunked_body_is_read_however_it_is_cut(size: int) -> None:
    response, body = fed(chunked(b"data: one\n", b"\r\n0\r\n\r\n", b"two"), size)

    assert (response.status, response.is_over, body) == (200, True, b"data: one\n\r\n0\r\n\r\ntwo")


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_a_body_with_a_length_ends_there(size: int) -> None:
    response, body = fed(b"HTTP/1.1 429 Too Many\r\ncontent-length: 4\r\n\r\nbusy", size)

    assert (response.status, response.is_over, response.keeps_open, body) == (429, True, True, b"busy")


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    response, body = fed(b"HTTP/1.0 200 OK\r\n\r\nall of it", 4)

    assert not response.is_over
    response.close()
    assert (response.is_over, response.keeps_open, body) == (True, False, b"all of it")


def test_a_connection_that_ends_within_a_body_is_an_error() -> None:
    response, _ = fed(chunked(b"data: one\n")[:-3], 1000)

    with pytest.raises(ConnectionError):
        response.close()


def test_trailers_and_the_extensions_of_chunks_are_skipped() -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    response, body = fed(head + b"3;name=x\r\nabc\r\n0\r\nexpires: never\r\n\r\n", 2)

    assert (response.is_over, body) == (True, b"abc")


def test_an_answer_has_its_texts_with_their_times_and_its_usage() -> None:
    """Also where an event comes in two pieces; thoughts are texts too."""
    answer = Answer(0.0)
    take = reader(answer)
    take(event(choices=[{"delta": {"role": "assistant"}}]), 1.0)
    take(event(choices=[{"delta": {"reasoning_content": "Hm. "}}]), 2.0)
    hello = event(choices=[{"delta": {"content": "Hello"}}])
    take(hello[:20], 3.0)
    take(hello[20:], 4.0)
    take(event(choices=[{"delta": {}, "finish_reason": "length"}]), 5.0)
    take(event(choices=[], usage={"prompt_tokens": 9, "completion_tokens": 3}) + b"data: [DONE]\n\n", 6.0)

    assert (answer.text, answer.arrivals, answer.finish_reason) == ("Hm. Hello", [2.0, 4.0], "length")
    assert (answer.num_prompt_tokens, answer.num_tokens, answer.num_events) == (9, 3, 5)


@pytest.mark.parametrize("size", [1, 6, 7, 8, 50, 10_000])
def test_events_are_counted_once_however_the_body_is_cut(size: int) -> None:
    answer = Answer(0.0)
    take = counter(answer)
    body = event(choices=[{"delta": {"content": "x"}}]) * 20 + b"data: [DONE]\n\n"
    for place in range(0, len(body), size):
        take(body[place : place + size], float(place))

    assert answer.num_events == 20
    assert len(answer.arrivals) == 1


def test_a_request_goes_below_the_path_of_its_address() -> None:
    lines = request("https://api.example/v2/abc/openai", "/v1/chat/completions", b"{}", "secret").split(b"\r\n")

    assert lines[0] == b"POST /v2/abc/openai/v1/chat/completions HTTP/1.1"
    assert {b"Host: api.example", b"Authorization: Bearer secret", b"Content-Length: 2"} < set(lines)


def test_a_request_without_a_body_is_a_get() -> None:
    assert request("http://here:80", "/health", None).startswith(b"GET /health HTTP/1.1\r\n")
