"""What Prometheus is told."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from local_gateway.backends.base import Health
from local_gateway.errors import (
    AnswerBrokenError,
    RequestError,
    TargetConfigError,
    TargetRefusedError,
    TargetTimeoutError,
    TargetUnreachableError,
    UnavailableError,
)
from local_gateway.routing.target import STATES
from local_gateway.telemetry.metrics import CONTENT_TYPE, Metrics
from tests.gateway.usage_samples import answered

LLAMA = {"model": "llama", "target": "local:demo"}


def value(metrics: Metrics, sample: str, **labels: str) -> float | None:
    """As it is exposed; None if it is not."""
    families = text_string_to_metric_families(metrics.exposition().decode())
    values = [
        each.value for family in families for each in family.samples if (each.name, each.labels) == (sample, labels)
    ]
    return values[0] if values else None


def test_requests() -> None:
    """By model, target, status and outcome."""
    metrics = Metrics()
    for status, outcome in ((200, "ok"), (200, "ok"), (502, "target_error")):
        metrics.request_ended(answered(status=status, outcome=outcome))

    assert value(metrics, "gateway_requests_total", **LLAMA, status="200", outcome="ok") == 2
    assert value(metrics, "gateway_requests_total", **LLAMA, status="502", outcome="target_error") == 1
    assert value(metrics, "gateway_attempts_total", model="llama") == 3


def test_tokens_and_cost() -> None:
    """They add up."""
    metrics = Metrics()
    for _ in range(2):
        metrics.request_ended(
            answered(num_prompt_tokens=10, num_cached_tokens=4, num_completion_tokens=3, cost=0.25),
        )

    kinds = {
        kind: value(metrics, "gateway_tokens_total", **LLAMA, kind=kind) for kind in ("prompt", "cached", "completion")
    }
    assert kinds == {"prompt": 20, "cached": 8, "completion": 6}
    assert value(metrics, "gateway_cost_total", **LLAMA) == 0.5


def test_times() -> None:
    """To the first content, if there was any, and to the end."""
    metrics = Metrics()
    metrics.request_ended(answered(first_token_seconds=0.3, total_seconds=3.0))
    metrics.request_ended(answered(first_token_seconds=None, total_seconds=1.0))

    assert value(metrics, "gateway_first_token_seconds_count", **LLAMA) == 1
    assert value(metrics, "gateway_first_token_seconds_bucket", **LLAMA, le="0.5") == 1
    assert value(metrics, "gateway_first_token_seconds_bucket", **LLAMA, le="0.25") == 0
    assert value(metrics, "gateway_request_seconds_sum", **LLAMA) == 4.0


def test_request_that_reached_no_target() -> None:
    """What a client made up is no label."""
    metrics = Metrics()
    metrics.request_ended(
        answered(alias="", model="made up", target="", status=404, outcome="refused", num_attempts=0),
    )

    unknown = {"model": "-", "target": "-"}
    assert value(metrics, "gateway_requests_total", **unknown, status="404", outcome="refused") == 1
    assert b"made up" not in metrics.exposition()


def test_shared_answers() -> None:
    """Hits, misses and shared ones; only who made the call counts its attempts."""
    metrics = Metrics()
    metrics.request_ended(answered())
    for sharing, num_attempts in (("miss", 2), ("shared", 2), ("shared", 2), ("hit", 0)):
        metrics.request_ended(answered(sharing=sharing, num_attempts=num_attempts))

    results = {
        result: value(metrics, "gateway_shared_answers_total", model="llama", result=result)
        for result in ("hit", "miss", "shared")
    }
    assert results == {"hit": 1, "miss": 1, "shared": 2}
    assert value(metrics, "gateway_attempts_total", model="llama") == 3


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TargetUnreachableError("x"), "unreachable"),
        (TargetTimeoutError("x"), "timeout"),
        (TargetConfigError("x"), "config"),
        (AnswerBrokenError("x"), "broken"),
        (TargetRefusedError(429), "status_429"),
        (TargetRefusedError(503, {"code": "anything"}), "status_503"),
        (TargetRefusedError(999), "status_other"),
        (UnavailableError("x"), "other"),
    ],
)
def test_failures_of_targets(error: RequestError, reason: str) -> None:
    """By kind, not by what the target wrote."""
    metrics = Metrics()
    metrics.attempt_failed("a", error)

    assert value(metrics, "gateway_target_failures_total", target="a", reason=reason) == 1


def test_breaker() -> None:
    """It is in one state."""
    metrics = Metrics()
    metrics.breaker_changed("a", "open", STATES)
    metrics.breaker_changed("a", "half_open", STATES)
    states = {
        state: value(metrics, "gateway_breaker_state", target="a", state=state)
        for state in ("closed", "half_open", "open", "rate_limited", "config_error")
    }

    assert states == {"closed": 0, "half_open": 1, "open": 0, "rate_limited": 0, "config_error": 0}


def test_cold_starts() -> None:
    """How many, and how long they took."""
    metrics = Metrics()
    metrics.cold_start("a", 12.0)
    metrics.cold_start("a", 40.0)

    assert value(metrics, "gateway_cold_start_seconds_count", target="a") == 2
    assert value(metrics, "gateway_cold_start_seconds_sum", target="a") == 52.0


def test_what_workers_are_billed_for() -> None:
    """The bill of an endpoint, as it grows from look to look."""
    metrics = Metrics()
    for new_seconds, new_starts in ((3, 1), (0, 0), (40, 1)):
        metrics.workers_seen("ep", new_seconds, new_starts, price=0.5)

    assert value(metrics, "gateway_worker_billed_seconds_total", endpoint="ep") == 43
    assert value(metrics, "gateway_worker_cost_total", endpoint="ep") == 21.5
    assert value(metrics, "gateway_worker_starts_total", endpoint="ep") == 2


def test_health() -> None:
    """Workers and queue of an endpoint; nothing of a target that has no such thing."""
    metrics = Metrics()
    metrics.endpoint_health("a", Health(True, "", num_ready_workers=2, num_starting_workers=0, num_queued=5))
    metrics.endpoint_health("b", Health(False, ""))

    assert value(metrics, "gateway_target_up", target="a") == 1
    assert value(metrics, "gateway_target_up", target="b") == 0
    assert value(metrics, "gateway_target_workers", target="a", state="ready") == 2
    assert value(metrics, "gateway_target_workers", target="a", state="starting") == 0
    assert value(metrics, "gateway_target_queued", target="a") == 5
    assert value(metrics, "gateway_target_queued", target="b") is None


def test_targets_that_are_gone() -> None:
    """Their state is not shown any more; what they did stays counted."""
    metrics = Metrics()
    for target in ("a", "b"):
        metrics.breaker_changed(target, "closed", STATES)
        metrics.endpoint_health(target, Health(True, "", 1, 1, 1))
        metrics.cold_start(target, 1.0)
    metrics.forget_targets_except(["b"])

    assert value(metrics, "gateway_breaker_state", target="a", state="closed") is None
    assert value(metrics, "gateway_target_workers", target="a", state="ready") is None
    assert value(metrics, "gateway_breaker_state", target="b", state="closed") == 1
    assert value(metrics, "gateway_cold_start_seconds_count", target="a") == 1


def test_what_is_set() -> None:
    """Numbers that others count."""
    metrics = Metrics()
    metrics.requests_in_flight(7)
    metrics.usage_queue(3, 4)

    assert value(metrics, "gateway_requests_in_flight") == 7
    assert value(metrics, "gateway_usage_queued") == 3
    assert value(metrics, "gateway_usage_dropped_total") == 4


def test_metrics_are_their_own() -> None:
    """Two gateways in a process do not count for each other, and nothing is told twice."""
    one, other = Metrics(), Metrics()
    one.request_ended(answered())

    assert b'model="llama"' not in other.exposition()
    assert b"_created" not in one.exposition()
    assert b"process_resident_memory_bytes" in one.exposition()
    assert CONTENT_TYPE.startswith("text/plain")
