"""A route and a request → an answer, over targets that fail, wait and break."""

import asyncio
import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from local_gateway.backends.base import Health
from local_gateway.config.settings import GatewaySettings, OpenAITarget, RunpodQueueTarget
from local_gateway.edge.client_request import ClientRequest
from local_gateway.errors import (
    AnswerBrokenError,
    RequestError,
    TargetConfigError,
    TargetRefusedError,
    TargetTimeoutError,
    TargetUnreachableError,
)
from local_gateway.routing.answer_source import RoutedRequest
from local_gateway.routing.dispatcher import Dispatcher
from local_gateway.routing.router import Route, Router
from local_gateway.routing.target import Target
from local_gateway.telemetry.metrics import Metrics
from local_gateway.wire.answer import Answer
from tests.gateway.targets.never_asked import FakeClock
from tests.gateway.targets.scripted import (
    DONE,
    FINISH,
    JSON,
    ROLE,
    USAGE,
    ScriptedBackend,
    ScriptedUpstream,
    chunk,
    json_answer,
    make_target,
    stream_answer,
)
from tests.waiting import eventually

CHAT = "/chat/completions"
OVERLOADED = {"error": {"message": "too busy", "type": "server_error", "code": None, "param": None}}


def settings_for(num_targets: int, **more: Any) -> GatewaySettings:
    targets = [{"type": "openai", "name": f"t{n}", "priority": n + 1} for n in range(num_targets)]
    retry = {"backoff": 0, "max_wait": 0}
    return GatewaySettings.model_validate({"models": {"llama": {"targets": targets}}, "retry": retry, **more})


class Setting:
    """A model `llama` with a target for each backend, in order of priority."""

    def __init__(
        self,
        *backends: ScriptedBackend,
        targets: tuple[Target, ...] = (),
        clock: Callable[[], float] | None = None,
        **more: Any,
    ) -> None:
        self.settings = settings_for(len(backends) or 1, **more)
        configured = self.settings.models["llama"].targets
        self.targets = targets or tuple(
            make_target(backend, each.name, each) for backend, each in zip(backends, configured, strict=True)
        )
        self.dispatcher = Dispatcher(self.settings, Metrics(), clock or FakeClock(), random.Random(1))

    @property
    def route(self) -> Route:
        return Router(self.settings, {"llama": self.targets}).resolve("llama")

    async def ask(self, *, stream: bool = False, path: str = CHAT, **fields: Any) -> Answer:
        body = {"model": "llama", "stream": stream, **fields}
        request = ClientRequest(path=path, raw=json.dumps(body).encode(), body=body)
        return await self.dispatcher.answer(RoutedRequest(self.route, request, "me"))


async def text_of(answer: Answer) -> bytes:
    try:
        return b"".join([block async for block in answer.body])
    finally:
        await answer.aclose()


async def test_json_answer() -> None:
    """It comes whole, as it is, with the headers that a client may see."""
    upstream = json_answer({"ok": 1}, x_request_id="r1")
    answer = await Setting(ScriptedBackend(upstream)).ask()

    assert (answer.status, answer.headers["x-target-request-id"], await text_of(answer)) == (200, "r1", b'{"ok": 1}')
    assert (answer.origin.target, answer.origin.num_attempts, upstream.is_closed) == ("t0", 1, True)


async def test_stream() -> None:
    """Byte for byte what the target sent."""
    upstream = ScriptedUpstream(
        [b": hi\r\n\r\ndata: ", b'{"choices":[{"delta":{"content":"x"}}]}\r\n', b"\r\nda", b"ta: [DONE]\n"]
    )
    answer = await Setting(ScriptedBackend(upstream)).ask(stream=True)

    assert answer.is_events
    assert await text_of(answer) == b"".join(piece for piece in upstream.pieces if isinstance(piece, bytes))


async def test_next_target() -> None:
    """The second answers when the first refuses, and the client does not notice."""
    first = ScriptedBackend(json_answer(OVERLOADED, 503))
    second = ScriptedBackend(json_answer({"ok": 1}))
    answer = await Setting(first, second).ask()

    assert await text_of(answer) == b'{"ok": 1}'
    assert (answer.origin.target, answer.origin.num_attempts) == ("t1", 2)


@pytest.mark.parametrize(
    "broken",
    [
        [ROLE, TargetUnreachableError("gone")],
        [ROLE],
        [],
        [ROLE, b'data: {"error": {"message": "out of memory", "code": "engine_error"}, "status": 500}\n\n'],
        [b": ping\n\n", USAGE, TargetTimeoutError("silent")],
    ],
    ids=["breaks-off", "ends", "empty", "error-event", "silent"],
)
async def test_stream_without_content(broken: list[Any]) -> None:
    """Until the first content another target can take over; nothing of the first is seen."""
    failed = ScriptedUpstream(broken)
    answer = await Setting(ScriptedBackend(failed), ScriptedBackend(stream_answer("hi"))).ask(stream=True)

    assert await text_of(answer) == b"".join([ROLE, chunk("hi"), FINISH, USAGE, DONE])
    assert failed.is_closed


async def test_stream_that_breaks_after_content() -> None:
    """It is too late: the error goes to the client, and the target keeps its name as well as its state."""
    upstream = ScriptedUpstream([ROLE, chunk("hi"), TargetUnreachableError("gone")])
    other = ScriptedBackend()
    setting = Setting(ScriptedBackend(upstream), other)
    answer = await setting.ask(stream=True)
    with pytest.raises(TargetUnreachableError):
        await text_of(answer)

    assert not other.calls
    assert upstream.is_closed


async def test_status_of_an_error_event() -> None:
    """A worker behind a queue can say its status only in the stream; the client gets it as a status."""
    event = b'data: {"error": {"message": "too long", "code": "context_length_exceeded"}, "status": 400}\n\n'
    with pytest.raises(TargetRefusedError) as caught:
        await Setting(ScriptedBackend(ScriptedUpstream([event]))).ask(stream=True)

    assert (caught.value.status, caught.value.body["error"]["code"]) == (400, "context_length_exceeded")


async def test_mistake_of_the_client() -> None:
    """Only the client is told; the target's own words stay."""
    error = {"message": "bad temperature", "type": "invalid_request_error", "param": "temperature", "code": None}
    second = ScriptedBackend()
    setting = Setting(ScriptedBackend(json_answer({"error": error}, 400)), second)
    with pytest.raises(TargetRefusedError) as caught:
        await setting.ask()

    assert (caught.value.status, caught.value.body) == (400, {"error": error})
    assert not second.calls
    assert setting.targets[0].breaker("llama").state == "closed"


async def test_key_that_is_refused() -> None:
    """The client is told neither the target's words, which may hold a part of the key, nor that its own is wrong."""
    setting = Setting(ScriptedBackend(json_answer({"error": {"message": "Incorrect API key: sk-abc"}}, 401)))
    with pytest.raises(TargetConfigError) as caught:
        await setting.ask()

    assert caught.value.status == 502
    assert "sk-" not in str(caught.value)
    assert setting.targets[0].breaker("llama").state == "config_error"


async def test_retry_after() -> None:
    """What the target asks for is passed on."""
    with pytest.raises(TargetRefusedError) as caught:
        await Setting(ScriptedBackend(json_answer(OVERLOADED, 429, retry_after="30"))).ask()

    assert (caught.value.status, caught.value.retry_after) == (429, 30)


async def test_no_target_left() -> None:
    """After the last try the client is told not to try by itself."""
    backend = ScriptedBackend(*(json_answer(OVERLOADED, 500) for _ in range(4)))
    with pytest.raises(RequestError) as caught:
        await Setting(backend).ask()

    assert (caught.value.status, caught.value.may_retry, len(backend.calls)) == (500, False, 4)


async def test_time_is_up() -> None:
    """A target that says nothing until the deadline is left, and told so."""
    backend = ScriptedBackend(asyncio.Event())
    with pytest.raises(TargetTimeoutError):
        await Setting(backend, clock=time.monotonic, timeouts={"total": 0.01}).ask()

    assert backend.num_cancelled == 1


async def test_client_that_leaves_while_a_target_is_asked() -> None:
    """Nothing goes on there, and it says nothing about the target."""
    backend = ScriptedBackend(asyncio.Event())
    setting = Setting(backend)
    asking = asyncio.create_task(setting.ask())
    await backend.called.wait()
    asking.cancel()
    await asyncio.wait([asking])

    assert (backend.num_cancelled, setting.targets[0].num_in_flight) == (1, 0)
    assert setting.targets[0].breaker("llama").state == "closed"


async def test_client_that_leaves_before_the_first_content() -> None:
    """What was opened is closed."""
    upstream = ScriptedUpstream([ROLE, asyncio.Event()])
    backend = ScriptedBackend(upstream)
    setting = Setting(backend)
    asking = asyncio.create_task(setting.ask(stream=True))
    await backend.called.wait()
    asking.cancel()
    await asyncio.wait([asking])

    assert upstream.is_closed
    assert not setting.targets[0].num_in_flight


async def test_in_flight_until_the_end() -> None:
    """A target is at work until its answer is closed."""
    setting = Setting(ScriptedBackend(stream_answer("hi")))
    answer = await setting.ask(stream=True)

    assert setting.targets[0].num_in_flight == 1
    await text_of(answer)
    assert setting.targets[0].num_in_flight == 0


async def test_repaired_stream() -> None:
    """What llama.cpp servers leave out is added, where the configuration says so."""
    configured = OpenAITarget(type="openai", name="t0", normalize=True)
    upstream = ScriptedUpstream([ROLE + chunk("a") + chunk("b") + DONE])
    setting = Setting(targets=(make_target(ScriptedBackend(upstream), "t0", configured),))
    events = (await text_of(await setting.ask(stream=True))).split(b"\n\n")

    assert [b'"ab"' in events[0], b'"finish_reason":"stop"' in events[1].replace(b" ", b""), events[2]] == [
        True,
        True,
        b"data: [DONE]",
    ]


async def test_endless_prologue() -> None:
    """A target that sends much but no content is given up."""
    upstream = ScriptedUpstream([b": " + b"x" * 600_000 + b"\n\n"] * 3)
    with pytest.raises(AnswerBrokenError):
        await Setting(ScriptedBackend(upstream), retry={"max_attempts": 1}).ask(stream=True)


async def test_answer_that_is_neither() -> None:
    """Speech, images and files go on as they come."""
    upstream = ScriptedUpstream([b"\x00", b"\x01"], headers={"content-type": "audio/mpeg"})
    answer = await Setting(ScriptedBackend(upstream)).ask(path="/audio/speech")

    assert (answer.is_events, await text_of(answer)) == (False, b"\x00\x01")


class Waiting:
    """A target that lets the request wait until it has been looked at."""

    def __init__(self, health: Health) -> None:
        self.looked = asyncio.Event()
        self.backend = ScriptedBackend(self.looked, stream_answer("hi"))
        self._health = health
        self.backend.health = self._look  # type: ignore[method-assign]  # this target is asked how it is

    async def _look(self) -> Health:
        asyncio.get_running_loop().call_soon(self.looked.set)
        return self._health


@pytest.mark.parametrize(("num_ready", "is_cold"), [(0, True), (1, False), (None, False)])
async def test_cold_start(num_ready: int | None, is_cold: bool) -> None:
    """A worker that had to start is remembered in the record; one that is only slow is not."""
    waiting = Waiting(Health(True, "starting", num_ready_workers=num_ready))
    configured = RunpodQueueTarget(type="runpod_queue", endpoint_id="e", api_key="k")
    setting = Setting(targets=(make_target(waiting.backend, "t0", configured),), timeouts={"probe": 0})
    answer = await setting.ask(stream=True)

    assert answer.origin.is_cold is is_cold
    await text_of(answer)


@pytest.mark.parametrize("path", ["/chat/completions", "/completions", "/responses", "/messages"])
async def test_a_stream_stays_one(path: str) -> None:
    """On every path that has streams: only what asked for none is joined into a whole answer."""
    last = {"/responses": "response.completed", "/messages": "message_stop"}.get(path, "")
    body = {"type": last} if last else {"choices": [{"index": 0, "delta": {}, "text": "", "finish_reason": "stop"}]}
    stream = f"data: {json.dumps(body)}\n\n".encode()
    answer = await Setting(ScriptedBackend(ScriptedUpstream([stream]))).ask(stream=True, path=path)

    assert (answer.is_events, await text_of(answer)) == (True, stream)


@pytest.mark.parametrize(
    ("target", "translated"),
    [
        ({"type": "openai"}, set()),
        ({"type": "local"}, set()),
        ({"type": "runpod_queue", "endpoint_id": "ep", "api_key": "key"}, {"responses", "messages"}),
        ({"type": "runpod_lb", "endpoint_id": "ep", "api_key": "key"}, {"responses", "messages"}),
        ({"type": "runpod_lb", "endpoint_id": "ep", "api_key": "key", "chat_only": False}, set()),
        ({"type": "openai", "chat_only": True}, {"responses", "messages"}),
        ({"type": "openai", "chat_only": ["messages"]}, {"messages"}),
        ({"type": "local", "chat_only": []}, set()),
    ],
)
def test_which_apis_are_translated(target: dict[str, Any], translated: set[str]) -> None:
    """What runs on RunPod may be any worker, and all have chats; a worker that the gateway starts is its own."""
    settings = GatewaySettings.model_validate({"models": {"llama": {"targets": [target]}}})

    [configured] = settings.models["llama"].targets
    assert {api for api in ("responses", "messages") if configured.translates(api)} == translated


def test_an_api_that_is_none() -> None:
    """A wrong word in the list is told."""
    with pytest.raises(ValidationError):
        OpenAITarget.model_validate({"type": "openai", "chat_only": ["chat"]})


NO_PATH = {"error": {"message": "Unknown request URL: POST /v1/messages.", "code": "unknown_url", "type": "x"}}
CHAT_ANSWER = {"id": "1", "choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]}


async def test_a_target_of_an_older_version() -> None:
    """One that says that it has no such path is sent a chat, from then on at once; other APIs are left as they are."""
    backend = ScriptedBackend(
        json_answer(NO_PATH, 404),
        json_answer(CHAT_ANSWER),
        json_answer(CHAT_ANSWER),
        json_answer({"object": "response"}),
    )
    setting = Setting(backend)
    first = json.loads(await text_of(await setting.ask(path="/messages", messages=[])))
    second = json.loads(await text_of(await setting.ask(path="/messages", messages=[])))
    await text_of(await setting.ask(path="/responses"))

    assert first["content"] == second["content"] == [{"type": "text", "text": "hi"}]
    assert [call.path for call in backend.calls] == ["/messages", CHAT, CHAT, "/responses"]


async def test_requests_that_learn_it_at_once() -> None:
    """All that were on their way when the target said it are sent as chats."""
    said = asyncio.Event()
    refusals = [ScriptedUpstream([said, json.dumps(NO_PATH).encode()], 404, JSON) for _ in range(3)]
    backend = ScriptedBackend(*refusals, *(json_answer(CHAT_ANSWER) for _ in range(3)))
    setting = Setting(backend)
    asking = [asyncio.create_task(setting.ask(path="/messages", messages=[])) for _ in range(3)]
    await eventually(lambda: len(backend.calls) == 3)
    said.set()
    answers = await asyncio.gather(*asking)

    assert [answer.status for answer in answers] == [200, 200, 200]
    assert [call.path for call in backend.calls] == [*3 * ["/messages"], *3 * [CHAT]]
    for answer in answers:
        await answer.aclose()


async def test_another_404_is_no_lack() -> None:
    """A model that does not exist is told, and the target is asked in the same API again."""
    missing = {"error": {"message": "The model 'x' does not exist", "code": "model_not_found", "type": "x"}}
    backend = ScriptedBackend(json_answer(missing, 404), json_answer({"type": "message"}))
    setting = Setting(backend)
    with pytest.raises(TargetRefusedError):
        await setting.ask(path="/messages", messages=[])
    await text_of(await setting.ask(path="/messages", messages=[]))

    assert [call.path for call in backend.calls] == ["/messages", "/messages"]


@pytest.mark.parametrize(("path", "field"), [("/messages", "content"), ("/responses", "output")])
async def test_a_target_with_chats_only(path: str, field: str) -> None:
    """It is asked for a chat, and the answer is told in the API of the request."""
    configured = OpenAITarget(type="openai", name="t0", chat_only=True)
    chat = {
        "id": "chatcmpl-1",
        "choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    }
    backend = ScriptedBackend(json_answer(chat), stream_answer("h", "i"))
    setting = Setting(targets=(make_target(backend, "t0", configured),))
    body: dict[str, Any] = {"model": "llama", "messages": [{"role": "user", "content": "x"}], "input": "x"}

    def request(**more: Any) -> ClientRequest:
        return ClientRequest(path=path, raw=json.dumps(body | more).encode(), body=body | more)

    whole = await setting.dispatcher.answer(RoutedRequest(setting.route, request()))
    told = json.loads(await text_of(whole))
    streamed = await setting.dispatcher.answer(RoutedRequest(setting.route, request(stream=True)))
    events = await text_of(streamed)

    assert [call.path for call in backend.calls] == [CHAT, CHAT]
    assert "hi" in json.dumps(told[field])
    assert (streamed.is_events, b'"h"' in events, b'"i"' in events) == (True, True, True)
    assert json.loads(backend.calls[1].body)["stream_options"] == {"include_usage": True}
