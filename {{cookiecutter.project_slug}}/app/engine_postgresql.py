"""How this service connects to PostgreSQL."""

from typing import Any

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine


def create_engine(url: str, **options: Any) -> AsyncEngine:
    """An engine; `options` go to SQLAlchemy."""
    return create_async_engine(url, **options)


def prepare_migration(connection: Connection) -> None:
    """Call it before a migration begins."""
