from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.users.models import User
from tests.fixtures.factories import UserFactory


async def test_one_with_values_of_its_own(user_factory: UserFactory) -> None:
    user = await user_factory(email="ada@example.com", is_verified=True)

    assert (user.email, user.is_verified) == ("ada@example.com", True)


async def test_many_are_all_different(user_factory: UserFactory, session: AsyncSession) -> None:
    users = await user_factory.batch(50)
    others = await UserFactory(session).batch(50)

    assert len({user.email for user in users + others}) == 100
    assert await session.scalar(select(func.count()).select_from(User)) == 100
