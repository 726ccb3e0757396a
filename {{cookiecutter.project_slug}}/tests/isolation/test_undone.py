"""Whatever a test does to the database, the next one does not see it.

Each test runs twice, and looks first for what its other run would have left.
"""

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import insert, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from app.database import sessionmaker
from app.users.models import User
from tests.fixtures.factories import UserFactory
from tests.isolation.conftest import count_users

pytestmark = pytest.mark.usefixtures("each_isolation")

REGISTER = "/api/v1/auth/register"
ADA = {"email": "ada@example.com", "password": "correct horse battery staple"}

twice = pytest.mark.parametrize("run", [1, 2])


def ada() -> User:
    return User(email=ADA["email"], hashed_password="")


@twice
async def test_commit_of_a_request(client: httpx2.AsyncClient, run: int) -> None:
    assert (await client.post(REGISTER, json=ADA)).status_code == 201


@twice
async def test_commit_of_the_test(session: AsyncSession, run: int) -> None:
    assert await count_users(session) == 0
    session.add(ada())
    await session.commit()


@twice
async def test_commit_of_an_application_session(session: AsyncSession, run: int) -> None:
    async with sessionmaker.begin() as application_session:
        application_session.add(ada())
    assert await count_users(session) == 1


@twice
async def test_commit_past_the_sessions(
    engine: AsyncEngine, session: AsyncSession, run: int
) -> None:
    async with engine.begin() as connection:
        await connection.execute(insert(User).values(email=ADA["email"], hashed_password=""))


@twice
async def test_commit_with_nothing_but_the_engine(engine: AsyncEngine, run: int) -> None:
    async with engine.begin() as connection:
        assert (await connection.scalars(text("SELECT email FROM users"))).all() == []
        await connection.execute(insert(User).values(email=ADA["email"], hashed_password=""))


@twice
async def test_commit_with_nothing_but_the_application(app: FastAPI, run: int) -> None:
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.post(REGISTER, json=ADA)).status_code == 201


@twice
async def test_commit_of_sync_code(sync_session: Session, session: AsyncSession, run: int) -> None:
    assert sync_session.query(User).count() == 0
    sync_session.add(ada())
    sync_session.commit()
    assert await count_users(session) == 1


@twice
def test_commit_of_a_sync_test(sync_session: Session, run: int) -> None:
    assert sync_session.query(User).count() == 0
    sync_session.add(ada())
    sync_session.commit()


@twice
async def test_raw_sql_that_ends_the_transaction(session: AsyncSession, run: int) -> None:
    assert await count_users(session) == 0
    session.add(ada())
    await session.flush()
    await session.execute(text("COMMIT"))


@twice
async def test_ddl(session: AsyncSession, run: int) -> None:
    await session.execute(text("CREATE TABLE notes (id INTEGER PRIMARY KEY)"))
    await session.execute(text("INSERT INTO notes VALUES (1)"))
    await session.execute(text("ALTER TABLE users ADD COLUMN nickname VARCHAR(20)"))
    await session.commit()


@twice
async def test_dropped_table(session: AsyncSession, run: int) -> None:
    assert await count_users(session) == 0
    await session.execute(text("DROP TABLE users"))
    await session.commit()


@twice
async def test_uncommitted_changes(
    user_factory: UserFactory, session: AsyncSession, run: int
) -> None:
    assert await count_users(session) == 0
    await user_factory()
    session.add(ada())
    await session.flush()


@twice
async def test_failure_in_the_middle(session: AsyncSession, run: int) -> None:
    assert await count_users(session) == 0
    session.add(ada())
    await session.commit()
    session.add(ada())
    with pytest.raises(IntegrityError):
        await session.commit()
