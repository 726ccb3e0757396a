"""Rows that are arranged once for a class: every test sees them, whatever the others did."""

import httpx2
import pytest
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from tests.fixtures.canaries import Canary
from tests.isolation.conftest import count_canaries

twice = pytest.mark.parametrize("run", [1, 2])


@pytest.fixture(scope="class")
async def canaries(class_session: AsyncSession) -> list[Canary]:
    canaries = [Canary(name="Ada"), Canary(name="Bob")]
    class_session.add_all(canaries)
    await class_session.commit()
    class_session.add(Canary(name="only flushed"))
    await class_session.flush()
    return canaries


class TestArrangedOnce:
    @twice
    async def test_deleted(self, canaries: list[Canary], session: AsyncSession, run: int) -> None:
        assert await count_canaries(session) == 3
        await session.execute(delete(Canary))
        await session.commit()

    @twice
    async def test_seen_by_requests(
        self, canaries: list[Canary], keeper: httpx2.AsyncClient, session: AsyncSession, run: int
    ) -> None:
        assert (await keeper.post(f"/canaries/{canaries[0].name}")).json() is False
        assert await count_canaries(session) == 3

    @twice
    async def test_changed_through_the_class_session(
        self, canaries: list[Canary], class_session: AsyncSession, run: int
    ) -> None:
        assert await count_canaries(class_session) == 3
        class_session.add(Canary(name="another"))
        await class_session.commit()

    @twice
    async def test_left_in_a_transaction_of_the_class_session(
        self, canaries: list[Canary], class_session: AsyncSession, run: int
    ) -> None:
        assert await count_canaries(class_session) == 3
        class_session.add(Canary(name="another"))
        await class_session.flush()


@twice
async def test_gone_with_the_class(session: AsyncSession, run: int) -> None:
    assert await count_canaries(session) == 0
