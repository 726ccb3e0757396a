"""Traces and metrics, sent by OTLP where the usual variables say where to: `OTEL_EXPORTER_OTLP_ENDPOINT`.

FastAPI makes those of requests; statements and jobs are added here. Without the variables nothing of the SDK
is imported, and nothing is measured. Needs the extra `telemetry`.
"""

import os
from typing import Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from sqlalchemy import Connection, Engine, event

ENDPOINTS = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)

tracer = trace.get_tracer("app")


def is_wanted() -> bool:
    return any(os.environ.get(name) for name in ENDPOINTS)


def telemetry_config() -> TelemetryConfig:
    """For FastAPI."""
    return {
        "tracing": is_wanted(),
        "metrics": is_wanted(),
        # They would hold what a client has sent.
        "logs": False,
        "auto_configure": is_wanted(),
    }


def trace_statements() -> None:
    """From now on, every SQL statement is a span, without its values."""
    if is_wanted() and not event.contains(Engine, "before_cursor_execute", begin_span):
        event.listen(Engine, "before_cursor_execute", begin_span)
        event.listen(Engine, "after_cursor_execute", end_span)
        event.listen(Engine, "handle_error", end_failed_span)


def begin_span(
    connection: Connection, _cursor: Any, statement: str, _parameters: Any, context: Any, *_: Any
) -> None:
    name = statement.split(maxsplit=1)[0]
    attributes = {"db.system.name": connection.dialect.name, "db.query.text": statement}
    context.span = tracer.start_span(name, kind=trace.SpanKind.CLIENT, attributes=attributes)


def end_span(
    _connection: Connection, _cursor: Any, _statement: str, _parameters: Any, context: Any, *_: Any
) -> None:
    context.span.end()


def end_failed_span(error: Any) -> None:
    span = getattr(error.execution_context, "span", None)
    if span is not None:
        # Not the message: a database quotes the row that it refuses.
        span.set_status(trace.StatusCode.ERROR, type(error.original_exception).__name__)
        span.end()
