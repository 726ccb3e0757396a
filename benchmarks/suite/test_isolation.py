"""What `session` adds to an empty test, and to one that commits a row."""

import os

import pytest
from app.users.models import User
from sqlalchemy.ext.asyncio import AsyncSession

every = pytest.mark.parametrize("number", range(int(os.environ["TESTS"])))


@every
async def test_empty(number: int) -> None:
    pass


@every
async def test_rollback(number: int, session: AsyncSession) -> None:
    pass


@every
@pytest.mark.committed
async def test_committed(number: int, session: AsyncSession) -> None:
    pass


async def commit_a_row(session: AsyncSession) -> None:
    session.add(User(email="ada@example.com", hashed_password=""))
    await session.commit()


@every
async def test_row_rollback(number: int, session: AsyncSession) -> None:
    await commit_a_row(session)


@every
@pytest.mark.committed
async def test_row_committed(number: int, session: AsyncSession) -> None:
    await commit_a_row(session)
