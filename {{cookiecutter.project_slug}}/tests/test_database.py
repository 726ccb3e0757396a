import logging
import time
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import httpx2
import pytest
from sqlalchemy import ForeignKey, MetaData, literal, select
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError, TimeoutError  # noqa: A004
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.database import Base, Money, Session, UTCDateTime, violates_unique
from app.main import create_app
from app.settings import Settings
from app.users.models import User
from tests.fixtures.client import create_client


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


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of a process cannot be changed")
async def test_moment_without_a_zone_is_in_utc(
    session: AsyncSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    noon = datetime(2030, 1, 1, 12)  # noqa: DTZ001
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        stored = await session.scalar(select(literal(noon, UTCDateTime)))
    time.tzset()

    assert stored == noon.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("constraint", "is_taken"), [("ix_users_email", True), ("pk_users", False), (None, False)]
)
def test_taken_value_is_known_in_every_language(constraint: str | None, is_taken: bool) -> None:
    """The driver names the violated constraint; messages depend on the language of the server."""
    refused, reason = Exception("doppelter Schlüsselwert"), Exception()
    refused.__cause__ = reason
    reason.constraint_name = constraint  # type: ignore[attr-defined]
    error = IntegrityError("INSERT", {}, refused)

    assert violates_unique(error, User.__table__.c.email) == is_taken


def test_only_what_is_unique_is_taken() -> None:
    """Violating a foreign key of the same column, or a rule without a name, is another error."""

    class Elsewhere(DeclarativeBase):
        pass

    class Order(Elsewhere):
        __tablename__ = "orders"

        id: Mapped[int] = mapped_column(primary_key=True)
        number: Mapped[int] = mapped_column(unique=True)
        user: Mapped[int] = mapped_column(ForeignKey("orders.id", name="fk_user"))

    column = Order.__table__.c
    refused, reason = Exception("NOT NULL constraint failed"), Exception()
    error = IntegrityError("INSERT", {}, refused)
    assert not violates_unique(error, column.number)

    refused.__cause__ = reason
    reason.constraint_name = "fk_user"  # type: ignore[attr-defined]
    assert not violates_unique(error, column.user)


def test_models_may_have_arguments_of_their_own() -> None:
    class Elsewhere(Base):
        __abstract__ = True
        metadata = MetaData()

    class Versioned(Elsewhere):
        __tablename__ = "versioned"

        id: Mapped[int] = mapped_column(primary_key=True)
        version: Mapped[int] = mapped_column()
        __mapper_args__ = {"version_id_col": version}  # noqa: RUF012

    assert Versioned.__mapper__.eager_defaults is True
    assert Versioned.__mapper__.version_id_col is Versioned.__table__.c.version


async def answer_to(error: Exception, settings: Settings) -> httpx2.Response:
    """What a client gets when a route fails with this error."""
    app = create_app(settings)

    @app.get("/fails")
    async def fails() -> None:
        raise error

    return await create_client(app).get("/fails")


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("the pool is exhausted"),
        DBAPIError("SELECT 1", {}, Exception("gone"), connection_invalidated=True),
    ],
    ids=["pool", "connection"],
)
async def test_outage_is_answered_in_one_line(
    settings: Settings, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        response = await answer_to(error, settings)

    assert (response.status_code, response.json()["code"]) == (503, "DATABASE_UNAVAILABLE")
    assert response.headers["retry-after"] == "1"
    (record,) = caplog.records
    assert record.exc_info is None


@pytest.mark.parametrize(
    "error",
    [
        DBAPIError("SELECT 1 FROM nowhere", {}, Exception("there is no such table")),
        ConnectionRefusedError("of another server"),
    ],
    ids=["mistake", "other server"],
)
async def test_no_outage(settings: Settings, error: Exception) -> None:
    assert (await answer_to(error, settings)).status_code == 500


@pytest.mark.parametrize("is_outage", [True, False])
async def test_server_that_is_away_has_rolled_back_by_itself(
    monkeypatch: pytest.MonkeyPatch, is_outage: bool
) -> None:
    async def fail(_session: AsyncSession) -> None:
        raise DBAPIError("ROLLBACK", {}, Exception("gone"), connection_invalidated=is_outage)

    monkeypatch.setattr(AsyncSession, "close", fail)

    with nullcontext() if is_outage else pytest.raises(DBAPIError):
        await Session().close()
