"""Every error of the gateway: its status, what it says about a target, and its one mapping to OpenAI's body.

* GatewayError
  x ConfigError                 gateway.yaml or the environment is wrong: says line, key and reason
  x StoreError                  the database cannot be reached or used; requests go on without it
  x RequestError                answered to the client
    + InvalidRequestError       400  the body or a header is wrong
    + AuthenticationError       401  no key, or none of ours
    + ForbiddenError            403  a web page, or a name, that may not call a gateway without keys
    + ModelNotFoundError        404  no such model, or not for this key: the two look the same
    + RouteNotFoundError        404
    + MethodNotAllowedError     405
    + RequestTimeoutError       408  the body did not arrive in time
    + PayloadTooLargeError      413
    + UnsupportedMediaError     415  a compressed body
    + RateLimitError            429  requests, tokens or concurrency of this key
    + BudgetError               429  the money of this key
    + RequestCancelledError     499  a person cancelled it on the dashboard
    + UnavailableError          503  the gateway is busy, or no target can be asked now
      - GatewayStoppingError    503  it was answered when the gateway was stopped
      - TargetPausedError       503  the circuit breaker of a target's model is open: it was not asked
    + TargetError               a target did not give an answer
      - TargetUnreachableError  502  no connection, or it broke off
        . GatewayExhaustedError 503  this process has no file, memory or port left for a connection
      - TargetTimeoutError      504  silent for too long
        . TargetGaveUpError     504  it worked on the request as long as it may: it would again
      - WorkerFailedError       502  a worker took the job and failed, or ended it without an answer
      - TargetRefusedError      as the target says: it answered with an error
      - TargetConfigError       502  the target does not accept our key (its 401 or 403)
      - AnswerBrokenError       502  what it answered is not what it should be
"""

import logging
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, Literal, NamedTuple

# What an attempt tells the circuit breaker. None where an error says nothing about the target.
Outcome = Literal["succeeded", "failed", "rate_limited", "refused_key"]
# Where the request may be tried again: at any target, once more in all, at any but this one, at none (the client must
# change something).
Retry = Literal["anywhere", "once", "elsewhere", "never"]

log = logging.getLogger(__name__)


class GatewayError(Exception):
    """Base of all errors the gateway raises on purpose."""


class ConfigError(GatewayError):
    """gateway.yaml or the environment is wrong. The message says where and why."""


class StoreError(GatewayError):
    """The database cannot be reached or used."""


class RequestError(GatewayError):
    """An error the client is told, in OpenAI's words.

    `retry_after` is in seconds. With `may_retry` False clients are told not to try again by themselves.
    `outcome` and `retry` count where it ended an attempt at a target, before the first content of its answer.
    `target` and `num_attempts` are set where targets were asked: the target that said it, and the number of calls.
    """

    outcome: Outcome | None = None
    retry: Retry = "never"
    is_too_long = False  # a target says that the request does not fit into the model's context
    status: int = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        may_retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code or self.default_code
        self.retry_after = retry_after
        self.may_retry = may_retry
        self.target = ""
        self.num_attempts = 0

    @property
    def headers(self) -> dict[str, str]:
        """What it says beside status and body. Names are in lower case."""
        headers = {}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        if self.may_retry is not None:
            headers["x-should-retry"] = "true" if self.may_retry else "false"
        return headers

    @property
    def is_clients_fault(self) -> bool:
        """A target found a fault in the request: the target is well, and every other would say the same."""
        return self.outcome == "succeeded" and self.retry == "never"

    @property
    def is_about_request(self) -> bool:
        """A target is well and cannot do what is asked: another one of the model may, but no fallback is due."""
        is_missing = self.status == HTTPStatus.NOT_FOUND  # rather a wrong model or endpoint in the configuration
        return self.retry == "elsewhere" and self.outcome in (None, "succeeded") and not is_missing

    @property
    def log_text(self) -> str:
        """What the log may say of it: our own words, never a target's, which may repeat the prompt."""
        return str(self)

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's."""
        error = {"message": one_line(str(self)), "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}


class InvalidRequestError(RequestError):
    status = 400
    type = "invalid_request_error"
    default_code = None


class AuthenticationError(RequestError):
    status = 401
    type = "invalid_request_error"
    default_code = "invalid_api_key"


class ForbiddenError(RequestError):
    status = 403
    type = "invalid_request_error"
    default_code = "forbidden"


class ModelNotFoundError(RequestError):
    status = 404
    type = "invalid_request_error"
    default_code = "model_not_found"


class RouteNotFoundError(RequestError):
    status = 404
    type = "invalid_request_error"
    default_code = "unknown_url"


class MethodNotAllowedError(RequestError):
    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"

    def __init__(self, method: str, allowed: Sequence[str]) -> None:
        super().__init__(f"{method} is not used here.")
        self._allowed = allowed

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, "allow": ", ".join(self._allowed)}


class RequestTimeoutError(RequestError):
    status = 408
    type = "invalid_request_error"
    default_code = "request_timeout"


class PayloadTooLargeError(RequestError):
    retry = "elsewhere"  # a target may take more bytes than the next
    status = 413
    type = "invalid_request_error"
    default_code = "payload_too_large"


class UnsupportedMediaError(RequestError):
    status = 415
    type = "invalid_request_error"
    default_code = "unsupported_media_type"


class RateLimitError(RequestError):
    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"


class BudgetError(RequestError):
    status = 429
    type = "insufficient_quota"
    default_code = "insufficient_quota"


class RequestCancelledError(RequestError):
    status = 499  # as nginx has it for a request that its client ended: no client tries it again
    type = "invalid_request_error"
    default_code = "cancelled"


class UnavailableError(RequestError):
    outcome = "failed"
    retry = "anywhere"
    status = 503
    default_code = "unavailable"


class GatewayStoppingError(UnavailableError):
    default_code = "gateway_stopping"


class TargetPausedError(UnavailableError):
    default_code = "target_paused"


class TargetError(RequestError):
    """A target did not give an answer. Another may."""

    outcome: Outcome | None = "failed"
    retry: Retry = "anywhere"
    status = 502
    default_code = "target_error"


class TargetUnreachableError(TargetError):
    default_code = "target_unreachable"


class GatewayExhaustedError(TargetUnreachableError):
    """This process has no file, memory or port left for a connection: that says nothing about the target."""

    outcome = None
    status = 503
    default_code = "gateway_exhausted"


class TargetTimeoutError(TargetError):
    status = 504
    default_code = "target_timeout"


class TargetGaveUpError(TargetTimeoutError):
    """It worked on the request as long as it may; asked again, it would once more, for the same money."""

    retry = "elsewhere"


class WorkerFailedError(TargetError):
    """A worker took the job and failed, or ended it without an answer.

    Every attempt is paid for, and what made it fail is seldom gone in a second: it is tried once more, not four times.
    """

    retry = "once"
    default_code = "worker_failed"


class Policy(NamedTuple):
    outcome: Outcome
    retry: Retry


FAULT_OF_CLIENT = Policy("succeeded", "never")  # a target that says so is well
FAULT_OF_TARGET = Policy("failed", "anywhere")
NOT_HERE = Policy("succeeded", "elsewhere")  # a target may know fewer models, routes or bytes than the next
BUSY = Policy("succeeded", "anywhere")
REFUSED_KEY = Policy("refused_key", "elsewhere")
BY_STATUS: Mapping[int, Policy] = {
    **dict.fromkeys((401, 402, 403), REFUSED_KEY),
    **dict.fromkeys((404, 410, 413, 501), NOT_HERE),
    **dict.fromkeys((409, 425), BUSY),
    **dict.fromkeys((408, 424), FAULT_OF_TARGET),  # 424 is TGI's of a model that broke
    429: Policy("rate_limited", "anywhere"),
}


class TargetRefusedError(TargetError):
    """The target answered with an error: its status, and its own `error` object where it sent one."""

    def __init__(
        self,
        status: int,
        error: dict[str, Any] | None = None,
        *,
        retry_after: float | None = None,
        is_too_long: bool = False,
    ) -> None:
        error = error or {}
        message = error.get("message") or f"The target answered with status {status}."
        super().__init__(str(message), retry_after=retry_after)
        self.status = status
        self.error = error
        self.is_too_long = is_too_long
        usual = FAULT_OF_CLIENT if 400 <= status < 500 else FAULT_OF_TARGET
        self.outcome, self.retry = BY_STATUS.get(status, usual)
        if status == 429 and error.get("code") == "insufficient_quota":
            self.retry = "elsewhere"  # waiting does not help: a person must pay

    @property
    def log_text(self) -> str:
        return f"It answered with status {self.status}."

    @property
    def body(self) -> dict[str, Any]:
        defaults = {"type": "server_error" if self.status >= 500 else "invalid_request_error", "param": None}
        return {"error": {**defaults, "code": None, **self.error, "message": one_line(str(self))}}


class TargetConfigError(TargetError):
    outcome = "refused_key"
    retry = "elsewhere"
    default_code = "target_config_error"


class AnswerBrokenError(TargetError):
    default_code = "answer_broken"


class ErrorResponse(NamedTuple):
    """An error as the client sees it. Header names are in lower case."""

    status: int
    body: dict[str, Any]  # {"error": {"message", "type", "param", "code"}}
    headers: dict[str, str]


def to_response(error: BaseException) -> ErrorResponse:
    """The one mapping to the wire. Of an unexpected error only the log tells more: its text may hold secrets."""
    if not isinstance(error, RequestError):
        log.error("A request failed with an unexpected error.", exc_info=error)
        error = RequestError("The gateway failed to process this request. Its log says why.")
    return ErrorResponse(error.status, error.body, error.headers)


def one_line(text: str) -> str:
    """Clients put error messages into HTTP status lines, which hold one line of Latin-1 that can be printed."""
    latin = " ".join(text.split()).encode("latin-1", "replace").decode("latin-1")
    return "".join(character if character.isprintable() else "?" for character in latin)
