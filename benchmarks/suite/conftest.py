"""Measures the tests beside it, and writes what one of them takes to the file in BENCHMARK."""

import json
import os
import resource
import statistics
import time
from pathlib import Path

import pytest


class Stopwatch:
    def __init__(self) -> None:
        self.start = 0.0
        self.end = 0.0
        self.tests = 0
        self.memory_at_start = 0

    def pytest_runtest_logfinish(self) -> None:
        # The first test sets up what all of them share.
        self.end = time.perf_counter()
        if self.tests == 0:
            self.start = self.end
            self.memory_at_start = resident_memory()
        self.tests += 1

    def pytest_sessionfinish(self) -> None:
        if self.tests > 1:
            figures = {
                "worker": "PYTEST_XDIST_WORKER" in os.environ,
                "seconds": (self.end - self.start) / (self.tests - 1),
                "growth": resident_memory() - self.memory_at_start,
                "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
            with Path(os.environ["BENCHMARK"]).open("a") as file:
                file.write(json.dumps(figures) + "\n")


class LedgerInTurns:
    """Lets every other block of tests be measured for the ledger, and compares their times.

    One process, so that a busy machine slows down both kinds alike.
    """

    BLOCK = 20

    def __init__(self, config: pytest.Config) -> None:
        self.manager = config.pluginmanager
        self.recorder = self.manager.get_plugin("testkit-recorder")
        self.seconds: dict[bool, list[float]] = {True: [], False: []}
        self.is_on = True
        self.tests = 0
        self.last = 0.0

    def pytest_runtest_logfinish(self) -> None:
        now = time.perf_counter()
        # The first tests set up what all of them share.
        if self.tests > self.BLOCK and self.tests % self.BLOCK:
            self.seconds[self.is_on].append(now - self.last)
        self.tests += 1
        if self.tests % self.BLOCK == 0:
            self.is_on = not self.is_on
            if self.is_on:
                self.manager.register(self.recorder, "testkit-recorder")
                self.recorder.meter.start()
            else:
                self.manager.unregister(self.recorder)
                self.recorder.meter.stop()
        self.last = time.perf_counter()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self):
        if not self.is_on:
            self.manager.register(self.recorder, "testkit-recorder")
            self.recorder.meter.start()
        start = time.perf_counter()
        yield
        writing = (time.perf_counter() - start) / len(self.seconds[True])
        figures = {
            "on": statistics.median(self.seconds[True]) + writing,
            "off": statistics.median(self.seconds[False]),
        }
        with Path(os.environ["LEDGER_IN_TURNS"]).open("a") as file:
            file.write(json.dumps(figures) + "\n")


def resident_memory() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def pytest_configure(config: pytest.Config) -> None:
    # In a worker of xdist this measures the worker, elsewhere the only process.
    config.pluginmanager.register(Stopwatch())
    if "LEDGER_IN_TURNS" in os.environ:
        config.pluginmanager.register(LedgerInTurns(config))
