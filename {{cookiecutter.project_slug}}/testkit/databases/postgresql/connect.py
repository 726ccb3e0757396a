"""Connections to the tests' server, even where sockets are blocked."""

import asyncio
import socket
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import URL

from testkit.interruptions import Uninterrupted

CONNECT_TIMEOUT = 3.0  # seconds

# What the driver's own reset leaves out.
RESET = "SET SESSION AUTHORIZATION DEFAULT; DISCARD TEMP; DISCARD SEQUENCES;"

# Commits do not wait for the disk. The private server never waits; on other servers, any role may set this.
UNHURRIED = {"synchronous_commit": "off"}

REAL = (socket.socket, socket.getaddrinfo)

Result = TypeVar("Result")


class _Blockade:
    """Lifts the tests' blocking of sockets while a connection is being made."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._depth == 0:
                self._blocked = (socket.socket, socket.getaddrinfo)
                socket.socket, socket.getaddrinfo = REAL  # type: ignore[misc]
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                socket.socket, socket.getaddrinfo = self._blocked  # type: ignore[misc]


_blockade = _Blockade()


class Connection(asyncpg.Connection):  # type: ignore[misc]
    """A connection whose `reset()` undoes everything except prepared statements."""

    has_listeners = False

    def get_reset_query(self) -> str:
        return f"{super().get_reset_query()}\n{RESET}"

    async def add_listener(self, *args: Any) -> None:
        self.has_listeners = True
        await super().add_listener(*args)

    async def renew(self) -> None:
        """Does what `reset()` does; without listeners or a transaction, at once, even if no event loop runs."""
        if self.has_listeners or self.is_in_transaction():
            await asyncio.sleep(0)
            await self.reset()
            self.has_listeners = False
        else:
            await self.execute(self.get_reset_query())


async def open_connection(**options: Any) -> asyncpg.Connection:
    """Does what `asyncpg.connect` does, even where the network is blocked."""
    options.setdefault("timeout", CONNECT_TIMEOUT)
    options.setdefault("connection_class", Connection)
    options["server_settings"] = UNHURRIED | (options.get("server_settings") or {})
    if str(options.get("host", "")).startswith("/"):
        return await asyncpg.connect(**options)
    with _blockade:
        return await asyncpg.connect(**options)


async def connect(url: URL, **server_settings: str) -> asyncpg.Connection:
    """Opens a connection of the driver itself. Takes about 2 ms."""
    _, options = url.get_dialect()().create_connect_args(url)
    return await open_connection(server_settings=server_settings, **options)


@contextmanager
def background_loop() -> Iterator["BackgroundLoop"]:
    """An event loop in a thread, for what has to happen whether or not the tests' loop runs."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="testkit-postgresql", daemon=True)
    thread.start()
    try:
        yield BackgroundLoop(loop)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class BackgroundLoop:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Runs the coroutine in this loop. Returns or raises what the coroutine does."""
        with Uninterrupted():  # the next one may use the same connection
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
