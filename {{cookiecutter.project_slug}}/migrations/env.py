"""Runs the migrations: on the database of the settings, or on a connection that it is handed.

The tests hand over a connection, in `config.attributes["connection"]`.
"""

import asyncio
from functools import cache, partial
from logging.config import fileConfig
from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.render import _repr_type
from alembic.operations.ops import CreateTableOp, DropTableOp, MigrationScript
from sqlalchemy import Connection, TypeDecorator
from sqlalchemy.exc import NoReferencedTableError

from app import models  # noqa: F401
from app.database import Base
from app.engine import MIGRATION_OPTIONS, create_engine, one_migration, tables_of_others
from app.settings import load_settings


def render_type(kind: str, item: Any, context: AutogenContext) -> str | Literal[False]:
    """A type of the application is written as what it stores: it may look different one day."""
    if kind == "type" and isinstance(item, TypeDecorator):
        return _repr_type(item.impl_instance, context)
    return False


def revise(_context: Any, _revision: Any, scripts: list[MigrationScript]) -> None:
    """Refuses a migration without content, and lets go of a table before it is dropped."""
    upgrade, downgrade = scripts[0].upgrade_ops, scripts[0].downgrade_ops
    options = context.config.cmd_opts
    # Others, like `alembic check`, have no such option.
    is_asked = getattr(options, "autogenerate", False)
    if not is_asked or upgrade is None or downgrade is None:
        return
    if upgrade.is_empty():
        raise SystemExit(
            "The models have nothing that the migrations lack, so none was written; CHECKs, server defaults, "
            "computed columns and conditions of indexes are not compared, but by a test. For one that you write "
            "yourself: uv run alembic revision -m 'its name'"
        )
    upgrade.ops.sort(key=lambda operation: isinstance(operation, DropTableOp))
    downgrade.ops.sort(key=lambda operation: not isinstance(operation, CreateTableOp))


def check_references() -> None:
    try:
        _ = Base.metadata.sorted_tables
    except NoReferencedTableError as error:
        raise SystemExit(f"A model refers to a table that no model defines: {error}.") from None


def run(connection: Connection) -> None:
    check_references()
    with one_migration(connection):
        others = cache(partial(tables_of_others, connection))  # asked for in a comparison
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            include_name=lambda name, kind, _parents: kind != "table" or name not in others(),
            render_item=render_type,
            process_revision_directives=revise,
            **MIGRATION_OPTIONS,
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
