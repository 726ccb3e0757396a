"""What grows when the tests are run once more: `pytest -p testkit.performance.diagnosis.leaks`.

The tests run twice in one process. The first time fills caches and imports what is imported late;
what the second time leaves behind is shown, by type and by the line that has allocated it. What
pytest keeps for its own report is left out.
"""

import gc
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from testkit.call_site import relative
from testkit.performance.diagnosis.passes import run_passes
from testkit.performance.recorder import Memory

SHOWN = 20
LEAST = 2048  # bytes
OF_THE_RUN = [
    f"*/site-packages/{package}/*" for package in ("_pytest", "pluggy", "xdist", "pytest_asyncio")
] + [f"{Path(__file__).parents[1]}/*", tracemalloc.__file__]

memory = Memory()
types: list[Counter[str]] = []
resident: list[int] = []
grown: list[tracemalloc.Statistic] = []


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    run_passes(session, 2, _after)
    return True


def _after(number: int) -> None:
    gc.collect()
    types.append(Counter(f"{type(o).__module__}.{type(o).__qualname__}" for o in gc.get_objects()))
    resident.append(memory.now())
    if number == 0:
        tracemalloc.start()
    else:
        found = tracemalloc.take_snapshot()
        tracemalloc.stop()
        filters = [tracemalloc.Filter(inclusive=False, filename_pattern=p) for p in OF_THE_RUN]
        grown.extend(found.filter_traces(filters).statistics("lineno"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("what grew in the second run")
    if len(types) < 2:
        terminalreporter.write_line("The second run has not ended, so nothing can be said.")
        return
    write = terminalreporter.write_line
    write(f"resident memory: {(resident[1] - resident[0]) / 1024:+,.0f} KiB")
    write("")
    more = types[1] - types[0]
    for name, number in more.most_common(SHOWN):
        write(f"{number:>8} more of {name}")
    write("")
    for statistic in grown[:SHOWN]:
        if statistic.size >= LEAST:
            frame = statistic.traceback[0]
            place = f"{relative(frame.filename)}:{frame.lineno}"
            write(f"{statistic.size / 1024:>8.1f} KiB in {statistic.count} objects from {place}")
