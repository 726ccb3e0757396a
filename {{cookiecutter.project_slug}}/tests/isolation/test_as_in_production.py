"""Transactions mean to the application what they mean in production."""

import asyncio

import httpx2
import pytest
from fastapi import FastAPI, HTTPException
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import SessionDep, sessionmaker
from app.users.models import User
from testkit.isolation import Isolation
from tests.isolation.conftest import count_users

pytestmark = pytest.mark.usefixtures("each_isolation")


def new_user(email: str = "ada@example.com") -> User:
    return User(email=email, hashed_password="")


@pytest.fixture
def own_app() -> FastAPI:
    """An application to which a test adds routes of its own."""
    return FastAPI()


@pytest.fixture
def own_client(own_app: FastAPI, database_isolation: Isolation) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(own_app), base_url="http://test")


async def test_what_a_request_does_not_commit_is_lost(
    own_app: FastAPI, own_client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    @own_app.post("/forgetful")
    async def forgetful(request_session: SessionDep) -> None:
        request_session.add(new_user())
        await request_session.flush()

    await own_client.post("/forgetful")

    assert await count_users(session) == 0


async def test_rollback_takes_back_only_what_was_not_committed(
    own_app: FastAPI, own_client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    @own_app.post("/regretful")
    async def regretful(request_session: SessionDep) -> None:
        request_session.add(new_user("kept@example.com"))
        await request_session.commit()
        request_session.add(new_user("lost@example.com"))
        await request_session.flush()
        await request_session.rollback()

    session.add(new_user("arranged@example.com"))
    await session.commit()

    await own_client.post("/regretful")

    emails = (await session.scalars(text("SELECT email FROM users ORDER BY email"))).all()
    assert emails == ["arranged@example.com", "kept@example.com"]


async def test_integrity_error_leaves_the_session_usable(
    own_app: FastAPI, own_client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    @own_app.post("/twice")
    async def create_twice(request_session: SessionDep) -> int:
        request_session.add(new_user())
        await request_session.commit()
        request_session.add(new_user())
        try:
            await request_session.commit()
        except IntegrityError:
            await request_session.rollback()
        return await count_users(request_session)

    response = await own_client.post("/twice")

    assert response.json() == 1
    assert await count_users(session) == 1


async def test_error_in_a_request_leaves_nothing(
    own_app: FastAPI, own_client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    @own_app.post("/fails")
    async def fails(request_session: SessionDep) -> None:
        request_session.add(new_user())
        await request_session.flush()
        raise HTTPException(400)

    assert (await own_client.post("/fails")).status_code == 400
    assert await count_users(session) == 0


async def test_nested_savepoints(session: AsyncSession) -> None:
    session.add(new_user("outer@example.com"))
    async with session.begin_nested():
        session.add(new_user("inner@example.com"))
        await session.flush()
        innermost = await session.begin_nested()
        session.add(new_user("inner@example.com"))
        with pytest.raises(IntegrityError):
            await session.flush()
        await innermost.rollback()
    await session.commit()

    assert await count_users(session) == 2


async def test_test_may_read_before_a_request_writes(
    client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    assert await count_users(session) == 0

    response = await client.post(
        "/api/v1/auth/register",
        json={"email": "ada@example.com", "password": "correct horse battery staple"},
    )

    assert response.status_code == 201
    assert await count_users(session) == 1
    await session.rollback()
    assert await count_users(session) == 1


async def test_test_sees_what_a_request_changed(
    user_client: httpx2.AsyncClient, user: User, session: AsyncSession
) -> None:
    stored = await session.get_one(User, user.id)

    await user_client.patch("/api/v1/users/me", json={"email": "new@example.com"})

    assert (await session.get_one(User, user.id)).email == "new@example.com"
    assert stored.email == "new@example.com"


async def test_twenty_requests_at_once(client: httpx2.AsyncClient, session: AsyncSession) -> None:
    responses = await asyncio.gather(
        *(
            client.post(
                "/api/v1/auth/register",
                json={"email": f"user-{n}@example.com", "password": "correct horse battery staple"},
            )
            for n in range(20)
        )
    )

    assert [response.status_code for response in responses] == [201] * 20
    assert await count_users(session) == 20


async def test_twenty_requests_for_one_address(
    own_app: FastAPI, own_client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    @own_app.post("/claim")
    async def claim(request_session: SessionDep) -> bool:
        request_session.add(new_user())
        try:
            await request_session.commit()
        except IntegrityError:
            return False
        return True

    responses = await asyncio.gather(*(own_client.post("/claim") for _ in range(20)))

    assert sorted(response.json() for response in responses) == [False] * 19 + [True]


async def test_background_task_with_a_session_of_its_own(
    own_app: FastAPI, own_client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    tasks: list[asyncio.Task[None]] = []

    async def work() -> None:
        async with sessionmaker.begin() as own_session:
            own_session.add(new_user("task@example.com"))

    @own_app.post("/background")
    async def background(request_session: SessionDep) -> None:
        request_session.add(new_user("request@example.com"))
        await request_session.flush()
        tasks.append(asyncio.create_task(work()))
        await request_session.commit()

    await own_client.post("/background")
    await tasks[0]

    assert await count_users(session) == 2


async def test_foreign_keys_are_enforced(session: AsyncSession) -> None:
    await session.execute(text("CREATE TABLE owners (id INTEGER PRIMARY KEY)"))
    await session.execute(text("CREATE TABLE pets (owner_id INTEGER REFERENCES owners (id))"))
    await session.commit()

    with pytest.raises(IntegrityError):
        await session.execute(text("INSERT INTO pets VALUES (1)"))
