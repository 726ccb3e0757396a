"""How this service connects to SQLite."""

from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings
from sqlalchemy import Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry


class EngineSettings(BaseSettings):
    database_busy_timeout: float = Field(
        default=5, ge=0, description="seconds to wait while another connection writes"
    )


def create_engine(url: str, **options: Any) -> AsyncEngine:
    """An engine whose transactions are what they claim to be; `options` go to SQLAlchemy."""
    engine = create_async_engine(url, **options)
    event.listen(engine.sync_engine, "connect", _configure)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def engine_options(settings: EngineSettings) -> dict[str, Any]:
    """The options of the engine that serves requests."""
    return {"connect_args": {"timeout": settings.database_busy_timeout}}


def prepare_migration(connection: Connection) -> None:
    """Call it before a migration begins.

    To alter a table, Alembic copies and drops it, which would delete the rows that refer to it.
    """
    # Inside a transaction the pragma would do nothing, so it goes past SQLAlchemy.
    cursor = connection.connection.cursor()
    cursor.execute("PRAGMA foreign_keys = OFF")
    cursor.close()


def _configure(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # The driver would begin transactions too late, and not at all before a savepoint.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    # A transaction that reads first and writes later fails at once when another one has written
    # in between (SQLITE_BUSY_SNAPSHOT), so whoever may write asks for the lock first and waits.
    read_only = connection.get_execution_options().get("read_only", False)
    # Straight on the driver's cursor: through SQLAlchemy it would take three times as long.
    cursor = connection.connection.cursor()
    cursor.execute("BEGIN" if read_only else "BEGIN IMMEDIATE")
    cursor.close()
