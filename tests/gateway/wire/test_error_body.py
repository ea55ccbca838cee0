"""Errors in the shapes that servers and workers use: the words stay, and the status is the one that is meant."""

import json
from typing import Any

import pytest

from local_gateway.wire.error_body import error_in, explain, is_too_long

LONG = "This model's maximum context length is 4096 tokens. However, you requested 9000 tokens"
VLLM_OLD = {"object": "error", "message": LONG, "type": "BadRequestError", "param": None, "code": 400}
VLLM_NEW = {"error": {"message": LONG, "type": "BadRequestError", "param": "input_tokens", "code": 400}}
WRAPPED = {"message": f"vLLM returned HTTP 400: {json.dumps(VLLM_NEW)}", "type": "worker_error", "code": None}
EXTRA = {"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}
PAGE = "<!DOCTYPE html><html><head><title>413 Request Entity Too Large</title><style>b{}</style></head></html>"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        pytest.param(VLLM_OLD, 400, LONG, id="vllm-flat"),
        pytest.param(VLLM_NEW, 400, LONG, id="vllm-nested"),
        pytest.param({"error": WRAPPED}, 400, LONG, id="worker-vllm"),
        pytest.param({"error": {"message": "No.", "code": "404"}}, 404, "No.", id="code-as-text"),
        pytest.param({"error": {"message": "No.", "type": "not_found_error"}}, 404, "No.", id="status-by-type"),
        pytest.param({"error": {"message": "No.", "code": "model_not_found"}}, 404, "No.", id="status-by-code"),
        pytest.param({"error": {"message": "No.", "code": 404.0}}, 404, "No.", id="float"),
        pytest.param({"detail": LONG}, 400, LONG, id="fastapi-text"),
        pytest.param({"detail": [EXTRA]}, 422, "Extra inputs are not permitted", id="fastapi-list"),
        pytest.param({"detail": {"error": {"message": "No.", "code": 404}}}, 404, "No.", id="fastapi-object"),
        pytest.param(
            {"object": "error", "message": {"detail": [EXTRA]}, "type": "invalid_request_error", "code": None},
            422, "Extra inputs are not permitted", id="mistral",
        ),
        pytest.param({"message": "invalid request: too many tokens"}, 400, "too many tokens", id="cohere"),
        pytest.param(
            [{"error": {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED"}}], 429, "quota", id="gemini"
        ),
        pytest.param({"error": {"message": "role", "status": "INVALID_ARGUMENT"}}, 400, "role", id="google-name"),
        pytest.param({"error": "Input validation error: x", "error_type": "validation"}, 422, "error: x", id="tgi"),
        pytest.param({"error": "CUDA broke", "error_type": "generation"}, 500, "CUDA broke", id="tgi-own-fault"),
        pytest.param({"error": "model 'x' not found, try pulling it first"}, 404, "try pulling", id="ollama"),
        pytest.param(
            {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, 503, "Overloaded",
            id="anthropic",
        ),
        pytest.param(
            {"type": "response.failed", "response": {"status": "failed", "error": {"code": "server_error",
                                                                                   "message": "crashed"}}},
            500, "crashed", id="responses",
        ),
        pytest.param({"title": "Bad", "status": 400, "detail": "no such"}, 400, "no such", id="problem+json"),
        pytest.param({"success": False, "errors": [{"code": 7003, "message": "route"}], "result": None}, 500, "route",
                     id="cloudflare"),
        pytest.param({"errors": ["a", "b"]}, 500, "a; b", id="list-of-texts"),
        pytest.param({"errors": {"model": ["is required"]}}, 500, "model: is required", id="by-field"),
        pytest.param({"error": True, "message": "No."}, 500, "No.", id="error-true"),
        pytest.param({"error": json.dumps(VLLM_OLD)}, 400, LONG, id="json-in-text"),
        pytest.param({"statusCode": 413, "error": "Payload Too Large"}, 413, "Payload Too Large", id="nest-js"),
        pytest.param({"__type": "com.amazon.x#ThrottlingException", "Message": "Rate"}, 429, "Rate", id="aws"),
        pytest.param({"Response": {"Error": {"Code": "InvalidParameter", "Message": "bad"}}}, 400, "bad", id="tencent"),
        pytest.param({"id": "x", "message": "too many tokens"}, 400, "too many tokens", id="cohere-with-id"),
        pytest.param({"code": "InvalidParameter", "message": "Range", "request_id": "r"}, 400, "Range", id="dashscope"),
        pytest.param({"error": "Model x is currently loading", "estimated_time": 20.0}, 503, "loading", id="hf"),
        pytest.param({"object": "error", "message": "m", "code": "1500", "raw_status_code": 422}, 422, "m", id="raw"),
        pytest.param({"error": 404, "message": "gone"}, 404, "gone", id="error-as-a-number"),
        pytest.param({"ErrorMessage": "boom", "ErrorType": "ValidationError"}, 422, "boom", id="capitals"),
        pytest.param({"err": "boom"}, 500, "boom", id="err"),
        pytest.param({"exceptions": [{"msg": "boom"}]}, 500, "boom", id="exceptions"),
        pytest.param({"detail": {"msg": "busy", "type": "service_unavailable"}}, 503, "busy", id="koboldcpp"),
        pytest.param({"error": {"message": {"error": {"message": LONG, "code": 400}}, "code": 500}}, 400, LONG,
                     id="two-deep"),
        pytest.param({"error": str({"object": "error", "message": LONG, "code": 400})}, 400, LONG, id="repr-in-error"),
        pytest.param({"title": "Bad Request", "status": 400}, 400, "Bad Request", id="problem-without-detail"),
    ],
)  # fmt: skip
def test_errors_that_come_with_a_success(body: Any, status: int, words: str) -> None:
    """gateway.md B1, B3, A2, A3: inside a 200 as well as under an error's own status."""
    found = error_in(body)
    assert found is not None
    assert (found.status, words in found.error["message"]) == (status, True)
    assert explain(json.dumps(body).encode(), 418) == (418, found.error)


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        pytest.param(str(WRAPPED), 400, LONG, id="A1-worker-vllm"),
        pytest.param(str(VLLM_NEW["error"]), 400, LONG, id="A1-vllm-yielded"),
        pytest.param(f"Error code: 400 - {VLLM_NEW}", 400, LONG, id="A1-openai-python"),
        pytest.param(f"SGLang answered with status 400: {json.dumps(VLLM_OLD)}", 400, LONG, id="A1-sglang"),
        pytest.param(LONG, 400, LONG, id="plain"),
        pytest.param("vLLM returned HTTP 503: Service Unavailable", 503, "vLLM returned", id="status-in-words"),
        pytest.param(PAGE, 500, "413 Request Entity Too Large", id="page"),
        pytest.param("handler: out of memory \ntraceback: Traceback (most recent call last):\n  File x", 500,
                     "out of memory", id="sdk-generator"),
        pytest.param(json.dumps({"error_type": "<class 'RuntimeError'>", "error_message": "CUDA out of memory",
                                 "error_traceback": "Traceback ..."}), 500, "CUDA out of memory", id="sdk-function"),
        pytest.param(json.dumps(json.dumps(VLLM_NEW)), 400, LONG, id="A1-json-twice"),
        pytest.param(str(json.dumps(VLLM_OLD).encode()), 400, LONG, id="A1-repr-of-bytes"),
        pytest.param("NotFoundError: Error code: 404 - {'object': 'error', 'message': 'No \"x\".'}", 404, 'No "x".',
                     id="A1-exception-and-quotes"),
        pytest.param('vLLM returned HTTP 400: {"error": {"message": "This mod', 400, "vLLM returned", id="A1-cut"),
        pytest.param("400 Client Error: Bad Request for url: http://x", 400, "400 Client", id="A1-requests"),
        pytest.param("Client error '422 Unprocessable' for url 'http://x'", 422, "Client error", id="A1-httpx"),
        pytest.param("404, message='Not Found', url='http://x'", 404, "404, message", id="A1-aiohttp"),
        pytest.param("HTTPException(status_code=422, detail='bad')", 422, "HTTPException", id="A1-fastapi"),
        pytest.param("500 tokens were made: then it broke", 500, "500 tokens", id="A1-no-status"),
        pytest.param("", 500, "", id="nothing"),
        pytest.param("{'a': " * 5000, 500, "{'a': ", id="nested-too-deeply"),
    ],
)  # fmt: skip
def test_errors_of_jobs_and_pages(text: str, status: int, words: str) -> None:
    """gateway.md A1, A7: what a server says in text is read through Python's repr, JSON in text and markup."""
    found = explain(text)

    assert found.status == status
    assert found.error.get("message", "").startswith(words)


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]},
        {"choices": [], "error": None},
        {"object": "response", "status": "completed", "error": None},
        {"type": "response.created", "response": {"object": "response", "status": "in_progress", "error": None}},
        {"type": "response.incomplete", "response": {"object": "response", "status": "incomplete", "error": None}},
        {"type": "message_start", "message": {"type": "message", "role": "assistant", "content": []}},
        {"message": {"role": "assistant", "content": "x"}, "done": True},
        {"text": "hello", "language": "en"},
        {"data": [], "object": "list"},
        [{"index": 0, "score": 1.0}],
        [[0.1, 0.2]],
        {"error": {}},
        {"error": ""},
        {"choices": [{"message": {"content": "x"}}], "error": {"code": 0, "message": ""}},
        {"choices": [{"message": {"content": "x"}}], "error": [], "warnings": ["w"]},
        {"score": 1.0, "title": "x"},
        {"tokens": [1], "reason": "x"},
        {"id": "x", "object": "thing", "description": "x"},
        {"response": "text", "done": True},
        {"input_tokens": 3},
        {"base_resp": {"status_code": 0, "status_msg": "success"}, "choices": []},
        {"type": "message", "content": [{"type": "text", "text": "an error"}]},
        {},
        "text",
        None,
    ],
)
def test_answers_are_no_errors(body: Any) -> None:
    """However they are built."""
    assert error_in(body) is None


def test_a_failed_choice() -> None:
    """gateway.md B4: OpenRouter reports a broken provider in the choice, or only as the reason to finish."""
    told = {"index": 0, "error": {"code": 502, "message": "Upstream idle"}, "finish_reason": "error"}
    mute = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}

    assert error_in({"choices": [told]}) == (502, told["error"])
    assert error_in({"choices": [mute]}) is not None


def test_openai_object_stays_as_it_is() -> None:
    """gateway.md B18: with fields that only its sender knows."""
    error = {"message": "Filtered.", "type": None, "param": "prompt", "code": "content_filter", "innererror": {"a": 1}}

    assert explain({"error": error}, 400) == (400, error)


@pytest.mark.parametrize(
    ("error", "is_long"),
    [
        ({"message": LONG}, True),
        ({"message": "x", "code": "context_length_exceeded"}, True),
        ({"message": "the request exceeds the available context size", "type": "exceed_context_size_error"}, True),
        ({"message": "Input is too long for requested model."}, True),
        ({"message": "Unknown role."}, False),
    ],
)
def test_too_long(error: dict[str, Any], *, is_long: bool) -> None:
    """A request that another target, with a longer context, could answer."""
    assert is_too_long(error) is is_long
