"""What the gateway tells Prometheus. Names begin with `gateway_`; times are seconds.

Label values are names from the configuration and words of ours, never a client's, so their number is bounded.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from local_gateway.accounts.usage import UsageRecord
from local_gateway.backends.base import Health
from local_gateway.errors import (
    AnswerBrokenError,
    RequestError,
    TargetConfigError,
    TargetRefusedError,
    TargetTimeoutError,
    TargetUnreachableError,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST

NONE = "-"  # the label of a request without a known model, or without a target that answered
FIRST_TOKEN_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
REQUEST_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
COLD_START_BUCKETS = (1, 2.5, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600)
REASONS: dict[type[RequestError], str] = {
    TargetUnreachableError: "unreachable",
    TargetTimeoutError: "timeout",
    TargetConfigError: "config",
    AnswerBrokenError: "broken",
}

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, with its first time


class Metrics:
    """Counts what it is told. A request costs a few microseconds: its series are looked up once, then remembered."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        flow = ["model", "target"]
        self._requests = self._counter("requests", "Requests that ended.", [*flow, "status", "outcome"])
        self._tokens = self._counter(
            "tokens", "Tokens of prompts, their cached part, and completions.", [*flow, "kind"]
        )
        self._cost = self._counter("cost", "In the currency of the prices.", flow)
        self._first_token = self._histogram("first_token_seconds", "To the first content.", flow, FIRST_TOKEN_BUCKETS)
        self._seconds = self._histogram("request_seconds", "To the end.", flow, REQUEST_BUCKETS)
        self._attempts = self._counter("attempts", "Calls to targets that answered requests needed.", ["model"])
        self._sharing = self._counter("shared_answers", "Of requests that may share.", ["model", "result"])
        self._failures = self._counter("target_failures", "Calls that gave no answer.", ["target", "reason"])
        self._cold = self._histogram("cold_start_seconds", "Waits for a worker.", ["target"], COLD_START_BUCKETS)
        self._worker_seconds = self._counter("worker_billed_seconds", "Of RunPod's workers, as seen.", ["endpoint"])
        self._worker_cost = self._counter("worker_cost", "Of these seconds, by worker_price.", ["endpoint"])
        self._worker_starts = self._counter("worker_starts", "Of RunPod's workers, as seen.", ["endpoint"])
        self._in_flight = Gauge("gateway_requests_in_flight", "Running now.", registry=self._registry)
        self._queued = Gauge("gateway_usage_queued", "Usage records not stored yet.", registry=self._registry)
        self._dropped = _Total("gateway_usage_dropped", "Usage records that are lost.")
        self._registry.register(self._dropped)
        self._breaker = self._gauge("breaker_state", "1: it is in this state.", ["target", "state"])
        self._is_up = self._gauge("target_up", "1: it could be reached and took our key when last asked.", ["target"])
        self._workers = self._gauge("target_workers", "When last asked.", ["target", "state"])
        self._waiting = self._gauge("target_queued", "Jobs in its queue when last asked.", ["target"])
        self._known_requests: dict[tuple[str, str, int, str], Counter] = {}
        self._known_flows: dict[tuple[str, str], _Flow] = {}

    # Requests

    def request_ended(self, record: UsageRecord) -> None:
        alias, target = record.alias or NONE, record.target or NONE
        self._request_series(alias, target, record.status, record.outcome).inc()
        flow = self._known_flows.get((alias, target)) or self._flow(alias, target)
        flow.seconds.observe(record.total_seconds)
        if record.first_token_seconds is not None:
            flow.first_token.observe(record.first_token_seconds)
        for series, num_tokens in zip(flow.tokens, _tokens_of(record), strict=True):
            if num_tokens:
                series.inc(num_tokens)
        if record.cost:
            flow.cost.inc(record.cost)
        if record.sharing:
            self._sharing.labels(alias, record.sharing).inc()
        if (
            record.num_attempts and record.sharing != "shared"
        ):  # attempts are counted for the request that made the call
            flow.attempts.inc(record.num_attempts)

    def requests_in_flight(self, number: int) -> None:
        self._in_flight.set(number)

    def usage_queue(self, num_queued: int, num_dropped: int) -> None:
        """Set the gauge of queued records and the total of records dropped since the start."""
        self._queued.set(num_queued)
        self._dropped.value = num_dropped

    # Targets

    def attempt_failed(self, target: str, error: RequestError) -> None:
        self._failures.labels(target, _reason(error)).inc()

    def cold_start(self, target: str, seconds: float) -> None:
        """A request has waited so long for a worker."""
        self._cold.labels(target).observe(seconds)

    def endpoint_health(self, target: str, health: Health) -> None:
        """What it does not say is not shown."""
        self._is_up.labels(target).set(health.is_ok)
        _show(self._workers, health.num_ready_workers, target, "ready")
        _show(self._workers, health.num_starting_workers, target, "starting")
        _show(self._waiting, health.num_queued, target)

    def workers_seen(self, endpoint: str, new_seconds: int, new_starts: int, price: float) -> None:
        """The bill of a RunPod endpoint grew by so many seconds at `price`, since the last look at its workers."""
        self._worker_seconds.labels(endpoint).inc(new_seconds)
        self._worker_cost.labels(endpoint).inc(new_seconds * price)
        self._worker_starts.labels(endpoint).inc(new_starts)

    def breaker_changed(self, target: str, state: str, states: Collection[str]) -> None:
        """`states` are all that a breaker can be in: each is a series, 1 where it is the present one."""
        for each in states:
            self._breaker.labels(target, each).set(each == state)

    def forget_targets_except(self, targets: Collection[str]) -> None:
        """How those are that are not configured any more is not shown any more. What was counted stays."""
        for gauge in (self._breaker, self._is_up, self._workers, self._waiting):
            gone = {sample.labels["target"] for metric in gauge.collect() for sample in metric.samples}
            for target in gone.difference(targets):
                gauge.remove_by_labels({"target": target})

    def exposition(self) -> bytes:
        """The text that Prometheus reads, of type CONTENT_TYPE."""
        return generate_latest(self._registry)

    def _request_series(self, alias: str, target: str, status: int, outcome: str) -> Counter:
        key = (alias, target, status, outcome)
        series = self._known_requests.get(key)
        if series is None:
            series = self._known_requests[key] = self._requests.labels(alias, target, str(status), outcome)
        return series

    def _flow(self, alias: str, target: str) -> "_Flow":
        tokens = tuple(self._tokens.labels(alias, target, kind) for kind in ("prompt", "cached", "completion"))
        flow = self._known_flows[alias, target] = _Flow(
            tokens,
            self._cost.labels(alias, target),
            self._first_token.labels(alias, target),
            self._seconds.labels(alias, target),
            self._attempts.labels(alias),
        )
        return flow

    def _counter(self, name: str, text: str, labels: list[str]) -> Counter:
        return Counter(f"gateway_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, labels: list[str]) -> Gauge:
        return Gauge(f"gateway_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, labels: list[str], buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"gateway_{name}", text, labels, registry=self._registry, buckets=buckets)


class _Flow(NamedTuple):
    """The series of a model and a target."""

    tokens: tuple[Counter, ...]  # as _tokens_of
    cost: Counter
    first_token: Histogram
    seconds: Histogram
    attempts: Counter


class _Total(Collector):
    """A counter that is counted elsewhere."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self.value = 0

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(self._name, self._text, value=self.value)


def _tokens_of(record: UsageRecord) -> tuple[int, int, int]:
    return record.num_prompt_tokens, record.num_cached_tokens, record.num_completion_tokens


def _reason(error: RequestError) -> str:
    """Its kind; an error that a target sent is its status, for its own code could be anything."""
    if isinstance(error, TargetRefusedError):
        return f"status_{error.status}" if 400 <= error.status <= 599 else "status_other"
    return REASONS.get(type(error), "other")


def _show(gauge: Gauge, number: int | None, *labels: str) -> None:
    if number is not None:
        gauge.labels(*labels).set(number)
