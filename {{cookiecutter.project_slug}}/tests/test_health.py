import asyncio

import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

import app.health


async def test_live(client: httpx2.AsyncClient) -> None:
    response = await client.get("/health/live")

    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_ready(client: httpx2.AsyncClient) -> None:
    response = await client.get("/health/ready")

    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def assert_not_ready(client: httpx2.AsyncClient, code: str) -> None:
    response = await client.get("/health/ready")

    assert (response.status_code, response.json()["code"]) == (503, code)
    assert (await client.get("/health/live")).status_code == 200


async def test_not_ready_without_a_database(
    client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def execute(*_args: object) -> None:
        raise OperationalError("SELECT 1", {}, Exception("gone"))

    with monkeypatch.context() as patch:
        patch.setattr(AsyncSession, "execute", execute)
        await assert_not_ready(client, "DATABASE_UNAVAILABLE")

    assert (await client.get("/health/ready")).status_code == 200


async def test_not_ready_while_nobody_can_connect(
    client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def connection(*_args: object, **_options: object) -> None:
        raise ConnectionError("the server refuses the connection")

    monkeypatch.setattr(AsyncSession, "connection", connection)

    await assert_not_ready(client, "DATABASE_UNAVAILABLE")


async def test_not_ready_while_the_database_is_frozen(
    client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def execute(*_args: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(app.health, "READY_TIMEOUT", 0.01)
    monkeypatch.setattr(AsyncSession, "execute", execute)

    await assert_not_ready(client, "DATABASE_TIMEOUT")


async def test_failure_is_no_lack_of_migrations(
    client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    await session.execute(text("ALTER TABLE alembic_version RENAME COLUMN version_num TO version"))
    await session.commit()

    await assert_not_ready(client, "DATABASE_UNAVAILABLE")


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE alembic_version",
        "DELETE FROM alembic_version",
        "UPDATE alembic_version SET version_num = '0001'",
    ],
    ids=["never", "empty", "outdated"],
)
async def test_not_ready_before_the_migrations(
    client: httpx2.AsyncClient, session: AsyncSession, statement: str
) -> None:
    await session.execute(text(statement))
    await session.commit()

    await assert_not_ready(client, "DATABASE_NOT_MIGRATED")


async def test_ready_while_the_next_version_is_deployed(
    client: httpx2.AsyncClient, session: AsyncSession
) -> None:
    """Migrations of the next version run first, while this version goes on until it is replaced."""
    await session.execute(text("UPDATE alembic_version SET version_num = 'of tomorrow'"))
    await session.commit()

    assert (await client.get("/health/ready")).status_code == 200
