"""Shards: parts of the suite for several machines, balanced by the durations in the ledger.

`--shard 2/5` runs the second of five parts. pytest-split's "least duration" algorithm makes them: the
longest test goes to the shortest part, and so on. The parts fit together only if all machines have the
same ledger; `check()` finds out whether they did.
"""

import re
from typing import Any

import pytest

from testkit.performance.bookkeeper import bookkeeper_of
from testkit.performance.ledger import Ledger, Record
from testkit.performance.recorder import ELSEWHERE

DURATIONS = "testkit_durations"  # in the input of workers


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("testkit").addoption(
        "--shard", metavar="K/N", help="run the K-th of N parts of the tests that take equally long"
    )


def pytest_configure(config: pytest.Config) -> None:
    shard_of(config)


def shard_of(config: pytest.Config) -> tuple[int, int]:
    """`(2, 5)` for `--shard 2/5`; `(1, 1)` without."""
    text = config.getoption("shard", None)
    if text is None:
        return 1, 1
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    shard, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= shard <= count:
        raise pytest.UsageError(
            f"The shard {text!r} does not exist: write K/N, for the K-th of N, from 1/N to N/N"
        )
    return shard, count


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Comes last, after `-m` and `-k` have made their selection.
    shard, count = shard_of(config)
    if count == 1:
        return
    # Imported here, because most runs are not split.
    from pytest_split.algorithms import LeastDurationAlgorithm

    in_order = sorted(items, key=lambda item: item.nodeid)  # the same on all machines
    durations = durations_for_shards(config)
    group = LeastDurationAlgorithm()(count, in_order, durations)[shard - 1]
    here = set(group.selected)
    config.stash[ELSEWHERE] = [item.nodeid for item in group.deselected]
    config.hook.pytest_deselected(items=group.deselected)
    items[:] = [item for item in items if item in here]


def durations_for_shards(config: pytest.Config) -> dict[str, float]:
    workerinput = getattr(config, "workerinput", {})
    if DURATIONS in workerinput:
        durations: dict[str, float] = workerinput[DURATIONS]
        return durations
    return bookkeeper_of(config).ledger.seconds()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    # Workers must agree, whatever is written to the ledger meanwhile.
    if shard_of(node.config)[1] > 1:
        node.workerinput[DURATIONS] = durations_for_shards(node.config)


def check(ledgers: list[Ledger]) -> list[str]:
    """Returns a sentence for each problem with the shards of one run; `ledgers` has one ledger per shard."""
    runs = [ledger.runs[-1] for ledger in ledgers if ledger.runs]
    problems = []
    expected = {f"{k}/{len(runs)}" for k in range(1, len(runs) + 1)}
    found = [run["shard"] for run in runs]
    if len(runs) < len(ledgers) or set(found) != expected or len(found) != len(expected):
        named = ", ".join(sorted(map(str, found)))
        problems.append(f"These are not all shards of one run, each once: {named or 'none'}.")
    times: dict[str, int] = {}
    for ledger, run in zip(ledgers, runs, strict=False):
        for nodeid in run.get("elsewhere", []):
            times.setdefault(nodeid, 0)
        for test in _tests_of(ledger, run):
            times[test] = times.get(test, 0) + 1
    for nodeid, number in sorted(times.items()):
        if number != 1:
            problems.append(f"{nodeid} ran {f'{number} times' if number else 'in no shard'}.")
    return problems


def _tests_of(ledger: Ledger, run: Record) -> list[str]:
    return [test["test"] for test in ledger.tests() if test["history"][-1][0] == run["run"]]
