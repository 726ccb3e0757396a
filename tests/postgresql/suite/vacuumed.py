"""Runs while autovacuum is at work in the database: slowly, as the server has been told."""

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

pytestmark = pytest.mark.committed

# What kind of process it is, only a superuser is told.
AT_WORK = text(
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE backend_type IS NULL AND datname = current_database()"
)


async def arrange(session: AsyncSession) -> None:
    await session.execute(
        text(
            "INSERT INTO products (name, sku, price, currency)"
            " SELECT repeat('name', 50), n::text, 1, 'USD'"
            " FROM generate_series(1, 20000) AS n"
        )
    )
    await session.commit()
    await session.execute(text("DELETE FROM products"))
    await session.commit()
    for _ in range(300):
        if await session.scalar(AT_WORK):
            return
        await session.commit()
        await asyncio.sleep(0.1)
    pytest.fail("autovacuum has not come")


async def test_reset(session: AsyncSession) -> None:
    await arrange(session)


async def test_new_clone(session: AsyncSession) -> None:
    await arrange(session)
    await session.execute(text("CREATE TABLE another (id integer)"))
    await session.commit()


async def test_end(session: AsyncSession) -> None:
    await arrange(session)
