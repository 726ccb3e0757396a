"""What the tests need from a database, whatever its kind.

A *template* holds the migrated schema and is made once. Every worker process gets a *worker
database*, a copy of the template that no other process uses. A *reset* takes the worker database
back to its *baseline*, which is the template, or what a test class has arranged on top of it.
"""

import hashlib
import traceback
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import pytest
from sqlalchemy import Connection, Engine, MetaData, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.schema import CreateIndex, CreateTable, DDLElement

from testkit.call_site import relative


@dataclass(frozen=True)
class DatabaseSetup:
    """Everything the test kit knows about the project under test."""

    url: str
    """The project's own database. Only its kind counts: it is never connected to."""
    metadata: MetaData
    migrate: Callable[[Connection], None]
    """Brings an empty database to the newest revision."""
    create_engine: Callable[..., AsyncEngine]
    """Takes a URL and keyword arguments for `create_async_engine`; see also `testkit.engines`."""
    sessionmaker: async_sessionmaker[Any] | type[AsyncSession] = AsyncSession
    """The application's sessionmaker, which is rebound for every test. If there is none, or more than one, the class
    of its sessions."""
    migrations: Path | None = None
    """The folder of the migrations: when they change, so does the template."""
    sync_engines: tuple[Engine, ...] = ()
    """The application's sync engines. They are connected to the worker database too, but `rollback` does not cover
    what they do."""
    tables_of_tests: MetaData = field(default_factory=MetaData)
    """Tables that only the tests need; they are made after the migrations."""

    @property
    def home(self) -> Path:
        """The folder to which the templates belong."""
        return self.migrations or Path.cwd()

    def template_key(self, others: str) -> str:
        """Returns a key that changes with the migrations, the models and `others`: what the database adds to the
        template."""
        digest = hashlib.sha256(others.encode())
        for path in sorted(self.migrations.rglob("*.py") if self.migrations else ()):
            digest.update(path.name.encode())
            digest.update(path.read_bytes())
        dialect = make_url(self.url).get_dialect()()
        for table in (*self.metadata.sorted_tables, *self.tables_of_tests.sorted_tables):
            ddl: list[DDLElement] = [CreateTable(table), *map(CreateIndex, table.indexes)]
            for statement in ddl:
                digest.update(str(statement.compile(dialect=dialect)).encode())
        return digest.hexdigest()[:16]

    def make_tables(self, connection: Connection) -> None:
        """Turns an empty database into a template. Raises `TemplateError` if that fails."""
        try:
            self.migrate(connection)
            self.tables_of_tests.create_all(connection)
        except TemplateError:
            raise
        except Exception as error:
            raise TemplateError(self._explain(error)) from error

    def _explain(self, error: Exception) -> str:
        frames = traceback.extract_tb(error.__traceback__)
        folder = self.migrations
        places = [f for f in frames if folder and Path(f.filename).is_relative_to(folder)]
        lines = ["A migration has failed:" if folder else "The tables cannot be made:"]
        lines += [f"  {relative(f.filename)}:{f.lineno}   {f.line}" for f in places[-1:]]
        if isinstance(error, DBAPIError):
            lines += [f"  {line}" for line in str(error.statement).strip().splitlines()]
            said = getattr(error.orig, "__cause__", None) or error.orig
            lines.append(f"The database says: {said}")
        else:
            lines.append(f"{type(error).__name__}: {error}")
        return "\n".join([*lines, "Fix it; the next run of the tests starts with a new database."])


class TemplateError(Exception):
    """The template cannot be made. Says what happened, why, and what to do."""


class WorkerDatabase(Protocol):
    """One process's own database. It belongs to the tests alone."""

    url: str
    engine_options: dict[str, Any]
    """What `create_async_engine` needs besides the URL."""
    commit_check: str | None
    """SQL that checks what a commit would check, for sessions that release a savepoint instead."""
    has_row_locks: bool
    """Whether one transaction can lock single rows against others."""

    async def start(self, engine: AsyncEngine) -> None:
        """Called first of all methods that need the tests' event loop. `engine` is the tests' own."""

    async def stop(self) -> None:
        """Called last of them."""

    async def renew(self, connections: Collection[ConnectionPoolEntry]) -> None:
        """Restores idle connections to the state of new ones, or closes them."""

    async def reset(self, *, committed: bool) -> bool:
        """Goes back to the baseline. Raises `ResetError` if something still holds a lock.

        `committed` says whether something may have been committed, as far as the engine knows.
        Returns whether open connections can still be used.
        """

    async def push_baseline(self) -> None:
        """Adds a new baseline, which holds the current state."""

    async def save_baseline(self) -> None:
        """Replaces the content of the newest baseline with the current state."""

    async def pop_baseline(self) -> bool:
        """Drops the newest baseline, and goes back to the one before it. Returns the same as `reset()`."""

    async def last_statement(self, connection: ConnectionPoolEntry) -> str | None:
        """Returns the last statement that this connection executed, if the database knows it."""

    def sync_engine(self, joined: AsyncConnection | None) -> Engine:
        """Returns a sync engine for the same data.

        With `joined`, it always uses that connection, and never ends its transaction.
        """


class ResetError(Exception):
    """The worker database cannot be reset, because something still uses it."""


def describe_database(setup: DatabaseSetup) -> str:
    """Returns one line that says which database and server the tests will use."""
    description: str = import_backend(setup).describe()
    return description


def prepare(setup: DatabaseSetup, config: pytest.Config) -> AbstractContextManager[None]:
    """Makes what all workers share, and keeps it until the end of the context."""
    prepared: AbstractContextManager[None] = import_backend(setup).prepare(setup, config)
    return prepared


def open_worker_database(
    setup: DatabaseSetup, config: pytest.Config
) -> AbstractContextManager[WorkerDatabase]:
    """The worker database of this process; it is removed at the end of the context."""
    database: AbstractContextManager[WorkerDatabase] = import_backend(setup).open_worker_database(
        setup, config
    )
    return database


def open_empty_database(setup: DatabaseSetup, config: pytest.Config) -> AbstractContextManager[str]:
    """Yields the URL of a new database without tables, for other processes; it is removed at the end of the context."""
    url: AbstractContextManager[str] = import_backend(setup).open_empty_database(setup, config)
    return url


def explain_command(setup: DatabaseSetup) -> str:
    """Returns the SQL to put before a statement to get its query plan."""
    command: str = import_backend(setup).EXPLAIN
    return command


def statements_that_empty(setup: DatabaseSetup, tables: list[str]) -> list[str]:
    """Returns SQL that deletes all rows of these tables, which are in foreign key order: referenced tables first."""
    statements: list[str] = import_backend(setup).statements_that_empty(tables)
    return statements


def import_backend(setup: DatabaseSetup) -> ModuleType:
    """Imports and returns the module for this kind of database, one of those in this package."""
    return import_module(f"testkit.databases.{make_url(setup.url).get_backend_name()}")
