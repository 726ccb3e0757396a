"""Starts the server once, and says what each step of the drive took.

The smoke tests come last. While the other tests run, the server gets ready.
"""

import json
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from testkit.databases import open_empty_database
from tests.fixtures.database import SETUP
from tests.smoke.server import Server

Step = Callable[[str], AbstractContextManager[None]]
SERVER = pytest.StashKey[Server]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=is_smoke_test)


def is_smoke_test(item: pytest.Item) -> bool:
    return item.get_closest_marker("smoke") is not None


def pytest_collection_finish(session: pytest.Session) -> None:
    wanted = any(map(is_smoke_test, session.items))
    is_worker = hasattr(session.config, "workerinput")  # of xdist; most of them will not need it
    if wanted and not is_worker and not session.config.option.collectonly:
        start_server(session.config)


def start_server(config: pytest.Config) -> Server:
    resources = ExitStack()
    config.add_cleanup(resources.close)
    log = Path(resources.enter_context(tempfile.TemporaryDirectory())) / "server.log"
    url = resources.enter_context(open_empty_database(SETUP, config))
    server = config.stash[SERVER] = Server(url, resources.enter_context(exchange_rates()), log)
    resources.callback(server.kill)
    server.start()
    return server


@contextmanager
def exchange_rates() -> Iterator[str]:
    """The URL of a server that answers like the real one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name that http.server calls
            body = json.dumps({"base": "EUR", "rates": {"USD": 1.25}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def step(pytestconfig: pytest.Config) -> Step:
    """`with step("log in"): ...` prints the step and its time."""
    terminal = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    writer = pytestconfig.get_terminal_writer()
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
                    if writer.width_of_current_line:  # the dot of a test
                        writer.line()
                    terminal.write_line(f"  {name:<32} {verdict:<6} {took:6.0f} ms")

    return report


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config, step: Step) -> Iterator[Server]:
    """The running server. What it wrote is shown with every failure."""
    server = pytestconfig.stash.get(SERVER, None) or start_server(pytestconfig)
    with step("migrate a new database"):
        server.wait_for_migration()
    with step("start the server"):
        server.wait_until_ready()
    yield server
    with step("stop the server"):
        server.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    server = item.config.stash.get(SERVER, None)
    if report.failed and server is not None and server.log.exists():
        report.sections.append(("the server's log", server.log.read_text()))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ran = {
        outcome
        for outcome in ("passed", "failed", "error")
        for report in terminalreporter.getreports(outcome)
        if "smoke" in getattr(report, "keywords", ())  # a module that cannot be imported has none
    }
    if ran:
        verdict = "the service works" if ran == {"passed"} else "something is broken, see above"
        terminalreporter.section(
            f"smoke: {verdict}", red=ran != {"passed"}, green=ran == {"passed"}
        )
