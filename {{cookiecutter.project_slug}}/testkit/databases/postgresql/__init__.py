"""PostgreSQL: the template is a database that allows no connections, and a worker database is a clone of it.

A reset is one call of a function that `baseline.sql` created in the database.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Connection, Engine, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

from testkit.databases import DatabaseSetup, ResetError, WorkerDatabase
from testkit.databases.ahead import NEEDED
from testkit.databases.postgresql.connect import connect, open_connection
from testkit.databases.postgresql.databases import Databases, made_ahead, open_databases
from testkit.databases.postgresql.server import ServerError, describe
from testkit.databases.postgresql.sync import SyncEngines
from testkit.eager import Eager

__all__ = [
    "EXPLAIN",
    "describe",
    "made_ahead",
    "open_empty_database",
    "open_worker_database",
    "prepare",
    "statements_that_empty",
]

EXPLAIN = "EXPLAIN"

LOCK_TIMEOUT = 1500  # milliseconds

OPEN_TRANSACTIONS = """
    SELECT pid, query FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
        AND backend_type = 'client backend'
"""

SAVEPOINTS = {
    "do_savepoint": "SAVEPOINT",
    "do_rollback_to_savepoint": "ROLLBACK TO SAVEPOINT",
    "do_release_savepoint": "RELEASE SAVEPOINT",
}


class PostgreSQLDatabase:
    """The worker database, called `name`."""

    def __init__(self, databases: Databases, setup: DatabaseSetup, name: str) -> None:
        self.databases = databases
        self.setup = setup
        self.name = name
        self.url = databases.url(name).render_as_string(hide_password=False)
        self.engine_options: dict[str, Any] = {
            "connect_args": {"async_creator_fn": open_connection}
        }
        self.commit_check: str | None = None
        self.has_row_locks = True
        self._level = 0

    async def start(self, engine: AsyncEngine) -> None:
        self._engine = engine.sync_engine
        self._sync_engines = SyncEngines(asyncio.get_running_loop(), make_url(self.url))
        for method, command in SAVEPOINTS.items():
            setattr(engine.sync_engine.dialect, method, partial(_execute_once, command))
        await self._connect()

    async def _connect(self) -> None:
        self._control = await connect(
            make_url(self.url),
            lock_timeout=str(LOCK_TIMEOUT),
            **({"session_replication_role": "replica"} if self.databases.is_superuser else {}),
        )
        # What is known about the database's state. That is nothing yet, so the first reset is a complete one.
        self._snapshot: str | None = None
        self._sessions = -1
        self._catalogue = await self._catalogue_state()
        if await self._control.fetchval(
            "SELECT EXISTS (SELECT FROM pg_constraint WHERE condeferrable)"
        ):
            self.commit_check = "SELECT testkit.check_constraints()"

    async def stop(self) -> None:
        await self._control.close()

    async def renew(self, connections: Collection[ConnectionPoolEntry]) -> None:
        if any(map(_is_of_project, self._engine.pool.dispatch.connect)):
            # What they have set on a connection is set on a new one only.
            for entry in connections:
                _drop(entry)
            return
        for renewing in [Eager(_renew(entry)) for entry in connections]:  # all at once
            await renewing

    async def reset(self, *, committed: bool) -> bool:
        state = await self._undo(self._level, committed=committed)
        if state == "changed":
            await self._clone_again()
        return state == "same"

    async def _undo(self, level: int, *, committed: bool, attempts: int = 2) -> str:
        """Undoes changes, back to the baseline of this level. Returns a state; `baseline.sql` explains the states."""
        try:
            row = await self._control.fetchrow(
                f"SELECT * FROM testkit.undo_{level}($1, $2, $3, $4)",
                self._snapshot,
                committed,
                self._sessions,
                self._catalogue,
            )
        except asyncpg.LockNotAvailableError:
            statements = await self._end_transactions()
            if not statements and attempts > 1:  # autovacuum, which gives way
                return await self._undo(level, committed=committed, attempts=attempts - 1)
            raise ResetError(
                "a transaction that keeps a lock on the database; its last statement: "
                f"{'; '.join(statements)}"
            ) from None
        except asyncpg.PostgresError as error:  # a table no longer exists, for example
            self._problem = error
            return "changed"
        self._snapshot, self._sessions, self._catalogue, state = row
        return str(state)

    async def _end_transactions(self) -> list[str]:
        """Terminates all other clients that have a transaction open. Returns their last statements."""
        blocking = await self._control.fetch(OPEN_TRANSACTIONS)
        for transaction in blocking:
            await self._control.execute("SELECT pg_terminate_backend($1)", transaction["pid"])
        return [f"`{transaction['query']}`" for transaction in blocking]

    async def _clone_again(self) -> None:
        # What test classes arranged is kept in these functions, and nowhere else.
        functions = await self._control.fetch(
            "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'testkit'::regnamespace "
            "AND proname ~ '^(undo|restore)_[1-9]' ORDER BY oid"
        )
        await self._control.close()
        await asyncio.to_thread(self.databases.clone, self.setup, self.name)
        await self._connect()
        for (definition,) in functions:
            await self._control.execute(definition)
        self._catalogue = await self._catalogue_state()
        for level in range(1, self._level + 1):
            await self._note_reference_change()
            if await self._undo(level, committed=True) == "changed":
                raise ResetError(f"what the class has arranged cannot be restored: {self._problem}")
            await self._save(level)

    async def push_baseline(self) -> None:
        self._level += 1
        await self._save(self._level)

    async def save_baseline(self) -> None:
        await self._save(self._level)

    async def pop_baseline(self) -> bool:
        self._level -= 1
        await self._note_reference_change()
        return await self.reset(committed=True)

    async def _save(self, level: int) -> None:
        await self._control.execute(f"SELECT testkit.save_baseline({level})")
        self._snapshot = None  # the old one belongs to another baseline
        self._catalogue = await self._catalogue_state()

    async def _note_reference_change(self) -> None:
        self._snapshot = None
        await self._control.execute("SELECT nextval('testkit.reference_changes')")

    async def _catalogue_state(self) -> int | None:
        if self.databases.is_superuser:  # event triggers do this instead
            return None
        state: int = await self._control.fetchval("SELECT testkit.catalogue_state()")
        return state

    async def last_statement(self, connection: ConnectionPoolEntry) -> str | None:
        driver_connection = connection.driver_connection
        if not isinstance(driver_connection, asyncpg.Connection) or driver_connection.is_closed():
            return None
        statement: str | None = await self._control.fetchval(
            "SELECT query FROM pg_stat_activity WHERE pid = $1", driver_connection.get_server_pid()
        )
        return statement

    def sync_engine(self, joined: AsyncConnection | None) -> Engine:
        return self._sync_engines.own if joined is None else self._sync_engines.join(joined)


def _is_of_project(hook: Callable[..., object]) -> bool:
    """Whether a listener to `connect` is the project's, and not one by which SQLAlchemy gets to know the server."""
    package, _, rest = (getattr(hook, "__module__", None) or "").partition(".")
    return package != "sqlalchemy" or rest.startswith("event.")  # which wraps listeners of others


async def _renew(entry: ConnectionPoolEntry) -> None:
    connection: asyncpg.Connection | None = entry.driver_connection
    if connection is None or connection.is_closed():
        return
    try:
        await connection.renew()
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, RuntimeError):
        # RuntimeError: it belongs to another event loop, such as one of `asyncio.run` or of Starlette's `TestClient`.
        _drop(entry)


def _drop(entry: ConnectionPoolEntry) -> None:
    """Closes a connection. Where its event loop is closed, it could only complain itself."""
    connection: asyncpg.Connection | None = entry.driver_connection
    if connection is None or not connection._loop.is_closed():
        entry.invalidate()
        return
    transport = connection._transport
    if (socket := getattr(transport, "_sock", None)) is not None:
        socket.close()
        transport._sock = None
    connection._aborted = True
    entry.dbapi_connection = None  # type: ignore[misc]


def _execute_once(command: str, connection: Connection, name: str) -> None:
    """Sends a savepoint command without preparing it.

    SQLAlchemy would prepare it, which takes a second round trip, for a name that is never used again.
    """
    adapted: Any = connection.connection.dbapi_connection

    async def execute(driver: asyncpg.Connection) -> None:
        async with adapted._execute_mutex:
            if adapted._transaction is None:
                await adapted._start_transaction()
            await driver.execute(f"{command} {name}")

    try:
        adapted.run_async(execute)
    except asyncpg.PostgresError as error:
        raise DBAPIError(f"{command} {name}", None, error) from error


def statements_that_empty(tables: list[str]) -> list[str]:
    return [f"TRUNCATE {', '.join(tables)} RESTART IDENTITY CASCADE"]


@contextmanager
def open_worker_database(setup: DatabaseSetup, config: pytest.Config) -> Iterator[WorkerDatabase]:
    with (
        _exit_in_plain_words(),
        open_databases(config) as databases,
        databases.new(setup) as name,
    ):
        config.stash[NEEDED] = f"postgresql {databases.template(setup)}"
        yield PostgreSQLDatabase(databases, setup, name)


@contextmanager
def open_empty_database(_setup: DatabaseSetup, config: pytest.Config) -> Iterator[str]:
    with _exit_in_plain_words(), open_databases(config) as databases, databases.new() as name:
        yield databases.url(name).render_as_string(hide_password=False)


@contextmanager
def prepare(setup: DatabaseSetup, config: pytest.Config) -> Iterator[None]:
    try:
        with open_databases(config) as databases:
            databases.prepare(setup)
            config.stash[NEEDED] = f"postgresql {databases.template(setup)}"
            yield
    except (ServerError, asyncpg.InsufficientResourcesError) as error:
        raise pytest.UsageError(_in_plain_words(error)) from None


@contextmanager
def _exit_in_plain_words() -> Iterator[None]:
    try:
        yield
    except (ServerError, asyncpg.InsufficientResourcesError) as error:
        pytest.exit(_in_plain_words(error), returncode=pytest.ExitCode.USAGE_ERROR)


def _in_plain_words(error: Exception) -> str:
    if isinstance(error, ServerError):
        return str(error)
    return (
        f"The PostgreSQL server of the tests has run out of something: {error}. Free some of it, or "
        "take another server."
    )
