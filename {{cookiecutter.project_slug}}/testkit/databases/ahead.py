"""Makes a database ready while the application is imported, a pytest plugin: starts the server, connects to it, and
has it make a clone of the template.

That is what the last run has needed. What this one needs is not known before its tests are.
"""

import os
import threading
from contextlib import AbstractContextManager, ExitStack, suppress
from importlib import import_module
from typing import Any

import pytest

FILE = ".performance/database.txt"
NEEDED = pytest.StashKey[str]()
"""What this run has needed: the kind of its database, and the name of its template."""
AHEAD = pytest.StashKey["Ahead"]()
HAS_RUN = pytest.StashKey[bool]()
WITHOUT_TESTS = frozenset(
    {
        *("--cache-show", "--co", "--collect-only", "--fixtures", "--help"),
        *("--markers", "--version", "-V", "-h"),
    }
)


class Ahead(threading.Thread):
    """Enters a context, and holds it. If that fails, whoever needs the same tries again, and says what is wrong."""

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
    if "PYTEST_XDIST_WORKER" in os.environ:  # it has the controller's server
        return
    if not WITHOUT_TESTS.isdisjoint(config.invocation_params.args):
        return
    with suppress(OSError, ValueError, ImportError):
        kind, template = (config.rootpath / FILE).read_text().split()
        # Imported here, as two threads that import may wait for each other.
        backend = import_module(f"testkit.databases.{kind}")
        config.stash[AHEAD] = ahead = Ahead(backend.made_ahead(config, template))
        ahead.start()
        config.add_cleanup(ahead.end)


def wait_for_what_is_made_ahead(config: pytest.Config) -> None:
    if AHEAD in config.stash:
        config.stash[AHEAD].join()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    # While somebody connects, the sockets that tests may not have are there.
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
