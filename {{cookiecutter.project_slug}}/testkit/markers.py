"""Markers: the project's own, and the speed of the tests that do not state theirs.

An unmarked test is `fast`, `medium` or `slow` by its fastest recorded run. The durations are kept
in pytest's cache; a test that has never run counts as fast.
"""

import os

import pytest

FAST_BUDGET = 0.1  # seconds
MEDIUM_BUDGET = 2.0  # seconds
SPEEDS = ("fast", "medium", "slow")
CACHE_KEY = "testkit/durations"

MARKERS = (
    f"fast: takes at most {FAST_BUDGET:g} s",
    f"medium: takes at most {MEDIUM_BUDGET:g} s",
    "slow: takes longer; skipped when SKIP_SLOW_TESTS is `true`",
    "smoke: drives the real server as a process",
    "e2e: crosses the borders of this service",
    "committed: real commits on real connections, undone by a reset of the database",
    "network: may open any socket; other tests only Unix sockets",
)


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    cache = getattr(config, "cache", None)  # pytest can run without
    if cache is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(DurationRecorder(cache), "testkit-durations")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    cache = getattr(config, "cache", None)
    recorded: dict[str, float] = cache.get(CACHE_KEY, {}) if cache is not None else {}
    skip_slow = os.environ.get("SKIP_SLOW_TESTS", "").lower() == "true"
    for item in items:
        if not any(item.get_closest_marker(speed) for speed in SPEEDS):
            item.add_marker(_speed(recorded.get(item.nodeid, 0.0)))
        if skip_slow and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="SKIP_SLOW_TESTS is set"))
        if item.get_closest_marker("network"):
            item.add_marker("enable_socket")  # pytest-socket's name for it


def _speed(duration: float) -> str:
    if duration <= FAST_BUDGET:
        return "fast"
    return "medium" if duration <= MEDIUM_BUDGET else "slow"


class DurationRecorder:
    """Works where all reports arrive: in the only process, or in the controller of xdist."""

    def __init__(self, cache: pytest.Cache) -> None:
        self.cache = cache
        self.durations: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.durations[report.nodeid] = report.duration

    def pytest_sessionfinish(self) -> None:
        recorded: dict[str, float] = self.cache.get(CACHE_KEY, {})
        for nodeid, duration in self.durations.items():
            recorded[nodeid] = round(min(duration, recorded.get(nodeid, duration)), 4)
        self.cache.set(CACHE_KEY, recorded)
