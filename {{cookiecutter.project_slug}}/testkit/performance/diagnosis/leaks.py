"""Shows what keeps growing when the tests are run again: `pytest -p testkit.performance.diagnosis.leaks`.

The tests run several times in one process. The first pass fills caches and triggers late imports. A leak
is what the project adds in every later pass: objects of one of its types, or memory allocated by one of
its lines. What libraries keep, mostly in caches, shows only in the growth of the process, which is
reported as well; `pytest --ledger-memory` shows their lines.
"""

import gc
import sys
import tracemalloc
from collections import Counter
from itertools import pairwise

import pytest

from testkit.call_site import is_ours, relative
from testkit.performance.diagnosis.passes import run_passes
from testkit.performance.recorder import KEPT_BY_PYTEST, Memory

# The first pass fills caches, from the second to the third the process is measured as it is, and from
# then on its allocations are traced, which takes memory itself.
PASSES, UNTRACED = 5, 3
SHOWN = 20
LEAST = 16 * 1024  # bytes that a line must add each time

memory = Memory()
types: list[Counter[str]] = []
lines: list[Counter[str]] = []
resident: list[int] = []
"""Bytes after each pass, without what pytest keeps of each test."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    def look(number: int) -> bool:
        gc.collect()
        resident.append(memory.now() - number * len(session.items) * KEPT_BY_PYTEST)
        if number + 1 >= UNTRACED:
            types.append(_objects())
            lines.append(_allocations() if tracemalloc.is_tracing() else Counter())
            tracemalloc.start()
        return False

    run_passes(session, PASSES, look)
    tracemalloc.stop()
    return True


def _objects() -> Counter[str]:
    """How many objects there are of each type of the project."""
    return Counter(
        f"{kind.__module__}.{kind.__qualname__}"
        for kind in map(type, gc.get_objects())
        if is_ours(getattr(sys.modules.get(kind.__module__), "__file__", None) or "<")
    )


def _allocations() -> Counter[str]:
    """Returns the allocated bytes by line of the project."""
    found: Counter[str] = Counter()
    for statistic in tracemalloc.take_snapshot().statistics("lineno"):
        frame = statistic.traceback[0]
        if is_ours(frame.filename):
            found[f"{relative(frame.filename)}:{frame.lineno}"] += statistic.size
    return found


def _growth(counts: list[Counter[str]], least: int) -> Counter[str]:
    """Returns what grew by `least` or more in every step, with its growth in the smallest step."""
    steps = [later - earlier for earlier, later in pairwise(counts)]
    names = set.intersection(*(set(step) for step in steps))
    growth = {name: min(step[name] for step in steps) for name in names}
    return Counter({name: number for name, number in growth.items() if number >= least})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("what keeps growing")
    write = terminalreporter.write_line
    if len(resident) < PASSES:
        write("The tests have not run to their end, so nothing can be said.")
        return
    objects, allocated = _growth(types, 1), _growth(lines, LEAST)
    for name, number in objects.most_common(SHOWN):
        write(f"{number:>8} more {name} each time")
    for place, size in allocated.most_common(SHOWN):
        write(f"{size / 1024:>8.1f} KiB more each time, allocated at {place}")
    grown = max(resident[UNTRACED - 1] - resident[UNTRACED - 2], 0) / 1024
    write(
        f"{'A leak' if objects or allocated else 'No leak'}: the tests ran {PASSES} times; the third "
        f"time the process grew by {grown:,.0f} KiB, without what pytest keeps."
    )
