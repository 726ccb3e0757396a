"""The end of a process: announced before anything is refused, so that nobody loses a request."""

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from anyio import CancelScope
from fastapi import FastAPI

from app.settings import Settings

Item = TypeVar("Item")


def install_shutdown(app: FastAPI) -> None:
    app.state.shutdown = asyncio.Event()  # set as soon as the process has been told to stop


@contextmanager
def announcing_shutdown(app: FastAPI) -> Iterator[None]:
    """Delays SIGTERM on its way to the server by `SHUTDOWN_DELAY` seconds. Until then `/health/ready` answers 503, and
    other requests are answered as usual, each with its connection closed afterwards.

    A second signal goes straight to the server.
    """
    settings: Settings = app.state.settings
    shutdown: asyncio.Event = app.state.shutdown
    stop = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(stop):
        yield
        return
    loop = asyncio.get_running_loop()

    def announce(number: int, frame: FrameType | None) -> None:
        if shutdown.is_set():
            stop(number, frame)
            return
        loop.call_soon_threadsafe(shutdown.set)
        loop.call_soon_threadsafe(loop.call_later, settings.shutdown_delay, stop, number, None)

    signal.signal(signal.SIGTERM, announce)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, stop)


async def until_shutdown(app: FastAPI, items: AsyncIterator[Item]) -> AsyncGenerator[Item]:
    """For an endless response: it ends when the process does, in order, instead of with a broken connection. And when
    the client leaves: Starlette then cancels at every `await`, also where `items` still clean up, which are shielded.
    """
    stopped = asyncio.ensure_future(app.state.shutdown.wait())
    try:
        while True:
            following = asyncio.ensure_future(anext(items))
            try:
                await asyncio.wait({following, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    return
            finally:
                following.cancel()
                with CancelScope(shield=True):
                    await asyncio.wait({following})
            try:
                item = following.result()
            except StopAsyncIteration:
                return
            yield item
    finally:
        stopped.cancel()
        if isinstance(items, AsyncGenerator):
            with CancelScope(shield=True):
                await items.aclose()
