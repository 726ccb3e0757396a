"""Measures the tests of one process. What it finds out travels with the reports of the tests."""

import math
import os
import statistics
import sys
import tracemalloc
from collections.abc import Generator
from pathlib import Path
from time import process_time
from typing import Any

import pytest

from testkit.call_site import relative
from testkit.clock import clock
from testkit.performance.budgets import INFERRED_SPEED
from testkit.performance.counters import COUNTERS, Meter
from testkit.performance.imports import ImportTimer

ATTRIBUTE = "ledger"  # on the report of a test's tear-down
WORKER_OUTPUT = "testkit_performance"
ELSEWHERE = pytest.StashKey[list[str]]()
"""Tests of the suite that belong to other shards."""

COSTLY_FIXTURE = 0.0005  # seconds
SHOWN_FIXTURES = 5
SHOWN_STATEMENTS = 5
SHOWN_LINES = 5
ENOUGH_TESTS = 50  # to tell a steady growth from what is loaded once
EXTREMES = 0.05  # share of the tests left out at either end: those that grew most, and least
KEPT_BY_PYTEST = 5000  # bytes: three reports, a location and finalizers, some 4 kB in pytest 9
UNTRACED = ("_pytest/*", "pluggy/*", "testkit/performance/*", "tracemalloc.py")
PRIMES = 4000  # the calibration looks for primes below this number
SAME = 0.01  # relative difference between two calibrations that nothing disturbed

# In KiB on Linux, in bytes on macOS.
PEAK_UNIT = 1 if sys.platform == "darwin" else 1024

Setup = Generator[None, object, object]


class Memory:
    """The resident memory of this process in bytes; its peak where the system does not report the current value; 0 on
    Windows. Takes 2 us."""

    def __init__(self) -> None:
        statm = Path("/proc/self/statm")
        self._file = (
            statm.open("rb", buffering=0) if hasattr(os, "pread") and statm.exists() else None
        )
        self._page = os.sysconf("SC_PAGE_SIZE") if self._file else 0

    def now(self) -> int:
        if self._file is None:
            return self.peak()
        return int(os.pread(self._file.fileno(), 100, 0).split()[1]) * self._page

    def peak(self) -> int:
        try:
            import resource
        except ImportError:
            return 0
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * PEAK_UNIT


def calibrate() -> float:
    """Returns the seconds that this machine needs for a fixed piece of work when nothing disturbs it: the best time
    once it comes up twice, or the best of five. Takes 5 to 12 ms."""
    best = _work()
    for _ in range(4):
        again = _work()
        is_same = abs(again - best) <= best * SAME
        best = min(best, again)
        if is_same:
            break
    return best


def _work() -> float:
    start = clock()
    primes: list[int] = []
    for number in range(2, PRIMES):
        if all(number % prime for prime in primes[:20]):
            primes.append(number)
    return clock() - start


def steady_growth(growths: list[int]) -> int:
    """Returns the bytes that the tests added to the memory, without the few that loaded or freed much at once, and
    without what pytest keeps for each test. It is 0 if there are too few tests to tell."""
    if len(growths) < ENOUGH_TESTS:
        return 0
    extremes = math.ceil(len(growths) * EXTREMES)
    kept = sorted(growths)[extremes : len(growths) - extremes]
    return round(max(0, statistics.fmean(kept) - KEPT_BY_PYTEST) * len(growths))


def allocations() -> list[list[Any]]:
    """Returns `[bytes, place]` for the lines that allocated most of what is still there since tracing began."""
    ours = tracemalloc.take_snapshot().filter_traces(
        [tracemalloc.Filter(inclusive=False, filename_pattern=f"*/{name}") for name in UNTRACED]
    )
    found = ours.statistics("lineno")[:SHOWN_LINES]
    return [[s.size, f"{relative(s.traceback[0].filename)}:{s.traceback[0].lineno}"] for s in found]


class Fixture:
    """What one fixture has cost in this process."""

    __slots__ = ("count", "scope", "seconds")

    def __init__(self, scope: str) -> None:
        self.scope = scope
        self.count = 0
        self.seconds = 0.0


class Recorder:
    def __init__(self, imports: ImportTimer, *, traces_memory: bool = False) -> None:
        self.traces_memory = traces_memory
        self.memory = Memory()
        self.meter = Meter()
        self.imports = imports
        self.fixtures: dict[str, Fixture] = {}
        self.calibration: float | None = None
        """The lowest measured so far; `None` until the tests have been collected."""
        self.collection = 0.0
        self.elsewhere: list[str] = []
        self.growths: list[int] = []
        self._nested = [0.0]
        self._teardown_mark: float | None = None
        self._new_test()

    def _new_test(self) -> None:
        self.phases: dict[str, float] = {}
        self.own_fixtures: dict[str, float] = {}
        self.shared = 0.0
        """Seconds in fixtures that other tests use as well."""
        self.outcome = "passed"
        self._cpu_start = process_time()
        COUNTERS.reset()

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Generator[None, object, object]:
        start = clock()
        try:
            return (yield)
        finally:
            self.collection = clock() - start

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.imports.stop()
        self.meter.start()
        # For a short run, once at the end is enough.
        self.calibration = calibrate() if len(session.items) >= ENOUGH_TESTS else math.inf
        self._before = self.memory.now()
        if self.traces_memory:
            tracemalloc.start()

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logstart(self) -> None:
        # The time of collection, and of printing since the last test, belongs to no test.
        self._cpu_start = process_time()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Setup:
        start = clock()
        self._nested.append(0.0)
        try:
            if fixturedef.scope == "function":
                return (yield)
            # What other tests use as well is not charged to this one.
            own = process_time() - self._cpu_start
            with COUNTERS.paused():
                try:
                    return (yield)
                finally:
                    self._cpu_start = process_time() - own
        finally:
            taken = clock() - start
            self._note_fixture(fixturedef, taken - self._nested.pop(), count=1)
            self._nested[-1] += taken

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        if self._teardown_mark is not None:
            now = clock()
            self._note_fixture(fixturedef, now - self._teardown_mark, count=0)
            self._teardown_mark = now

    def _note_fixture(self, fixturedef: pytest.FixtureDef[Any], seconds: float, count: int) -> None:
        name = f"{getattr(fixturedef.func, '__module__', '')}:{fixturedef.argname}"
        fixture = self.fixtures.get(name)
        if fixture is None:
            fixture = self.fixtures[name] = Fixture(fixturedef.scope)
        fixture.count += count
        fixture.seconds += seconds
        if fixturedef.scope != "function":
            self.shared += seconds
        elif seconds > COSTLY_FIXTURE:
            self.own_fixtures[name] = self.own_fixtures.get(name, 0.0) + seconds

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        self._teardown_mark = clock()
        try:
            return (yield)
        finally:
            self._teardown_mark = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        self.phases[call.when] = report.duration
        self._note_outcome(report)
        if call.when == "teardown":
            setattr(report, ATTRIBUTE, self._record(item))
            self._new_test()
        return report

    def _note_outcome(self, report: pytest.TestReport) -> None:
        if hasattr(report, "wasxfail"):
            self.outcome = "xpassed" if report.passed else "xfailed"
        elif self.outcome == "passed":
            self.outcome = report.outcome

    def _record(self, item: pytest.Item) -> dict[str, Any]:
        memory = self.memory.now()
        growth, self._before = memory - self._before, memory
        if self.outcome == "passed":  # pytest keeps much more of a failure
            self.growths.append(growth)
        others = self.shared + COUNTERS.of_others
        record: dict[str, Any] = {
            "seconds": round(max(sum(self.phases.values()) - others, 0.0), 6),
            **{phase: round(seconds, 6) for phase, seconds in self.phases.items()},
            "cpu": round(max(process_time() - self._cpu_start, 0.0), 6),
            "outcome": self.outcome,
            "markers": sorted(
                {mark.name for mark in item.iter_markers()} - {item.stash.get(INFERRED_SPEED, "")}
            ),
        }
        for name in ("isolation", "sql"):
            if seconds := getattr(COUNTERS, name):
                record[name] = round(seconds, 6)
        for name in ("statements", "commits", "requests", "hashes"):
            if number := getattr(COUNTERS, name):
                record[name] = number
        if growth:
            record["memory"] = growth
        if self.own_fixtures:
            costliest = sorted(self.own_fixtures.items(), key=lambda found: -found[1])
            record["fixtures"] = {name: round(s, 6) for name, s in costliest[:SHOWN_FIXTURES]}
        if self.traces_memory:
            record["lines"] = allocations()
            tracemalloc.clear_traces()
        if COUNTERS.repeated:
            record["repeated"] = COUNTERS.costliest_repetitions(SHOWN_STATEMENTS)
        return record

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.traces_memory:
            tracemalloc.stop()
        if self.calibration is not None:
            self.calibration = min(self.calibration, calibrate())
            self.meter.stop()
        self.elsewhere = session.config.stash.get(ELSEWHERE, [])
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output[WORKER_OUTPUT] = self.summary()

    def summary(self) -> dict[str, Any]:
        """Returns what this process as a whole has cost."""
        return {
            "calibration": round(self.calibration or 0.0, 6),
            "collection": round(self.collection, 4),
            "imports": self.imports.slowest(),
            "elsewhere": self.elsewhere,
            "memory": self.memory.peak(),
            "growth": steady_growth(self.growths),
            "fixtures": {
                name: [fixture.scope, fixture.count, round(fixture.seconds, 6)]
                for name, fixture in self.fixtures.items()
            },
        }
