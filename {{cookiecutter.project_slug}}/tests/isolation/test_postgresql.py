"""What PostgreSQL can do beyond the standard works in tests, and is undone as well.

Tests marked `twice` look first for what their other run would have left.
"""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import httpx2
import pytest
from sqlalchemy import make_url, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from app.database import sessionmaker
from testkit.databases import WorkerDatabase
from testkit.databases.postgresql.connect import connect
from tests.fixtures.canaries import Canary
from tests.isolation.conftest import count_canaries

# The server lists the locks of all its databases; another worker has its own.
HELD_HERE = """
    SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
    WHERE objid = 42 AND datname = current_database()
"""
twice = pytest.mark.parametrize("run", [1, 2])


@pytest.fixture
async def connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with engine.connect() as connection:
        yield connection


@pytest.mark.committed
async def test_lock_of_the_test_is_met_by_the_application(
    session: AsyncSession, client: httpx2.AsyncClient
) -> None:
    session.add(Canary(name="locked"))
    await session.commit()
    locking = select(Canary).with_for_update(nowait=True)
    await session.scalars(locking)

    await client.get("/health/ready")  # a request, which uses the database
    async with sessionmaker() as others:
        with pytest.raises(DBAPIError, match="could not obtain lock"):
            await others.scalars(locking)


class TestUndone:
    @twice
    async def test_settings_of_a_session(self, session: AsyncSession, run: int) -> None:
        assert await session.scalar(text("SHOW timezone")) != "Asia/Tokyo"
        await session.execute(text("SET timezone = 'Asia/Tokyo'"))
        await session.execute(text("SET search_path = pg_catalog"))
        await session.commit()

    @twice
    async def test_temporary_table(self, session: AsyncSession, run: int) -> None:
        await session.execute(text("CREATE TEMPORARY TABLE scratch (id INTEGER)"))
        await session.commit()

    @twice
    async def test_advisory_lock(self, session: AsyncSession, run: int) -> None:
        assert await session.scalar(text(HELD_HERE)) == 0
        await session.execute(text("SELECT pg_advisory_lock(42)"))
        await session.commit()

    @twice
    async def test_large_object(self, session: AsyncSession, run: int) -> None:
        assert await session.scalar(text("SELECT count(*) FROM pg_largeobject_metadata")) == 0
        await session.execute(text("SELECT lo_create(0)"))
        await session.commit()

    @twice
    async def test_columns_that_a_prepared_statement_has_seen(
        self, session: AsyncSession, run: int
    ) -> None:
        await session.execute(text("ALTER TABLE testkit_canaries ADD COLUMN nickname VARCHAR(20)"))
        columns = (await session.execute(text("SELECT * FROM testkit_canaries"))).keys()
        await session.commit()

        assert list(columns).count("nickname") == 1

    @twice
    async def test_other_schemas_and_what_is_in_them(self, session: AsyncSession, run: int) -> None:
        for statement in (
            "CREATE SCHEMA testkit_old",
            "CREATE TABLE testkit_old.events (at DATE NOT NULL, n INTEGER) PARTITION BY RANGE (at)",
            "CREATE TABLE testkit_old.early PARTITION OF testkit_old.events DEFAULT",
            "CREATE MATERIALIZED VIEW testkit_old.totals AS SELECT sum(n) FROM testkit_old.events",
            "CREATE FUNCTION testkit_old.noted() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN RAISE EXCEPTION $$no$$; END'",
            "INSERT INTO testkit_old.events VALUES ('2030-01-01', 1)",
            "REFRESH MATERIALIZED VIEW testkit_old.totals",
            "CREATE TRIGGER noted BEFORE DELETE ON testkit_old.events "
            "FOR EACH ROW EXECUTE FUNCTION testkit_old.noted()",
        ):
            await session.execute(text(statement))
        await session.commit()

    @twice
    async def test_commit_of_somebody_else(
        self, worker_database: WorkerDatabase, session: AsyncSession, run: int
    ) -> None:
        assert await count_canaries(session) == 0
        stranger = await connect(make_url(worker_database.url))
        await stranger.execute("INSERT INTO testkit_canaries (name) VALUES ('Eve')")
        await stranger.close()


@pytest.mark.committed
class TestTwoConnections:
    async def test_skip_locked(self, session: AsyncSession) -> None:
        session.add_all([Canary(name="Ada"), Canary(name="Bob")])
        await session.commit()
        names = select(Canary.name).order_by(Canary.name).limit(1)
        next_one = names.with_for_update(skip_locked=True)

        async with sessionmaker() as one, sessionmaker() as other:
            assert await one.scalar(next_one) == "Ada"
            assert await other.scalar(next_one) == "Bob"
            assert await session.scalar(next_one) is None

    async def test_listen_and_notify(
        self, connection: AsyncConnection, session: AsyncSession
    ) -> None:
        heard = asyncio.Event()
        raw = await connection.get_raw_connection()
        driver: asyncpg.Connection = raw.driver_connection
        await driver.add_listener("news", lambda *_: heard.set())

        await session.execute(text("NOTIFY news"))
        assert not heard.is_set()
        await session.commit()

        async with asyncio.timeout(5):
            await heard.wait()

    async def test_deferred_constraint_is_checked_by_the_commit(
        self, session: AsyncSession
    ) -> None:
        await session.execute(
            text("CREATE TABLE testkit_places (place INTEGER UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        )
        await session.execute(text("INSERT INTO testkit_places VALUES (1), (2)"))
        await session.commit()
        await session.execute(text("UPDATE testkit_places SET place = 3 - place"))
        await session.commit()

        await session.execute(text("INSERT INTO testkit_places VALUES (1)"))
        with pytest.raises(IntegrityError):
            await session.commit()

    async def test_advisory_lock_excludes(self, session: AsyncSession) -> None:
        lock = text("SELECT pg_try_advisory_xact_lock(42)")

        async with sessionmaker() as one, sessionmaker() as other:
            assert await one.scalar(lock) is True
            assert await other.scalar(lock) is False
