"""The chat pages of compose.yaml, request by request, against the gateway that compose.yaml configures.

Environment, addresses and keys are those of the file. Three values are the test's: a free port of this machine instead
of port 8000 of all, a folder for the database, and a fake at the worker's address.
"""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import pytest_asyncio

import tests.gateway.wire_samples as wire
from tests.gateway.client_rules import chatbot_ui, models_complaints, open_webui_complaints
from tests.gateway.compose_file import ADMIN_KEY, dotenv, environment_of
from tests.gateway.gateway_process import (
    PATIENCE,
    PROGRAM,
    GatewayProcess,
    bearer,
    environment,
    rows,
    wait_for_address,
)
from tests.gateway.targets.on_socket import FakeOpenAI, Received, Reply
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENV = dotenv()
CHATBOT_UI, OPEN_WEBUI = (environment_of(service, ENV) for service in ("chatbot-ui", "open-webui"))
TITLE_PROMPT = '### Task:\nGenerate a concise title.\n### Output:\nJSON format: { "title": "your title here" }\n'
# What Open WebUI adds with ENABLE_FORWARD_USER_INFO_HEADERS.
ANN = {
    "X-OpenWebUI-User-Name": "Ann%20Lee",
    "X-OpenWebUI-User-Id": "4f3c",
    "X-OpenWebUI-User-Email": "ann@example.com",
    "X-OpenWebUI-User-Role": "user",
    "X-OpenWebUI-Chat-Id": "c1",
}


def as_llama_cpp(request: Received) -> Reply:
    """A worker that streams as llama.cpp's servers do: null as the first content."""
    if request.method == "GET":
        return Reply.json(wire.models_of("llama"))
    if not request.json.get("stream"):
        return Reply.json(wire.answer_of("chat/completions", '{ "title": "Paris" }'))
    usage = (
        wire.text_events("Par", "is.", usage=True)[1:] if "stream_options" in request.json else wire.LLAMA_SERVER[1:]
    )
    return Reply([wire.LLAMA_SERVER[0], *usage], pace=0.02)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI(as_llama_cpp) as fake:
        yield fake


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(worker: FakeOpenAI, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("compose")
    given = environment_of("gateway", ENV)
    assert given["WORKER_BASE_URL"] == "http://worker:8001/v1"
    ours = {
        "WORKER_BASE_URL": worker.url,
        "GATEWAY_HOST": "127.0.0.1",
        "GATEWAY_PORT": "0",
        "GATEWAY_DATABASE_URL": f"sqlite:///{folder / 'gateway.db'}",
    }
    manager = started(folder, given | ours)
    gateway = await asyncio.to_thread(manager.__enter__)
    try:
        yield gateway
    finally:
        manager.__exit__(None, None, None)


@contextmanager
def started(folder: Path, env: Mapping[str, str]) -> Iterator[GatewayProcess]:
    """The image's entry point, without a configuration file."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            PROGRAM, cwd=folder, env=environment(folder, env), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield GatewayProcess(process, wait_for_address(process, folder / "log"), folder)
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture(autouse=True)
def as_new(worker: FakeOpenAI) -> None:
    worker.received.clear()


class Page:
    """The server of a chat page, in compose's network: it knows the gateway by the address in its environment."""

    def __init__(self, gateway: GatewayProcess, base_url: str, key: str, headers: Mapping[str, str]) -> None:
        self._gateway, self._base = gateway, urlsplit(base_url)
        self._headers = {**bearer(key), "Host": self._base.netloc, **headers}

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body. The name in the address is the Host header; its port is the test's."""
        url = f"{self._gateway.url}{self._base.path.rstrip('/')}{path}"
        sent = {**self._headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(method, url, json=body, headers=sent) as answer,
        ):
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, await answer.read()


@pytest.fixture
def chat_page(gateway: GatewayProcess) -> Page:
    return Page(gateway, CHATBOT_UI["OPENAI_API_HOST"], CHATBOT_UI["OPENAI_API_KEY"], {})


@pytest.fixture
def open_webui(gateway: GatewayProcess) -> Page:
    return Page(gateway, OPEN_WEBUI["OPENAI_API_BASE_URL"], OPEN_WEBUI["OPENAI_API_KEY"], ANN)


def chunks_of(body: bytes) -> list[Any]:
    """Of an event stream that ends with [DONE]."""
    events = [line.removeprefix("data: ") for line in body.decode().split("\n\n") if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


def text_of(body: bytes) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks_of(body) if chunk["choices"])


# chatbot-ui, the fork


async def test_chatbot_ui(gateway: GatewayProcess, chat_page: Page, worker: FakeOpenAI) -> None:
    """A visit: the list of models, then a question. It shows models that it knows by name only: `llama` is one."""
    status, _, listed = await chat_page.call("GET", "/v1/models", content_type="application/json")
    assert status == 200
    assert CHATBOT_UI["DEFAULT_MODEL"] in [model["id"] for model in json.loads(listed)["data"]]

    question = {
        "model": CHATBOT_UI["DEFAULT_MODEL"],
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Capital of France?"}],
        "max_tokens": 1000,
        "temperature": 1,
        "stream": True,
    }
    status, headers, body = await chat_page.call("POST", "/v1/chat/completions", question)

    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert text_of(body) == "Paris."
    assert None not in [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks_of(body)]  # printed as null
    asked = worker.received[-1]
    assert (asked.path, asked.json["messages"], asked.json["max_tokens"]) == (
        "/v1/chat/completions", question["messages"], 1000,
    )  # fmt: skip
    assert "authorization" not in asked.headers


async def test_chatbot_ui_by_its_own_parser(gateway: GatewayProcess) -> None:
    """What a person reads of it, in Node."""
    seen = await chatbot_ui(gateway.api, model=CHATBOT_UI["DEFAULT_MODEL"], key=CHATBOT_UI["OPENAI_API_KEY"])

    assert (seen.text, seen.end) == ("Paris.", "closed")


async def test_chatbot_ui_without_its_key(chat_page: Page) -> None:
    """The message it shows must be one line: it becomes the text of a status."""
    status, _, body = await chat_page.call("GET", "/v1/models", authorization="Bearer none")

    error = json.loads(body)["error"]
    assert (status, error["code"]) == (401, "invalid_api_key")
    assert error["message"].isascii()
    assert "\n" not in error["message"]


# Open WebUI


async def test_open_webui(open_webui: Page, worker: FakeOpenAI) -> None:
    """A visit: models, a question, a title for the conversation. The person's name is not the worker's business."""
    status, headers, listed = await open_webui.call("GET", "/models")
    assert status == 200
    assert not models_complaints(json.loads(listed)) + open_webui_complaints(status, headers, listed)
    model = json.loads(listed)["data"][0]["id"]

    question = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Capital of France?"}]}
    status, headers, body = await open_webui.call("POST", "/chat/completions", question)
    assert (status, text_of(body)) == (200, "Paris.")
    assert not open_webui_complaints(status, headers, body)

    counted = {**question, "stream_options": {"include_usage": True}}
    status, headers, body = await open_webui.call("POST", "/chat/completions", counted)
    assert chunks_of(body)[-1]["usage"]["total_tokens"] == 9

    title = {
        "model": model,
        "stream": False,
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": TITLE_PROMPT}],
    }
    status, headers, body = await open_webui.call("POST", "/chat/completions", title)
    assert json.loads(json.loads(body)["choices"][0]["message"]["content"]) == {"title": "Paris"}
    assert not open_webui_complaints(status, headers, body)

    assert not [name for request in worker.received for name in request.headers if "openwebui" in name.lower()]


async def test_open_webui_is_accounted_by_person(gateway: GatewayProcess, open_webui: Page) -> None:
    """One key for the page; usage by the people behind it."""
    question = {"model": "llama", "messages": [{"role": "user", "content": "Hi"}]}
    await open_webui.call("POST", "/chat/completions", question, X_OpenWebUI_User_Email="bob@example.com")

    await eventually(lambda: "bob@example.com" in str(rows(gateway.database, "SELECT * FROM gateway_usage")))
    assert "bob@example.com" in await usage_by_user(gateway)


async def usage_by_user(gateway: GatewayProcess) -> str:
    """As the dashboard's page asks for it, with the first key."""
    headers = bearer(ADMIN_KEY)
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{gateway.url}/ui/usage", params={"by": "user"}) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return await answer.text()


async def test_open_webui_sees_an_error(open_webui: Page, worker: FakeOpenAI) -> None:
    """It shows `error.message` of JSON, and would take a stream for an answer."""
    worker.once.append(Reply.error(400, "The prompt is too long.", "context_length_exceeded"))
    question = {"model": "llama", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    status, headers, body = await open_webui.call("POST", "/chat/completions", question)

    assert (status, json.loads(body)["error"]["message"]) == (400, "The prompt is too long.")
    assert not open_webui_complaints(status, headers, body)


# Their pages in the browser


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://localhost:3001"])
async def test_browsers_are_not_let_in(gateway: GatewayProcess, origin: str) -> None:
    """Both pages call from their servers. A preflight of the page itself gets no leave, so the key stays there."""
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    async with (
        aiohttp.ClientSession() as session,
        session.options(f"{gateway.api}/chat/completions", headers=asked) as answer,
    ):
        assert answer.status == 401
        assert not [name for name in answer.headers if name.lower().startswith("access-control-allow")]
