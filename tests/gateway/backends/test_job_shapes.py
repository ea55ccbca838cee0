"""What workers of other kinds put out as a job's output, as a client of OpenAI's API sees it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from local_gateway.backends.base import Call
from local_gateway.errors import TargetError
from local_gateway.wire import sse
from local_gateway.wire.answer_reader import Wanted, read_answer
from tests.gateway.played_endpoint import PlayedEndpoint, played
from tests.gateway.wire.test_answer_reader import HEAD, USAGE, chunk, whole

CHAT, TEXT = "/chat/completions", "/completions"
HEL, LO, STOP = chunk({"role": "assistant", "content": "hel"}), chunk({"content": "lo"}), chunk({}, "stop")
CHUNKS = [HEL, LO, STOP]
LINES = [f"data: {json.dumps(each)}" for each in CHUNKS]


def text(part: str, finish: str | None = None) -> dict[str, Any]:
    """A chunk of the older API, or all of its answer."""
    return {"id": "c", "object": "text_completion", "choices": [{"index": 0, "text": part, "finish_reason": finish}]}


TEXTS = [text("hel"), text("lo"), text("", "stop")]


async def told(
    play: Callable[[PlayedEndpoint, Any], None], path: str = CHAT, *, stream: bool = True
) -> tuple[int, bytes]:
    """Status and body of the answer to a job that is played so. Raises TargetError."""
    call = Call(path=path, body=json.dumps({"model": "m", "stream": stream}).encode(), is_stream=stream)
    async with played() as here:
        opening = here.open(call)
        play(here, await here.take())
        upstream = await opening
        try:
            if upstream.status >= 400:
                return upstream.status, b"".join([piece async for piece in upstream])
            wanted = Wanted(path=path, is_stream=stream, normalize=True)
            read = await read_answer(aiter(upstream), upstream.headers.get("content-type", ""), wanted)
            return upstream.status, b"".join([block async for block in read.blocks])
        finally:
            await upstream.aclose()


def puts(*outputs: object) -> Callable[[PlayedEndpoint, Any], None]:
    def play(here: PlayedEndpoint, job: Any) -> None:
        here.put(job, *outputs)
        here.done(job, list(outputs))

    return play


def returns(output: object) -> Callable[[PlayedEndpoint, Any], None]:
    """As a plain function does: nothing is streamed."""
    return lambda here, job: here.done(job, output)


def said(body: bytes, path: str, *, stream: bool) -> str:
    if stream:
        choices = [
            choice
            for event in sse.events_in(body)
            if isinstance(event.chunk, dict)
            for choice in event.chunk["choices"]
        ]
        return "".join(choice["text"] if path == TEXT else choice["delta"].get("content") or "" for choice in choices)
    (choice,) = json.loads(body)["choices"]
    return str(choice["text"] if path == TEXT else choice["message"]["content"])


ANSWERS: dict[str, tuple[str, Callable[[PlayedEndpoint, Any], None]]] = {
    "A4 lists of lists": (CHAT, puts([[HEL, LO]], [[STOP]])),
    "A4 all in one list": (CHAT, puts(CHUNKS)),
    "A4 objects of the older API": (TEXT, puts(*TEXTS)),
    "A4 texts of the older API": (TEXT, puts(*map(json.dumps, TEXTS))),
    "A4 objects without a name": (CHAT, puts({"choices": [{"delta": {"content": "hello"}, "finish_reason": "stop"}]})),
    "A4 usage first": (CHAT, puts({"choices": [], "usage": USAGE}, *CHUNKS)),
    "A4 no choices first": (CHAT, puts({**HEAD, "choices": []}, *CHUNKS)),
    "A4 lines of objects": (CHAT, puts("\n".join(map(json.dumps, CHUNKS[:2])) + "\n", json.dumps(STOP))),
    "A4 with nothing between": (CHAT, puts(None, HEL, None, LO, "", STOP)),
    "A4 returned": (CHAT, returns(CHUNKS)),
    "A5 a whole object": (CHAT, puts(whole())),
    "A5 a whole text": (CHAT, puts(json.dumps(whole()))),
    "A5 a whole text in pieces": (CHAT, puts(json.dumps(whole())[:30], json.dumps(whole())[30:])),
    "A5 a batch of one": (CHAT, puts([whole()])),
    "A5 returned": (CHAT, returns(whole())),
    "A5 JSON of JSON": (CHAT, returns(json.dumps(json.dumps(whole())))),
    "A5 of the older API": (TEXT, returns(text("hello", "stop"))),
    "A6 no line ends": (CHAT, puts(*LINES, "data: [DONE]")),
    "A6 no line ends and no spaces": (
        CHAT,
        puts(*(line.replace("data: ", "data:", 1) for line in LINES), "data:[DONE]"),
    ),
    "A6 one line end": (CHAT, puts(*(line + "\n" for line in LINES), "data: [DONE]\n")),
    "A6 a return": (CHAT, puts(*(line + "\r" for line in LINES), "data: [DONE]\r")),
    "A6 names": (CHAT, puts(*(f"event: message\n{line}" for line in LINES), "data: [DONE]")),
    "A6 line by line": (CHAT, puts(*(part for line in LINES for part in ("event: message", line, "")), "data: [DONE]")),
    "A6 comments": (CHAT, puts(": ping", LINES[0], ": ping", LINES[1], "id: 7", LINES[2], "data: [DONE]")),
    "A6 data of data": (CHAT, puts(*(f"data: {line}\n\n" for line in LINES))),
    "A6 returned as one text": (CHAT, returns("\n\n".join([*LINES, "data: [DONE]", ""]))),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "play"), ANSWERS.values(), ids=ANSWERS)
async def test_answers(path: str, play: Callable[[PlayedEndpoint, Any], None], *, stream: bool) -> None:
    """gateway.md A4, A5, A6: all of the text, whether it was asked for as a stream or whole."""
    _, body = await told(play, path, stream=stream)

    assert said(body, path, stream=stream) == "hello"
    assert body.rstrip().endswith(b"[DONE]") is stream


async def test_a_list_as_the_answer() -> None:
    """gateway.md A4: of a reranker that answers with a list nothing is lost."""
    scores = [{"index": number, "score": 0.5} for number in range(3)]
    _, body = await told(returns(scores), "/rerank", stream=False)

    assert json.loads(body) == scores


NOTHING: list[object] = [{}, [], "", None, "  \n", 0]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "play",
    [
        *map(puts, NOTHING),
        *map(returns, [*NOTHING, False, "just words", [1, 2]]),
        puts(*LINES[:2]),
        puts(HEL, LO),
        puts("Traceback (most recent call last):\n  File x\nValueError: no"),
        puts({"error": "CUDA broke", "refresh_worker": True}),
        puts({"status": "error", "message": "CUDA broke"}),
        puts({"Error": "CUDA broke"}),
        lambda here, job: here.fail(job, "KeyError: 'messages'"),
        lambda here, job: here.fail(job, None),
        lambda here, job: here.fail(job, {}),
    ],
)
async def test_failures(play: Callable[[PlayedEndpoint, Any], None], *, stream: bool) -> None:
    """gateway.md A7: nothing, half an answer and a worker's own fault are failures, and never an answer."""
    with pytest.raises(TargetError) as caught:
        await told(play, stream=stream)

    assert caught.value.status >= 500


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"error": {"message": "so it is", "code": 404}}, 404),
        ([{"error": {"message": "so it is", "code": 400}}], 400),
        (json.dumps({"object": "error", "message": "so it is", "code": 422}), 422),
        (json.dumps([{"error": {"message": "so it is", "code": 429}}]), 429),
        ({"Message": "so it is", "StatusCode": 413}, 413),
        ({"detail": [{"loc": ["body", "x"], "msg": "so it is"}]}, 422),
        (f"data: {json.dumps({'error': {'message': 'so it is', 'code': 400}})}", 400),
        ("event: error\ndata: " + json.dumps({"message": "so it is", "status": 400}), 400),
    ],
)
async def test_the_clients_faults(error: object, status: int, *, stream: bool) -> None:
    """gateway.md A1, A2, A3: the worker's words, with the status that they mean, whatever they are packed in."""
    for play in (puts(error), returns(error)):
        found, body = await told(play, stream=stream)
        assert found == status
        assert json.loads(body)["error"]["message"].endswith("so it is")
