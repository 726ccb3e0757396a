"""How this service connects to PostgreSQL."""

from typing import Any

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

MIGRATION_LOCK = 7_420_311_885  # any number, but always the same


def create_engine(url: str, **options: Any) -> AsyncEngine:
    """An engine; `options` go to SQLAlchemy."""
    return create_async_engine(url, **options)


def prepare_migration(connection: Connection) -> None:
    """Call it before a migration begins: of two instances that start, the second one waits."""
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
