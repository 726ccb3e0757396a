"""Shows where the time of a test goes: `pytest -p testkit.performance.diagnosis.profile`.

A timer interrupts the test and looks at its stack. The first run of a test pays for what is prepared
only once, so the test runs several times, and the profile shows the later runs. Consecutive frames of one
library are merged into one line, so that all of the time is shown and the project's own code stands out.
Fixtures are left out; `make perf` shows what they cost.
"""

import signal
import statistics
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CodeType, FrameType

import greenlet
import pytest

from testkit.call_site import is_ours, relative
from testkit.clock import clock
from testkit.performance.diagnosis.passes import run_passes

INTERVAL = 0.0005  # seconds between two looks at the stack
RUNS = 20
ENOUGH = 2.0  # seconds of all tests together, after which none is run again
LEAST = 0.02  # share of the whole that a line needs to be shown
# Pairs of packages that call each other back and forth, shown as one library.
ONE_LIBRARY = {"starlette": "fastapi", "pydantic_core": "pydantic", "httpcore2": "httpx2"}


class Node:
    """A function of the project, or a library; and what it calls."""

    def __init__(self) -> None:
        self.samples = 0
        self.callees: dict[str, Node] = {}

    def add(self, names: list[str]) -> None:
        self.samples += 1
        if names:
            self.callees.setdefault(names[0], Node()).add(names[1:])

    def lines(self, whole: int, depth: int = 0) -> Iterator[tuple[float, int, str]]:
        """Share of the whole, depth and name of each line."""
        for name, node in sorted(self.callees.items(), key=lambda found: -found[1].samples):
            if node.samples >= whole * LEAST:
                yield node.samples / whole, depth, name
                yield from node.lines(whole, depth + 1)


class Profile:
    """The runs of one test."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.first, self.others = Node(), Node()

    def lines(self) -> Iterator[str]:
        first, *others = self.seconds
        each = statistics.median(others) if others else first
        later = f", {len(others)} more {each * 1000:.1f} ms each" if others else ""
        yield f"the first run took {first * 1000:.1f} ms{later}"
        root = self.others if others else self.first
        for share, depth, name in root.lines(root.samples):
            yield f"  {share * each * 1000:8.2f} ms {share:5.0%}  {'  ' * depth}{name}"


profiles: dict[str, Profile] = {}


def pytest_configure() -> None:
    if not hasattr(signal, "setitimer"):
        raise pytest.UsageError("The profile needs a timer that this system does not have.")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    run_passes(session, RUNS, lambda _: sum(sum(p.seconds) for p in profiles.values()) > ENOUGH)
    return True


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    profile = profiles.setdefault(item.nodeid, Profile())
    code = getattr(getattr(item, "function", None), "__code__", None)
    node = profile.others if profile.seconds else profile.first
    start = clock()
    try:
        with _sampling(node, code):
            return (yield)
    finally:
        profile.seconds.append(clock() - start)


@contextmanager
def _sampling(node: Node, test: CodeType | None) -> Iterator[None]:
    is_over = False

    def look(_number: int, frame: FrameType | None) -> None:
        if is_over:
            return
        if names := _names(frame, test):
            node.add(names)
        signal.setitimer(signal.ITIMER_REAL, INTERVAL)  # only now: a look may take long

    handler = signal.signal(signal.SIGALRM, look)
    # The test's time-out uses the same timer, and is suspended until the timer is free again.
    timer = signal.setitimer(signal.ITIMER_REAL, INTERVAL)
    try:
        yield
    finally:
        is_over = True  # a late alarm must not set the timer again, for the time-out to see
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def _names(frame: FrameType | None, test: CodeType | None) -> list[str]:
    """Returns the names on the stack from the test inwards, or from the task inwards if something else runs in the
    event loop. The list is empty if neither runs."""
    names: list[str] = []
    current = greenlet.getcurrent()
    while frame is not None:
        code = frame.f_code
        if code.co_name == "_run" and code.co_filename.endswith("asyncio/events.py"):
            return names[::-1]
        name = _name(code)
        if name and (not names or names[-1] != name):
            names.append(name)
        if code is test:
            return names[::-1]
        frame = frame.f_back
        if frame is None and current.parent is not None:
            current = current.parent
            frame = current.gr_frame
    return []


@cache
def _name(code: CodeType) -> str:
    """Returns the function or library to show; nothing for the standard library, whose time counts for its caller."""
    if is_ours(code.co_filename):
        return f"{code.co_name}  {relative(code.co_filename)}:{code.co_firstlineno}"
    parts = Path(code.co_filename).parts
    for folder in ("site-packages", "dist-packages"):
        if folder in parts:
            package = parts[parts.index(folder) + 1].removesuffix(".py")
            return ONE_LIBRARY.get(package, package)
    return ""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("profile")
    for nodeid, profile in profiles.items():
        terminalreporter.write_line(f"{nodeid}: {next(lines := profile.lines())}")
        for line in lines:
            terminalreporter.write_line(line)
