"""What each error means: for the breaker of the target that was asked, and for trying again."""

import pytest

from local_gateway.errors import (
    AnswerBrokenError,
    GatewayExhaustedError,
    InvalidRequestError,
    Outcome,
    PayloadTooLargeError,
    RequestError,
    Retry,
    TargetConfigError,
    TargetError,
    TargetGaveUpError,
    TargetRefusedError,
    TargetTimeoutError,
    TargetUnreachableError,
    UnavailableError,
    WorkerFailedError,
)


@pytest.mark.parametrize(
    ("error", "outcome", "retry"),
    [
        (TargetError(""), "failed", "anywhere"),
        (TargetUnreachableError(""), "failed", "anywhere"),
        (TargetTimeoutError(""), "failed", "anywhere"),
        (TargetGaveUpError(""), "failed", "elsewhere"),
        (WorkerFailedError(""), "failed", "once"),
        (GatewayExhaustedError(""), None, "anywhere"),
        (AnswerBrokenError(""), "failed", "anywhere"),
        (UnavailableError(""), "failed", "anywhere"),
        (TargetConfigError(""), "refused_key", "elsewhere"),
        (PayloadTooLargeError(""), None, "elsewhere"),
        (InvalidRequestError(""), None, "never"),
        (RequestError(""), None, "never"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_kinds_of_errors(error: RequestError, outcome: Outcome | None, retry: Retry) -> None:
    """A target that cannot answer has failed; what the gateway itself refuses says nothing about the target."""
    assert (error.outcome, error.retry) == (outcome, retry)


@pytest.mark.parametrize(
    ("status", "outcome", "retry"),
    [
        (302, "failed", "anywhere"),
        (400, "succeeded", "never"),
        (401, "refused_key", "elsewhere"),
        (402, "refused_key", "elsewhere"),
        (403, "refused_key", "elsewhere"),
        (404, "succeeded", "elsewhere"),
        (405, "succeeded", "never"),
        (408, "failed", "anywhere"),
        (409, "succeeded", "anywhere"),
        (410, "succeeded", "elsewhere"),
        (413, "succeeded", "elsewhere"),
        (415, "succeeded", "never"),
        (422, "succeeded", "never"),
        (425, "succeeded", "anywhere"),
        (429, "rate_limited", "anywhere"),
        (451, "succeeded", "never"),
        (500, "failed", "anywhere"),
        (501, "succeeded", "elsewhere"),
        (502, "failed", "anywhere"),
        (503, "failed", "anywhere"),
        (504, "failed", "anywhere"),
        (529, "failed", "anywhere"),
    ],
)
def test_statuses(status: int, outcome: Outcome, retry: Retry) -> None:
    """A target that finds a fault in the request is well; 5xx are its own fault."""
    error = TargetRefusedError(status)
    assert (error.outcome, error.retry) == (outcome, retry)


def test_no_money_at_the_target() -> None:
    """OpenAI says so with 429; no wait helps, so it is not asked again for this request."""
    error = TargetRefusedError(429, {"message": "You exceeded your quota.", "code": "insufficient_quota"})
    assert (error.outcome, error.retry) == ("rate_limited", "elsewhere")
