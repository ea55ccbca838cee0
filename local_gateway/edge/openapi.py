"""The OpenAPI document of what the gateway serves.

It is exact about what the gateway itself checks and says: paths, statuses, errors, the name of a model. About the rest
of a request it only describes, because what a field may be is the target's to say, and unknown ones pass through.
"""

from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]

VERSION = "0.1.0"  # as in pyproject.toml, which is not at hand where the gateway runs

# What every call of the API may end with, beside what its target says.
FAILURES = {
    400: "The body or a header is wrong.",
    401: "No key, or none of this gateway's.",
    403: "A web page that may not call this gateway, or a name that is not the gateway's.",
    404: "No such address, or no such model for this key.",
    405: "This method is not used here.",
    408: "The body of the request did not arrive in time.",
    413: "The body of the request is too large.",
    415: "The body of the request is compressed.",
    429: "The key's requests, tokens, concurrency or budget are used up, or the target's are.",
    499: "The request was cancelled on the dashboard.",
    500: "The gateway failed. Its log says why.",
    502: "No target gave an answer.",
    503: "The gateway is starting, stopping or busy, or no target can be asked now.",
    504: "No target gave an answer in time.",
}
PAGE_FAILURES = (401, 403, 404, 405, 500, 503)

TEXT: Json = {"type": "string"}
TEXT_OR_NULL: Json = {"type": ["string", "null"]}
OBJECT: Json = {"type": "object"}

SCHEMAS: Json = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {**TEXT, "pattern": "^[^\\r\\n]*$", "description": "One line of Latin-1."},
                    "type": {**TEXT_OR_NULL, "examples": ["invalid_request_error", "server_error"]},
                    "param": {"description": "The field that is wrong, if it is one."},
                    "code": {"type": ["string", "integer", "null"], "examples": ["model_not_found"]},
                },
                "description": "The gateway's own, or as the target sent it, with what else it says.",
            }
        },
    },
    "Model": {
        "type": "object",
        "required": ["id", "object", "created", "owned_by"],
        "properties": {
            "id": TEXT,
            "object": {"const": "model"},
            "created": {"type": "integer"},
            "owned_by": TEXT,
            "description": TEXT,
            "context_length": {"type": "integer", "minimum": 1},
            "pricing": {
                "type": "object",
                "required": ["prompt", "completion"],
                "properties": {"prompt": TEXT, "completion": TEXT},
                "description": "Per token.",
            },
        },
    },
    "ModelList": {
        "type": "object",
        "required": ["object", "data"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
        },
    },
    "State": {"type": "object", "required": ["status"], "properties": {"status": TEXT}},
}

HEADERS: Json = {
    "x-request-id": {"description": "In the gateway's log and usage records too.", "schema": TEXT},
    "x-gateway-target": {"description": "The target that answered.", "schema": TEXT},
    "x-gateway-cache": {
        "description": "Where the model shares answers: `hit` was kept, `shared` came with another request's.",
        "schema": {"enum": ["hit", "miss", "shared"]},
    },
    "retry-after": {"description": "Seconds.", "schema": TEXT},
    "allow": {"description": "Of a 405: the methods that are used here.", "schema": TEXT},
    "x-should-retry": {
        "description": "`false`: the gateway has retried enough.",
        "schema": {"enum": ["true", "false"]},
    },
}

SECURITY: Json = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "api-key": {"type": "apiKey", "in": "header", "name": "api-key"},
}

STREAM: Json = {"description": "true: the answer comes as server-sent events.", "examples": [True]}
SAMPLING: Json = {
    "temperature": {"description": "0: no chance; such answers can be kept.", "examples": [0.7]},
    "seed": {"description": "Answers with one can be kept.", "examples": [42]},
    "stream_options": {"examples": [{"include_usage": True}]},
}


def document() -> Json:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "local_gateway",
            "version": VERSION,
            "description": "OpenAI's API in front of RunPod endpoints, OpenAI and this machine. The prefix /v1 may be "
            "left out. Every other path of OpenAI's API is passed to an OpenAI target if one is configured.",
        },
        "security": [{}, *({name: []} for name in SECURITY)],
        "paths": {**_calls(), **_pages()},
        "components": {"schemas": SCHEMAS, "headers": HEADERS, "securitySchemes": SECURITY},
    }


def _calls() -> Json:
    messages = {"examples": [[{"role": "user", "content": "What is the capital of France?"}]]}
    prompt = {"examples": ["The capital of France is"]}
    texts = {"examples": ["Paris", ["Paris", "London"]]}
    question = {"examples": ["What is the capital of France?"]}
    return {
        "/v1/chat/completions": _call("chat", "Answer a conversation.", messages=messages, stream=STREAM, **SAMPLING),
        "/v1/completions": _call("complete", "Continue a text.", prompt=prompt, stream=STREAM, **SAMPLING),
        "/v1/embeddings": _call("embed", "Texts as vectors.", input=texts),
        "/v1/responses": _call("respond", "OpenAI's Responses API.", input=question, stream=STREAM),
    }


def _call(name: str, summary: str, **fields: Json) -> Json:
    """A POST whose answer comes from a model."""
    model = {**TEXT, "minLength": 1, "description": "One of /v1/models."}
    body = {"type": "object", "required": ["model"], "properties": {"model": model, **fields}}
    content: Json = {"application/json": {"schema": OBJECT}}
    if "stream" in fields:
        content["text/event-stream"] = {"schema": TEXT}
    success = {"description": "As the target says.", "headers": _headers(*HEADERS), "content": content}
    return {
        "post": {
            "operationId": name,
            "summary": summary,
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": {"200": success, **_failures(FAILURES), "default": _failure("What the target says.")},
        }
    }


def _pages() -> Json:
    name = {"name": "model", "in": "path", "required": True, "schema": {**TEXT, "minLength": 1}}
    metrics = {"description": "In Prometheus' text format.", "content": {"text/plain": {"schema": TEXT}}}
    state = _json("State", "It can.")
    return {
        "/v1/models": _page("list_models", "The models of this key.", _json("ModelList", "All of them.")),
        "/v1/models/{model}": _page("retrieve_model", "One model.", _json("Model", "It."), parameters=[name]),
        "/healthz": _page("is_alive", "Whether the process answers.", state, security=[]),
        "/readyz": _page(
            "is_ready",
            "Whether requests can be answered.",
            state,
            security=[],
            unready=_json("State", "It cannot: keys are not known yet, or no target may be asked."),
        ),
        "/metrics": _page("metrics", "For Prometheus.", metrics),
        "/openapi.json": _page(
            "document",
            "This document.",
            {"description": "OpenAPI 3.1.", "content": {"application/json": {"schema": OBJECT}}},
            security=[],
        ),
    }


def _page(name: str, summary: str, success: Json, unready: Json | None = None, **more: Any) -> Json:
    """A GET that the gateway answers itself."""
    responses = {"200": success, **_failures(PAGE_FAILURES)}
    if unready is not None:
        responses["503"] = unready
    return {"get": {"operationId": name, "summary": summary, "responses": responses, **more}}


def _failures(statuses: Iterable[int]) -> Json:
    return {str(status): _failure(FAILURES[status]) for status in statuses}


def _failure(description: str) -> Json:
    headers = _headers("x-request-id", "retry-after", "x-should-retry", "allow")
    return {**_json("Error", description), "headers": headers}


def _json(schema: str, description: str) -> Json:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "content": content}


def _headers(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


DOCUMENT = document()
