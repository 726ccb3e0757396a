"""What others do for every test."""

import os
from collections.abc import AsyncIterator

import pytest
from app.database import Base
from app.engine import create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from testkit.databases import WorkerDatabase
from tests.benchmark.schema import add_tables

every = pytest.mark.parametrize("number", range(int(os.environ["TESTS"])))


@pytest.fixture(scope="module")
async def plain_engine(
    tmp_path_factory: pytest.TempPathFactory, worker_database: WorkerDatabase
) -> AsyncIterator[AsyncEngine]:
    """An engine as in production, on a database of its own beside the worker's."""
    if "bench_0" not in Base.metadata.tables:
        add_tables(Base.metadata)
    engine = create_engine(worker_database.url + "-plain")
    yield engine
    await engine.dispose()


@pytest.fixture
async def new_tables(plain_engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    async with plain_engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(plain_engine) as session:
        yield session
    async with plain_engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)


@every
async def test_create_and_drop(number: int, new_tables: AsyncSession) -> None:
    pass
