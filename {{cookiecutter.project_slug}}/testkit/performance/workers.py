"""How many workers `-n auto` starts: as many as let the tests finish soonest, going by the ledger."""

import os
import re
import statistics
from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression

from testkit.performance.bookkeeper import bookkeeper_of
from testkit.performance.budgets import SPEEDS
from testkit.performance.ledger import Ledger, Record, fastest
from testkit.performance.shards import shard_of
from testkit.warm.workers import are_forked

VARIABLE = "PYTEST_XDIST_AUTO_NUM_WORKERS"
# Seconds until a worker has collected its tests, where that was never measured; by whether workers are forked.
UNKNOWN_START = {True: 0.35, False: 2.0}
UNKNOWN_TEST = 0.01  # seconds, for tests that have never run
UNKNOWN_MEMORY = 200 * 1024 * 1024  # bytes per worker
MESSAGES = 0.0002  # seconds of the controller's processor for each test
WORTHWHILE = 0.95  # another worker must bring the time below this share of the best so far

TEST_FUNCTION = re.compile(r"^\s*(?:async )?def test_", re.MULTILINE)
REASON = pytest.StashKey[str]()


@dataclass(frozen=True)
class Evidence:
    tests: int
    seconds: float
    longest: float
    start: float
    """Seconds until the workers are ready, beyond what a single process needs as well."""

    def estimate(self, workers: int, cores: int) -> float:
        """Seconds until the last test has ended."""
        if workers == 0:
            return self.seconds
        messages = self.tests * MESSAGES / (1 if workers < cores else cores)
        return self.start + messages + max(self.seconds / workers, self.longest)


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    if os.environ.get(VARIABLE):
        config.stash[REASON] = f"as {VARIABLE} says"
        return None  # xdist reads it
    ledger = bookkeeper_of(config).ledger
    selected = list(select(config, ledger))
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    start = _start(ledger, forked=are_forked(config))
    evidence = _recorded(selected, start) if selected else _guessed(config, start)
    evidence = _divided(evidence, shard_of(config)[1])
    workers = best(evidence, cores, _memory_allows(ledger))
    config.stash[REASON] = _reason(evidence, workers, cores, is_recorded=bool(selected))
    return workers


def pytest_report_header(config: pytest.Config) -> str | None:
    if REASON not in config.stash:
        return None
    return f"workers: {config.getoption('numprocesses') or 'none'}, {config.stash[REASON]}"


def best(evidence: Evidence, cores: int, most: int) -> int:
    """Returns the number of workers with which the tests end soonest. It is never 1, as a single worker never pays."""
    chosen, least = 0, evidence.estimate(0, cores)
    for workers in range(2, min(cores, most) + 1):
        seconds = evidence.estimate(workers, cores)
        if seconds < least * WORTHWHILE:
            chosen, least = workers, seconds
    return chosen


def select(config: pytest.Config, ledger: Ledger) -> Iterator[Record]:
    """The tests of the ledger that this command line selects, as far as the ledger can tell."""
    option, budgets = config.option, bookkeeper_of(config).budgets
    marks = Expression.compile(option.markexpr) if option.markexpr else None
    keywords = Expression.compile(option.keyword) if option.keyword else None
    failed: dict[str, bool] = {}
    if config.getoption("lf", False) and config.cache is not None:
        failed = config.cache.get("cache/lastfailed", {})
    places = tuple(_nodeid(config, argument) for argument in config.args)
    is_there = cache(lambda path: (config.rootpath / path).exists())
    for test in ledger.tests():
        nodeid: str = test["test"]
        if not is_there(nodeid.partition("::")[0]):
            continue
        if places and not any(_is_in(nodeid, place) for place in places):
            continue
        if failed and nodeid not in failed:
            continue
        if marks is not None:
            names = {*test["markers"]}
            if names.isdisjoint(SPEEDS):
                names.add(budgets.speed(fastest(test)))
            if not marks.evaluate(_Contained(names)):
                continue
        if keywords is not None and not keywords.evaluate(_Contained(nodeid.lower())):
            continue
        yield test


class _Contained:
    """Answers an expression of `-m` or `-k` for each of its names."""

    def __init__(self, names: Container[str]) -> None:
        self._names = names

    def __call__(self, name: str, /, **_kwargs: object) -> bool:
        return name in self._names or name.lower() in self._names


def _nodeid(config: pytest.Config, argument: str) -> str:
    path, separator, names = argument.partition("::")
    relative = os.path.relpath(config.invocation_params.dir / path, config.rootpath)
    return f"{relative}{separator}{names}"


def _is_in(nodeid: str, place: str) -> bool:
    return (
        place == "."
        or nodeid == place
        or nodeid.startswith((f"{place}/", f"{place}::", f"{place}["))
    )


def _recorded(tests: list[Record], start: float) -> Evidence:
    seconds = [statistics.median(result[1] for result in test["history"]) for test in tests]
    return Evidence(
        tests=len(tests),
        seconds=sum(seconds),
        longest=max(seconds),
        start=start,
    )


def _start(ledger: Ledger, *, forked: bool) -> float:
    starts = [
        run["worker_start"] - run["collection"]
        for run in ledger.runs
        if run["workers"] > 1 and run.get("forked", False) == forked
    ]
    return statistics.median(starts[-5:]) if starts else UNKNOWN_START[forked]


def _guessed(config: pytest.Config, start: float) -> Evidence:
    """Estimates the tests when nothing is recorded, by counting the test functions in the files named."""
    tests = 0
    for argument in config.args:
        path = config.invocation_params.dir / argument.partition("::")[0]
        for file in sorted(path.rglob("test_*.py")) if path.is_dir() else [path]:
            if file.is_file():
                tests += len(TEST_FUNCTION.findall(file.read_text(errors="replace")))
    return Evidence(tests, tests * UNKNOWN_TEST, UNKNOWN_TEST, start)


def _divided(evidence: Evidence, shards: int) -> Evidence:
    return Evidence(
        evidence.tests // shards, evidence.seconds / shards, evidence.longest, evidence.start
    )


def _memory_allows(ledger: Ledger) -> int:
    """Returns how many workers fit into free memory, if each needs as much as the largest process of recent runs."""
    try:
        meminfo = Path("/proc/meminfo").read_text()
    except OSError:
        return 1000
    available = re.search(r"MemAvailable:\s*(\d+) kB", meminfo)
    complete = [run for run in ledger.runs if run["complete"]]
    runs = (complete or ledger.runs)[-5:]
    needed = max((run["memory"] for run in runs), default=UNKNOWN_MEMORY)
    return int(available[1]) * 1024 // needed if available else 1000


def _reason(evidence: Evidence, workers: int, cores: int, *, is_recorded: bool) -> str:
    tests = f"{evidence.tests:,} tests" if evidence.tests != 1 else "1 test"
    source = "" if is_recorded else ", as far as can be guessed before the first run"
    take = "take" if evidence.tests != 1 else "takes"
    alone = f"{tests} {take} about {_about(evidence.seconds)} in one process{source}"
    if cores == 1:
        return f"since this machine has one core; {alone}"
    shown = workers or 2
    instead = _about(evidence.estimate(shown, cores))
    return f"since {alone}, and {instead} in {shown}"


def _about(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
