"""How this service connects to SQLite."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings
from sqlalchemy import Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState
from sqlalchemy.util import await_only

DRIVER_TIMEOUT = 5.0  # seconds, where nothing else is said


# Something is wrong with the file, its disk or its lock, and not with the statement.
OUTAGES = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
}
DRIVER_ERRORS = (sqlite3.Error,)
QUIET_DRIVERS = {"aiosqlite": "INFO"}  # below, it logs the values of statements


class EngineSettings(BaseSettings):
    database_busy_timeout: float = Field(
        default=5, ge=0, le=3600, description="seconds to wait while another connection writes"
    )


def create_engine(url: str, **options: Any) -> AsyncEngine:
    """An engine whose transactions are what they claim to be, and which keeps values out of errors and
    logs; `options` go to SQLAlchemy."""
    defaults = {"hide_parameters": True, "pool_reset_on_return": None}
    engine = create_async_engine(url, **defaults | options)
    writers = Writers(options.get("connect_args", {}).get("timeout", DRIVER_TIMEOUT))
    event.listen(engine.sync_engine, "connect", _configure)
    event.listen(engine.sync_engine, "begin", partial(_begin, writers))
    for end in ("commit", "rollback"):
        event.listen(engine.sync_engine, end, writers.leave)
    event.listen(engine.pool, "reset", _reset)
    for end in ("checkin", "invalidate"):
        event.listen(engine.pool, end, writers.leave_record)
    return engine


def engine_options(settings: EngineSettings) -> dict[str, Any]:
    """The options of the engine that serves requests."""
    return {"connect_args": {"timeout": settings.database_busy_timeout}}


def is_outage(error: Exception) -> bool:
    """Whether the database cannot work, whatever the statement."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF in OUTAGES


def is_table_missing(error: BaseException | None) -> bool:
    return str(error).startswith("no such table: ")


def tables_of_others(connection: Connection) -> set[str]:
    """Tables that no model describes: virtual ones, as full text search has them, and their shadow tables."""
    tables = connection.exec_driver_sql("PRAGMA table_list")
    return {table.name for table in tables if table.type in ("virtual", "shadow")}


# All or nothing, whatever Alembic thinks that the database can do. A table cannot be altered, so it is copied.
MIGRATION_OPTIONS = {"transactional_ddl": True, "render_as_batch": True}


@contextmanager
def one_migration(connection: Connection) -> Iterator[None]:
    """If two instances start at once, the second one waits until the first has migrated.

    To alter a table, Alembic copies and drops it, which would delete the rows that refer to it.
    """
    # Inside a transaction the pragmas would do nothing, so they go past SQLAlchemy.
    cursor = connection.connection.cursor()
    cursor.execute("PRAGMA foreign_keys = OFF")
    cursor.execute("PRAGMA busy_timeout = 600000")  # ms
    cursor.close()
    yield


def _configure(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # The driver would begin transactions too late, and not at all before a savepoint.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _reset(connection: DBAPIConnection, _entry: ConnectionPoolEntry, state: PoolResetState) -> None:
    # SQLAlchemy would ask the driver's thread to roll back what a session has rolled back already.
    if state.asyncio_safe and connection.driver_connection.in_transaction:
        connection.rollback()


class Writers:
    """Lets the writers of this process take turns, first come, first served.

    SQLite has each writer retry on its own, and among many of them one may never get in.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout  # seconds
        self._turn = asyncio.Lock()

    def enter(self, connection: Connection) -> None:
        await_only(self._wait())
        connection.info["is_writing"] = True

    async def _wait(self) -> None:
        if not self._turn.locked():
            await self._turn.acquire()
            return
        try:
            async with asyncio.timeout(self.timeout):
                await self._turn.acquire()
        except TimeoutError:
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error from None

    def leave(self, connection: Connection) -> None:
        if not connection.invalidated:  # then it has left already
            self._leave(connection.info)

    def leave_record(self, _connection: Any, record: ConnectionPoolEntry, *_: Any) -> None:
        self._leave(record.info)

    def _leave(self, info: dict[Any, Any]) -> None:
        if info.pop("is_writing", False):
            self._turn.release()


def _begin(writers: Writers, connection: Connection) -> None:
    # A transaction that reads first and writes later fails at once when another one has written
    # in between (SQLITE_BUSY_SNAPSHOT), so whoever may write asks for the lock first and waits.
    read_only = connection.get_execution_options().get("read_only", False)
    if not read_only:
        writers.enter(connection)
    # Straight to the driver: a cursor of SQLAlchemy's would take three hops to its thread, not one.
    driver: Any = connection.connection.driver_connection
    try:
        await_only(driver.execute("BEGIN" if read_only else "BEGIN IMMEDIATE"))
    except asyncio.CancelledError:
        # The driver's thread may begin it all the same, and hold the lock. In a greenlet, SQLAlchemy would wait for it.
        await_only(_call(connection.invalidate))
        raise


async def _call(function: Callable[[], None]) -> None:
    function()
