"""What the service tells a collector, which is a process of a few lines."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.commands import UV, run
from tests.projects import Project, sqlite_first
from tests.servers import wait_until
from tests.service.servers import PASSWORD, Background, MailServer, running

METRICS = (
    "http.server.request.duration",
    "db.client.connection.count",
    "app.jobs.kept",
    "app.jobs.tried",
    "app.mails.sent",
    "app.throttled",
)


class Collector(ThreadingHTTPServer):
    """Keeps what is sent by OTLP; the strings in it are readable as they are."""

    def __init__(self) -> None:
        self.received: dict[str, bytes] = {}
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received[self.path] = received.get(self.path, b"") + body
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    def holds(self, *words: str) -> bool:
        everything = b"".join(self.received.values())
        return all(word.encode() in everything for word in words)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@sqlite_first
def test_collector_that_says_nothing_holds_up_no_end(
    installed_copy_of_each: Project, database_url: str, tmp_path: Path
) -> None:
    project = installed_copy_of_each
    run(UV, "sync", "--quiet", "--extra", "telemetry", cwd=project.path)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with running(
            project, database_url, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint
        ) as service:
            assert service.status("/api/v1/products") == 200
            assert service.stop() < 8


def test_requests_statements_and_jobs_are_told(
    installed_copy_of_each: Project,
    database_url: str,
    collector: Collector,
    background: Background,
    tmp_path: Path,
) -> None:
    project = installed_copy_of_each
    run(UV, "sync", "--quiet", "--extra", "telemetry", cwd=project.path)
    mails = MailServer(background)
    mails.open()
    environment = mails.environment | {
        "THROTTLE_LOGIN": "3/minute",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_SERVICE_NAME": "the-service-of-this-test",
        "OTEL_BSP_SCHEDULE_DELAY": "100",  # ms
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
    }
    with running(project, database_url, tmp_path, **environment) as service:
        assert service.register("ada@example.com").status_code == 201
        assert service.register("ada@example.com").status_code == 400
        assert service.log_in("ada@example.com").status_code == 200
        service.forgot_password("ada@example.com")
        wait_until(lambda: len(mails.recipients) == 1, 20)
        assert [service.log_in("eve@example.com").status_code for _ in range(3)] == [400, 400, 429]
        wait_until(lambda: collector.holds(*METRICS), 20)
        assert service.stop() < 8  # with it goes what has not been sent

    assert collector.holds("the-service-of-this-test", "POST /api/v1/auth/login")
    assert collector.holds("INSERT INTO users", "app.users.mails.send_reset_token")
    assert collector.holds("POST /api/v1/auth/login 429", "request_id")  # the log
    assert set(collector.received) == {"/v1/traces", "/v1/metrics", "/v1/logs"}
    assert not collector.holds("ada@example.com")
    assert not collector.holds(PASSWORD)
    assert not collector.holds("$argon2id$")
