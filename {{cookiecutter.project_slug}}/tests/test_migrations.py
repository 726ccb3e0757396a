"""The migrations lead to what the models say, and back."""

from collections.abc import AsyncIterator
from importlib import import_module
from pkgutil import walk_packages

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, inspect
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

import app
from app.database import Base
from tests.fixtures.canaries import TablesOfTests
from tests.fixtures.database import ROOT

pytestmark = pytest.mark.committed


@pytest.fixture
async def connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """To a database as in production."""
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
    await connection.run_sync(lambda sync: command.check(config_for(sync)))


async def test_down_and_up_again(connection: AsyncConnection) -> None:
    def tables(connection: Connection) -> set[str]:
        return set(inspect(connection).get_table_names())

    before = await connection.run_sync(tables)
    await connection.run_sync(lambda sync: command.downgrade(config_for(sync), "base"))
    assert await connection.run_sync(tables) == {"alembic_version"}
    await connection.run_sync(lambda sync: command.upgrade(config_for(sync), "head"))
    assert await connection.run_sync(tables) == before
