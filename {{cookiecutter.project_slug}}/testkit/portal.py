"""Keeps the event loop that all tests share, even if something in a sync test wants another one.

When `asyncio.run` ends, it leaves the thread without a loop, but SQLAlchemy needs one in sync code: the shared loop is
put back. Starlette's `TestClient` would start another loop in a thread, where the connections of the shared loop cannot
be used. Nothing else runs in a sync test, so the shared loop itself can run in that thread during a request.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import anyio.from_thread
import pytest
from anyio.from_thread import BlockingPortal


def share_loop(loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Makes anyio's portals in sync code use this loop, and puts the loop back when something removes it from the main
    thread. Returns a function that ends this."""
    start_another = anyio.from_thread.start_blocking_portal
    set_loop = asyncio.set_event_loop

    def set_or_give_back(other: asyncio.AbstractEventLoop | None) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        set_loop(loop if other is None and is_main and not loop.is_closed() else other)

    def start(*args: Any, **kwargs: Any) -> AbstractContextManager[BlockingPortal]:
        is_free = not loop.is_running() and threading.current_thread() is threading.main_thread()
        return _portal(loop) if is_free else start_another(*args, **kwargs)

    patch = pytest.MonkeyPatch()
    patch.setattr(anyio.from_thread, "start_blocking_portal", start)
    patch.setattr(asyncio.events, "set_event_loop", set_or_give_back)  # where `asyncio.run` looks
    return patch.undo


@contextmanager
def _portal(loop: asyncio.AbstractEventLoop) -> Iterator[BlockingPortal]:
    started: Future[BlockingPortal] = Future()

    async def serve() -> None:
        async with BlockingPortal() as portal:
            started.set_result(portal)
            await portal.sleep_until_stopped()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    portal = started.result()
    failed = True
    try:
        yield portal
        failed = False
    finally:
        portal.call(portal.stop, failed)
        thread.join()
