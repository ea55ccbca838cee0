"""Streams of llama.cpp-like servers, repaired."""

import json
from typing import Any

import pytest

from local_gateway.errors import UnavailableError
from local_gateway.wire import sse
from local_gateway.wire.stream_normalizer import StreamNormalizer

Json = dict[str, Any]
ROLE = {"role": "assistant", "content": None}


def chunk(delta: object, finish_reason: str | None = None, *, index: int = 0, **more: Any) -> bytes:
    """As llama.cpp writes it, but for spaces."""
    logprobs = {"logprobs": more.pop("logprobs")} if "logprobs" in more else {}
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason, **logprobs}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "llama"}
    return f"data: {json.dumps({**head, 'choices': [choice], **more}, ensure_ascii=False)}\n\n".encode()


def text(content: str, **more: Any) -> bytes:
    return chunk({"content": content}, **more)


STOP = chunk({}, "stop")


def parse(stream: bytes) -> list[Json]:
    """All but [DONE]."""
    *events, done = sse.split_events(stream)
    assert done == sse.DONE
    return [json.loads(sse.data_of(event) or b"") for event in events]


def choices(stream: bytes) -> list[tuple[int, Json, str | None]]:
    return [
        (choice["index"], choice["delta"], choice["finish_reason"])
        for event in parse(stream)
        for choice in event["choices"]
    ]


def normalized(*blocks: bytes) -> bytes:
    normalizer = StreamNormalizer()
    return b"".join([*(normalizer.feed(block) for block in blocks), normalizer.end()])


# What is in order stays


@pytest.mark.parametrize(
    "block",
    [
        chunk({"role": "assistant", "content": ""}),
        text("Hi"),
        text("Hi", usage=None, timings={"n": 1}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}),
        chunk({"reasoning_content": "Hm"}) + chunk({"reasoning_content": "."}),
        STOP,
        text("a") + chunk({"reasoning_content": "Hm"}) + text("b"),
        text("a", error=None),
        text("a", index=0) + text("b", index=1) + text("c", index=0),
        text("a") + text("b", id="chatcmpl-2"),
        text("a") + text("b", usage={"total_tokens": 3}),
        text("a", timings={"n": 1}) + text("b", timings={"n": 2}),
        b": ping\n\n",
        b"event: ping\ndata: {}\n\n",
        b"id: 1\ndata: " + text("a")[6:] + b"id: 2\ndata: " + text("b")[6:],
        b'data: {"choices": [{"index": 0, "text": "Hi"}]}\n\n',
        b'data: {"choices": [{"index": [], "delta": {}}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": "x"}]}\n\n',
        b'data: {"choices": 1}\n\n',
        b"data: 1\n\ndata: {\n\ndata: \xff\n\n",
        text("Hi").replace(b"\n\n", b"\r\n\r\n"),
        sse.encode({"error": {"message": "No."}}),
        b"",
    ],
)
def test_what_is_in_order(block: bytes) -> None:
    """Byte for byte."""
    assert StreamNormalizer().feed(block) == block


def test_a_stream_in_order() -> None:
    """Piece by piece it passes, with its usage and its end."""
    usage = b'data: {"choices": [], "usage": {"total_tokens": 3}}\n\n'
    blocks = [chunk({"role": "assistant", "content": ""}), text("Hi"), STOP, usage, sse.DONE]

    assert normalized(*blocks) == b"".join(blocks)


# Null


def test_content_of_null() -> None:
    """With the role it is empty; elsewhere it is none."""
    stream = normalized(chunk(ROLE), text("Hi"), chunk({"content": None, "tool_calls": [{"index": 0}]}), STOP)

    assert choices(stream) == [
        (0, {"role": "assistant", "content": ""}, None),
        (0, {"content": "Hi"}, None),
        (0, {"tool_calls": [{"index": 0}]}, None),
        (0, {}, "stop"),
    ]


def test_a_delta_of_null() -> None:
    """It is empty."""
    assert choices(normalized(text("Hi"), chunk(None, "stop"))) == [(0, {"content": "Hi"}, None), (0, {}, "stop")]


# Texts that arrive together


def test_texts_are_merged() -> None:
    """The role's delta too; what came alone stays alone."""
    stream = normalized(chunk(ROLE) + text("Pa") + text("ri") + text("s"), text("!"), STOP + sse.DONE)

    assert choices(stream) == [
        (0, {"role": "assistant", "content": "Paris"}, None),
        (0, {"content": "!"}, None),
        (0, {}, "stop"),
    ]


def test_what_stands_between_texts() -> None:
    """Neither side of a call of a tool, of another choice, or of the end is mixed up."""
    tool = chunk({"tool_calls": [{"index": 0}]})
    stream = normalized(
        text("a") + text("b") + tool + text("c") + text("d") + text("e", index=1) + STOP + chunk({}, "stop", index=1)
    )

    assert [delta.get("content") for _, delta, _ in choices(stream)] == ["ab", None, "cd", "e", None, None]


def test_other_fields_of_merged_texts() -> None:
    """Those that only one of them has survive; the moment is the first's."""
    stream = normalized(text("a", seed=7, created=1) + text("b", created=2, x={"y": 1}), STOP)
    merged = parse(stream)[0]

    assert (merged["created"], merged["seed"], merged["x"]) == (1, 7, {"y": 1})
    assert merged["choices"][0]["delta"] == {"content": "ab"}


def test_logprobs_of_merged_texts() -> None:
    """They are joined, too."""
    a, b = {"token": "a"}, {"token": "b"}
    stream = normalized(
        text("a", logprobs={"content": [a]}) + text("b", logprobs={"content": [b], "refusal": None}) + text("c"), STOP
    )

    assert parse(stream)[0]["choices"][0]["logprobs"] == {"content": [a, b], "refusal": None}
    assert choices(stream)[0][1] == {"content": "abc"}


# The end


def test_text_beside_the_finish_reason() -> None:
    """It comes before it; usage stays where it was, logprobs go with the text."""
    logprobs = {"content": [{"token": "s"}]}
    stream = normalized(text("Pari"), chunk({"content": "s"}, "stop", logprobs=logprobs, usage={"total_tokens": 3}))
    first, second, third = parse(stream)

    assert choices(stream) == [(0, {"content": "Pari"}, None), (0, {"content": "s"}, None), (0, {}, "stop")]
    assert ("usage" in second, third["usage"]) == (False, {"total_tokens": 3})
    assert (second["choices"][0]["logprobs"], third["choices"][0]["logprobs"]) == (logprobs, None)
    assert (second["id"], second["model"]) == (first["id"], first["model"])


def test_everything_at_once() -> None:
    """One text, one reason to finish, one end: what arrives together is safe to read together."""
    stream = normalized(chunk(ROLE) + text("Pa") + text("ri") + chunk({"content": "s"}, "stop") + sse.DONE)

    assert choices(stream) == [(0, {"role": "assistant", "content": "Paris"}, None), (0, {}, "stop")]


@pytest.mark.parametrize("end", [b"", sse.DONE, b"data: [DONE]", b"data: [DONE]\n", b"data: [DONE]\r\n\r\n"])
def test_a_missing_reason_to_finish(end: bytes) -> None:
    """It is added before the end, which is added or completed."""
    stream = normalized(text("Hi"), end)

    assert choices(stream.replace(b"\r\n\r\n", b"\n\n")) == [(0, {"content": "Hi"}, None), (0, {}, "stop")]
    assert parse(stream.replace(b"\r\n\r\n", b"\n\n"))[1]["id"] == "chatcmpl-1"


def test_a_missing_reason_to_finish_of_several_choices() -> None:
    """Each that has begun and not ended gets one, which tells of its calls of tools."""
    calls = chunk({"tool_calls": [{"index": 0}]}, index=2)
    stream = normalized(text("a"), text("b", index=1), calls, STOP, sse.DONE)

    assert choices(stream)[3:] == [(0, {}, "stop"), (1, {}, "stop"), (2, {}, "tool_calls")]


def test_a_missing_reason_to_finish_before_usage() -> None:
    """Usage comes last."""
    usage = {"choices": [], "usage": {"total_tokens": 3}}
    events = parse(normalized(text("Hi"), sse.encode(usage)))

    assert [len(event["choices"]) for event in events] == [1, 1, 0]
    assert events[2] == usage


def test_nothing_was_said() -> None:
    """Then nothing is finished, either."""
    assert normalized(b"") == sse.DONE
    assert choices(normalized(chunk(ROLE))) == [(0, {"role": "assistant", "content": ""}, None)]


def test_an_error() -> None:
    """It is an end by itself, without a reason to finish."""
    error = sse.encode_error(UnavailableError("Gone.").body)

    assert normalized(text("Hi"), error) == text("Hi") + error
    assert normalized(text("Hi"), sse.split_events(error)[0]) == text("Hi") + error


def test_nothing_comes_after_the_end() -> None:
    """Neither in the same block nor later."""
    normalizer = StreamNormalizer()

    assert normalizer.feed(STOP + sse.DONE + text("Hi")) == STOP + sse.DONE
    assert (normalizer.feed(text("Hi")), normalizer.end()) == (b"", b"")


def test_verdict_on_the_prompt() -> None:
    """Azure's first event has no choices; clients that look for one would break."""
    verdict = b'data: {"choices": [], "prompt_filter_results": []}\n\n'

    assert StreamNormalizer().feed(verdict + text("Hi")) == text("Hi")


# What is in order need not be parsed


@pytest.mark.parametrize(
    ("event", "passes"),
    [
        (text("Hi"), True),
        (text('say "role" and "tool_calls" in quotes'), True),
        (text(""), False),
        (chunk({"content": None}), False),
        (chunk({"role": "assistant", "content": "Hi"}), False),
        (chunk({"tool_calls": [{"index": 0}]}), False),
        (chunk({}), False),
        (b'data: {"choices": [{"index": 0, "text": "Hi", "finish_reason": null}]}\n\n', False),
    ],
)
def test_what_passes(event: bytes, *, passes: bool) -> None:
    """Text that nothing can be wrong with."""
    assert StreamNormalizer().passes(event) is passes


def test_an_end_after_text_that_passed() -> None:
    """It is made as if each chunk had been parsed: with the head of the last one."""
    parsed, passed = StreamNormalizer(), StreamNormalizer()
    told = parsed.feed(text("Hi")) + parsed.end()
    assert passed.passes(text("Hi"))

    assert text("Hi") + passed.end() == told
