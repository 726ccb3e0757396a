"""Pytest plugin that prepares a database while the application is imported: starts the server, connects to it, and has
it clone the template.

It prepares what the last run needed. What this run needs is not known until its tests are.
"""

import os
import threading
from contextlib import AbstractContextManager, ExitStack, suppress
from importlib import import_module
from typing import Any

import pytest

FILE = ".performance/database.txt"
NEEDED = pytest.StashKey[str]()
"""What this run needed: the kind of its database, and the name of its template."""
AHEAD = pytest.StashKey["Ahead"]()
HAS_RUN = pytest.StashKey[bool]()
WITHOUT_TESTS = frozenset(
    {
        *("--cache-show", "--co", "--collect-only", "--fixtures", "--help"),
        *("--markers", "--version", "-V", "-h"),
    }
)


class Ahead(threading.Thread):
    """Enters a context, and holds it open. Ignores errors: whatever needs the same tries again, and reports them."""

    def __init__(self, context: AbstractContextManager[Any]) -> None:
        super().__init__(name="testkit-ahead", daemon=True)
        self._making = context
        self._made = ExitStack()

    def run(self) -> None:
        with suppress(Exception):
            self._made.enter_context(self._making)

    def end(self) -> None:
        self.join()
        self._made.close()


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    config: Any = pluginmanager.get_plugin("pytestconfig")
    if "PYTEST_XDIST_WORKER" in os.environ:  # it uses the controller's server
        return
    if not WITHOUT_TESTS.isdisjoint(config.invocation_params.args):
        return
    with suppress(OSError, ValueError, ImportError):
        kind, template = (config.rootpath / FILE).read_text().split()
        # Imported here, as two threads that both import may deadlock.
        backend = import_module(f"testkit.databases.{kind}")
        config.stash[AHEAD] = ahead = Ahead(backend.made_ahead(config, template))
        ahead.start()
        config.add_cleanup(ahead.end)


def wait_for_what_is_made_ahead(config: pytest.Config) -> None:
    if AHEAD in config.stash:
        config.stash[AHEAD].join()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    # Sockets are unblocked during a connection attempt, which the tests must not see.
    wait_for_what_is_made_ahead(session.config)
    session.config.stash[HAS_RUN] = not session.config.option.collectonly and bool(session.items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Notes what the next run will probably need."""
    config = session.config
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    file = config.rootpath / FILE
    with suppress(OSError):  # the checkout may be read-only, or the disk full
        if NEEDED in config.stash:
            file.parent.mkdir(exist_ok=True)
            file.write_text(config.stash[NEEDED])
        elif config.stash.get(HAS_RUN, False):
            file.unlink(missing_ok=True)
