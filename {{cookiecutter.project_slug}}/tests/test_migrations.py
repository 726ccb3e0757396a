"""The migrations lead to what the models say, and back."""

import warnings
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError, SAWarning, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

import app
from app.database import Base
from app.engine import tables_of_others
from testkit.migrations import put_rows, rules
from tests.fixtures.canaries import TablesOfTests
from tests.fixtures.database import ROOT, SETUP

NEEDS_EMPTY_TABLES = (
    "fails where there are rows. A new column needs a `server_default`, or is filled before it is NOT NULL: "
    "docs/operating.md has the steps. The database says:"
)
NO_MIGRATION = (
    "The models have what no migration makes, and what `make migration` does not see. Write it by hand: "
    "`uv run alembic revision -m 'its name'`."
)

pytestmark = pytest.mark.committed


@pytest.fixture
async def connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection to the migrated database, without the tables that only tests have."""
    async with engine.connect() as connection:
        await connection.run_sync(TablesOfTests.metadata.drop_all)
        yield connection


def config_for(connection: Connection) -> Config:
    config = Config(ROOT / "alembic.ini")
    config.attributes["connection"] = connection
    return config


def test_every_model_is_in_a_module_called_models() -> None:
    known = set(Base.metadata.tables)
    for module in walk_packages(app.__path__, "app."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
            new = sorted(Base.metadata.tables.keys() - known)
            assert not new, (
                f"{module.name} defines the tables {', '.join(new)}, which the migrations cannot see. "
                "Move their models to a `models.py`."
            )


async def test_models_have_not_drifted_away(connection: AsyncConnection) -> None:
    await connection.run_sync(SETUP.migrate)


async def test_rules_have_not_drifted_away(connection: AsyncConnection) -> None:
    there = await connection.run_sync(rules, Base.metadata)
    try:
        async with connection.begin_nested():  # what only a migration makes, and they need, stays
            await connection.run_sync(Base.metadata.drop_all)
            await connection.run_sync(Base.metadata.create_all)
    except (SQLAlchemyError, SAWarning):  # a view needs the tables, for example
        await connection.run_sync(lambda sync: command.downgrade(config_for(sync), "base"))
        try:
            await connection.run_sync(Base.metadata.create_all)
        except DBAPIError as error:
            pytest.skip(f"the models cannot make their tables by themselves: {error.orig}")
    wanted = await connection.run_sync(rules, Base.metadata)

    missing = [rule for key, rule in wanted.items() if key not in there]
    assert not missing, f"{NO_MIGRATION}\n  " + "\n  ".join(missing)


async def test_down_and_up_again(connection: AsyncConnection) -> None:
    def tables(connection: Connection) -> set[str]:
        return set(inspect(connection).get_table_names())

    before = await connection.run_sync(tables)
    await connection.run_sync(lambda sync: command.downgrade(config_for(sync), "base"))
    assert await connection.run_sync(tables) == {"alembic_version"}
    await connection.run_sync(lambda sync: command.upgrade(config_for(sync), "head"))
    assert await connection.run_sync(tables) == before


async def test_up_with_rows(connection: AsyncConnection) -> None:
    """Each migration runs on tables that have rows, as in a database that is in use."""

    def climb(connection: Connection) -> None:
        config = config_for(connection)
        command.downgrade(config, "base")
        for step in reversed(list(ScriptDirectory.from_config(config).walk_revisions())):
            try:
                command.upgrade(config, step.revision)
            except DBAPIError as error:
                name = Path(step.path).name
                pytest.fail(f"{name} {NEEDS_EMPTY_TABLES} {error.orig}", pytrace=False)
            if left := put_rows(connection, tables_of_others(connection)):
                warnings.warn(f"no row was found for {', '.join(left)}", stacklevel=2)
            connection.commit()

    await connection.run_sync(climb)
