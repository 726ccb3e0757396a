from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from sqlalchemy import literal, select
from sqlalchemy.exc import StatementError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Money, UTCDateTime


@pytest.mark.parametrize("amount", [Decimal("19.99"), Decimal("-0.01"), Decimal("9999999999.99")])
async def test_money_is_exact(session: AsyncSession, amount: Decimal) -> None:
    assert await session.scalar(select(literal(amount, Money))) == amount


async def test_money_refuses_fractions_of_a_cent(session: AsyncSession) -> None:
    with pytest.raises(StatementError, match=r"0\.001 has more"):
        await session.scalar(select(literal(Decimal("0.001"), Money)))


async def test_nothing_stays_nothing(session: AsyncSession) -> None:
    row = (await session.execute(select(literal(None, Money), literal(None, UTCDateTime)))).one()

    assert row == (None, None)


async def test_moments_are_in_utc(session: AsyncSession) -> None:
    noon = datetime(2030, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))

    stored = await session.scalar(select(literal(noon, UTCDateTime)))

    assert stored == noon
    assert stored is not None
    assert stored.tzinfo is UTC
