"""Clients as people use them read the gateway's answers: OpenAI's for Python and Node, chatbot-ui with its own parser.

`plain` is a target whose bytes are not touched; `llama` is one that is repaired, as those of RunPod and of this
machine are. Both send what the fake says.
"""

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

import aiohttp
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

import tests.gateway.wire_samples as wire
from tests.gateway.client_rules import chatbot_ui, chatbot_ui_of, models_complaints, open_webui_complaints, openai_node
from tests.gateway.gateway_process import GatewayProcess, create_key, running
from tests.gateway.targets.on_socket import FakeOpenAI, Received, Reply, usual

pytestmark = pytest.mark.asyncio(loop_scope="module")

Rules = Literal["v3", "legacy"]
HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi"}]
PACE = 0.02  # seconds between two events, so that they are not read as one


def odd(request: Received) -> Reply:
    """The usual answers, but for models that misbehave."""
    model = request.json.get("model") if request.body[:1] == b"{" else None
    if model == "breaking":
        return Reply(wire.BROKEN)
    if model == "refusing":
        return Reply.error(503, "No GPU is free.", "overloaded")
    if model == "endless":
        return Reply([*wire.text_events("Once")[:2], *(10_000 * [wire.chunk({"content": " more"})])], pace=0.01)
    return usual(request)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI(odd) as fake:
        yield fake


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(target: FakeOpenAI, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewayProcess]:
    plain = {"type": "openai", "base_url": target.url}
    names = ("plain", "breaking", "refusing", "endless")
    models: dict[str, Any] = {name: {"targets": [plain]} for name in names}
    models["llama"] = {"targets": [{**plain, "normalize": True}], "description": "Speaks.", "context_length": 4096}
    models["priced"] = {"targets": [{**plain, "price": {"prompt": 0.15, "completion": 0.6}}], "context_length": 8192}
    config = {"models": models, "server": {"require_keys": True}, "retry": {"max_attempts": 2, "backoff": "10ms"}}
    async with running(tmp_path_factory.mktemp("gateway"), config) as gateway:
        yield gateway


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def key(gateway: GatewayProcess) -> str:
    return await create_key(gateway, "tester")


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def as_new(target: FakeOpenAI) -> None:
    target.reset()
    target.script = odd


@pytest_asyncio.fixture(loop_scope="module")
async def client(gateway: GatewayProcess, key: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=gateway.api, api_key=key) as client:
        yield client


async def text_of(stream: openai.AsyncStream[Any]) -> str:
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


# openai for Python


async def test_openai_python(client: AsyncOpenAI) -> None:
    """All that the gateway names in its list of routes."""
    chat = await client.chat.completions.create(model="plain", messages=HI)
    stream = await client.chat.completions.create(model="plain", messages=HI, stream=True)
    completion = await client.completions.create(model="plain", prompt="Hi")
    embedding = await client.embeddings.create(model="plain", input="Hi", encoding_format="float")
    events = [event.type async for event in await client.responses.create(model="plain", input="Hi", stream=True)]
    models = [model.id async for model in client.models.list()]
    model = await client.models.retrieve("llama")

    assert chat.choices[0].message.content == "Paris."
    assert await text_of(stream) == "Paris."
    assert completion.choices[0].text == "Paris."
    assert embedding.data[0].embedding == [0.25, -0.5, 1.0]
    assert (events[0], events[-1]) == ("response.created", "response.completed")
    assert {"plain", "llama", "priced"} <= set(models)
    assert (model.id, model.object) == ("llama", "model")


async def test_openai_python_counts(client: AsyncOpenAI) -> None:
    """A client that asks for token counts gets them at the end of the stream; others do not."""
    asked = await client.chat.completions.create(
        model="plain", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    counted = [chunk async for chunk in asked]
    silent = [chunk async for chunk in await client.chat.completions.create(model="plain", messages=HI, stream=True)]

    assert counted[-1].usage is not None
    assert counted[-1].usage.total_tokens == 9
    assert all(chunk.choices and chunk.usage is None for chunk in silent)


async def test_openai_python_is_refused(client: AsyncOpenAI, target: FakeOpenAI) -> None:
    """Errors have the class that programs catch. Where the gateway has tried enough, the client does not try again."""
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(model="unknown", messages=HI)
    with pytest.raises(openai.AuthenticationError) as forbidden:
        await client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(model="", messages=HI)
    assert not target.received
    with pytest.raises(openai.InternalServerError) as spent:
        await client.chat.completions.create(model="refusing", messages=HI)

    assert (unknown.value.code, forbidden.value.code, spent.value.code) == (
        "model_not_found",
        "invalid_api_key",
        "overloaded",
    )
    assert (spent.value.status_code, spent.value.response.headers["x-should-retry"]) == (503, "false")
    assert len(target.received) == 2  # the gateway's own attempts, not three times as many


async def test_openai_python_sees_a_broken_stream(client: AsyncOpenAI) -> None:
    """What came is there, then an error is raised with the target's words."""
    stream = await client.chat.completions.create(model="breaking", messages=HI, stream=True)
    chunks = aiter(stream)
    texts = [(await anext(chunks)).choices[0].delta.content for _ in range(2)]
    with pytest.raises(openai.APIError, match="out of memory"):
        await anext(chunks)

    assert texts == ["", "Par"]


async def test_openai_python_leaves(client: AsyncOpenAI, target: FakeOpenAI) -> None:
    """A stream that is closed ends at the target."""
    stream = await client.chat.completions.create(model="endless", messages=HI, stream=True)
    await anext(aiter(stream))
    await stream.close()

    await target.until(lambda: target.left)


# openai for Node


async def test_openai_node(gateway: GatewayProcess, target: FakeOpenAI, key: str) -> None:
    """The same in its own program."""
    report = await openai_node(gateway.api, model="plain", key=key)

    assert report["chat"] == report["helper"] == report["responses"] == "Paris."
    assert report["streamed"] == {"text": "Paris.", "usage": None}
    assert report["counted"]["text"] == "Paris."
    assert report["usage"] == report["counted"]["usage"]["total_tokens"] == 9
    assert report["embedding"] == [0.25, -0.5, 1.0]
    assert (report["model"], "llama" in report["models"]) == ("plain", True)
    assert report["left"]
    await target.until(lambda: target.left)
    assert report["unknown"] == {"kind": "NotFoundError", "status": 404, "code": "model_not_found"}
    assert report["forbidden"] == {"kind": "AuthenticationError", "status": 401, "code": "invalid_api_key"}
    assert report["spent"] == {"kind": "InternalServerError", "status": 503, "code": "overloaded"}
    assert report["broken"]["kind"] == "APIError"
    assert sum(request.body.count(b'"refusing"') for request in target.received) == 2


# chatbot-ui

BROKEN_CAT = 3 * "\ufffd" + "!"

# What it does with a stream as it comes: text, end of v3; text, end of legacy.
AS_IT_COMES: dict[str, tuple[Sequence[bytes], str, str, str, str]] = {
    "OpenAI's": (wire.text_events("Par", "is."), "Paris.", "closed", "Paris.", "closed"),
    "null as content": (wire.LLAMA_SERVER, "nullParis.", "closed", "nullParis.", "closed"),
    "comments": (wire.COMMENTS, "Paris.", "closed", "Paris.", "closed"),
    "usage at the end": (wire.USAGE_AT_END, "Paris.", "closed", "Paris.", "failed"),
    "no choices at first": (wire.AZURE, "", "failed", "", "failed"),
    "an error": (wire.BROKEN, "Par", "failed", "Par", "failed"),
    "no finish_reason": (wire.NO_FINISH, "Paris.", "failed", "Paris.", "closed"),
    "no [DONE]": (wire.NO_DONE, "Paris.", "closed", "Paris.", "open"),
    "[DONE] without a blank line": (wire.DONE_WITHOUT_BLANK_LINE, "Paris.", "closed", "Paris.", "open"),
    "text in the last chunk": (wire.TEXT_WITH_FINISH, "Par", "closed", "Paris.", "closed"),
    "reasoning": (wire.REASONING, "Paris.", "closed", "Paris.", "closed"),
    "a character in two pieces": (wire.cut_in_a_character(), BROKEN_CAT, "closed", BROKEN_CAT, "closed"),
    "all in one read": (wire.events_of(wire.text_events("Par", "is.")), "", "failed", "Paris.", "closed"),
}  # fmt: skip


@pytest.mark.parametrize(("steps", "v3", "v3_end", "legacy", "legacy_end"), AS_IT_COMES.values(), ids=AS_IT_COMES)
async def test_chatbot_ui_without_us(
    steps: Sequence[bytes], v3: str, v3_end: str, legacy: str, legacy_end: str
) -> None:
    """Its rules, as they were seen: these are the streams that the gateway has to repair."""
    assert (await chatbot_ui_of(steps))[:2] == (v3, v3_end)
    assert (await chatbot_ui_of(steps, "legacy"))[:2] == (legacy, legacy_end)


NOT_REPAIRED = ("an error", "no choices at first")  # the second comes from Azure, whose bytes are not touched
REPAIRED = [name for name in AS_IT_COMES if name not in NOT_REPAIRED]


@pytest.mark.parametrize("rules", ["v3", "legacy"])
@pytest.mark.parametrize("name", REPAIRED)
async def test_chatbot_ui_through_the_gateway(
    gateway: GatewayProcess, target: FakeOpenAI, key: str, name: str, rules: Rules
) -> None:
    """Whatever the target sends, the whole answer is on the screen and the stream is at its end."""
    steps = AS_IT_COMES[name][0]
    target.once.append(Reply(steps, pace=PACE))
    expected = "\N{CAT FACE}!" if "character" in name else "Paris."

    assert (await chatbot_ui(gateway.api, rules=rules, key=key))[:2] == (expected, "closed")


async def test_chatbot_ui_at_full_speed(gateway: GatewayProcess, target: FakeOpenAI, key: str) -> None:
    """A whole answer in one read of the gateway is one event of text for the browser."""
    words = [f"{number} " for number in range(500)]
    target.once.append(Reply(wire.events_of(wire.text_events(*words))))

    assert (await chatbot_ui(gateway.api, key=key))[:2] == ("".join(words), "closed")


async def test_chatbot_ui_is_refused(gateway: GatewayProcess, target: FakeOpenAI, key: str) -> None:
    """Every message fits into the status line that it makes of it, also one of a target."""
    target.once.append(Reply.error(400, "The prompt is\ntoo long: 5\N{CAT FACE} > 4.", "context_length_exceeded"))
    too_long = await chatbot_ui(gateway.api, key=key)
    forbidden = await chatbot_ui(gateway.api, key="wrong")
    unknown = await chatbot_ui(gateway.api, model="l\N{CAT FACE}\n", key=key)

    assert (too_long.status, too_long.code) == (400, "context_length_exceeded")
    assert too_long.reason.startswith("The prompt is too long")
    assert (forbidden.status, forbidden.code) == (401, "invalid_api_key")
    assert (unknown.status, unknown.code) == (404, "model_not_found")


# Open WebUI, LobeChat, LibreChat: what they need is written down in client_rules.py


async def test_models(gateway: GatewayProcess, key: str) -> None:
    """The list suits clients that read more of it than names."""
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session:
        async with session.get(f"{gateway.api}/models") as answer:
            models = await answer.json()
        async with session.get(f"{gateway.url}/models/") as answer:
            same = await answer.json()

    assert models_complaints(models) == []
    by_name = {model["id"]: model for model in models["data"]}
    assert by_name["priced"]["context_length"] == 8192
    assert float(by_name["priced"]["pricing"]["prompt"]) == pytest.approx(0.15e-6)
    assert same == models


@pytest.mark.parametrize("model", ["plain", "llama", "breaking", "refusing", "unknown"])
@pytest.mark.parametrize("stream", [True, False])
async def test_open_webui(gateway: GatewayProcess, key: str, model: str, stream: bool) -> None:
    """It can hand every answer on to the browser, errors included."""
    body = {"model": model, "messages": HI, "stream": stream}
    headers = {"authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{gateway.api}/chat/completions", json=body) as answer,
    ):
        complaints = open_webui_complaints(answer.status, answer.headers, await answer.read())

    assert complaints == []


async def test_lines_are_short_enough(gateway: GatewayProcess, target: FakeOpenAI, key: str) -> None:
    """Many pieces that the gateway merges do not become a line that is too long for a reader."""
    target.once.append(Reply(wire.events_of(wire.text_events(*(1000 * ["x" * 1000])))))
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session:
        body = {"model": "llama", "messages": HI, "stream": True}
        async with session.post(f"{gateway.api}/chat/completions", json=body) as answer:
            text = await answer.read()

    assert open_webui_complaints(200, {}, text) == []
    events = [json.loads(line[6:]) for line in text.split(b"\n") if line.startswith(b"data: {")]
    assert sum(len(event["choices"][0]["delta"].get("content") or "") for event in events) == 1_000_000
