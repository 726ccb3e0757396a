"""Sends fewer messages between xdist's workers and its controller.

xdist sends six messages for every test, which takes about 0.5 ms of processor time in the worker and
as much again in the controller. Here a worker writes its events to a file, with one `write` per test, and
sends a "read on" message only now and then, and when it is about to run out of tests and would have to
wait for more. The controller's part of xdist gets the same events in the same order. What a worker has
written survives its crash, so no test is lost, run twice or blamed for the crash of another.
"""

import marshal
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

INTERVAL = 0.05  # seconds between two messages
RESERVE = 2  # a worker with fewer tests left than this has to say so
SIZE = 4  # bytes of the length in front of each batch
INPUT = "testkit_batches"  # the file's name, in the worker's input

# The events of one test, in the order in which they come.
BATCHED = frozenset({"logstart", "testreport", "logfinish", "runtest_protocol_complete"})
LAST = "runtest_protocol_complete"
READ_ON = "testkit_read_on"

Event = tuple[str, dict[str, Any]]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """In the controller, before a worker starts."""
    if node.gateway.spec.popen:  # other workers have other files, and maybe another Python
        node.process_from_remote = Receiver(node)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    path: str = getattr(session.config, "workerinput", {}).get(INPUT, "")
    for plugin in session.config.pluginmanager.get_plugins() if path else ():
        if type(plugin).__name__ == "WorkerInteractor":
            plugin.sendevent = Sender(plugin, path)


class Sender:
    """Stands in for the `sendevent` of a worker."""

    def __init__(self, worker: Any, path: str) -> None:
        self._send: Callable[..., None] = worker.sendevent
        self._tests_left: Any = worker.torun
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._events: list[Event] = []
        # xdist answers requests for tests in a thread of its own.
        self._lock = threading.Lock()
        self._written = threading.Event()
        threading.Thread(target=self._announce, daemon=True).start()

    def __call__(self, name: str, **kwargs: Any) -> None:
        with self._lock:
            if name not in BATCHED:
                self._write()
                self._send(name, **kwargs)
                return
            self._events.append((name, kwargs))
            # A failure is shown at once, and may stop the run.
            if name == LAST or (name == "testreport" and kwargs["data"]["outcome"] == "failed"):
                self._write()
            if name == LAST and self._is_short_of_tests():
                self._send(READ_ON)

    def _is_short_of_tests(self) -> bool:
        with self._tests_left.lock() as indices:
            return len(indices) < RESERVE

    def _write(self) -> None:
        if not self._events:
            return
        try:
            data = marshal.dumps(self._events)
        except ValueError:  # a report holds something that only xdist can handle
            for name, kwargs in self._events:
                self._send(name, **kwargs)
        else:
            os.write(self._file, len(data).to_bytes(SIZE, "big") + data)
            self._written.set()
        self._events = []

    def _announce(self) -> None:
        while self._written.wait():
            self._written.clear()
            try:
                self._send(READ_ON)
            except OSError:  # the controller has gone
                return
            threading.Event().wait(INTERVAL)


class Receiver:
    """Stands in for the `process_from_remote` of the controller's end of a worker."""

    def __init__(self, node: Any) -> None:
        descriptor, path = tempfile.mkstemp(prefix="testkit-worker-")
        self._path = Path(path)
        self._file = os.fdopen(descriptor, "rb", buffering=0)
        self._process: Callable[[Any], None] = node.process_from_remote
        self._rest = b""
        node.workerinput[INPUT] = path
        node.config.add_cleanup(self._close)

    def __call__(self, event: Any) -> None:
        while data := self._file.read(1 << 20):
            self._rest += data
        while len(self._rest) >= SIZE:
            end = SIZE + int.from_bytes(self._rest[:SIZE], "big")
            if len(self._rest) < end:
                break
            for batched in marshal.loads(self._rest[SIZE:end]):  # noqa: S302  # of our own worker
                self._process(batched)
            self._rest = self._rest[end:]
        if not (isinstance(event, tuple) and event[0] == READ_ON):
            self._process(event)

    def _close(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)
