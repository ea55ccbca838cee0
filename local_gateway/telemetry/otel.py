"""Requests as OpenTelemetry's spans, with the names of its conventions for generative AI.

A span has the attributes listed here and no others: never a prompt, an answer, a key or a header.
"""

from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from local_gateway.accounts.usage import UsageRecord

NAME = "local_gateway"
OPERATIONS = {
    "/chat/completions": "chat",
    "/responses": "chat",
    "/completions": "text_completion",
    "/embeddings": "embeddings",
}
MAX_NAME = 100  # characters of a model's name, which the client chose
NO_FAILURES = ("ok", "client_left", "cancelled")

Value = str | int | float | bool


class RequestSpan:
    """The span of one request."""

    def __init__(self, span: Span, propagator: TraceContextTextMapPropagator) -> None:
        self._span = span
        self._propagator = propagator

    def headers(self) -> Mapping[str, str]:
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(self._span, Context()))
        return carrier

    def end(self, record: UsageRecord, *, response_model: str = "", server_address: str = "") -> None:
        span = self._span
        if span.is_recording():
            places = {"gen_ai.response.model": response_model, "server.address": server_address}
            span.update_name(_name(record))
            span.set_attributes(
                {name: value for name, value in {**_attributes(record), **places}.items() if value != ""}
            )
            if record.outcome == "target_error":
                span.set_status(StatusCode.ERROR)
        span.end()


class OtelTracer:
    """Knows how to begin spans, not where they go: that is the provider's."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(NAME)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, headers: Mapping[str, str]) -> RequestSpan:
        parent = self._propagator.extract(headers, Context())
        return RequestSpan(self._tracer.start_span(NAME, parent, SpanKind.CLIENT), self._propagator)

    def close(self) -> None:
        self._provider.shutdown()


def exporting_tracer(*, has_name: bool) -> OtelTracer:
    """Sends spans in batches, from a thread, to where OpenTelemetry's variables say. `has_name`: of the service too."""
    resource = Resource.create({} if has_name else {"service.name": NAME})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return OtelTracer(provider)


def _name(record: UsageRecord) -> str:
    return f"{OPERATIONS.get(record.path, 'request')} {record.alias}".rstrip()


def _attributes(record: UsageRecord) -> dict[str, Value]:
    """The span's attributes; empty texts are left out."""
    attributes: dict[str, Value] = {
        "gen_ai.operation.name": OPERATIONS.get(record.path, ""),
        "gen_ai.request.model": record.model[:MAX_NAME],
        "gen_ai.request.stream": record.is_stream,
        "gen_ai.usage.input_tokens": record.num_prompt_tokens,
        "gen_ai.usage.cache_read.input_tokens": record.num_cached_tokens,
        "gen_ai.usage.output_tokens": record.num_completion_tokens,
        "http.response.status_code": record.status,
        "error.type": "" if record.outcome in NO_FAILURES else str(record.status),
        "gateway.request_id": record.request_id,
        "gateway.target": record.target,
        "gateway.outcome": record.outcome,
        "gateway.sharing": record.sharing,
        "gateway.num_attempts": record.num_attempts,
        "gateway.is_cold": record.is_cold,
    }
    if record.first_token_seconds is not None:
        attributes["gen_ai.response.time_to_first_chunk"] = record.first_token_seconds
    return attributes
