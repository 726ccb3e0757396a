"""One line an event, with the request that it belongs to."""

import json
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter

from app.logs import JSONFormatter, OTLPHandler, TextFormatter, configure_logging
from app.main import create_app
from app.settings import Settings
from app.users.models import User
from app.work import CURRENT, note_user, working

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What the application has logged in the test, as in production."""

    def logged() -> list[dict[str, Any]]:
        entries = [json.loads(line) for line in caplog.text.splitlines()]
        return [entry for entry in entries if entry["logger"].startswith("app")]

    caplog.set_level(logging.INFO, "app.access")
    as_before = caplog.handler.formatter
    caplog.handler.setFormatter(JSONFormatter())
    yield logged
    caplog.handler.setFormatter(as_before)


@pytest.fixture
async def crashing(settings: Settings) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of an application whose errors are logged, as in production."""
    app = create_app(settings)

    @app.get("/crash")
    async def crash() -> None:
        raise RuntimeError("a bug")

    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.mark.committed  # savepoints would be counted
async def test_line_of_a_request(
    superuser_client: httpx2.AsyncClient,
    superuser: User,
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    response = await superuser_client.get(f"/api/v1/users/{uuid4()}?secret=x")

    (line,) = lines()
    assert line["message"] == "GET /api/v1/users/{id} 404"
    assert (line["method"], line["status"], line["level"]) == ("GET", 404, "info")
    assert line["request_id"] == response.headers["x-request-id"]
    assert line["user_id"] == str(superuser.id)
    assert line["statements"] == 2
    assert line["milliseconds"] > 0


async def test_line_of_a_head_request(
    user_client: httpx2.AsyncClient, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    await user_client.head("/api/v1/users/me")

    assert lines()[0]["message"] == "HEAD /api/v1/users/me 200"


async def test_line_of_a_head_request_that_fails(
    crashing: httpx2.AsyncClient, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    await crashing.head("/crash")

    assert lines()[-1]["message"] == "HEAD /crash 500"


async def test_path_without_a_route_is_not_logged(
    client: httpx2.AsyncClient, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    await client.get("/ada@example.com")

    assert lines()[0]["message"] == "GET - 404"


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({"X-Request-ID": "from-the-proxy.1"}, "from-the-proxy.1"),
        ({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, TRACE),
        ({"X-Request-ID": "of a client", "traceparent": "no"}, None),
        ({"X-Request-ID": "x" * 129}, None),
        ({"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"}, None),
    ],
)
async def test_id_is_taken_over_when_it_is_well_formed(
    client: httpx2.AsyncClient, headers: dict[str, str], wanted: str | None
) -> None:
    answered = (await client.get("/health/live", headers=headers)).headers["x-request-id"]

    assert answered == wanted if wanted else len(answered) == 32


async def test_error_is_logged_with_its_request(
    crashing: httpx2.AsyncClient, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    response = await crashing.get("/crash", headers={"X-Request-ID": "0815"})

    assert response.status_code == 500
    error, answer = lines()
    assert (error["request_id"], error["level"]) == ("0815", "error")
    assert "RuntimeError: a bug" in error["exception"]
    assert (answer["request_id"], answer["status"]) == ("0815", 500)


def test_text_is_for_people() -> None:
    record = logging.LogRecord("app", logging.INFO, __file__, 1, "GET %s 200", ("/x",), None)
    record.fields = {"route": "/x", "milliseconds": 1.5, "user_id": None}

    with working("0815"):
        line = TextFormatter().format(record)

    assert line.endswith(" INFO    GET /x 200  request_id=0815  milliseconds=1.5")
    assert TextFormatter().format(record).endswith("200  milliseconds=1.5")


@pytest.fixture
def kept_logging() -> Iterator[None]:
    """Resets the levels of loggers to what they are in production, and restores them afterwards."""
    names = [None, *logging.root.manager.loggerDict]
    loggers = [logging.getLogger(name) for name in names]
    kept = [(logger, logger.level, logger.handlers[:], logger.propagate) for logger in loggers]
    for name in ("app", "app.access"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    yield
    for logger, level, handlers, propagate in kept:
        logger.setLevel(level)
        logger.handlers[:] = handlers
        logger.propagate = propagate


@pytest.mark.parametrize("json_wanted", [True, False])
def test_everything_goes_through_one_handler(
    settings: Settings, kept_logging: None, capsys: pytest.CaptureFixture[str], json_wanted: bool
) -> None:
    log_format = "json" if json_wanted else "text"
    configure_logging(
        settings.model_copy(update={"log_format": log_format, "log_level": "WARNING"})
    )

    logging.getLogger("uvicorn.error").warning("from the server")
    logging.getLogger("alembic").warning("from a migration")
    logging.getLogger("app").info("too quiet")
    logging.getLogger("httpx2").info("https://example.com/?token=secret")

    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("{") == json_wanted
    assert "from the server" in first
    assert "from a migration" in second


def test_production_logs_json(settings: Settings) -> None:
    assert settings.model_copy(update={"environment": "production"}).logs_json
    assert not settings.logs_json


def test_nobody_is_noted_outside_of_a_request() -> None:
    note_user(uuid4())

    assert CURRENT.get() is None


def test_lines_go_to_a_collector_too(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, kept_logging: None
) -> None:
    exporter = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
    place = "opentelemetry.exporter.otlp.proto.http._log_exporter.OTLPLogExporter"
    monkeypatch.setattr(place, lambda: exporter)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")

    configure_logging(settings)
    with working("the-request"):
        logging.getLogger("app.users").warning("%s is late", "a mail")
        logging.getLogger("opentelemetry.sdk").warning("nobody listens")
        try:
            raise ValueError
        except ValueError:
            logging.getLogger("app").exception("broken")
        monkeypatch.setattr(logging, "raiseExceptions", False)
        logging.getLogger("app").warning("%d pieces", "no number")
        logging.getLogger("app").log(70, "above all")
    [handler] = [h for h in logging.getLogger().handlers if isinstance(h, OTLPHandler)]
    handler.close()

    late, broken, highest = (sent.log_record for sent in exporter.get_finished_logs())
    assert (late.body, late.severity_text, late.severity_number) == (
        "a mail is late",
        "WARNING",
        SeverityNumber.WARN,
    )
    assert dict(late.attributes or {}) == {"logger": "app.users", "request_id": "the-request"}
    assert "ValueError" in str(broken.attributes)
    assert highest.severity_number is SeverityNumber.FATAL4


def test_lines_stay_here_without_the_extra(
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
    kept_logging: None,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http._log_exporter", None)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")

    configure_logging(settings)

    assert "logs stay here, without the extra" in capsys.readouterr().err
