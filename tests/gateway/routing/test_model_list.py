"""GET /v1/models."""

from typing import Any

import pytest
from openai.types import Model

from local_gateway.errors import TargetUnreachableError
from tests.gateway.running_gateway import running
from tests.gateway.targets.scripted import ScriptedBackend, json_answer

LISTING = {"object": "list", "data": [{"id": name} for name in ("gpt-4o", "gpt-4o-mini", "dall-e-3", "gpt-5")]}
MODELS: dict[str, Any] = {
    "llama": {
        "targets": [{"type": "runpod_queue", "endpoint_id": "e", "api_key": "k", "price": {"prompt": 0.5}}],
        "context_length": 8192,
        "description": "Ours.",
    },
    "gpt-*": {"targets": [{"type": "openai"}]},
    "gpt-5*": {"targets": [{"type": "openai", "model": "gpt-5-mini"}]},
}


async def ids(here: Any, **headers: str) -> list[str]:
    response = await here.client.get("/v1/models", **headers)
    return [model["id"] for model in response.json()["data"]]


async def test_list() -> None:
    """Configured names, and what the targets of a pattern have; a longer pattern takes its own. Starts no worker."""
    queue, openai = ScriptedBackend(), ScriptedBackend(json_answer(LISTING))
    async with running(MODELS, queue, openai, ScriptedBackend()) as here:
        assert await ids(here) == ["llama", "gpt-4o", "gpt-4o-mini"]
        assert await ids(here) == ["llama", "gpt-4o", "gpt-4o-mini"]  # the target is not asked again

    assert not queue.calls


async def test_forms() -> None:
    """OpenAI's, with a number for `created`, and what LibreChat and others read besides."""
    async with running(MODELS, ScriptedBackend(), ScriptedBackend(json_answer(LISTING)), ScriptedBackend()) as here:
        model = (await here.client.get("/v1/models/llama")).json()

    Model.model_validate(model)
    assert (model["context_length"], model["description"]) == (8192, "Ours.")
    assert model["pricing"] == {"prompt": "0.0000005", "completion": "0"}


async def test_target_that_does_not_answer() -> None:
    """The others are listed all the same."""
    silent = ScriptedBackend(TargetUnreachableError("down"))
    async with running(MODELS, ScriptedBackend(), silent, ScriptedBackend()) as here:
        assert await ids(here) == ["llama"]


@pytest.mark.parametrize(
    "listing",
    [
        [{"id": "gpt-4o"}],
        ["gpt-4o"],
        {"models": [{"name": "gpt-4o"}]},
        {"models": [{"name": "models/gpt-4o", "displayName": "GPT"}]},
        {"models": ["gpt-4o"]},
        {"object": "list", "models": [{"model": "gpt-4o"}], "data": [{"id": "gpt-4o"}]},
        {"data": {"gpt-4o": {"context": 8192}}},
        {"data": [{"id": "gpt-4o"}, {"id": 7}, None, {}]},
        {"result": [{"name": "gpt-4o", "id": None}], "success": True},
        {"modelSummaries": [{"modelId": "gpt-4o"}]},
        {"models": {"gpt-4o": {"max": 1}}, "object": "list"},
        {"items": [{"model_name": "gpt-4o"}], "has_more": False},
    ],
    ids=[
        *("together", "names", "ollama", "gemini", "plain", "llama.cpp", "map", "odd ones"),
        *("cloudflare", "bedrock", "map of models", "litellm"),
    ],
)
async def test_forms_of_lists(listing: object) -> None:
    """Servers write them in many ways; all of them are read."""
    async with running(MODELS, ScriptedBackend(), ScriptedBackend(json_answer(listing)), ScriptedBackend()) as here:
        assert await ids(here) == ["llama", "gpt-4o"]


async def test_a_list_with_a_byte_order_mark() -> None:
    """As servers on Windows write it."""
    marked = json_answer(LISTING)
    marked.pieces = [b"\xef\xbb\xbf", *marked.pieces]
    async with running(MODELS, ScriptedBackend(), ScriptedBackend(marked), ScriptedBackend()) as here:
        assert await ids(here) == ["llama", "gpt-4o", "gpt-4o-mini"]


@pytest.mark.parametrize("answer", [{"detail": "no"}, "text", {"data": 7}, {"data": [1]}, {}], ids=str)
async def test_list_that_is_none(answer: object, caplog: pytest.LogCaptureFixture) -> None:
    """The operator is told; the other models are listed all the same."""
    async with running(MODELS, ScriptedBackend(), ScriptedBackend(json_answer(answer)), ScriptedBackend()) as here:
        assert await ids(here) == ["llama"]

    assert "does not list its models" in caplog.text or answer == {"data": [1]}


async def test_list_with_an_error_status(caplog: pytest.LogCaptureFixture) -> None:
    """It is in the log, with its status."""
    refused = ScriptedBackend(json_answer({"error": "no"}, 401))
    async with running(MODELS, ScriptedBackend(), refused, ScriptedBackend()) as here:
        assert await ids(here) == ["llama"]

    assert "does not list its models: it answers with status 401" in caplog.text


async def test_one() -> None:
    """With or without /v1, with a slash in its name or at the end."""
    models = {"org/model": {"targets": [{"type": "openai"}]}}
    async with running(models, ScriptedBackend()) as here:
        for path in ("/v1/models/org/model", "/models/org/model/"):
            assert (await here.client.get(path)).json()["id"] == "org/model"
        missing = await here.client.get("/v1/models/nothing")
        listing = await here.client.get("/models/")

    assert (missing.status, missing.json()["error"]["code"]) == (404, "model_not_found")
    assert listing.json()["data"][0]["id"] == "org/model"


async def test_models_of_a_key() -> None:
    """A key sees what it may use."""
    async with running(MODELS, ScriptedBackend(), ScriptedBackend(json_answer(LISTING)), ScriptedBackend()) as here:
        authorization = f"Bearer {here.add_key(models=('gpt-4o-*',))}"
        assert await ids(here, authorization=authorization) == ["gpt-4o-mini"]
        hidden = await here.client.get("/v1/models/llama", authorization=authorization)
        without = await here.client.get("/v1/models")

    assert (hidden.status, without.status) == (404, 401)
