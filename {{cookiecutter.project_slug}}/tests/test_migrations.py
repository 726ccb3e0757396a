"""The migrations lead to what the models say, and back."""

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, inspect
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.fixtures.database import ROOT

pytestmark = pytest.mark.committed


def config_for(connection: Connection) -> Config:
    config = Config(ROOT / "alembic.ini")
    config.attributes["connection"] = connection
    return config


async def test_models_have_not_drifted_away(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.run_sync(lambda sync: command.check(config_for(sync)))


async def test_down_and_up_again(engine: AsyncEngine) -> None:
    def tables(connection: Connection) -> set[str]:
        return set(inspect(connection).get_table_names())

    async with engine.connect() as connection:
        before = await connection.run_sync(tables)
        await connection.run_sync(lambda sync: command.downgrade(config_for(sync), "base"))
        assert await connection.run_sync(tables) == {"alembic_version"}
        await connection.run_sync(lambda sync: command.upgrade(config_for(sync), "head"))
        assert await connection.run_sync(tables) == before
