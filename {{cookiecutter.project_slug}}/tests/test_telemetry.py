"""What is traced; FastAPI's own part is FastAPI's to test."""

from typing import Any

import pytest
from opentelemetry import trace
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from app import telemetry


class Span:
    def __init__(self, name: str, attributes: dict[str, Any]) -> None:
        self.name = name
        self.attributes = attributes
        self.error: str | None = None
        self.has_ended = False

    def set_status(self, status: trace.StatusCode, description: str) -> None:
        assert status is trace.StatusCode.ERROR
        self.error = description

    def end(self) -> None:
        self.has_ended = True


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> list[Span]:
    made: list[Span] = []

    def start_span(name: str, *, kind: trace.SpanKind, attributes: dict[str, Any]) -> Span:
        assert kind is trace.SpanKind.CLIENT
        made.append(Span(name, attributes))
        return made[-1]

    monkeypatch.setattr(telemetry.tracer, "start_span", start_span)
    return made


def test_is_off_unless_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(telemetry.telemetry_config().values())

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    config = telemetry.telemetry_config()

    assert (config["tracing"], config["metrics"], config["logs"]) == (True, True, False)


async def test_statements_are_spans_without_values(
    session: AsyncSession, spans: list[Span], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    for _ in range(2):  # as when a process makes two applications
        telemetry.trace_statements()
    try:
        await session.execute(text("SELECT * FROM users WHERE email = :email"), {"email": "ada"})
        with pytest.raises(DBAPIError):
            await session.execute(text("SELECT 'secret' FROM nowhere"))
    finally:
        event.remove(Engine, "before_cursor_execute", telemetry.begin_span)
        event.remove(Engine, "after_cursor_execute", telemetry.end_span)
        event.remove(Engine, "handle_error", telemetry.end_failed_span)
    await session.rollback()

    found, failed = [span for span in spans if span.name == "SELECT"]
    assert "ada" not in str(found.attributes)
    assert (found.error, found.has_ended) == (None, True)
    assert failed.error
    assert "nowhere" not in failed.error
    assert failed.has_ended


def test_error_without_a_statement_is_no_span() -> None:
    class Context:
        execution_context = None

    telemetry.end_failed_span(Context())
