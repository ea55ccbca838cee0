"""Errors as clients see them."""

import logging

import pytest

from handler.errors import (
    AuthenticationError,
    CacheFullError,
    ConfigError,
    ContextLengthError,
    DecodeError,
    EngineError,
    ForbiddenError,
    InvalidRequestError,
    MethodNotAllowedError,
    ModelError,
    ModelNotFoundError,
    PayloadTooLargeError,
    QueueFullError,
    RequestError,
    RouteNotFoundError,
    UnavailableError,
    UnsupportedMediaTypeError,
    to_response,
)

REQUEST_ERRORS: list[tuple[type[RequestError], int, str, str]] = [
    (InvalidRequestError, 400, "invalid_request_error", "invalid_request_error"),
    (ContextLengthError, 400, "invalid_request_error", "context_length_exceeded"),
    (AuthenticationError, 401, "invalid_request_error", "invalid_api_key"),
    (ForbiddenError, 403, "invalid_request_error", "forbidden"),
    (RouteNotFoundError, 404, "invalid_request_error", "unknown_url"),
    (ModelNotFoundError, 404, "invalid_request_error", "model_not_found"),
    (MethodNotAllowedError, 405, "invalid_request_error", "method_not_allowed"),
    (PayloadTooLargeError, 413, "invalid_request_error", "payload_too_large"),
    (UnsupportedMediaTypeError, 415, "invalid_request_error", "unsupported_media_type"),
    (QueueFullError, 503, "server_error", "queue_full"),
    (UnavailableError, 503, "server_error", "unavailable"),
    (EngineError, 500, "server_error", "engine_error"),
]


@pytest.mark.parametrize(("cls", "status", "type_", "code"), REQUEST_ERRORS)
def test_request_errors(cls: type[RequestError], status: int, type_: str, code: str) -> None:
    """Each kind has its status, OpenAI's type, and a code that programs can tell it by."""
    error = cls("What is wrong.", param="messages")

    assert to_response(error) == (
        status,
        {"error": {"message": "What is wrong.", "type": type_, "param": "messages", "code": code}},
    )


def test_a_code_may_be_more_precise() -> None:
    """The one given goes before the one of the kind."""
    body = to_response(EngineError("Full.", code="out_of_memory")).body

    assert body["error"]["code"] == "out_of_memory"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("hf_secret"),
        ConfigError("hf_secret"),
        ModelError("hf_secret"),
        DecodeError("hf_secret"),
        CacheFullError("hf_secret"),
        StopAsyncIteration("hf_secret"),
    ],
)
def test_an_unexpected_error_is_told_to_the_log_alone(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Its text may hold secrets, so the client gets none of it."""
    with caplog.at_level(logging.ERROR):
        response = to_response(error)

    assert response.status == 500
    assert response.body["error"]["code"] == "internal_error"
    assert "hf_secret" not in str(response.body)
    assert "hf_secret" in caplog.text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("One line.", "One line."),
        ("  Two\r\n\tlines.\n", "Two lines."),
        ("Zürich", "Zürich"),
        ("東京 🦙", "?? ?"),
        ("a \u2028 b \ud800", "a b ?"),
        ("", ""),
    ],
)
def test_message_fits_a_status_line(text: str, line: str) -> None:
    """Clients put messages into HTTP's status line: one line, Latin-1."""
    message = to_response(InvalidRequestError(text)).body["error"]["message"]

    assert message == line
    message.encode("latin-1")
