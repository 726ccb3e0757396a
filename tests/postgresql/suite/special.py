"""Every test looks first at everything that is in the database, then does its worst to it."""

import pytest
from app.database import sessionmaker
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

pytestmark = [pytest.mark.usefixtures("each_isolation"), pytest.mark.parametrize("run", [1, 2])]

EVERYTHING = {
    "SELECT code, name, odd::text, raw FROM currencies ORDER BY code": [
        ("EUR", 'Euro, "the" one\'s', '"a"=>"b,c"', b"\x00\xff"),
        ("USD", "", None, None),
    ],
    "SELECT id, currency, amount::int, twice::int FROM prices ORDER BY id": [
        (1, "EUR", 1, 2),
        (2, "USD", 2, 4),
    ],
    "SELECT id, entry FROM history.log ORDER BY id": [(1, "INSERT prices"), (2, "INSERT prices")],
    "SELECT tableoid::regclass::text, at::text, what FROM events": [
        ("events_old", "2001-01-01", "the beginning")
    ],
    "SELECT total::int FROM totals": [(3,)],
    "SELECT relispopulated FROM pg_class WHERE relname = 'unfilled'": [(False,)],
    "SELECT count(*) FROM hens": [(0,)],
    "SELECT count(*) FROM eggs": [(0,)],
    'SELECT * FROM "an ""odd"" name"': [(1, "kept")],
    "SELECT last_value, is_called FROM invoice_numbers": [(1000, True)],
    "SELECT last_value, is_called FROM prices_id_seq": [(2, True)],
    "SELECT last_value, is_called FROM products_id_seq": [(1, False)],
    "SELECT version_num FROM alembic_version": [("special",)],
    "SELECT tgenabled::text FROM pg_trigger WHERE tgname IN ('noted', 'kept')": [("O",), ("O",)],
}


@pytest.fixture(autouse=True)
async def everything_is_as_in_the_template(session: AsyncSession) -> None:
    for statement, rows in EVERYTHING.items():
        found = [tuple(row) for row in (await session.execute(text(statement))).all()]
        assert found == rows, statement
    await session.rollback()


async def execute(session: AsyncSession, *statements: str) -> None:
    for statement in statements:
        await session.execute(text(statement.replace(":", "\\:")))
    await session.commit()


async def test_reference_rows_are_changed(session: AsyncSession, run: int) -> None:
    await execute(
        session,
        "INSERT INTO currencies VALUES ('GBP', 'Pound')",
        "UPDATE currencies SET name = 'changed', odd = NULL",
        "DELETE FROM prices",
        "DELETE FROM currencies WHERE code = 'USD'",
        "UPDATE events SET what = 'changed'",
        'DELETE FROM "an ""odd"" name"',
    )


async def test_reference_rows_are_truncated(session: AsyncSession, run: int) -> None:
    await execute(session, "TRUNCATE currencies, events RESTART IDENTITY CASCADE")


async def test_rows_with_triggers_and_identities(session: AsyncSession, run: int) -> None:
    await execute(
        session,
        "INSERT INTO prices (currency, amount) VALUES ('EUR', 3), ('EUR', 4)",
        "SELECT nextval('invoice_numbers')",
        "SELECT setval('products_id_seq', 77)",
    )
    assert await session.scalar(text("SELECT count(*) FROM history.log")) == 4


async def test_partitions(session: AsyncSession, run: int) -> None:
    await execute(
        session,
        "INSERT INTO events VALUES ('2031-01-01', 'new'), ('2002-01-01', 'old')",
        "INSERT INTO events_new VALUES ('2032-01-01', 'straight')",
        "DELETE FROM events WHERE what = 'the beginning'",
    )


async def test_views_are_refreshed(session: AsyncSession, run: int) -> None:
    await execute(
        session,
        "INSERT INTO prices (currency, amount) VALUES ('EUR', 100)",
        "REFRESH MATERIALIZED VIEW totals",
        "REFRESH MATERIALIZED VIEW unfilled",
    )
    assert await session.scalar(text("SELECT total::int FROM totals".replace(":", "\\:"))) == 103


async def test_view_is_refreshed_and_nothing_else(session: AsyncSession, run: int) -> None:
    await execute(session, "REFRESH MATERIALIZED VIEW unfilled")


async def test_deferred_constraint(session: AsyncSession, run: int) -> None:
    async with sessionmaker() as application:
        await application.execute(text("INSERT INTO hens VALUES (1, 1)"))
        await application.execute(text("INSERT INTO eggs VALUES (1, 1)"))
        await application.commit()

        await application.execute(text("INSERT INTO hens VALUES (2, 2)"))
        with pytest.raises(IntegrityError):
            await application.commit()
        await application.rollback()

        await application.execute(text("INSERT INTO hens VALUES (3, 3)"))
        await application.execute(text("INSERT INTO eggs VALUES (3, 3)"))
        await application.commit()

    assert await session.scalar(text("SELECT count(*) FROM hens")) == 2


async def test_schema_is_changed(session: AsyncSession, run: int) -> None:
    await execute(
        session,
        "ALTER TABLE currencies ADD COLUMN sign TEXT",
        "DROP TABLE events",
        "ALTER TABLE prices DISABLE TRIGGER noted",
        "DROP MATERIALIZED VIEW totals",
    )


class TestArranged:
    """What a class has arranged survives its tests, also those that change the schema."""

    @pytest.fixture(scope="class")
    @classmethod
    async def arranged(cls, class_session: AsyncSession) -> None:
        await execute(
            class_session,
            "INSERT INTO hens VALUES (7, NULL)",
            "INSERT INTO eggs VALUES (7, 7)",
        )

    @pytest.fixture(autouse=True)
    def everything_is_as_in_the_template(self) -> None:
        pass

    async def test_rows(self, arranged: None, session: AsyncSession, run: int) -> None:
        assert await session.scalar(text("SELECT id FROM eggs")) == 7
        await execute(session, "DELETE FROM eggs", "INSERT INTO hens VALUES (8, NULL)")

    async def test_schema(self, arranged: None, session: AsyncSession, run: int) -> None:
        assert await session.scalar(text("SELECT id FROM eggs")) == 7
        await execute(session, "DROP TABLE eggs CASCADE")
