"""What is logged, and how: one line per event, with the id of the request that it belongs to."""

import json
import logging
import logging.config
import re
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI
from opentelemetry._logs import SeverityNumber
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.engine import QUIET_DRIVERS
from app.settings import Settings
from app.telemetry import is_wanted
from app.work import CURRENT, Work, count_statements, working

access = logging.getLogger("app.access")

REQUEST_ID = re.compile(rb"[\w.:=+/-]{1,128}", re.ASCII)
TRACE_PARENT = re.compile(rb"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
# Below these levels, these loggers write values and addresses; `app.access` has a line for each request already.
QUIET = QUIET_DRIVERS | {
    "alembic.runtime.plugins": "WARNING",
    "httpcore2": "WARNING",
    "httpx2": "WARNING",
    "sqlalchemy": "WARNING",
    "uvicorn.access": "WARNING",
}


# The messages that answer a request or the opening of a WebSocket.
ANSWERS = ("http.response.start", "websocket.http.response.start", "websocket.accept")


class AccessLog:
    """Gives every request its id, and logs a line when it has been answered, or a WebSocket has ended."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        with working(request_id(scope)) as work:
            status = 500  # where nothing is answered
            begun = time.perf_counter()

            async def send_with_id(message: Message) -> None:
                nonlocal status
                is_answer = message["type"] in ANSWERS
                if is_answer:
                    headers = message.get("headers", ())
                    message["headers"] = [*headers, (b"x-request-id", work.id.encode())]
                await send(message)
                if is_answer:
                    status = message.get("status", 101)

            try:
                await self.app(scope, receive, send_with_id)
            finally:
                if access.isEnabledFor(logging.INFO):
                    log_access(scope, status, time.perf_counter() - begun, work)


def request_id(scope: Scope) -> str:
    """Returns the id that the client or the proxy sent, if it is well-formed, or else a new one."""
    headers = dict(scope["headers"])
    if (wanted := headers.get(b"x-request-id")) and REQUEST_ID.fullmatch(wanted):
        return str(wanted, "ascii")
    if (parent := headers.get(b"traceparent")) and (found := TRACE_PARENT.fullmatch(parent)):
        return str(found[1], "ascii")
    return uuid.uuid4().hex


def log_access(scope: Scope, status: int, seconds: float, work: Work) -> None:
    # The route ("-" if there is none), not the path, which may hold secrets. For a route in a router, only FastAPI's
    # context has the prefix; for a WebSocket, the route itself has it.
    context = scope.get("fastapi", {}).get("effective_route_context")
    route = getattr(context, "path", "") or getattr(scope.get("route"), "path", "-")
    method = scope.get("method", "WEBSOCKET")
    fields = {
        "method": method,
        "route": route,
        "status": status,
        "milliseconds": round(seconds * 1000, 1),
        "user_id": work.user_id and str(work.user_id),
        "statements": work.statements,
    }
    access.info("%s %s %d", method, route, status, extra={"fields": fields})


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    work = CURRENT.get()
    fields: dict[str, Any] = {} if work is None else {"request_id": work.id}
    return fields | getattr(record, "fields", {})


class JSONFormatter(logging.Formatter):
    """One JSON object per line, even for an error with its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        entry = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """For people: the additional fields come last."""

    default_time_format = "%H:%M:%S"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s%(fields_as_text)s")

    def format(self, record: logging.LogRecord) -> str:
        shown = {
            k: v for k, v in fields_of(record).items() if k not in ("method", "route", "status")
        }
        record.fields_as_text = "".join(f"  {k}={v}" for k, v in shown.items() if v is not None)
        return super().format(record)


class OTLPHandler(logging.Handler):
    """Sends the log to where traces and metrics go."""

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

        super().__init__()
        self.provider = LoggerProvider(shutdown_on_exit=False)
        self.provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
        self.logger = self.provider.get_logger("app")

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("opentelemetry"):  # such as that sending has failed
            return
        try:
            self.logger.emit(
                timestamp=int(record.created * 1e9),
                severity_number=SeverityNumber(min(record.levelno // 10 * 4 + 1, 24)),
                severity_text=record.levelname,
                body=record.getMessage(),
                attributes={"logger": record.name, **fields_of(record)},
                exception=record.exc_info[1] if record.exc_info else None,
            )
        except Exception:
            self.handleError(record)  # as the handlers of the standard library do

    def close(self) -> None:
        self.provider.shutdown()  # sends what has not been sent yet
        super().close()


class WithoutWebSockets(logging.Filter):
    """Leaves out what the server logs for each WebSocket: its whole URL, and an error if it was denied. `app.access`
    has a line for it."""

    MESSAGES = ('%s - "WebSocket %s"', "connection ", "ASGI callable returned without completing")

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(self.MESSAGES)


def logging_config(settings: Settings) -> dict[str, Any]:
    """Returns the argument of `logging.config.dictConfig`: everything goes to standard error, through one handler."""
    formatter = JSONFormatter if settings.logs_json else TextFormatter
    loggers: dict[str, dict[str, Any]] = {name: {"level": level} for name, level in QUIET.items()}
    for name in ("uvicorn", "uvicorn.access"):  # by default, these have handlers of their own
        loggers.setdefault(name, {}).update(handlers=[], propagate=True)
    loggers["uvicorn.error"] = {"filters": ["no websockets"]}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter}},
        "filters": {"no websockets": {"()": WithoutWebSockets}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"level": settings.log_level, "handlers": ["stderr"]},
        "loggers": loggers,
    }


def configure_logging(settings: Settings) -> None:
    logging.config.dictConfig(logging_config(settings))
    if is_wanted("LOGS"):
        try:
            logging.getLogger().addHandler(OTLPHandler())
        except ImportError as error:
            logging.getLogger(__name__).warning("logs stay here, without the extra: %s", error)


def install_logs(app: FastAPI) -> None:
    app.add_middleware(AccessLog)
    count_statements()
