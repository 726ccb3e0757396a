"""Whatever a test does to the database, the next one does not see it.

Each test runs twice, and looks first for what its other run would have left.
"""

import asyncio

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from app.database import sessionmaker
from tests.fixtures.canaries import Canary
from tests.isolation.conftest import count_canaries

twice = pytest.mark.parametrize("run", [1, 2])


def ada() -> Canary:
    return Canary(name="Ada")


@twice
async def test_commit_of_a_request(keeper: httpx2.AsyncClient, run: int) -> None:
    assert (await keeper.post("/canaries/Ada")).json() is True


@twice
async def test_commit_of_the_test(session: AsyncSession, run: int) -> None:
    assert await count_canaries(session) == 0
    session.add(ada())
    await session.commit()


@twice
async def test_commit_of_an_application_session(session: AsyncSession, run: int) -> None:
    async with sessionmaker.begin() as application_session:
        application_session.add(ada())
    assert await count_canaries(session) == 1


@twice
async def test_commit_past_the_sessions(
    engine: AsyncEngine, session: AsyncSession, run: int
) -> None:
    async with engine.begin() as connection:
        await connection.execute(insert(Canary).values(name="Ada"))


@twice
async def test_commit_with_nothing_but_the_engine(engine: AsyncEngine, run: int) -> None:
    async with engine.begin() as connection:
        assert (await connection.scalars(select(Canary.name))).all() == []
        await connection.execute(insert(Canary).values(name="Ada"))


@twice
async def test_commit_with_nothing_but_the_application(app: FastAPI, run: int) -> None:
    async with sessionmaker.begin() as application_session:
        assert await count_canaries(application_session) == 0
        application_session.add(ada())


@twice
async def test_commit_of_sync_code(sync_session: Session, session: AsyncSession, run: int) -> None:
    assert sync_session.query(Canary).count() == 0
    sync_session.add(ada())
    sync_session.commit()
    assert await count_canaries(session) == 1


@twice
def test_commit_of_a_sync_test(sync_session: Session, run: int) -> None:
    assert sync_session.query(Canary).count() == 0
    sync_session.add(ada())
    sync_session.commit()


@twice
def test_commit_after_a_loop_of_its_own(sync_session: Session, run: int) -> None:
    """In a sync test, a command of the application has its own event loop."""
    asyncio.run(asyncio.sleep(0))

    assert sync_session.query(Canary).count() == 0
    sync_session.add(ada())
    sync_session.commit()


@twice
async def test_raw_sql_that_ends_the_transaction(session: AsyncSession, run: int) -> None:
    assert await count_canaries(session) == 0
    session.add(ada())
    await session.flush()
    await session.execute(text("COMMIT"))


@twice
async def test_ddl(session: AsyncSession, run: int) -> None:
    await session.execute(text("CREATE TABLE testkit_notes (id INTEGER PRIMARY KEY)"))
    await session.execute(text("INSERT INTO testkit_notes VALUES (1)"))
    await session.execute(text("ALTER TABLE testkit_canaries ADD COLUMN nickname VARCHAR(20)"))
    await session.commit()


@twice
async def test_dropped_table(session: AsyncSession, run: int) -> None:
    assert await count_canaries(session) == 0
    await session.execute(text("DROP TABLE testkit_canaries"))
    await session.commit()


@twice
async def test_uncommitted_changes(session: AsyncSession, run: int) -> None:
    assert await count_canaries(session) == 0
    session.add(ada())
    await session.commit()
    session.add(Canary(name="Bob"))
    await session.flush()


@twice
async def test_failure_in_the_middle(session: AsyncSession, run: int) -> None:
    assert await count_canaries(session) == 0
    session.add(ada())
    await session.commit()
    session.add(ada())
    with pytest.raises(IntegrityError):
        await session.commit()
