"""What others do for every test."""

import os
from collections.abc import AsyncIterator, Iterator

import pytest
from app.database import Base
from app.engine import create_engine
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from testkit.databases import WorkerDatabase, open_empty_database, open_worker_database
from tests.benchmark.schema import add_tables
from tests.fixtures.database import SETUP

every = pytest.mark.parametrize("number", range(int(os.environ["TESTS"])))


@pytest.fixture(scope="module")
async def plain_engine(
    pytestconfig: pytest.Config, worker_database: WorkerDatabase
) -> AsyncIterator[AsyncEngine]:
    """An engine as in production, on a database of its own."""
    if "bench_0" not in Base.metadata.tables:
        add_tables(Base.metadata)
    with open_empty_database(SETUP, pytestconfig) as url:
        engine = create_engine(url)
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


@pytest.fixture(scope="module")
async def migrated_engine(plain_engine: AsyncEngine) -> AsyncEngine:
    async with plain_engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    return plain_engine


@pytest.fixture
async def truncated_tables(migrated_engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(migrated_engine) as session:
        yield session
    tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
    async with migrated_engine.begin() as connection:
        await connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))


@every
async def test_truncate(number: int, truncated_tables: AsyncSession) -> None:
    pass


@pytest.fixture
def cloned_database(pytestconfig: pytest.Config, worker_database: object) -> Iterator[str]:
    with open_worker_database(SETUP, pytestconfig) as database:
        yield database.url


@pytest.fixture
async def cloned_session(cloned_database: str) -> AsyncIterator[AsyncSession]:
    engine = create_engine(cloned_database)
    async with AsyncSession(engine) as session:
        yield session
    await engine.dispose()


@every
async def test_clone(number: int, cloned_session: AsyncSession) -> None:
    pass
