"""Every error of the worker, and the one place that turns an error into OpenAI's body and status.

* WorkerError
  x ConfigError                a setting is wrong: names key and value; the worker does not start
  x ModelError                 the model cannot be found, fetched or loaded; the worker does not start
    + NetworkError             the server cannot be reached, refuses, or breaks off
  x DecodeError                llama.cpp could not compute a batch; stays inside the engine
    + CacheFullError           no place in the KV cache; nothing was computed, nothing is lost
  x RequestError               answered to the client, the worker goes on
    + InvalidRequestError      400  a field is missing, wrong or out of range
      - ContextLengthError     400  the prompt does not fit the context
      - TemplateError          400  the chat template is missing, refuses, or cannot render the conversation
      - SchemaError            400  the JSON schema of the answer is wrong, or more than can be followed
    + AuthenticationError      401
    + ForbiddenError           403  a web page of another origin, or another name for a worker without a key
    + RouteNotFoundError       404
    + ModelNotFoundError       404
    + MethodNotAllowedError    405
    + PayloadTooLargeError     413
    + UnsupportedMediaTypeError  415
    + QueueFullError           503  too many requests wait already; safe to retry
    + UnavailableError         503  loading, stopping, or unhealthy
    + EngineError              500  the engine failed while it worked on this request
"""

import logging
from typing import Any, ClassVar, NamedTuple, Self

log = logging.getLogger(__name__)


class WorkerError(Exception):
    """Base of all errors the worker raises on purpose."""


class ConfigError(WorkerError):
    """A setting is wrong. The message names its key and, unless secret, its value."""


class ModelError(WorkerError):
    """The model cannot be found, fetched or loaded."""


class NetworkError(ModelError):
    """The server cannot be reached, refuses, or breaks off and does not get any further."""


class DecodeError(WorkerError):
    """llama.cpp could not compute a batch; what it left in the cache cannot be trusted."""


class CacheFullError(DecodeError):
    """llama.cpp found no place in the KV cache for a batch; its memory is as before."""


class RequestError(WorkerError):
    """An error the client is told, in OpenAI's words."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code or self.default_code

    def at(self, param: str) -> Self:
        """The same error with the field that it is about, for callers that know where the client has written it."""
        return type(self)(str(self), param=param, code=self.code)


class InvalidRequestError(RequestError):
    status = 400
    type = "invalid_request_error"
    default_code = "invalid_request_error"


class ContextLengthError(InvalidRequestError):
    default_code = "context_length_exceeded"


class TemplateError(InvalidRequestError):
    default_code = "chat_template_error"


class SchemaError(InvalidRequestError):
    default_code = "invalid_json_schema"


class AuthenticationError(RequestError):
    status = 401
    type = "invalid_request_error"
    default_code = "invalid_api_key"


class ForbiddenError(RequestError):
    status = 403
    type = "invalid_request_error"
    default_code = "forbidden"


class RouteNotFoundError(RequestError):
    status = 404
    type = "invalid_request_error"
    default_code = "unknown_url"


class ModelNotFoundError(RequestError):
    status = 404
    type = "invalid_request_error"
    default_code = "model_not_found"


class MethodNotAllowedError(RequestError):
    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


class PayloadTooLargeError(RequestError):
    status = 413
    type = "invalid_request_error"
    default_code = "payload_too_large"


class UnsupportedMediaTypeError(RequestError):
    status = 415
    type = "invalid_request_error"
    default_code = "unsupported_media_type"


class QueueFullError(RequestError):
    status = 503
    default_code = "queue_full"


class UnavailableError(RequestError):
    status = 503
    default_code = "unavailable"


class EngineError(RequestError):
    default_code = "engine_error"


class ErrorResponse(NamedTuple):
    """An error as the client sees it."""

    status: int
    body: dict[str, Any]  # {"error": {"message", "type", "param", "code"}}


def to_response(error: BaseException) -> ErrorResponse:
    """The one mapping to the wire. Of an unexpected error only the log tells more: its text may hold secrets."""
    if not isinstance(error, RequestError):
        log.error("A request failed with an unexpected error.", exc_info=error)
        error = EngineError("The worker failed to process this request. Its log says why.", code="internal_error")
    return ErrorResponse(
        error.status,
        {
            "error": {
                "message": one_line(str(error)),
                "type": error.type,
                "param": error.param,
                "code": error.code,
            }
        },
    )


def one_line(text: str) -> str:
    """Clients put error messages into HTTP status lines, which hold one line of Latin-1."""
    return " ".join(text.split()).encode("latin-1", "replace").decode("latin-1")
