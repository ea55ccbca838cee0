"""Targets that speak OpenAI's API."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from local_gateway.backends.base import Call
from local_gateway.backends.http import HttpClient
from local_gateway.backends.openai import OpenAIBackend, url_of
from local_gateway.config.settings import OpenAITarget, TimeoutSettings
from local_gateway.errors import RouteNotFoundError
from tests.gateway.targets.on_socket import always, reply, target_and_client

BODY = b'{"model":"gpt-4o",  "messages":[], "new_parameter": 1e400}'
CHAT = Call(path="/chat/completions", body=BODY)


def backend_of(url: str, http: HttpClient, **settings: Any) -> OpenAIBackend:
    return OpenAIBackend(OpenAITarget(type="openai", base_url=f"{url}/v1", **settings), http)


async def test_a_call() -> None:
    """Body and query go as they came; key, organisation and project are ours, whatever the client sent."""
    sent = Call(
        path="/files/a%20b", method="PUT", query="limit=2&after=%2F", body=b"\x00\xff", content_type="image/png",
        headers={"Authorization": "Bearer theirs", "OpenAI-Beta": "x=1", "traceparent": "00-1"},
    )  # fmt: skip
    async with target_and_client(always(reply(200, b"ok"))) as (target, http):
        backend = backend_of(target.url, http, api_key="ours", organization="org", project="p")
        upstream = await backend.open(sent)
        await upstream.read()
        await upstream.aclose()
        exchange = target.exchanges[0]

    assert (exchange.method, exchange.path) == ("PUT", "/v1/files/a%20b?limit=2&after=%2F")
    assert (exchange.body, exchange.headers["content-type"]) == (sent.body, "image/png")
    assert exchange.headers["authorization"] == "Bearer ours"
    assert (exchange.headers["openai-organization"], exchange.headers["openai-project"]) == ("org", "p")
    assert (exchange.headers["openai-beta"], exchange.headers["traceparent"]) == ("x=1", "00-1")


async def test_a_server_without_a_key() -> None:
    """None is sent, nor anything else that is not set."""
    async with target_and_client(always(reply(200, b"ok"))) as (target, http):
        upstream = await backend_of(target.url, http).open(CHAT)
        await upstream.aclose()
        exchange = target.exchanges[0]

    assert exchange.body == BODY
    assert not {"authorization", "openai-organization", "openai-project"} & exchange.headers.keys()


async def test_an_error_is_an_answer() -> None:
    """With its status and its body; what it means is for others to say."""
    error = {"error": {"message": "Slow down.", "code": "rate_limit_exceeded"}}
    async with target_and_client(always(reply(429, error, retry_after="7"))) as (target, http):
        upstream = await backend_of(target.url, http).open(CHAT)
        body = json.loads(await upstream.read())
        await upstream.aclose()

    assert (upstream.status, upstream.headers["retry-after"], body) == (429, "7", error)


@pytest.mark.parametrize(
    ("base_url", "query", "url"),
    [
        ("https://host/v1", "", "https://host/v1/models"),
        ("https://host/v1/", "a=1", "https://host/v1/models?a=1"),
        ("https://host/openai?api-version=1", "", "https://host/openai/models?api-version=1"),
        ("https://host/openai?api-version=1", "a=1", "https://host/openai/models?api-version=1&a=1"),
    ],
)
def test_addresses(base_url: str, query: str, url: str) -> None:
    """The base URL may end with a slash, or have a query of its own."""
    assert url_of(base_url, Call(path="/models", query=query)) == url


@pytest.mark.parametrize(
    "path",
    ["/../admin", "/models/../../admin", "/%2e%2e/admin", "/.%2E/admin", "/..%2fadmin", "/..\\admin", "/..%5cadmin",
     "/./x", ".evil.org/", "@evil.org/", "models", "", "/models?key=1", "/models#x"],
)  # fmt: skip
def test_paths_that_lead_elsewhere(path: str) -> None:
    """With our key a client may only go where the base URL leads."""
    with pytest.raises(RouteNotFoundError):
        url_of("https://host/v1", Call(path=path))


@pytest.mark.parametrize(
    ("status", "is_ok", "detail"),
    [
        (200, True, "answers"),
        (404, True, "answers, but has no list of models"),
        (401, False, "does not accept our key (status 401)"),
        (503, False, "answers with status 503"),
    ],
)
async def test_health(status: int, is_ok: bool, detail: str) -> None:
    """Whether the list of models can be had."""
    async with target_and_client(always(reply(status, {}))) as (target, http):
        health = await backend_of(target.url, http, api_key="ours").health()
        exchange = target.exchanges[0]

    assert (exchange.path, exchange.headers["authorization"]) == ("/v1/models", "Bearer ours")
    assert (health.is_ok, health.detail, health.num_queued) == (is_ok, detail, None)


async def test_health_of_a_target_that_is_not_there() -> None:
    """It is told, not raised."""
    http = HttpClient(TimeoutSettings())
    health = await backend_of("http://127.0.0.1:1", http).health()
    await http.aclose()

    assert (health.is_ok, health.detail) == (False, "The target could not be reached: Connection refused.")


# `headers` of a target


HEADERS = {"api-key": "azure", "USER-AGENT": "ours", "OpenAI-Beta": "target", "content-type": "application/x-own"}


async def test_configured_headers() -> None:
    """They replace what gateway and client send by that name, in any case of letters; also when models are listed."""
    sent = Call(path="/chat/completions", body=BODY, headers={"openai-beta": "client", "traceparent": "00-1"})
    async with target_and_client(always(reply(200, {"data": []}))) as (target, http):
        backend = backend_of(target.url, http, headers=HEADERS)
        upstream = await backend.open(sent)
        await upstream.aclose()
        await backend.health()
        chat, models = target.exchanges

    for headers in (chat.headers, models.headers):
        assert (headers["api-key"], headers["user-agent"], headers["openai-beta"]) == ("azure", "ours", "target")
        assert headers["content-type"] == "application/x-own"
    assert chat.headers["traceparent"] == "00-1"


async def test_headers_instead_of_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without `api_key` no Authorization is sent, whatever the environment holds."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\ndefault login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    for name, value in {"HOME": str(tmp_path), "NETRC": str(tmp_path / ".netrc"), "OPENAI_API_KEY": "sk-env"}.items():
        monkeypatch.setenv(name, value)
    async with target_and_client(always(reply(200, b"ok"))) as (target, http):
        upstream = await backend_of(target.url, http, headers={"api-key": "azure"}).open(CHAT)
        await upstream.aclose()
        (exchange,) = target.exchanges

    assert "authorization" not in exchange.headers


async def test_own_authorization() -> None:
    """It replaces the one that is made of `api_key`."""
    async with target_and_client(always(reply(200, b"ok"))) as (target, http):
        backend = backend_of(target.url, http, api_key="ours", headers={"AUTHORIZATION": "Basic abc"})
        upstream = await backend.open(CHAT)
        await upstream.aclose()
        (exchange,) = target.exchanges

    assert exchange.headers["authorization"] == "Basic abc"


@pytest.mark.parametrize(
    ("name", "value"),
    [("content-length", "5"), ("Transfer-Encoding", "chunked"), ("a b", "x"), ("x", "a\nb"), ("x", " a"), ("", "x")],
)
def test_headers_that_cannot_be_sent(name: str, value: str) -> None:
    """The configuration is refused, not the request."""
    with pytest.raises(ValidationError):
        OpenAITarget.model_validate({"type": "openai", "headers": {name: value}})
