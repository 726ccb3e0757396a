"""One empty test for each way of isolating tests, on this project's own schema.

`python -m testkit.performance.comparison` runs and compares them.
"""

import os
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import MetaData, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from testkit.databases import (
    DatabaseSetup,
    WorkerDatabase,
    open_empty_database,
    open_worker_database,
    statements_that_empty,
)
from testkit.fixtures import SETUP

every = pytest.mark.parametrize("number", range(int(os.environ.get("TESTKIT_TESTS", "1"))))


@pytest.fixture(scope="session")
def setup(request: pytest.FixtureRequest) -> DatabaseSetup:
    return request.config.stash[SETUP]


@pytest.fixture(scope="module")
def metadata(setup: DatabaseSetup) -> MetaData:
    assert isinstance(setup.metadata, MetaData)
    return setup.metadata


@pytest.fixture(scope="module")
async def plain_engine(
    pytestconfig: pytest.Config, setup: DatabaseSetup, worker_database: WorkerDatabase
) -> AsyncIterator[AsyncEngine]:
    """An engine as in production, on a database of its own."""
    with open_empty_database(setup, pytestconfig) as url:
        engine = setup.create_engine(url)
        yield engine
        await engine.dispose()


@every
async def test_no_database(number: int) -> None:
    pass


@every
@pytest.mark.rollback
async def test_rollback(number: int, session: AsyncSession) -> None:
    pass


@every
@pytest.mark.committed
async def test_committed(number: int, session: AsyncSession) -> None:
    pass


@pytest.fixture
async def new_tables(plain_engine: AsyncEngine, metadata: MetaData) -> AsyncIterator[AsyncSession]:
    async with plain_engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    async with AsyncSession(plain_engine) as session:
        yield session
    async with plain_engine.begin() as connection:
        await connection.run_sync(metadata.drop_all)


@every
async def test_create_and_drop(number: int, new_tables: AsyncSession) -> None:
    pass


@pytest.fixture(scope="module")
async def engine_with_tables(
    plain_engine: AsyncEngine, metadata: MetaData
) -> AsyncIterator[AsyncEngine]:
    async with plain_engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    yield plain_engine
    async with plain_engine.begin() as connection:
        await connection.run_sync(metadata.drop_all)


@pytest.fixture
async def emptied_tables(
    setup: DatabaseSetup, engine_with_tables: AsyncEngine, metadata: MetaData
) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine_with_tables) as session:
        yield session
    quote = engine_with_tables.dialect.identifier_preparer.format_table
    tables = [quote(table) for table in metadata.sorted_tables]
    async with engine_with_tables.begin() as connection:
        for statement in statements_that_empty(setup, tables):
            await connection.execute(text(statement))


@every
async def test_truncate(number: int, emptied_tables: AsyncSession) -> None:
    pass


@pytest.fixture
def cloned_database(
    pytestconfig: pytest.Config, setup: DatabaseSetup, worker_database: WorkerDatabase
) -> Iterator[str]:
    with open_worker_database(setup, pytestconfig) as database:
        yield database.url


@pytest.fixture
async def cloned_session(setup: DatabaseSetup, cloned_database: str) -> AsyncIterator[AsyncSession]:
    engine = setup.create_engine(cloned_database)
    async with AsyncSession(engine) as session:
        yield session
    await engine.dispose()


@every
async def test_clone(number: int, cloned_session: AsyncSession) -> None:
    pass


@pytest.fixture
async def new_engine(
    setup: DatabaseSetup, engine_with_tables: AsyncEngine
) -> AsyncIterator[AsyncSession]:
    """An engine for each test, and a transaction that is rolled back."""
    engine = setup.create_engine(engine_with_tables.url.render_as_string(hide_password=False))
    async with engine.connect() as connection, connection.begin() as transaction:
        async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
            yield session
        await transaction.rollback()
    await engine.dispose()


@every
async def test_new_engine(number: int, new_engine: AsyncSession) -> None:
    pass


@pytest.fixture
async def rolled_back(engine_with_tables: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """Cheap, and wrong as soon as the application commits or rolls back."""
    async with AsyncSession(engine_with_tables) as session:
        yield session
        await session.rollback()


@every
@pytest.mark.rollback
async def test_rollback_without_savepoints(number: int, rolled_back: AsyncSession) -> None:
    pass
