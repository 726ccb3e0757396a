"""Sync engines on asyncpg, which works only in an event loop: sync code needs help to wait for it."""

import asyncio
from collections.abc import Callable
from functools import cached_property
from typing import Any

from sqlalchemy import URL, Engine, NullPool, StaticPool, create_engine
from sqlalchemy.dialects.postgresql.asyncpg import (
    AsyncAdapt_asyncpg_connection,
    AsyncAdapt_asyncpg_cursor,
    AsyncAdapt_asyncpg_ss_cursor,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.util import await_only, greenlet_spawn
from sqlalchemy.util.concurrency import in_greenlet

from testkit.databases.postgresql.connect import connect


class SyncEngines:
    def __init__(self, loop: asyncio.AbstractEventLoop, url: URL) -> None:
        self._loop = loop
        self._url = url
        self._joined: tuple[AsyncConnection, Engine] | None = None

    @cached_property
    def own(self) -> Engine:
        """An engine with connections of its own."""
        return self._create(lambda: self._wait(connect(self._url)), is_joined=False)

    def join(self, connection: AsyncConnection) -> Engine:
        """Returns an engine that always uses this connection, inside its transaction."""
        adapted: Any = connection.sync_connection.connection.dbapi_connection  # type: ignore[union-attr]
        if adapted._transaction is None:  # SQLAlchemy would send BEGIN with its first statement
            self._wait(adapted._start_transaction())
        if self._joined is None or self._joined[0] is not connection:
            engine = self._create(lambda: adapted.driver_connection, is_joined=True)
            engine.dialect.do_commit = engine.dialect.do_rollback = _leave_open  # type: ignore[assignment,method-assign]
            self._joined = connection, engine
        return self._joined[1]

    def _create(self, connect: Callable[[], Any], *, is_joined: bool) -> Engine:
        adapter = self._adapter()

        def create() -> Any:
            connection = adapter(engine.dialect.dbapi, connect())
            if is_joined:  # else it would begin a transaction of its own
                connection.isolation_level = "autocommit"
            return connection

        engine = create_engine(
            "postgresql+asyncpg://",
            creator=create,
            poolclass=StaticPool if is_joined else NullPool,
        )
        engine.raw_connection = self._waiting(engine.raw_connection)  # type: ignore[method-assign]
        return engine

    def _adapter(self) -> Any:
        """Returns SQLAlchemy's adapter for the driver, changed to wait for the driver outside greenlets too."""

        def able_to_wait(kind: Any, *methods: str, **attributes: Any) -> Any:
            waiting = {name: self._waiting(getattr(kind, name)) for name in methods}
            return type(kind.__name__, (kind,), {"__slots__": ()} | waiting | attributes)

        executing = ("execute", "executemany")
        fetching = ("fetchone", "fetchmany", "fetchall")
        cursor = able_to_wait(AsyncAdapt_asyncpg_cursor, *executing)
        ss_cursor = able_to_wait(AsyncAdapt_asyncpg_ss_cursor, *executing, *fetching)

        return able_to_wait(
            AsyncAdapt_asyncpg_connection,
            *("close", "commit", "ping", "rollback", "run_async"),
            cursor=lambda self, server_side=False: (ss_cursor if server_side else cursor)(self),
        )

    def _waiting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **options: self._wait(greenlet_spawn(function, *args, **options))

    def _wait(self, awaitable: Any) -> Any:
        """Waits for the driver in sync code of a sync test or fixture, or of an async test.

        Raises `RuntimeError` in an async fixture, where that is impossible.
        """
        if in_greenlet():
            return await_only(awaitable)
        if self._loop.is_running():
            if asyncio._get_running_loop() is None:  # it runs in another thread, for a TestClient
                return asyncio.run_coroutine_threadsafe(_await(awaitable), self._loop).result()
            awaitable.close()
            raise RuntimeError(
                "`sync_session` cannot wait for the database in an async fixture. Make the fixture "
                "sync, or use `session` and its `run_sync()`."
            )
        return self._loop.run_until_complete(awaitable)


async def _await(awaitable: Any) -> Any:
    return await awaitable


def _leave_open(_connection: object) -> None:
    """The transaction is not this engine's to end."""
