"""What an error says about the target that was asked, and about trying again: one table for both."""

from typing import Literal, NamedTuple

from local_gateway.errors import (
    PayloadTooLargeError,
    RequestError,
    TargetConfigError,
    TargetError,
    TargetGaveUpError,
    TargetRefusedError,
    UnavailableError,
)
from local_gateway.routing.circuit_breaker import Outcome

Retry = Literal[
    "anywhere", "elsewhere", "never"
]  # any target, any but this one, none: the client must change something


class Verdict(NamedTuple):
    """`outcome` is for the breaker; None says nothing about the target."""

    outcome: Outcome | None
    retry: Retry


FAILED = Verdict("failed", "anywhere")
GAVE_UP = Verdict("failed", "elsewhere")
LIMITED = Verdict("rate_limited", "anywhere")
OUT_OF_MONEY = Verdict("rate_limited", "elsewhere")  # waiting does not help, a person must pay
REFUSED_KEY = Verdict("refused_key", "elsewhere")
BUSY = Verdict("succeeded", "anywhere")
NOT_HERE = Verdict("succeeded", "elsewhere")  # a target may know fewer models, routes or bytes than the next
CLIENTS_FAULT = Verdict("succeeded", "never")  # a target that says so is well
NOT_ASKED = Verdict(None, "never")
TOO_LARGE_TO_ASK = Verdict(None, "elsewhere")

BY_STATUS = {
    401: REFUSED_KEY,
    402: REFUSED_KEY,
    403: REFUSED_KEY,
    404: NOT_HERE,
    408: FAILED,
    409: BUSY,
    410: NOT_HERE,
    413: NOT_HERE,
    425: BUSY,
    429: LIMITED,
    501: NOT_HERE,
}


def judge(error: RequestError) -> Verdict:
    """Of an error that ended a call before the first content of its answer."""
    if isinstance(error, TargetRefusedError):
        return _judge_refusal(error)
    if isinstance(error, TargetConfigError):
        return REFUSED_KEY
    if isinstance(error, TargetGaveUpError):
        return GAVE_UP
    if isinstance(error, TargetError | UnavailableError):
        return FAILED
    return TOO_LARGE_TO_ASK if isinstance(error, PayloadTooLargeError) else NOT_ASKED


def _judge_refusal(error: TargetRefusedError) -> Verdict:
    if error.status == 429 and error.error.get("code") == "insufficient_quota":
        return OUT_OF_MONEY
    return BY_STATUS.get(error.status, CLIENTS_FAULT if 400 <= error.status < 500 else FAILED)
