"""Measures the tests beside it, and writes what one of them takes to the file in BENCHMARK."""

import json
import os
import resource
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


def resident_memory() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def pytest_configure(config: pytest.Config) -> None:
    # In a worker of xdist this measures the worker, elsewhere the only process.
    config.pluginmanager.register(Stopwatch())
