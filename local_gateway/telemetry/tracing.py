"""A span for each request where an OTLP endpoint is configured; otherwise null objects without cost.

What a span holds is in `otel.py`. The packages it needs are an extra, and only looked for when they are asked for.
"""

import importlib.util
import logging
from collections.abc import Mapping
from typing import Protocol

from local_gateway.accounts.usage import UsageRecord

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
NEEDED = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


class Span(Protocol):
    """One request, from its beginning."""

    def headers(self) -> Mapping[str, str]:
        """What a target is sent, so that its own spans belong to this one. Replaces the client's."""
        ...

    def end(self, record: UsageRecord, *, response_model: str = "", server_address: str = "") -> None:
        """Once. `response_model` is the target's name of the model, `server_address` its host, where they are known."""
        ...


class Tracer(Protocol):
    def begin(self, headers: Mapping[str, str]) -> Span:
        """`headers` are the client's, in lower case, by which it may say to what trace the request belongs."""
        ...

    def close(self) -> None:
        """Flush. Blocks for some seconds if the collector does not answer: call it in a thread."""
        ...


class NoSpan:
    def headers(self) -> Mapping[str, str]:
        return {}

    def end(self, record: UsageRecord, *, response_model: str = "", server_address: str = "") -> None:
        """Discard the record."""


class NoTracer:
    """The tracer where no endpoint is configured: begins null spans."""

    def begin(self, headers: Mapping[str, str]) -> Span:
        return NO_SPAN

    def close(self) -> None:
        """Nothing was collected, so nothing is flushed."""


NO_SPAN = NoSpan()


def tracer_from(environ: Mapping[str, str]) -> Tracer:
    """The one that the environment asks for, by OpenTelemetry's own variables."""
    if not any(environ.get(name) for name in ENDPOINTS):
        return NoTracer()
    if not _is_installed():
        log.warning("No traces are sent: opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http are missing.")
        return NoTracer()
    from local_gateway.telemetry.otel import exporting_tracer  # noqa: PLC0415 (only now is it known to be there)

    return exporting_tracer(has_name=bool(environ.get("OTEL_SERVICE_NAME")))


def _is_installed() -> bool:
    try:
        return all(importlib.util.find_spec(name) for name in NEEDED)
    except ModuleNotFoundError:  # not even the package it would be in
        return False
