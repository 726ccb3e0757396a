"""Traces, metrics and logs, sent by OTLP if the usual variables say where to: `OTEL_EXPORTER_OTLP_ENDPOINT`.

FastAPI provides those of requests; those of statements, calls to other services, jobs and whatever else is worth
watching are added here. Without the variables, nothing of the SDK is imported and nothing is measured. Sending
needs the extra `telemetry`.
"""

import os
from collections.abc import Iterator
from typing import Any

import httpx2
from fastapi.telemetry import TelemetryConfig
from opentelemetry import metrics, propagate, trace
from opentelemetry.metrics import CallbackOptions, Observation
from sqlalchemy import Connection, Engine, QueuePool, event

from app.database import sessionmaker

tracer = trace.get_tracer("app")
meter = metrics.get_meter("app")

jobs_tried = meter.create_counter("app.jobs.tried", "{job}", "Tries of jobs, by their outcome.")
jobs_kept = meter.create_gauge("app.jobs.kept", "{job}", "Jobs that wait, and that were given up.")
mails_sent = meter.create_counter("app.mails.sent", "{mail}", "Mails that a server has taken.")
throttled = meter.create_counter("app.throttled", "{try}", "Tries that were one too many.")


def is_wanted(signal: str) -> bool:
    """Whether `TRACES`, `METRICS` or `LOGS` are to be sent."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    names = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    has_endpoint = any(os.environ.get(name) for name in names)
    return has_endpoint and os.environ.get(f"OTEL_{signal}_EXPORTER") != "none"


def telemetry_config() -> TelemetryConfig:
    """Returns FastAPI's telemetry configuration."""
    tracing, measuring = is_wanted("TRACES"), is_wanted("METRICS")
    if tracing or measuring or is_wanted("LOGS"):
        # When a process ends, the signals are sent one after the other, and have to be before it is killed.
        os.environ.setdefault("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # seconds
    return {
        "tracing": tracing,
        "metrics": measuring,
        # FastAPI's logs would hold what a client has sent; `app.logs` sends its own.
        "logs": False,
        "auto_configure": tracing or measuring,
    }


def observe_pool(_options: CallbackOptions) -> Iterator[Observation]:
    """Yields the number of this process's database connections, in use and idle."""
    engine = sessionmaker.kw.get("bind")
    if engine is not None and isinstance(engine.pool, QueuePool):
        yield Observation(engine.pool.checkedout(), {"db.client.connection.state": "used"})
        yield Observation(engine.pool.checkedin(), {"db.client.connection.state": "idle"})


meter.create_observable_up_down_counter(
    "db.client.connection.count", [observe_pool], "{connection}", "Connections, by their state."
)


class TracedClient(httpx2.AsyncClient):
    """Records each call to another service in a span, and tells the service to which trace it belongs."""

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        # Neither path nor query: either may hold a key.
        attributes = {"http.request.method": request.method, "server.address": request.url.host}
        with tracer.start_as_current_span(
            request.method,
            kind=trace.SpanKind.CLIENT,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            propagate.inject(request.headers)
            try:
                response = await super().send(request, **options)
            except Exception as error:
                span.set_status(trace.StatusCode.ERROR, type(error).__name__)
                raise
            span.set_attribute("http.response.status_code", response.status_code)
            return response


def trace_statements_if_wanted() -> None:
    if is_wanted("TRACES"):
        trace_statements()


def trace_statements() -> None:
    """Records every SQL statement from now on in a span, without its values."""
    for name, listener in LISTENERS:
        if not event.contains(Engine, name, listener):
            event.listen(Engine, name, listener)


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


LISTENERS = (
    ("before_cursor_execute", begin_span),
    ("after_cursor_execute", end_span),
    ("handle_error", end_failed_span),
)
