"""Pytest plugin that adds a hint to errors that everybody meets once."""

import os
import re
import sys
from collections.abc import Generator, Iterator
from inspect import iscoroutinefunction
from typing import Any

import pytest

from testkit.call_site import is_ours
from testkit.environment import VARIABLES, warn_of_others

OTHER_LOOP = (
    "Something that was made in another event loop is used here: when its module was imported, or by "
    "`asyncio.run`, or in a test with a `loop_scope` of its own. All others share one loop. Make it in a "
    "fixture, in the lifespan, or when it is first needed; and await coroutines instead of running them."
)
HINTS = {
    r"attached to a different loop|bound to a different event loop|Event loop is closed": OTHER_LOOP,
    r"asyncio\.run\(\) cannot be called": (
        "The test runs in an event loop already: `await` the coroutine instead."
    ),
    r"no such savepoint|savepoint .* does not exist": (
        "Two transactions have overlapped on the one connection of a test with `rollback`: mark it "
        "with `@pytest.mark.committed`."
    ),
    r"provisioning a new connection|can't be called here; method": (
        "Two tasks use one session at the same time, as in `asyncio.gather`: give each its own."
    ),
    r"isolation_level may not be altered": (
        "With `rollback`, all sessions share one connection, whose transaction has begun: mark the test with "
        "`@pytest.mark.committed`."
    ),
    r"unable to open database file|Could not locate a bind|Connect call failed .*, 1\b|port 1 failed": (
        "If the test uses the database of the application: let it, or the fixture that makes its client, ask "
        "for `database_isolation`. If it does so already, this engine is not the one that the tests were given: it "
        "was created again, or it is a sync engine that `sync_engines` does not name. A fixture that outlives a test "
        "has no database, but one of a class can write with `class_session`."
    ),
    r"event loop is already running|cannot be called from the event loop thread": (
        "A sync client, such as `TestClient`, runs the application in the event loop of the tests, which an async "
        "test is using itself: make the test sync, or give it an async client."
    ),
    r"missing 1 required positional argument: '(request|websocket|socket)'": (
        "If this is a dependency: a WebSocket is no `Request`, and a request no `WebSocket`. What both have is in "
        "`starlette.requests.HTTPConnection`: annotate the argument with that."
    ),
    r"'State' object has no attribute": (
        "Does the lifespan of the application set it? A client calls the application without that. Make it "
        "when it is first needed, or set it in the fixture that makes the application."
    ),
    r"greenlet_spawn has not been called": (
        "An attribute or a relationship was not loaded, and cannot be loaded without an `await`: load "
        "it with the query (`selectinload`), or with `await session.refresh(...)`."
    ),
}
IN_SYNC_TEST = (
    "The test is not async: make it `async def` and await what `{fixture}` does; for sync code there "
    "is `sync_session`."
)
ASYNC_FIXTURES = ("session", "client", "user_client", "superuser_client")
ENVIRONMENT = (
    "`monkeypatch.setenv` comes too late for settings that were read already. To change one for a "
    "test, ask for the fixture `override_settings`: `override_settings({name}=...)`."
)
BLOCKED = (
    "A socket is opened to reach {host}, and the network is blocked in tests. Ask for the service through "
    "its provider, tell its fake what to answer, or mark the test with `@pytest.mark.network`."
)


def pytest_configure(config: pytest.Config) -> None:
    try:
        from pytest_socket import SocketBlockedError
    except ImportError:
        return

    def say(error: Exception, message: str = "", *_args: object) -> None:
        Exception.__init__(error, BLOCKED.format(host=_wanted_host() or "the network"))

    patch = pytest.MonkeyPatch()
    patch.setattr(SocketBlockedError, "__init__", say)
    config.add_cleanup(patch.undo)


def pytest_collection_finish() -> None:
    warn_of_others()


def _wanted_host() -> str | None:
    """Returns the host that the blocked connection was meant for, from the variables of the library, or of the project
    code that called it."""
    frame = sys._getframe(2)
    while frame.f_back is not None:
        for name in ("_args", "host", "remote_host", "address"):
            value = frame.f_locals.get(name)
            if isinstance(value, tuple) and value:
                value = value[0]
            if isinstance(value, bytes):
                value = value.decode(errors="replace")
            if isinstance(value, str) and value:
                return value
        if is_ours(frame.f_code.co_filename):
            return None
        frame = frame.f_back
    return None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    if call.excinfo is not None and not isinstance(call.excinfo.value, pytest.skip.Exception):
        error = call.excinfo.value
        for hint in _hints(item, f"{type(error).__name__}: {error}"):
            note = f"Hint: {hint}"
            if note not in getattr(error, "__notes__", ()):  # of a fixture that several tests use
                error.add_note(note)
    return (yield)


def _hints(item: pytest.Item, text: str) -> Iterator[str]:
    for pattern, hint in HINTS.items():
        if re.search(pattern, text):
            yield hint
    funcargs: dict[str, Any] = getattr(item, "funcargs", {})
    if not iscoroutinefunction(getattr(item, "obj", None)) and "coroutine" in text:
        for fixture in ASYNC_FIXTURES:
            if fixture in funcargs:
                yield IN_SYNC_TEST.format(fixture=fixture)
                break
    patched = getattr(funcargs.get("monkeypatch"), "_setitem", ())
    for target, name, _ in patched:
        if target is os.environ and str(name).upper() in VARIABLES:
            yield ENVIRONMENT.format(name=VARIABLES[str(name).upper()])
