"""What the tests ask of a database, whatever its engine.

A *template* holds the migrated schema and is made once. Every worker process gets a *worker
database*, a copy of the template that no other process uses. A *reset* takes the worker database
back to its *baseline*, which is the template, or what a test class has arranged on top of it.
"""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import pytest
from sqlalchemy import Connection, Engine, MetaData, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.schema import CreateIndex, CreateTable, DDLElement


@dataclass(frozen=True)
class DatabaseSetup:
    """All that the test kit knows of the project under test."""

    url: str
    """The project's own database. Only its kind counts: it is never connected to."""
    metadata: MetaData
    migrations: Path
    migrate: Callable[[Connection], None]
    """Brings an empty database to the newest revision."""
    create_engine: Callable[..., AsyncEngine]
    """Takes a URL and keyword arguments for `create_async_engine`."""
    sessionmaker: async_sessionmaker[AsyncSession]
    """The one that the application makes its sessions with; it is bound anew for every test."""

    def template_key(self, server_version: str) -> str:
        """Changes with the migrations, the models and the database's version."""
        digest = hashlib.sha256(server_version.encode())
        for path in sorted(self.migrations.rglob("*.py")):
            digest.update(path.name.encode())
            digest.update(path.read_bytes())
        dialect = make_url(self.url).get_dialect()()
        for table in self.metadata.sorted_tables:
            ddl: list[DDLElement] = [CreateTable(table), *map(CreateIndex, table.indexes)]
            for statement in ddl:
                digest.update(str(statement.compile(dialect=dialect)).encode())
        return digest.hexdigest()[:16]


class WorkerDatabase(Protocol):
    """One process's own database. It belongs to the tests alone."""

    url: str
    engine_options: dict[str, Any]
    """What `create_async_engine` needs besides the URL."""

    async def changed(self) -> bool:
        """Whether anything was committed since the last reset."""

    async def reset(self) -> None:
        """Goes back to the baseline; `ResetError` when a connection still holds a lock."""

    async def push_baseline(self) -> None:
        """Begins a new baseline with the present state."""

    async def save_baseline(self) -> None:
        """Makes the present state the newest baseline, in place of what it was."""

    async def pop_baseline(self) -> None:
        """Forgets the newest baseline and goes back to the one before."""

    def sync_engine(self, joined: AsyncConnection | None) -> Engine:
        """A sync engine on the same data.

        With `joined`, all its connections are that one, and none of them ends its transaction.
        """


class ResetError(Exception):
    """The worker database cannot be reset, because something still uses it."""


def open_worker_database(
    setup: DatabaseSetup, config: pytest.Config
) -> AbstractContextManager[WorkerDatabase]:
    """The worker database of this process; it is removed at the end of the context."""
    database: AbstractContextManager[WorkerDatabase] = _backend(setup).open_worker_database(
        setup, config
    )
    return database


def open_empty_database(setup: DatabaseSetup, config: pytest.Config) -> AbstractContextManager[str]:
    """The URL of a new database without tables, for other processes; removed at the end too."""
    url: AbstractContextManager[str] = _backend(setup).open_empty_database(setup, config)
    return url


def _backend(setup: DatabaseSetup) -> ModuleType:
    return import_module(f"testkit.databases.{make_url(setup.url).get_backend_name()}")
