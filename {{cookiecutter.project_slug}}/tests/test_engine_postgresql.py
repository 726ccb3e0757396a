"""The engine that serves requests keeps to the limits of the settings."""

import socket
import time
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Connection, event, make_url, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.util import await_only

from app.database import is_away
from app.engine import (
    MIGRATION_LOCK,
    check_options,
    create_engine,
    engine_options,
    is_outage,
    one_migration,
    tables_of_others,
)
from app.settings import Settings
from app.users.models import User
from app.users.store import UserDatabase
from testkit.databases import WorkerDatabase


def test_option_that_the_driver_does_not_have_is_refused() -> None:
    url = make_url("postgresql+asyncpg://ada:pa55word@db/service?ssl=require")

    check_options(url)
    with pytest.raises(ValueError, match="`sslmode`, write `ssl`"):
        check_options(url.update_query_dict({"sslmode": "require"}))
    with pytest.raises(ValueError, match="`channel_binding`"):
        check_options(url.update_query_dict({"channel_binding": "require"}))
    with pytest.raises(ValueError, match="`server_settings`"):
        check_options(url.update_query_dict({"server_settings": "x"}))
    with pytest.raises(ValueError, match="`statement_cache_size` has to be a number"):
        check_options(url.update_query_dict({"statement_cache_size": "none"}))


@pytest.mark.network
async def test_options_of_a_url_are_text(settings: Settings) -> None:
    url = make_url(settings.database_url).update_query_dict({"statement_cache_size": "0"})
    engine = create_engine(url.render_as_string(hide_password=False), **engine_options(settings))

    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    await engine.dispose()


@pytest.mark.network
async def test_options_that_lead_nowhere_are_an_outage(settings: Settings) -> None:
    url = make_url(settings.database_url).update_query_dict({"ssl": "nonsense"})
    engine = create_engine(url.render_as_string(hide_password=False))

    with pytest.raises(ConnectionError, match="sslmode") as refused:
        await engine.connect()

    assert is_outage(refused.value)


@pytest.fixture
async def configured(
    settings: Settings, worker_database: WorkerDatabase
) -> AsyncIterator[Callable[..., AsyncEngine]]:
    """An engine as in production, with other settings. It connects as tests do."""
    engines: list[AsyncEngine] = []

    def configure(**values: object) -> AsyncEngine:
        options = engine_options(settings.model_copy(update=values))
        options["connect_args"] |= worker_database.engine_options["connect_args"]
        engines.append(create_engine(settings.database_url, **options))
        return engines[-1]

    yield configure
    for engine in engines:
        await engine.dispose()


@pytest.mark.committed
async def test_slow_statement_is_cancelled(configured: Callable[..., AsyncEngine]) -> None:
    # On a busy machine it may already be one of those with which the driver begins.
    with pytest.raises(DBAPIError, match="statement timeout"):
        async with configured(database_statement_timeout=0.05).connect() as connection:
            await connection.execute(text("SELECT pg_sleep(5)"))


@pytest.mark.network
async def test_server_that_is_away_is_an_outage(settings: Settings) -> None:
    url = "postgresql+asyncpg://nobody@127.0.0.1:1/nothing"
    engine = create_engine(url, **engine_options(settings))

    with pytest.raises(ConnectionError) as refused:
        await engine.connect()

    assert is_outage(refused.value)


@pytest.mark.network
async def test_server_that_refuses_who_connects_is_an_outage(settings: Settings) -> None:
    url = make_url(settings.database_url).set(database="no_such_database")
    engine = create_engine(url.render_as_string(hide_password=False), **engine_options(settings))

    with pytest.raises(ConnectionError, match="no_such_database") as refused:
        await engine.connect()

    assert is_outage(refused.value)


def test_shortest_time_is_not_none() -> None:
    """A time-out below a millisecond must not become 0, which means no limit to PostgreSQL."""
    options = engine_options(Settings(database_statement_timeout=0.0001))

    assert options["connect_args"]["server_settings"]["statement_timeout"] == "1"


@pytest.mark.network
async def test_server_that_says_nothing_is_an_outage_soon(settings: Settings) -> None:
    options = engine_options(settings)
    assert options["connect_args"]["timeout"] <= 5
    options["connect_args"]["timeout"] = 0.05
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        engine = create_engine(f"postgresql+asyncpg://a:b@127.0.0.1:{port}/c", **options)

        with pytest.raises(ConnectionError) as refused:
            await engine.connect()

    assert is_outage(refused.value)


def test_outages_are_told_from_mistakes() -> None:
    assert is_outage(asyncpg.TooManyConnectionsError())
    assert is_outage(asyncpg.DiskFullError())
    assert is_outage(asyncpg.LockNotAvailableError())
    assert is_outage(asyncpg.DeadlockDetectedError())
    assert not is_outage(asyncpg.UndefinedTableError())


@pytest.mark.committed
async def test_connection_to_a_standby_is_replaced(configured: Callable[..., AsyncEngine]) -> None:
    """After a failover, the same address may lead to another server, which can write."""
    engine = configured()
    process = text("SELECT pg_backend_pid()")
    for statement, is_standby in (
        ("SET TRANSACTION READ ONLY", False),
        ("SET default_transaction_read_only = on", True),
    ):
        async with engine.connect() as connection:
            before = await connection.scalar(process)
            await connection.execute(text(statement))
            await connection.commit() if is_standby else None

            with pytest.raises(DBAPIError, match="read-only") as refused:
                await connection.execute(text("DELETE FROM users"))

        assert is_away(refused.value) == is_standby
        async with engine.connect() as connection:
            assert (await connection.scalar(process) != before) == is_standby


@pytest.mark.committed
async def test_statement_that_a_migration_has_outdated_can_be_sent_again(
    configured: Callable[..., AsyncEngine],
) -> None:
    engine = configured()
    find = text("SELECT * FROM outdated")
    async with engine.connect() as connection, engine.connect() as other:
        await connection.execute(text("CREATE TABLE outdated (text VARCHAR(9))"))
        await connection.commit()
        await other.execute(find)
        await other.rollback()
        await connection.execute(text("ALTER TABLE outdated ALTER COLUMN text TYPE VARCHAR(99)"))
        await connection.commit()

        with pytest.raises(DBAPIError) as outdated:
            await other.execute(find)
        await other.rollback()
        await other.execute(find)
        await other.rollback()
        await connection.execute(text("DROP TABLE outdated"))
        await connection.commit()

    assert is_away(outdated.value)


@pytest.mark.committed
async def test_partitions_belong_to_no_model(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE parted (day DATE) PARTITION BY RANGE (day)"))
        await connection.execute(text("CREATE TABLE parted_rest PARTITION OF parted DEFAULT"))

        others = await connection.run_sync(tables_of_others)

    assert "parted_rest" in others
    assert "parted" not in others


async def test_index_finds_an_address(session: AsyncSession, user: User) -> None:
    """All look-ups use this query, however the address is spelled."""
    users = UserDatabase(session, User)
    sent: list[str] = []

    def note(*args: Any) -> None:
        sent.append(args[2])

    event.listen(session.get_bind().engine, "before_cursor_execute", note)
    assert await users.get_by_email(f" {user.email.upper()} ")
    event.remove(session.get_bind().engine, "before_cursor_execute", note)

    await session.execute(
        text("SET LOCAL enable_seqscan = off")
    )  # the table is too small otherwise
    plan = text(f"EXPLAIN {sent[-1]}".replace("$1::VARCHAR", ":email"))
    rows = (await session.execute(plan, {"email": user.email})).all()
    assert "Index Scan using ix_users_email" in str(rows)
    await session.rollback()


async def test_error_holds_nothing_of_the_row(session: AsyncSession, user: User) -> None:
    email = user.email
    session.add(User(email=email, hashed_password="a secret hash"))

    with pytest.raises(IntegrityError) as caught:
        await session.commit()

    said = "".join(traceback.format_exception(caught.value))
    assert "ix_users_email" in said
    assert email not in said
    assert "a secret hash" not in said


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (
            "SELECT id FROM users WHERE id = CAST(:email AS uuid)",
            "invalid input for query argument $1",
        ),
        (
            "SELECT CAST(email AS uuid) FROM users WHERE email = :email",
            "InvalidTextRepresentationError (22P02)",
        ),
        (
            "SELECT id FROM users WHERE email = :email AND to_tsquery(:email || ' x') IS NULL",
            "PostgresSyntaxError (42601)",
        ),
    ],
)
async def test_error_holds_nothing_of_the_value(
    session: AsyncSession, user: User, statement: str, reason: str
) -> None:
    email = user.email

    with pytest.raises(DBAPIError) as caught:
        await session.execute(text(statement), {"email": email})
    await session.rollback()

    said = "".join(traceback.format_exception(caught.value))
    assert reason in said
    assert email not in said


@pytest.mark.committed
async def test_closed_connection_is_replaced(configured: Callable[..., AsyncEngine]) -> None:
    engine = configured()
    async with engine.connect() as connection:
        raw = await connection.get_raw_connection()
        process = await connection.scalar(text("SELECT pg_backend_pid()"))
        driver: Any = raw.driver_connection
    driver.terminate()

    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT pg_backend_pid()")) != process


@pytest.mark.committed
async def test_second_migration_waits_for_the_first(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    async with engine.connect() as first, engine.connect() as second:
        await first.exec_driver_sql(f"SELECT pg_advisory_lock({MIGRATION_LOCK})")

        def sleep(_seconds: float) -> None:
            assert not second.sync_connection.in_transaction()  # type: ignore[union-attr]
            steps.append("waits")
            await_only(first.exec_driver_sql(f"SELECT pg_advisory_unlock({MIGRATION_LOCK})"))

        def migrate(connection: Connection) -> None:
            with one_migration(connection):
                steps.append("migrates")

        monkeypatch.setattr(time, "sleep", sleep)
        await second.run_sync(migrate)

    assert steps == ["waits", "migrates"]
