"""What `session` adds to an empty test, and to one that commits a row."""

import pytest
from app.users.models import User
from sqlalchemy.ext.asyncio import AsyncSession
from testkit.performance.comparison.strategies import (
    every,
    test_committed,
    test_no_database,
    test_rollback,
)

__all__ = ["test_committed", "test_no_database", "test_rollback"]


async def commit_a_row(session: AsyncSession) -> None:
    session.add(User(email="ada@example.com", hashed_password=""))
    await session.commit()


@every
@pytest.mark.rollback
async def test_row_rollback(number: int, session: AsyncSession) -> None:
    await commit_a_row(session)


@every
async def test_row_committed(number: int, session: AsyncSession) -> None:
    await commit_a_row(session)
