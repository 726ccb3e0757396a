import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.users.models import User


@pytest.fixture(params=["rollback", pytest.param("committed", marks=pytest.mark.committed)])
def each_isolation(request: pytest.FixtureRequest) -> str:
    """Runs a test once in each isolation."""
    isolation: str = request.param
    return isolation


async def count_users(session: AsyncSession) -> int:
    return await session.scalar(select(func.count()).select_from(User)) or 0
