"""Starts the server once, and says what each step of the drive took."""

import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from testkit.databases import WorkerDatabase
from tests.smoke.server import Server

Step = Callable[[str], AbstractContextManager[None]]
SERVER = pytest.StashKey[Server]()


class ExchangeRatesHandler(BaseHTTPRequestHandler):
    """Answers like the real API, over a real socket."""

    def do_GET(self) -> None:  # the name that http.server calls
        body = json.dumps({"base": "EUR", "rates": {"USD": 1.25}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture(scope="session")
def exchange_rates_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), ExchangeRatesHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def step(pytestconfig: pytest.Config) -> Step:
    """`with step("log in"): ...` prints the step and its time."""
    terminal = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    capture = pytestconfig.pluginmanager.get_plugin("capturemanager")

    @contextmanager
    def report(name: str) -> Iterator[None]:
        start = time.perf_counter()
        verdict = "failed"
        try:
            yield
            verdict = "ok"
        finally:
            took = (time.perf_counter() - start) * 1000
            if terminal is not None and capture is not None:  # not in a worker of xdist
                with capture.global_and_fixture_disabled():
                    terminal.ensure_newline()
                    terminal.write_line(f"  {name:<32} {verdict:<6} {took:6.0f} ms")

    return report


@pytest.fixture(scope="session")
def server(
    pytestconfig: pytest.Config,
    tmp_path_factory: pytest.TempPathFactory,
    worker_database: WorkerDatabase,
    exchange_rates_url: str,
    step: Step,
) -> Iterator[Server]:
    """The running server. What it wrote is shown with every failure."""
    log = tmp_path_factory.mktemp("smoke") / "server.log"
    with worker_database.empty_database() as url:
        server = pytestconfig.stash[SERVER] = Server(url, exchange_rates_url, log)
        try:
            with step("migrate a new database"):
                server.migrate()
            with step("start the server"):
                server.start()
                server.wait_until_ready()
            yield server
            with step("stop the server"):
                server.stop()
        finally:
            server.kill()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    server = item.config.stash.get(SERVER, None)
    if report.failed and server is not None and server.log.exists():
        report.sections.append(("the server's log", server.log.read_text()))
    return report


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if SERVER in config.stash:
        bad = terminalreporter.stats.get("failed", []) + terminalreporter.stats.get("error", [])
        verdict = "something is broken, see above" if bad else "the service works"
        terminalreporter.section(f"smoke: {verdict}", red=bool(bad), green=not bad)
