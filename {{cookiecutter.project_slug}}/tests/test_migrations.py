"""The migrations lead to what the models say, and back."""

from collections.abc import AsyncIterator

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, inspect
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

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
