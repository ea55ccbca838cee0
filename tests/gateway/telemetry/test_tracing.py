"""Spans of requests, where OpenTelemetry is configured."""

import logging
import subprocess
import sys
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from local_gateway.accounts.usage import UsageRecord
from local_gateway.telemetry import tracing
from local_gateway.telemetry.otel import OtelTracer, exporting_tracer
from local_gateway.telemetry.tracing import NoTracer, tracer_from

TRACE, PARENT = 32 * "a", 16 * "b"
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


def record_of(**fields: Any) -> UsageRecord:
    usual: dict[str, Any] = {
        "time": 0.0,
        "request_id": "req_1",
        "key_name": "alice",
        "alias": "gpt-*",
        "model": "gpt-4o",
        "target": "openai:api.openai.com",
        "path": "/chat/completions",
        "is_stream": True,
        "status": 200,
        "outcome": "ok",
        "num_prompt_tokens": 7,
        "num_cached_tokens": 3,
        "num_completion_tokens": 2,
        "first_token_seconds": 0.5,
        "num_attempts": 1,
    }
    return UsageRecord(**usual | fields)


def span_of(record: UsageRecord, headers: dict[str, str] | None = None, **more: str) -> ReadableSpan:
    """What is exported of a request."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = OtelTracer(provider)
    tracer.begin(headers or {}).end(record, **more)
    tracer.close()
    [span] = exporter.get_finished_spans()
    return span


def test_request() -> None:
    """It has the names of the conventions, and nothing that is not listed."""
    span = span_of(record_of(), response_model="gpt-4o-2024", server_address="api.openai.com")

    assert (span.name, span.kind, span.status.status_code) == ("chat gpt-*", SpanKind.CLIENT, StatusCode.UNSET)
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.stream": True,
        "gen_ai.response.model": "gpt-4o-2024",
        "gen_ai.response.time_to_first_chunk": 0.5,
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.usage.output_tokens": 2,
        "http.response.status_code": 200,
        "server.address": "api.openai.com",
        "gateway.request_id": "req_1",
        "gateway.target": "openai:api.openai.com",
        "gateway.outcome": "ok",
        "gateway.num_attempts": 1,
        "gateway.is_cold": False,
    }


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/completions", "text_completion gpt-*"),
        ("/embeddings", "embeddings gpt-*"),
        ("/responses", "chat gpt-*"),
        ("/made/up/by/a/client", "request gpt-*"),
    ],
)
def test_operations(path: str, name: str) -> None:
    """Names are few, whatever clients ask for."""
    assert span_of(record_of(path=path)).name == name


@pytest.mark.parametrize(
    ("outcome", "status", "error_type", "code"),
    [
        ("target_error", 502, "502", StatusCode.ERROR),
        ("refused", 429, "429", StatusCode.UNSET),
        ("client_error", 400, "400", StatusCode.UNSET),
        ("client_left", 499, None, StatusCode.UNSET),
    ],
)
def test_failures(outcome: str, status: int, error_type: str | None, code: StatusCode) -> None:
    """Only what a target did wrong is an error of the span."""
    span = span_of(record_of(outcome=outcome, status=status, alias="", target=""))

    assert ((span.attributes or {}).get("error.type"), span.status.status_code) == (error_type, code)


def test_long_name() -> None:
    """A client does not fill the store of traces."""
    attributes = span_of(record_of(model=1000 * "m")).attributes or {}

    assert attributes["gen_ai.request.model"] == 100 * "m"


def test_trace_goes_on() -> None:
    """The client's trace has our span, and the target is told of it."""
    provider = TracerProvider()
    span = OtelTracer(provider).begin({"traceparent": f"00-{TRACE}-{PARENT}-01"})
    _, trace, parent, _ = span.headers()["traceparent"].split("-")
    provider.shutdown()

    assert trace == TRACE
    assert parent != PARENT


def test_trace_of_the_client_is_the_parent() -> None:
    """Nonsense is not."""
    span = span_of(record_of(), {"traceparent": f"00-{TRACE}-{PARENT}-01"})
    alone = span_of(record_of(), {"traceparent": "nonsense"})

    assert span.parent is not None
    assert f"{span.parent.span_id:x}" == PARENT
    assert alone.parent is None


def test_by_default_nothing_is_traced() -> None:
    """An empty variable is none."""
    tracer = tracer_from({"OTEL_EXPORTER_OTLP_ENDPOINT": ""})
    span = tracer.begin({"traceparent": f"00-{TRACE}-{PARENT}-01"})
    span.end(record_of())
    tracer.close()

    assert isinstance(tracer, NoTracer)
    assert span is tracer.begin({})
    assert span.headers() == {}


def test_traces_are_asked_for() -> None:
    """Then they are sent."""
    tracer = tracer_from(ENDPOINT)
    tracer.close()

    assert isinstance(tracer, OtelTracer)


def test_packages_are_missing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A gateway that is asked for traces says what to install."""
    monkeypatch.setattr(tracing, "NEEDED", ("no_such_package.sdk",))
    with caplog.at_level(logging.WARNING):
        tracer = tracer_from(ENDPOINT)

    assert isinstance(tracer, NoTracer)
    assert "opentelemetry-sdk" in caplog.text


@pytest.mark.parametrize(("has_name", "name"), [(False, "local_gateway"), (True, "mine")])
def test_name_of_the_service(has_name: bool, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours, unless the environment says another."""
    if has_name:
        monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    tracer = exporting_tracer(has_name=has_name)
    tracer.close()

    assert tracer._provider.resource.attributes["service.name"] == name


def test_packages_are_not_imported_for_nothing() -> None:
    """They take long."""
    code = (
        "import sys; from local_gateway.telemetry.tracing import tracer_from; tracer_from({});"
        "sys.exit(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
