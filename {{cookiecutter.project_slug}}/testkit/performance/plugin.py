"""The pytest plugin: its options, and what runs in which process."""

from typing import Any

import pytest

from testkit.performance.bookkeeper import SPEEDS, bookkeeper_of
from testkit.performance.budgets import INI
from testkit.performance.imports import IMPORTS
from testkit.performance.recorder import Recorder

LEDGER = ".performance/ledger.jsonl"
RUNS_NOTHING = ("collectonly", "setuponly", "setupplan")  # options of pytest

PLUGINS = [
    "testkit.performance.batches",
    "testkit.performance.queries",
    "testkit.performance.shards",
    "testkit.performance.workers",
]


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    IMPORTS.start()  # this early, because the imports of the tests begin now
    for plugin in PLUGINS:
        pluginmanager.import_plugin(plugin)
    group = parser.getgroup("testkit", "the test kit")
    group.addoption("--no-ledger", action="store_true", help="measure nothing, record nothing")
    group.addoption(
        "--ledger",
        metavar="FILE",
        default=LEDGER,
        help="the file that keeps what the tests have cost (default: %(default)s); write --ledger=FILE",
    )
    group.addoption(
        "--ledger-memory",
        action="store_true",
        help="trace which lines allocate the memory that tests keep; several times slower",
    )
    for name, (default, description) in INI.items():
        parser.addini(name, description, default=default)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    bookkeeper = bookkeeper_of(config)
    is_worker = hasattr(config, "workerinput")
    is_controller = bool(config.getoption("tx", None)) and not is_worker
    runs_nothing = any(config.getoption(name, False) for name in RUNS_NOTHING)
    if is_controller or config.getoption("no_ledger") or runs_nothing:
        IMPORTS.stop()
    else:
        bookkeeper.recorder = Recorder(IMPORTS, traces_memory=config.getoption("ledger_memory"))
        config.pluginmanager.register(bookkeeper.recorder, "testkit-recorder")
    if not is_worker and not runs_nothing:
        config.pluginmanager.register(bookkeeper, "testkit-bookkeeper")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    # Workers must agree on what `-m fast` selects, whatever is written to the ledger meanwhile.
    node.workerinput[SPEEDS] = bookkeeper_of(node.config).slower_than_fast
