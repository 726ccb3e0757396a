"""What `session` adds to an empty test."""

import os

import pytest
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
