"""Rows that are arranged once for a class: every test sees them, whatever the others did."""

import httpx2
import pytest
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from app.users.models import User
from tests.fixtures.factories import UserFactory
from tests.isolation.conftest import count_users

pytestmark = pytest.mark.usefixtures("each_isolation")

twice = pytest.mark.parametrize("run", [1, 2])


@pytest.fixture(scope="class")
async def users(class_session: AsyncSession) -> list[User]:
    users = await UserFactory(class_session).batch(2)
    class_session.add(User(email="only-flushed@example.com", hashed_password=""))
    await class_session.flush()
    return users


class TestArrangedOnce:
    @twice
    async def test_deleted(self, users: list[User], session: AsyncSession, run: int) -> None:
        assert await count_users(session) == 3
        await session.execute(delete(User))
        await session.commit()

    @twice
    async def test_seen_by_requests(
        self, users: list[User], client: httpx2.AsyncClient, session: AsyncSession, run: int
    ) -> None:
        response = await client.post(
            "/api/v1/auth/register",
            json={"email": users[0].email, "password": "correct horse battery staple"},
        )
        assert response.json()["code"] == "REGISTER_USER_ALREADY_EXISTS"
        assert await count_users(session) == 3

    @twice
    async def test_changed_through_the_class_session(
        self, users: list[User], class_session: AsyncSession, run: int
    ) -> None:
        assert await count_users(class_session) == 3
        class_session.add(User(email="another@example.com", hashed_password=""))
        await class_session.commit()

    @twice
    async def test_left_in_a_transaction_of_the_class_session(
        self, users: list[User], class_session: AsyncSession, run: int
    ) -> None:
        assert await count_users(class_session) == 3
        class_session.add(User(email="another@example.com", hashed_password=""))
        await class_session.flush()


@twice
async def test_gone_with_the_class(session: AsyncSession, run: int) -> None:
    assert await count_users(session) == 0
