"""Markers: the project's own, and a speed for tests that do not state one.

An unmarked test is `fast`, `medium` or `slow` according to its recent runs in the ledger. A test that has never run
counts as fast.
"""

import pytest

from testkit.performance.bookkeeper import bookkeeper_of
from testkit.performance.budgets import INFERRED_SPEED, SPEEDS, Budgets, skips_slow_tests

MARKERS = (
    "slow: takes longer; skipped when SKIP_SLOW_TESTS is `true`",
    "smoke: drives the real server as a process",
    "e2e: crosses the borders of this service",
    "committed: real commits on real connections, undone by a reset of the database",
    "rollback: one transaction around the test, in which commits are savepoints",
    "network: may open any socket; other tests only Unix sockets",
    "query_budget(count): needs at most so many SQL statements",
)


def pytest_configure(config: pytest.Config) -> None:
    budgets = Budgets.of(config.getini)
    for marker in (
        f"fast: takes at most {budgets.fast:g} s",
        f"medium: takes at most {budgets.medium:g} s",
        *MARKERS,
    ):
        config.addinivalue_line("markers", marker)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skip_slow = skips_slow_tests()
    for item in items:
        if not any(item.get_closest_marker(name) for name in SPEEDS):
            item.stash[INFERRED_SPEED] = bookkeeper_of(config).speed(item.nodeid)
            item.add_marker(item.stash[INFERRED_SPEED])
        if skip_slow and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="SKIP_SLOW_TESTS is set"))
        if item.get_closest_marker("network"):
            item.add_marker("enable_socket")  # pytest-socket's name for it
