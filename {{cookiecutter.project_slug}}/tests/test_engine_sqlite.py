"""The engine that serves requests keeps to the limits of the settings."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.engine import create_engine, engine_options, is_outage, tables_of_others
from app.settings import Settings
from app.users.models import User
from app.users.store import UserDatabase


async def test_waits_for_a_writer_no_longer_than_it_may(tmp_path: Path) -> None:
    options = engine_options(Settings(database_busy_timeout=0.02))
    engine = create_engine(f"sqlite+aiosqlite:///{tmp_path}/limits.db", **options)

    async with engine.begin() as writer:
        await writer.execute(text("CREATE TABLE notes (id INTEGER)"))
        async with engine.connect() as other:
            with pytest.raises(sqlite3.OperationalError, match="database is locked"):
                await other.execute(text("INSERT INTO notes VALUES (1)"))
    await engine.dispose()


def test_outages_are_told_from_mistakes() -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    assert is_outage(error)
    with pytest.raises(sqlite3.OperationalError) as mistake:
        sqlite3.connect(":memory:").execute("SELECT 1 FROM nowhere")
    assert not is_outage(mistake.value)


async def test_tables_of_a_full_text_search_belong_to_no_model(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite+aiosqlite:///{tmp_path}/text.db")
    async with engine.begin() as connection:
        await connection.execute(text("CREATE VIRTUAL TABLE words USING fts5(word)"))
        await connection.execute(text("CREATE TABLE plain (id INTEGER)"))

        others = await connection.run_sync(tables_of_others)
    await engine.dispose()

    assert {"words", "words_data"} <= others
    assert "plain" not in others


async def test_connection_comes_back_without_a_transaction(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite+aiosqlite:///{tmp_path}/pool.db")

    async with engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        await driver.execute("BEGIN")  # behind SQLAlchemy's back

    assert not driver.in_transaction
    await engine.dispose()


async def test_many_writers_come_in_turn(tmp_path: Path) -> None:
    """Each of them waits for those before it only, and none as long as it may."""
    options = engine_options(Settings(database_busy_timeout=1))
    engine = create_engine(f"sqlite+aiosqlite:///{tmp_path}/writers.db", **options)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE notes (number INTEGER)"))

    async def write(number: int) -> None:
        async with engine.begin() as writer:
            await writer.execute(text("INSERT INTO notes VALUES (:number)"), {"number": number})
            await asyncio.sleep(0.001)

    await asyncio.gather(*(write(number) for number in range(10)))

    async with engine.connect() as connection:
        numbers = (await connection.scalars(text("SELECT number FROM notes"))).all()
    assert sorted(numbers) == list(range(10))
    await engine.dispose()


async def test_writer_that_fails_lets_the_next_one_in(tmp_path: Path) -> None:
    options = engine_options(Settings(database_busy_timeout=0.02))
    url = f"sqlite+aiosqlite:///{tmp_path}/writers.db"
    engine, another_process = create_engine(url, **options), create_engine(url, **options)

    async with another_process.begin() as writer:
        await writer.execute(text("CREATE TABLE notes (number INTEGER)"))
        with pytest.raises(sqlite3.OperationalError, match="database is locked"):
            async with engine.begin():
                pass
    async with engine.begin() as writer:
        await writer.execute(text("INSERT INTO notes VALUES (1)"))
    await engine.dispose()
    await another_process.dispose()


async def test_writer_that_is_cancelled_while_it_waits_leaves_no_lock(tmp_path: Path) -> None:
    """Not even where the driver's thread gets the lock after that. Nobody waits until it does."""
    url = f"sqlite+aiosqlite:///{tmp_path}/writers.db"
    options = engine_options(Settings(database_busy_timeout=600))
    engine, another_process = create_engine(url, **options), create_engine(url)
    async with another_process.begin() as writer:
        await writer.execute(text("CREATE TABLE notes (number INTEGER)"))
        async with engine.connect() as other:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await other.begin()
    async with engine.begin() as other:
        await other.execute(text("INSERT INTO notes VALUES (1)"))
    async with another_process.begin() as writer:
        await writer.execute(text("INSERT INTO notes VALUES (2)"))
    await another_process.dispose()
    await engine.dispose()


async def test_writer_whose_connection_breaks_lets_the_next_one_in(tmp_path: Path) -> None:
    options = engine_options(Settings(database_busy_timeout=1))
    engine = create_engine(f"sqlite+aiosqlite:///{tmp_path}/writers.db", **options)

    async with engine.connect() as writer:
        await writer.execute(text("CREATE TABLE notes (number INTEGER)"))
        await writer.invalidate()
        async with engine.begin() as other:
            await other.execute(text("CREATE TABLE notes (number INTEGER)"))
    await engine.dispose()


async def test_index_finds_an_address(session: AsyncSession, user: User) -> None:
    """Every look-up is this one, however the address is spelled."""
    users = UserDatabase(session, User)
    sent: list[str] = []

    def note(*args: Any) -> None:
        sent.append(args[2])

    event.listen(session.get_bind().engine, "before_cursor_execute", note)
    assert await users.get_by_email(f" {user.email.upper()} ")
    event.remove(session.get_bind().engine, "before_cursor_execute", note)

    plan = text(f"EXPLAIN QUERY PLAN {sent[-1]}".replace("?", ":email"))
    rows = (await session.execute(plan, {"email": user.email})).all()
    assert "USING INDEX ix_users_email (email=?)" in str(rows)
