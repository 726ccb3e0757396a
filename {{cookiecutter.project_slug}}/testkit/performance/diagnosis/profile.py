"""Where the time of a test goes, by pyinstrument: `pytest -p testkit.performance.diagnosis.profile`.

Fixtures are left out; `make perf` says what they cost.
"""

from collections.abc import Generator

import pytest
from pyinstrument import Profiler

INTERVAL = 0.0005  # seconds between two looks at the stack

outputs: list[str] = []


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    # The event loop runs in this thread, so that all of it belongs to the test.
    profiler = Profiler(interval=INTERVAL, async_mode="disabled")
    profiler.start()
    try:
        return (yield)
    finally:
        profiler.stop()
        color = item.config.get_terminal_writer().hasmarkup
        report = profiler.output_text(unicode=True, color=color, short_mode=True)
        outputs.append(f"{item.nodeid}\n{report}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("profile")
    for output in outputs:
        terminalreporter.write_line(output)
