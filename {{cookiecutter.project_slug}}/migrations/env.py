"""Runs the migrations: on the database of the settings, or on a connection that it is handed.

The tests hand over a connection, in `config.attributes["connection"]`.
"""

import asyncio
from logging.config import fileConfig

from alembic import context
from sqlalchemy import Connection

from app import models  # noqa: F401
from app.database import Base
from app.engine import create_engine, prepare_migration
from app.settings import load_settings


def run(connection: Connection) -> None:
    prepare_migration(connection)
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        # Where a table cannot be altered, it is copied.
        render_as_batch=not connection.dialect.supports_alter,
    )
    with context.begin_transaction():
        context.run_migrations()


async def run_on_configured_database() -> None:
    engine = create_engine(load_settings().database_url)
    async with engine.connect() as connection:
        await connection.run_sync(run)
        await connection.commit()
    await engine.dispose()


def run_offline() -> None:
    context.configure(
        url=load_settings().database_url, target_metadata=Base.metadata, literal_binds=True
    )
    with context.begin_transaction():
        context.run_migrations()


handed_over: Connection | None = context.config.attributes.get("connection")
if handed_over is not None:
    run(handed_over)
else:
    fileConfig(context.config.config_file_name or "alembic.ini", disable_existing_loggers=False)
    if context.is_offline_mode():
        run_offline()
    else:
        asyncio.run(run_on_configured_database())
