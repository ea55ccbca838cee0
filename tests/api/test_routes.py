"""The one entrance to the API: which route does what, and how each bad request is refused."""

from typing import Any

import pytest
from openai.types import Model

from handler.api.routes import CHAT, COMPLETIONS, Method
from handler.errors import RequestError, to_response
from tests.fake_worker import fake_worker

UNKNOWN_MODEL = "The model 'gpt-5' does not exist here; served: llama, org/model."
CHAT_BODY = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    "route",
    [
        "/v1/chat/completions",
        "v1/chat/completions",
        "/chat/completions",
        "chat/completions/",
        "/v1/chat/completions/?api-version=1",
    ],
)
async def test_a_route_may_be_written_in_many_ways(route: str) -> None:
    """RunPod and clients disagree about `/v1` and slashes."""
    with fake_worker() as worker:
        answer = await worker.api.call(route, CHAT_BODY)

    assert isinstance(answer, dict)
    assert answer["choices"][0]["message"]["content"] == "Hello!"


async def test_models() -> None:
    """All names are listed, and each can be asked for, whatever slashes are in it."""
    with fake_worker() as worker:
        listing = await worker.api.call("/v1/models", None, "GET")
        models = [await worker.api.call(f"/v1/models/{name}", None) for name in ("llama", "org/model")]

    assert listing == {"object": "list", "data": models}
    assert [Model.model_validate(model).id for model in models] == ["llama", "org/model"]


def unknown_url(asked: str) -> str:
    """OpenAI's words."""
    return f"Unknown request URL: {asked}. Please check the URL for typos."


WRONG_ROUTES: list[tuple[str, Method | None, int, str | None, str, str]] = [
    (
        "/v1/moderations",
        "POST",
        404,
        None,
        "unknown_url",
        unknown_url("POST /v1/moderations"),
    ),
    (
        "/embeddings",
        "POST",
        400,
        "model",
        "model_not_supported",
        "/v1/embeddings: this worker's model generates text; vectors need an embedding model, or TASK=embed.",
    ),
    (
        "/v2/rerank",
        None,
        400,
        "model",
        "model_not_supported",
        "/v1/rerank: this worker's model generates text; ranking needs a reranking model.",
    ),
    ("/", "GET", 404, None, "unknown_url", unknown_url("GET /v1/")),
    ("", None, 404, None, "unknown_url", unknown_url("/v1/")),
    (
        "/v1/chat/completions/x",
        None,
        404,
        None,
        "unknown_url",
        unknown_url("/v1/chat/completions/x"),
    ),
    ("/東京\n", None, 404, None, "unknown_url", unknown_url("/v1/?? ")),
    (CHAT, "GET", 405, None, "method_not_allowed", "/v1/chat/completions takes POST, not GET."),
    ("/v1/models", "POST", 405, None, "method_not_allowed", "/v1/models takes GET, not POST."),
    ("/v1/models/gpt-5", "GET", 404, "model", "model_not_found", UNKNOWN_MODEL),
]


@pytest.mark.parametrize("case", WRONG_ROUTES)
async def test_wrong_route(case: tuple[str, Method | None, int, str | None, str, str]) -> None:
    """A route that is not there, or takes another method, says so."""
    route, method, status, param, code, message = case
    with fake_worker() as worker, pytest.raises(RequestError) as caught:
        await worker.api.call(route, CHAT_BODY, method)

    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    assert to_response(caught.value) == (status, {"error": error})


LONG = [{"role": "user", "content": 1000 * "x"}]

BAD_REQUESTS: dict[str, tuple[str, Any, str | None, str, str]] = {
    "no object": (CHAT, [1], None, "invalid_request_error", "The request body must be a JSON object"),
    "nothing": (CHAT, {}, "messages", "invalid_request_error", "'messages' is missing"),
    "no messages": (CHAT, {"messages": []}, "messages", "invalid_request_error", "'messages' must not be empty"),
    "messages of a wrong type": (
        CHAT,
        {"messages": "x"},
        "messages",
        "invalid_request_error",
        "'messages' must be a list (got \"x\")",
    ),
    "content of a wrong type": (
        CHAT,
        {"messages": [{"role": "user", "content": 5}]},
        "messages[0].content",
        "invalid_request_error",
        "'messages[0].content' must be a text or a list of text parts",
    ),
    "no prompt": (COMPLETIONS, {}, "prompt", "invalid_request_error", "'prompt' is missing"),
    "negative max_tokens": (
        CHAT,
        CHAT_BODY | {"max_tokens": -3},
        "max_tokens",
        "invalid_request_error",
        "'max_tokens' must be at least 1, or -1 for no limit (got -3)",
    ),
    "temperature of 5": (
        CHAT,
        CHAT_BODY | {"temperature": 5},
        "temperature",
        "invalid_request_error",
        "'temperature' must be at most 2 (got 5)",
    ),
    "stream of a wrong type": (
        COMPLETIONS,
        {"prompt": "Once", "stream": "yes"},
        "stream",
        "invalid_request_error",
        "'stream' must be true or false (got \"yes\")",
    ),
    "100 stop strings": (
        CHAT,
        CHAT_BODY | {"stop": [str(number) for number in range(100)]},
        "stop",
        "invalid_request_error",
        "'stop' may hold at most 32 texts (got 100)",
    ),
    "too long a prompt": (
        CHAT,
        {"messages": LONG},
        "messages",
        "context_length_exceeded",
        "This model's maximum context length is 1000 tokens, but the prompt alone has 1001. Please shorten it.",
    ),
    "tools": (
        CHAT,
        CHAT_BODY | {"tools": [{"type": "web_search"}]},
        "tools[0].type",
        "unsupported_parameter",
        "'tools[0].type' is not supported: of tools this worker knows functions alone (got \"web_search\")",
    ),
}


@pytest.mark.parametrize(("route", "body", "param", "code", "message"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
async def test_bad_request(route: str, body: object, param: str | None, code: str, message: str) -> None:
    """Each has its status, parameter, code and words, and the worker goes on."""
    with fake_worker() as worker:
        with pytest.raises(RequestError) as caught:
            await worker.api.call(route, body)

        error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
        assert to_response(caught.value) == (400, {"error": error})
        assert not worker.runner.events
        assert await worker.still_answers()
