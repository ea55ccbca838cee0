"""The OpenAPI document says what is so."""

import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from schemathesis.core.result import Ok

from local_gateway import errors
from local_gateway.edge.openapi import DOCUMENT, VERSION
from local_gateway.errors import MethodNotAllowedError, RequestError, TargetRefusedError, to_response

CALLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
PAGES = ("/v1/models", "/v1/models/{model}", "/healthz", "/readyz", "/metrics", "/openapi.json")


def subclasses(kind: type[RequestError]) -> Iterator[type[RequestError]]:
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


ERRORS = [each for each in subclasses(RequestError) if each.__module__ == errors.__name__]


def is_error(body: object) -> bool:
    """As the document describes one."""
    return jsonschema_rs.is_valid(DOCUMENT["components"]["schemas"]["Error"], body)


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        yield from (value for key, value in part.items() if key == "$ref")
        yield from (each for value in part.values() for each in references(value))
    elif isinstance(part, list):
        yield from (each for value in part for each in references(value))


def test_paths() -> None:
    """Everything that is served and known beforehand."""
    methods = {path: tuple(operations) for path, operations in DOCUMENT["paths"].items()}

    assert methods == dict.fromkeys(CALLS, ("post",)) | dict.fromkeys(PAGES, ("get",))


def test_programs_read_it() -> None:
    """It is valid, and each operation can be called from it."""
    schema = schemathesis.openapi.from_dict(json.loads(json.dumps(DOCUMENT)))
    labels = [result.ok().label for result in schema.get_all_operations() if isinstance(result, Ok)]

    assert sorted(labels) == sorted([*(f"POST {path}" for path in CALLS), *(f"GET {path}" for path in PAGES)])


def test_schemas_are_schemas() -> None:
    """And what is referred to exists."""
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)
    for reference in references(DOCUMENT):
        part: Any = DOCUMENT
        for name in reference.removeprefix("#/").split("/"):
            part = part[name]


SPECIAL: dict[type[RequestError], Callable[[], RequestError]] = {
    TargetRefusedError: lambda: TargetRefusedError(429),
    MethodNotAllowedError: lambda: MethodNotAllowedError("TRACE", ("GET", "POST")),
}


@pytest.mark.parametrize("kind", ERRORS, ids=[each.__name__ for each in ERRORS])
def test_errors(kind: type[RequestError]) -> None:
    """Each has its status in the document, and its body the shape that is described there."""
    error = SPECIAL[kind]() if kind in SPECIAL else kind("It is\nwrong.")
    response = to_response(error)

    assert is_error(response.body)
    for path in CALLS:
        assert str(response.status) in DOCUMENT["paths"][path]["post"]["responses"]
    assert set(response.headers) <= set(DOCUMENT["components"]["headers"])


@pytest.mark.parametrize(
    "error",
    [
        {},
        {"message": "Bad\nrequest", "type": None, "param": ["messages", 0], "code": 400, "more": {}},
        {"message": {"detail": "odd"}},
    ],
)
def test_errors_of_targets(error: dict[str, Any]) -> None:
    """They keep what they say, in the same shape."""
    assert is_error(TargetRefusedError(400, error).body)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"error": "text"},
        {"error": {"message": "x"}},
        {"error": {"message": "a\nb", "type": "", "param": "", "code": ""}},
    ],
)
def test_what_is_no_error(body: object) -> None:
    """The description is exact."""
    assert not is_error(body)


def test_requests_are_not_modelled() -> None:
    """Only the name of a model is checked; what else is in a body is the target's affair."""
    body = DOCUMENT["paths"][CALLS[0]]["post"]["requestBody"]["content"]["application/json"]["schema"]

    assert jsonschema_rs.is_valid(body, {"model": "llama", "messages": "?", "temperature": "hot", "unknown": 1})
    assert not jsonschema_rs.is_valid(body, {"messages": []})
    assert not jsonschema_rs.is_valid(body, {"model": ""})


def test_version() -> None:
    """The project's."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())

    assert project["project"]["version"] == VERSION
