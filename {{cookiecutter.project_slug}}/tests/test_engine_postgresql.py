"""The engine that serves requests keeps to the limits of the settings."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.engine import create_engine, engine_options
from app.settings import Settings
from testkit.databases import WorkerDatabase


@pytest.fixture
async def limited_engine(settings: Settings, worker_database: WorkerDatabase) -> AsyncEngine:
    limited = settings.model_copy(update={"database_statement_timeout": 0.05})
    options = engine_options(limited)
    options["connect_args"] |= worker_database.engine_options["connect_args"]
    return create_engine(settings.database_url, **options)


@pytest.mark.committed
async def test_slow_statement_is_cancelled(limited_engine: AsyncEngine) -> None:
    async with limited_engine.connect() as connection:
        with pytest.raises(DBAPIError, match="statement timeout"):
            await connection.execute(text("SELECT pg_sleep(5)"))
    await limited_engine.dispose()
