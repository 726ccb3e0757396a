"""Pytest plugin that checks every test for what it leaves running and what it forgot to await."""

import _thread
import asyncio
import gc
import sys
import threading
import warnings
from collections.abc import Generator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from testkit.call_site import call_site
from testkit.clock import clock
from testkit.eager import run
from testkit.faults import note_fault, take_faults
from testkit.leftovers import (
    failed_tasks,
    finish_tasks,
    finish_threads,
    forget_earlier,
    observe_tasks,
    observe_threads,
    waiting_places,
)
from testkit.portal import share_loop
from testkit.resets import reset_all

SET_UP = pytest.StashKey[dict[str, Any]]()
EARLIER_TASKS = pytest.StashKey[set[asyncio.Task[Any]]]()
NEVER_AWAITED = "was never awaited"
OF_TIMEOUT = "from pytest-timeout"

interruptions: list[BaseException] = []
"""The `KeyboardInterrupt` that ended this run, if any."""


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    # Before any module of the project is imported, as it may contain `from time import sleep`.
    config: Any = pluginmanager.get_plugin("pytestconfig")
    config.add_cleanup(observe_threads())


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # Tests with anyio's marker run like all others, in the shared event loop: with two runners, each would want the
    # fixtures in its own loop.
    if config.pluginmanager.unregister(name="anyio") is not None:
        config.addinivalue_line("markers", "anyio: changes nothing; all tests share one event loop")
    config.addinivalue_line("filterwarnings", f"error:.*{NEVER_AWAITED}:RuntimeWarning")
    patch = pytest.MonkeyPatch()
    patch.setattr("_pytest.timing.perf_counter", clock)
    config.add_cleanup(patch.undo)


class LoopOfItsOwn(pytest.PytestWarning):
    """A test has an event loop of its own, in which nothing notices what it leaves running."""


def _warn_of_its_loop(item: pytest.Item) -> None:
    marker = item.get_closest_marker("asyncio")
    if marker is not None and marker.kwargs.get("loop_scope", "session") != "session":
        warnings.warn(
            LoopOfItsOwn(
                f"{item.nodeid} runs in an event loop of its own: what it leaves running fails nothing, and "
                "the database is in another loop. Leave out `loop_scope`: all tests share one loop."
            ),
            stacklevel=2,
        )


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    # After pytest has installed its own hook, which turns whatever is reported to it into failures.
    tell = sys.unraisablehook

    def explain(unraisable: Any) -> None:
        error = unraisable.exc_value
        if isinstance(error, RuntimeWarning) and NEVER_AWAITED in str(error):
            what, place = str(error).partition("\n")[0], call_site()
            where = f"{place}: " if ".py:" in place else ""  # else it was kept until the test's end
            note_fault(f"{where}{what}: write `await` before the call.")
        elif isinstance(error, KeyboardInterrupt):
            # It was raised in a callback of the garbage collector, which lets no exception through.
            threading.Timer(0.01, _thread.interrupt_main).start()
        else:
            tell(unraisable)

    def restore() -> None:
        sys.unraisablehook = tell

    sys.unraisablehook = explain
    session.config.add_cleanup(restore)


def pytest_keyboard_interrupt(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    if excinfo.errisinstance(KeyboardInterrupt):  # and not what `pytest.exit` raises
        interruptions.append(excinfo.value)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish() -> Generator[None, object, object]:
    """Ignores errors in ending the run after Ctrl-C: pytest would show a traceback, and no results."""
    try:
        return (yield)
    except (Exception, pytest.fail.Exception):
        if not interruptions:
            raise
        return None


def set_up_once(request: pytest.FixtureRequest, name: str) -> Any:
    """Returns a session-scoped fixture without adding it to this test's closure.

    Each fixture in a test's closure costs 0.1 ms, even if it was set up long ago, and pytest keeps a finalizer of
    0.5 KB for every test that has it there.
    """
    fixtures = request.config.stash.setdefault(SET_UP, {})
    if name not in fixtures:
        fixtures[name] = request.getfixturevalue(name)
    return fixtures[name]


@pytest_asyncio.fixture(scope="session")  # works in `strict` mode, too
async def session_loop(pytestconfig: pytest.Config) -> asyncio.AbstractEventLoop:
    """The event loop that all tests share."""
    loop = asyncio.get_running_loop()
    observe_tasks(loop)
    pytestconfig.add_cleanup(share_loop(loop))
    return loop


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """For tests that were written for anyio's plugin."""
    return "asyncio"


@pytest.fixture(autouse=True)
def nothing_left_running(request: pytest.FixtureRequest) -> None:
    """Fails a test that leaves a task or a thread running: in the shared event loop, a task would carry on during the
    following tests.

    What fixtures with a wider scope started may keep running. This notes what runs before the test; the check is made
    in its teardown.
    """
    loop: asyncio.AbstractEventLoop = set_up_once(request, "session_loop")
    request.node.stash[EARLIER_TASKS] = asyncio.all_tasks(loop)
    forget_earlier()
    reset_all()


def _judged(item: pytest.Item) -> Generator[None, object, object]:
    """Fails a phase of a test if faults were noted in it, showing only their sentences; if it failed anyway, adds them
    as notes."""
    try:
        result = yield
    except BaseException as error:
        for fault in take_faults():
            error.add_note(fault)
        if OF_TIMEOUT in str(error) and (places := _waiting_places(item)):
            error.add_note("\n  ".join(["When time ran out, these were waiting:", *places]))
        raise
    if faults := take_faults():
        pytest.fail("\n".join(faults), pytrace=False)
    return result


def _waiting_places(item: pytest.Item) -> list[str]:
    """Returns where tasks are waiting. All that pytest-timeout itself sees of a waiting test is the event loop."""
    loop: asyncio.AbstractEventLoop | None = item.config.stash.get(SET_UP, {}).get("session_loop")
    if loop is None:
        return []
    return sorted(waiting_places(loop, item.stash.get(EARLIER_TASKS, set())))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    _forget_the_last_error()
    _warn_of_its_loop(item)
    return (yield from _judged(item))


def _forget_the_last_error() -> None:
    """Drops the last error, whose traceback keeps alive what the failed test did not await.

    pytest drops it too, but later, and what the garbage collector found then would be blamed on this test.
    """
    if hasattr(sys, "last_value"):
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            vars(sys).pop(name, None)
        gc.collect()
        take_faults()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from _judged(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    try:
        return (yield from _judged(item))
    finally:
        earlier = item.stash.get(EARLIER_TASKS, None)
        if earlier is not None and not isinstance(sys.exc_info()[1], KeyboardInterrupt):
            del item.stash[EARLIER_TASKS]
            if left := list(_left_running(item.config, earlier)):
                fail(item, left)
            if faults := [*take_faults(), *failed_tasks()]:
                pytest.fail("\n".join(faults), pytrace=False)


def _left_running(config: pytest.Config, earlier: set[asyncio.Task[Any]]) -> Iterator[str]:
    loop: asyncio.AbstractEventLoop = config.stash[SET_UP]["session_loop"]
    if not loop.is_closed():
        yield from run(loop, finish_tasks(loop, earlier))
    yield from finish_threads()


def fail(item: pytest.Item, leaks: list[str]) -> None:
    pytest.fail(f"{item.nodeid} left open: {'; '.join(leaks)}", pytrace=False)
