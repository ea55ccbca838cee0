"""The HTTP edge, called as a web server calls it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import openai
import pytest
from starlette.types import Message

from handler.api.routes import Method
from handler.api.stream import EventStream
from handler.engine.engine_loop import MAX_FAILURES
from handler.errors import DecodeError
from handler.http.body import MAX_DRAINED_BYTES
from handler.http.edge import HttpEdge
from handler.settings import Settings
from tests.engine.fakes import TIMEOUT
from tests.fake_worker import FakeWorker, Json, chat_chunks, fake_worker
from tests.waiting import eventually

CHAT = "/v1/chat/completions"
HI = {"messages": [{"role": "user", "content": "Hi"}]}
ENDLESS = {"messages": [{"role": "user", "content": "endless"}]}


def edge_of(worker: FakeWorker | None, **settings: Any) -> HttpEdge:
    edge = HttpEdge(Settings(**settings))
    edge.worker = worker.worker if worker else None
    return edge


@asynccontextmanager
async def client_of(edge: HttpEdge, key: str | None = None) -> AsyncIterator[httpx2.AsyncClient]:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    transport = httpx2.ASGITransport(app=edge.app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
        yield client


@pytest.fixture
def worker() -> Iterator[FakeWorker]:
    with fake_worker() as worker:
        yield worker


# Its own routes


async def test_while_the_model_loads() -> None:
    """RunPod and people can see that it is coming; requests are told to try again."""
    async with client_of(edge_of(None)) as client:
        ping, health, answer = await client.get("/ping"), await client.get("/health"), await client.post(CHAT, json=HI)

    assert (ping.status_code, ping.content) == (204, b"")
    assert (health.status_code, health.json()) == (503, {"status": "loading"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["error"] == {
        "message": "The model is still loading.",
        "type": "server_error",
        "param": None,
        "code": "loading",
    }


async def test_when_it_answers(worker: FakeWorker) -> None:
    """/ping says so, /health tells what the engine holds."""
    async with client_of(edge_of(worker)) as client:
        await client.post(CHAT, json=HI)
        ping, health = await client.get("/ping"), (await client.get("/health")).json()

    assert ping.status_code == 200
    assert health["status"] == "ok"
    assert (health["max_num_seqs"], health["num_cells"], health["num_finished"]) == (4, 1000, 1)


async def test_when_it_cannot_answer_any_more(worker: FakeWorker) -> None:
    """RunPod replaces a worker whose /ping fails."""
    worker.runner.failures += MAX_FAILURES * [DecodeError("llama_decode returned -3.")]
    async with client_of(edge_of(worker)) as client:
        statuses = [(await client.post(CHAT, json=HI)).status_code for _ in range(MAX_FAILURES + 1)]
        ping, health = await client.get("/ping"), await client.get("/health")

    assert statuses == [*MAX_FAILURES * [500], 503]
    assert (ping.status_code, health.status_code, health.json()) == (503, 503, {"status": "unhealthy"})


# The API


async def test_openai_client(worker: FakeWorker) -> None:
    """It takes our answers, streams, models and errors for OpenAI's."""
    async with (
        client_of(edge_of(worker)) as http,
        openai.AsyncOpenAI(api_key="none", base_url="http://localhost/v1", http_client=http, max_retries=0) as client,
    ):
        answer = await client.chat.completions.create(model="llama", messages=[{"role": "user", "content": "Hi"}])
        stream = await client.completions.create(model="llama", prompt="Once", stream=True)
        texts = [chunk.choices[0].text async for chunk in stream]
        models = [model.id async for model in client.models.list()]
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.models.retrieve("gpt-5")
        with pytest.raises(openai.BadRequestError) as bad:
            await client.completions.create(model="llama", prompt="Once", temperature=5)

    assert answer.choices[0].message.content == "Hello!"
    assert "".join(texts) == " upon a time"
    assert models == ["llama", "org/model"]
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    assert (bad.value.code, bad.value.param) == ("invalid_request_error", "temperature")


async def test_stream_is_not_held_back(worker: FakeWorker) -> None:
    """Proxies are asked not to collect, compress or keep it."""
    async with client_of(edge_of(worker)) as client:
        response = await client.post(CHAT, json=HI | {"stream": True})

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache, no-transform"
    assert response.headers["x-accel-buffering"] == "no"
    assert "content-length" not in response.headers
    assert chat_chunks([response.text])[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/models", 200, None),
        ("GET", "/models/", 200, None),
        ("GET", "/v1/models/org/model", 200, None),
        ("GET", "/v1/models/org%2Fmodel", 200, None),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("PUT", CHAT, 405, "method_not_allowed"),
        ("OPTIONS", CHAT, 405, "method_not_allowed"),
        ("GET", "/", 404, "unknown_url"),
        ("POST", "/ping", 404, "unknown_url"),
        ("POST", "/v1/moderations", 404, "unknown_url"),
        ("POST", "/v1/embeddings", 400, "model_not_supported"),
        ("GET", "/v1/models/gpt-5", 404, "model_not_found"),
    ],
)
async def test_routes(worker: FakeWorker, method: str, path: str, status: int, code: str | None) -> None:
    """Every error has OpenAI's body, also those that a web framework would word itself."""
    async with client_of(edge_of(worker)) as client:
        response = await client.request(method, path, json={} if method == "POST" else None)

    assert response.status_code == status
    assert response.json().get("error", {}).get("code") == code


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b'{"messages":', "Expecting value: line 1 column 13 (char 12)"),
        (b'{"temperature": NaN}', "NaN is no JSON number"),
        (b'{"temperature": -Infinity}', "-Infinity is no JSON number"),
        (b'"\xff"', "'utf-8' codec can't decode byte 0xff in position 1: invalid start byte"),
        (100_000 * b"[", "maximum recursion depth exceeded while decoding a JSON array from a unicode string"),
        (b"9" * 5000, "Exceeds the limit (4300 digits) for integer string conversion"),
    ],
    ids=["empty", "cut off", "NaN", "infinity", "no UTF-8", "deep", "long number"],
)
async def test_bad_json(worker: FakeWorker, body: bytes, message: str) -> None:
    """Said in one line, and the worker goes on."""
    async with client_of(edge_of(worker)) as client:
        response = await client.post(CHAT, content=body)

    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith(f"The request body is not valid JSON: {message}")
    assert await worker.still_answers()


async def parts(num_bytes: int) -> AsyncIterator[bytes]:
    """A body whose length is not told before."""
    for _ in range(0, num_bytes, 100_000):
        yield 100_000 * b" "


@pytest.mark.parametrize("num_bytes", [4_100_000, MAX_DRAINED_BYTES + 200_000], ids=["too large", "huge"])
async def test_too_large_a_body(worker: FakeWorker, num_bytes: int) -> None:
    """It is read to its end if that is not too far, so that the sender comes to read why it was refused."""
    async with client_of(edge_of(worker)) as client:
        response = await client.post(CHAT, content=parts(num_bytes))

    assert response.status_code == 413
    assert response.json()["error"] == {
        "message": "The request body is larger than 4000000 bytes.",
        "type": "invalid_request_error",
        "param": None,
        "code": "payload_too_large",
    }
    assert await worker.still_answers()


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer wrong", 401),
        ("Basic gehéim", 401),
        ("gehéim", 401),
        ("Bearer gehéim and more", 401),
        ("Bearer gehéim", 200),
        ("bearer  gehéim ", 200),
    ],
)
async def test_key(worker: FakeWorker, authorization: str | None, status: int) -> None:
    """With a key set, the API is behind it; what RunPod asks is not."""
    headers = [] if authorization is None else [(b"authorization", authorization.encode())]
    async with client_of(edge_of(worker, api_key="gehéim")) as client:
        response = await client.get("/v1/models", headers=headers)
        open_to_all = [(await client.get(path)).status_code for path in ("/ping", "/health")]

    assert response.status_code == status
    assert open_to_all == [200, 200]
    if status == 401:
        assert response.json()["error"]["code"] == "invalid_api_key"


async def test_key_is_asked_for_before_anything_is_told() -> None:
    """Also for routes that do not exist, and while the model loads."""
    async with client_of(edge_of(None, api_key="secret")) as client:
        assert (await client.get("/v1/unknown")).status_code == 401
        assert (await client.post(CHAT, json=HI)).status_code == 401


async def test_busy() -> None:
    """A request that finds no place in the queue is asked to come again."""
    with fake_worker(held=True, num_slots=1, max_queue=1) as worker:
        waiting = [Caller(edge_of(worker), ENDLESS).start() for _ in range(2)]
        await eventually(lambda: len(worker.runner.samplers) == 2)
        async with client_of(edge_of(worker)) as client:
            response = await client.post(CHAT, json=HI)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        worker.let_go()
        await worker.drops_all()

        assert (response.status_code, response.headers["retry-after"]) == (503, "5")
        assert response.json()["error"]["code"] == "queue_full"
        assert await worker.still_answers()


# Clients that leave


class Caller:
    """A web server with one request, whose client can hang up."""

    def __init__(self, edge: HttpEdge, body: Json, *, whole: bool = True) -> None:
        self.sent: list[Message] = []
        self.breaks = False  # whether the connection fails when it is written to
        self._edge = edge
        self._received: asyncio.Queue[Message] = asyncio.Queue()
        part = json.dumps(body).encode()
        self._received.put_nowait({"type": "http.request", "body": part, "more_body": not whole})

    def start(self) -> asyncio.Task[None]:
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": CHAT,
            "query_string": b"",
            "headers": [],
        }
        return asyncio.create_task(self._edge.app(scope, self._received.get, self._send))

    def hang_up(self) -> None:
        self._received.put_nowait({"type": "http.disconnect"})

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()

    async def _send(self, message: Message) -> None:
        if self.breaks:
            raise OSError("Connection lost")
        self.sent.append(message)


async def ended(task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(TIMEOUT):
        await task


async def test_one_write_is_whole_events(worker: FakeWorker) -> None:
    """There are clients that decode each piece by itself."""
    caller = Caller(edge_of(worker), HI | {"stream": True})
    await ended(caller.start())

    start, *bodies, end = caller.sent
    assert (start["type"], start["status"]) == ("http.response.start", 200)
    assert all(body["body"].startswith(b"data: ") and body["body"].endswith(b"\n\n") for body in bodies)
    assert (end["body"], end.get("more_body", False)) == (b"", False)


async def test_gone_while_its_body_is_read(worker: FakeWorker) -> None:
    """Nothing was started, and nothing is logged as our error."""
    caller = Caller(edge_of(worker), HI, whole=False)
    task = caller.start()
    caller.hang_up()
    await ended(task)

    assert not worker.runner.events
    assert await worker.still_answers()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_gone_before_the_first_token(stream: bool) -> None:
    """Its slot is free."""
    with fake_worker(held=True) as worker:
        caller = Caller(edge_of(worker), ENDLESS | {"stream": stream})
        task = caller.start()
        await asyncio.to_thread(worker.runner.wait_for_step)
        caller.hang_up()
        await ended(task)
        worker.let_go()

        await worker.drops_all()
        assert await worker.still_answers()


async def test_gone_within_a_stream() -> None:
    """Its slot is free, even while there is nothing to send."""
    with fake_worker(held=True) as worker:
        worker.permit()
        caller = Caller(edge_of(worker), ENDLESS | {"stream": True})
        task = caller.start()
        await eventually(lambda: len(caller.sent) == 2)
        caller.hang_up()
        await ended(task)
        worker.let_go()

        await worker.drops_all()
        assert "[DONE]" not in caller.text
        assert await worker.still_answers()


async def test_connection_that_breaks_when_it_is_written_to() -> None:
    """Its slot is free, too."""
    with fake_worker(held=True) as worker:
        worker.permit()
        caller = Caller(edge_of(worker), ENDLESS | {"stream": True})
        task = caller.start()
        await eventually(lambda: len(caller.sent) == 2)
        caller.breaks = True
        worker.permit()
        with pytest.raises(OSError, match="Connection lost"):
            await ended(task)
        worker.let_go()

        await worker.drops_all()
        assert await worker.still_answers()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_server_that_cancels_its_request(stream: bool) -> None:
    """What uvicorn does to those that are still there when the time to finish is over."""
    with fake_worker(held=True) as worker:
        worker.permit()
        task = Caller(edge_of(worker), ENDLESS | {"stream": stream}).start()
        for _ in range(2):
            await asyncio.to_thread(worker.runner.wait_for_step)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ended(task)
        worker.let_go()

        await worker.drops_all()
        assert await worker.still_answers()


async def test_request_cancelled_as_its_stream_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream is there, not yet taken, and the request is over: its slot is free, too."""
    with fake_worker(held=True) as worker:
        answer = worker.api.call

        async def call(route: str, body: object, method: Method | None) -> Json | EventStream:
            stream = await answer(route, body, method)
            task.cancel()
            return stream

        monkeypatch.setattr(worker.api, "call", call)
        worker.permit()
        task = Caller(edge_of(worker), ENDLESS | {"stream": True}).start()
        with pytest.raises(asyncio.CancelledError):
            await ended(task)
        worker.let_go()

        await worker.drops_all()


async def test_error_within_a_stream_ends_it() -> None:
    """The status is sent by then, so an event tells it and the response ends as it should."""
    with fake_worker(held=True) as worker:
        worker.runner.failures += [None, DecodeError("llama_decode returned -3.")]
        worker.permit()
        caller = Caller(edge_of(worker), HI | {"stream": True})
        task = caller.start()
        await eventually(lambda: len(caller.sent) == 2)
        worker.let_go()
        await ended(task)

    assert '"code": "engine_error"' in caller.text
    assert caller.text.endswith("data: [DONE]\n\n")
    assert caller.sent[-1] == {"type": "http.response.body", "body": b""}
