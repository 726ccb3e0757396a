"""Finds what a test left running: tasks, clean-ups of async generators, threads.

What is about to finish may finish. What is still running after that is reported with the line that started it, and
ended if possible.
"""

import asyncio
import gc
import sys
import threading
import time
import warnings
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from functools import partial, wraps
from inspect import isasyncgen
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import pytest
import sqlalchemy

from testkit.call_site import TASKS, UNKNOWN, call_site, is_ours, relative
from testkit.clock import monotonic
from testkit.faults import note_fault

TURNS = 10  # of the event loop, followed by `GRACE`
GRACE = 0.25  # seconds for what is about to end, even on an overloaded machine
CLEANUP_TIMEOUT = 2.0  # seconds
CANCEL_TIMEOUT = 1.0  # seconds
THREAD_TIMEOUT = 0.25  # seconds
LONGEST_SLEEP = 0.25  # seconds for which the event loop may be blocked

SQLALCHEMY = str(Path(sqlalchemy.__file__).parent)

Task = asyncio.Task[Any]

_creators: WeakKeyDictionary[Task, Task | None] = WeakKeyDictionary()
_new: WeakSet[Task] = WeakSet()
"""Tasks that were created during the current test."""
_threads: list[tuple[threading.Thread, str]] = []
"""Threads that the project itself has started, and where."""


class BlockedLoop(UserWarning):
    """`time.sleep()` blocks the event loop."""


def observe_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Records where each task of this loop was created, from now on. Takes about 3 us per task."""
    make: Any = loop.get_task_factory() or _make_task

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Task:
        task: Task = make(loop, coroutine, **options)
        if asyncio._get_running_loop() is not None:  # otherwise it is a test or a fixture
            TASKS[task] = call_site()
            _creators[task] = asyncio.current_task(loop)
            _new.add(task)
        return task

    def clean_up(closing: Coroutine[Any, Any, None], place: str) -> None:
        TASKS[loop.create_task(closing)] = place

    def finalize(generator: AsyncGenerator[Any, Any]) -> None:
        # Does what asyncio does, but also records the line that left the generator unfinished.
        loop._asyncgens.discard(generator)  # type: ignore[attr-defined]
        if not loop.is_closed():
            loop.call_soon_threadsafe(clean_up, generator.aclose(), call_site())

    loop.time = monotonic  # type: ignore[method-assign]  # otherwise no time-out would end while time is frozen
    loop.set_exception_handler(_note_failure)
    loop.set_task_factory(factory)
    if isinstance(loop, asyncio.BaseEventLoop):
        loop._asyncgen_finalizer_hook = finalize  # type: ignore[attr-defined]


def _note_failure(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Records the failure of a task to which nobody holds a reference, and whose error would never be seen."""
    error, task = context.get("exception"), context.get("future")
    if error is not None and isinstance(task, asyncio.Task):
        note_fault(f"{_failure(task, error)}.")
    loop.default_exception_handler(context)


def failed_tasks() -> Iterator[str]:
    """Describes the failed tasks of this test whose error nobody has retrieved."""
    for task in list(_new):
        if task.done() and getattr(task, "_log_traceback", False) and (error := task.exception()):
            yield _failure(task, error)


def _failure(task: Task, error: BaseException) -> str:
    said = f"{type(error).__name__}: {error}".removesuffix(": ")
    return f"{_describe(task)}, which failed, and nobody awaited it ({said})"


def responsible_task() -> Task | None:
    """Returns the current task, or, if it is one in which SQLAlchemy ends a session, the task that waits for it."""
    task = asyncio.current_task()
    while task is not None and _code_file(task).startswith(SQLALCHEMY):
        task = _creators.get(task)
    return task


def lineage(task: Task) -> set[Task | None]:
    """Returns `task`, the current task, and those between them in the chain of creation."""
    found: set[Task | None] = {task}
    present = asyncio.current_task()
    while present is not None and present is not task:
        found.add(present)
        present = _creators.get(present)
    return found


def _code_file(task: Task) -> str:
    return str(getattr(getattr(task.get_coro(), "cr_code", None), "co_filename", ""))


def _make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Task:
    return asyncio.Task(coroutine, loop=loop, **options)


async def finish_tasks(loop: asyncio.AbstractEventLoop, earlier: set[Task]) -> list[str]:
    """Lets tasks that are newer than `earlier` finish, and cancels those that do not.

    Returns descriptions of those that did not finish. Clean-ups of generators are never cancelled. If there is nothing
    to wait for, this takes a few microseconds and needs no running event loop.
    """
    running = partial(_running, loop, earlier)
    if not getattr(loop, "_ready", True) and not running():
        return []
    for _ in range(TURNS):
        await asyncio.sleep(0)
        if not running():
            return []
    clean_ups = {task for task in running() if _is_clean_up(task)}
    for tasks, timeout in ((running(), GRACE), (clean_ups, CLEANUP_TIMEOUT)):
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)
    descriptions = sorted(map(_describe, running()))
    others = {task for task in running() if not _is_clean_up(task)}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=CANCEL_TIMEOUT)
    return descriptions


def _running(loop: asyncio.AbstractEventLoop, earlier: set[Task]) -> set[Task]:
    current = asyncio.current_task(loop)
    return {task for task in asyncio.all_tasks(loop) - earlier if task is not current}


def _is_clean_up(task: Task) -> bool:
    return type(task.get_coro()).__name__ == "async_generator_athrow"


def _describe(task: Task) -> str:
    coroutine = task.get_coro()
    if _is_clean_up(task):
        names = [found.__qualname__ for found in gc.get_referents(coroutine) if isasyncgen(found)]
        what = f"the clean-up of the async generator {''.join(names)}, abandoned at"
    else:
        what = f"the task {getattr(coroutine, '__qualname__', repr(coroutine))}, created at"
    return f"{what} {TASKS.get(task, UNKNOWN)}"


def waiting_places(loop: asyncio.AbstractEventLoop, earlier: set[Task]) -> Iterator[str]:
    """Where each task that is newer than `earlier` waits: its innermost line in the project."""
    for task in asyncio.all_tasks(loop) - earlier:
        place = None
        waiting: Any = task.get_coro()
        while waiting is not None:
            code, frame, following = _suspended(waiting)
            if frame is not None and is_ours(code.co_filename):
                place = f"{relative(code.co_filename)}:{frame.f_lineno} in {code.co_name}"
            waiting = following
        if place is not None:
            yield place


def _suspended(waiting: Any) -> tuple[Any, Any, Any]:
    """Returns the code and the frame of a coroutine or generator, and what it is waiting for."""
    for kind, inner in (("cr", "cr_await"), ("ag", "ag_await"), ("gi", "gi_yieldfrom")):
        if hasattr(waiting, inner):
            found = (f"{kind}_code", f"{kind}_frame", inner)
            code, frame, following = (getattr(waiting, name) for name in found)
            return code, frame, following
    return None, None, None


def observe_threads() -> Callable[[], None]:
    """Records which threads the project starts, and where, and warns of `time.sleep()` in the event loop. Returns a
    function that ends this."""
    start, sleep = threading.Thread.start, time.sleep

    @wraps(start)
    def noting_start(thread: threading.Thread) -> None:
        caller = sys._getframe(1)
        if is_ours(caller.f_code.co_filename):
            place = f"{relative(caller.f_code.co_filename)}:{caller.f_lineno}"
            _threads.append((thread, place))
        start(thread)

    @wraps(sleep)
    def warning_sleep(seconds: float, /) -> None:
        if seconds > LONGEST_SLEEP and asyncio._get_running_loop() is not None:
            warnings.warn(
                BlockedLoop(
                    f"`time.sleep({seconds:g})` at {call_site()} stops the event loop, and with it "
                    "all other requests and tasks: write `await asyncio.sleep(...)` instead, or "
                    "call what blocks with `asyncio.to_thread`."
                ),
                stacklevel=2,
            )
        sleep(seconds)

    patch = pytest.MonkeyPatch()
    patch.setattr(threading.Thread, "start", noting_start)
    patch.setattr(time, "sleep", warning_sleep)
    return patch.undo


def forget_earlier() -> None:
    """Forgets what was started so far: it belongs to no test, or to several."""
    _threads.clear()
    _new.clear()


def finish_threads() -> Iterator[str]:
    """Waits briefly for the threads of this test. Describes those that keep running."""
    for thread, place in _threads:
        if thread.is_alive() and thread is not threading.current_thread():
            thread.join(THREAD_TIMEOUT)
            if thread.is_alive():
                yield f"the thread {thread.name}, started at {place}"
    _threads.clear()
