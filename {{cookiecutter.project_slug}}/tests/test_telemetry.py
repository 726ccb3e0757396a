"""What is traced and measured; what FastAPI makes is FastAPI's to test."""

import os

import httpx2
import pytest
from fastapi import FastAPI
from opentelemetry.metrics import CallbackOptions
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode
from sqlalchemy import Engine, NullPool, QueuePool, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from app import telemetry
from app.database import sessionmaker
from tests.fixtures.fast_auth import PASSWORD
from tests.fixtures.jobs import Jobs
from tests.fixtures.mock_services import MockServices

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, False),
        ({ENDPOINT: "http://127.0.0.1:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://127.0.0.1:4318"}, False),
        ({ENDPOINT: "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({ENDPOINT: "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_is_off_unless_it_is_wanted(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], wanted: bool
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "10")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert telemetry.telemetry_config()["tracing"] is wanted


def test_collector_that_does_not_answer_holds_up_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:4318")
    monkeypatch.setattr("os.environ", dict(os.environ))

    telemetry.telemetry_config()

    assert os.environ["OTEL_EXPORTER_OTLP_TIMEOUT"] == "1"


async def test_a_request_is_a_trace(
    client: httpx2.AsyncClient, spans: list[ReadableSpan], jobs: Jobs, mock_services: MockServices
) -> None:
    account = {"email": "ada@example.com", "password": PASSWORD}
    await client.post("/api/v1/auth/register", json=account)
    await client.post("/api/v1/auth/forgot-password", json={"email": "ada@example.com"})
    await jobs.run()

    assert mock_services.email.outbox
    names = [span.name for span in spans]
    assert {"POST /api/v1/auth/register", "INSERT", "app.users.mails.send_reset_token"} <= {*names}
    [insert] = [span for span in spans if "INTO users" in str(span.attributes)]
    [request] = [span for span in spans if span.name == "POST /api/v1/auth/register"]
    assert insert.context.trace_id == request.context.trace_id
    assert "ada@example.com" not in "".join(span.to_json() for span in spans)


async def test_statements_are_traced_if_that_is_wanted(
    session: AsyncSession, spans: list[ReadableSpan], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, listener in telemetry.LISTENERS:
        event.remove(Engine, name, listener)
    telemetry.trace_statements_if_wanted()
    await session.execute(text("SELECT 1"))
    assert spans == []

    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:4318")
    telemetry.trace_statements_if_wanted()
    await session.execute(text("SELECT 1"))
    assert [span.name for span in spans] == ["SELECT"]


async def test_statements_that_fail(session: AsyncSession, spans: list[ReadableSpan]) -> None:
    telemetry.trace_statements()  # as when a process makes two applications
    with pytest.raises(DBAPIError):
        await session.execute(text("SELECT 'secret' FROM nowhere"))
    await session.rollback()

    [failed] = [span for span in spans if span.name == "SELECT"]
    assert failed.status.status_code is StatusCode.ERROR
    assert "nowhere" not in str(failed.status.description)


def test_error_without_a_statement_is_no_span() -> None:
    class Context:
        execution_context = None

    telemetry.end_failed_span(Context())


async def test_calls_of_other_services(spans: list[ReadableSpan]) -> None:
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        if request.url.path == "/broken":
            raise httpx2.ReadTimeout("secret")
        return httpx2.Response(404)

    transport = httpx2.MockTransport(answer)
    async with telemetry.TracedClient(transport=transport) as client:
        await client.get("http://rates.example/latest?key=secret")
        with pytest.raises(httpx2.ReadTimeout):
            await client.get("http://rates.example/broken")

    found, failed = spans
    assert dict(found.attributes or {}) == {
        "http.request.method": "GET",
        "server.address": "rates.example",
        "http.response.status_code": 404,
    }
    assert failed.status.description == "ReadTimeout"
    assert f"{found.context.trace_id:032x}" in asked[0].headers["traceparent"]
    assert "secret" not in found.to_json() + failed.to_json()


def test_connections() -> None:
    class Bound:
        def __init__(self, pool: type[NullPool | QueuePool]) -> None:
            self.pool = pool(lambda: None)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sessionmaker.kw, "bind", Bound(NullPool))
        assert not list(telemetry.observe_pool(CallbackOptions()))  # as in most tests
        patch.setitem(sessionmaker.kw, "bind", Bound(QueuePool))
        counted = list(telemetry.observe_pool(CallbackOptions()))

    assert [observation.value for observation in counted] == [0, 0]
    assert [str(observation.attributes) for observation in counted] == [
        "{'db.client.connection.state': 'used'}",
        "{'db.client.connection.state': 'idle'}",
    ]


async def test_spans_are_those_of_one_test(spans: list[ReadableSpan], app: FastAPI) -> None:
    assert spans == []
