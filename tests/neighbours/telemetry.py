"""Starts the tools that replace methods before Django's apps are loaded, and keeps what they would send."""

from __future__ import annotations

from typing import Any

ENVELOPES: list[Any] = []
"""What Sentry's client has handed to its transport."""
SPANS: Any = None
"""OpenTelemetry's exporter, which keeps the spans that have ended."""


def start_sentry() -> None:
    """Start Sentry's client with spans of middleware, receivers and caches, and a transport that sends nothing."""
    import sentry_sdk
    from sentry_sdk.integrations.django import DjangoIntegration
    from sentry_sdk.transport import Transport

    class Kept(Transport):  # type: ignore[misc]
        def capture_envelope(self, envelope: Any) -> None:
            ENVELOPES.append(envelope)

    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1",
        transport=Kept,
        integrations=[DjangoIntegration(middleware_spans=True, signals_spans=True, cache_spans=True)],
        traces_sample_rate=1.0,
        max_breadcrumbs=1000,
        send_default_pii=True,
        _experiments={"record_sql_params": True, "max_spans": 1_000_000},
    )


def start_opentelemetry() -> None:
    """Start OpenTelemetry's tracing of Django and of both drivers."""
    global SPANS
    from opentelemetry import trace
    from opentelemetry.instrumentation.django import DjangoInstrumentor
    from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
    from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    SPANS = InMemorySpanExporter()
    provider = TracerProvider(span_limits=SpanLimits(max_attributes=100))
    provider.add_span_processor(SimpleSpanProcessor(SPANS))
    trace.set_tracer_provider(provider)
    PsycopgInstrumentor().instrument(enable_commenter=True)
    SQLite3Instrumentor().instrument()
    DjangoInstrumentor().instrument(is_sql_commentor_enabled=True)
