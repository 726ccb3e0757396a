"""What every model and every request needs from the database."""

import enum
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI
from sqlalchemy import (
    BigInteger,
    DateTime,
    Dialect,
    Enum,
    MetaData,
    PrimaryKeyConstraint,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.exc import DBAPIError, IntegrityError, TimeoutError  # noqa: A004
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql.elements import KeyedColumnElement
from starlette.requests import HTTPConnection

from app.engine import (
    DRIVER_ERRORS,
    EngineSettings,
    create_engine,
    engine_options,
    is_outage,
)
from app.errors import OutageError, ProblemResponse, answers, problem

# Migrations can only drop or change a constraint that has a name.
NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def violates_unique(error: IntegrityError, column: KeyedColumnElement[Any]) -> bool:
    """Whether the row was refused because another one has the same value in this column."""
    table = column.table
    kinds = (PrimaryKeyConstraint, UniqueConstraint)
    rules = [
        *(index for index in table.indexes if index.unique),
        *(constraint for constraint in table.constraints if isinstance(constraint, kinds)),
    ]
    names = {rule.name for rule in rules if list(rule.columns) == [column]}
    # Drivers give the name of the rule, or that of the column. A server's message may be in any language.
    broken = getattr(getattr(error.orig, "__cause__", None), "constraint_name", None)
    said_by_column = str(error.orig).endswith(f" {table.name}.{column.name}")
    return said_by_column if broken is None else broken in names


# As text on every database: a native enum is not part of a table, and migrations would have to create, extend and drop
# it by hand.
ENUM = Enum(enum.Enum, native_enum=False, length=50)

# Values that the database computes come back with the statement: an attribute access must never need the database.
EAGER: dict[str, Any] = {"eager_defaults": True}


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = {enum.Enum: ENUM, Literal: ENUM}  # noqa: RUF012
    __mapper_args__ = EAGER

    def __init_subclass__(cls, **options: Any) -> None:
        if isinstance(own := vars(cls).get("__mapper_args__"), dict):
            cls.__mapper_args__ = EAGER | own
        super().__init_subclass__(**options)


def utc_now() -> datetime:
    return datetime.now(UTC)


class UTCDateTime(TypeDecorator[datetime]):
    """A moment, kept and returned in UTC, even where the database forgets the zone.

    A value without a zone counts as UTC, whatever the zone of the machine.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is None:
            return value and value.replace(tzinfo=UTC)
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Money(TypeDecorator[Decimal]):
    """An amount with two decimals, stored as a whole number of hundredths.

    Exact, sortable and summable on every database, even without a decimal type.
    """

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | int | None, dialect: Dialect) -> int | None:
        if value is None:
            return None
        hundredths = Decimal(value).scaleb(2)  # also of an int
        if hundredths != int(hundredths):
            raise ValueError(f"{value} has more than two decimals")
        return int(hundredths)

    def process_result_value(self, value: int | None, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value).scaleb(-2)


def is_away(error: Exception) -> bool:
    """Whether the database itself failed, and not the statement."""
    if isinstance(error, TimeoutError) or getattr(error, "connection_invalidated", False):
        return True
    return is_outage(getattr(error, "orig", None) or error)


def install_database_errors(app: FastAPI) -> None:
    """While the database is unavailable, full, or too busy, requests are answered with 503."""

    @answers(app, DBAPIError, TimeoutError, *DRIVER_ERRORS)
    def on_database_error(_connection: HTTPConnection, error: Exception) -> ProblemResponse:
        if not is_away(error):
            raise error
        outage = OutageError(f"the database is not available: {getattr(error, 'orig', error)}")
        outage.__cause__ = error
        app.state.report_error(outage)
        return problem(
            503,
            "The database is not available.",
            code="DATABASE_UNAVAILABLE",
            headers={"Retry-After": "1"},
        )


class Session(AsyncSession):
    async def close(self) -> None:
        """Rolls back what was not committed; a server that is gone has done so by itself."""
        try:
            await super().close()
        except (DBAPIError, *DRIVER_ERRORS) as error:
            if not is_away(error):
                raise
            await self.invalidate()


# Objects stay readable after a commit: an attribute access must never need the database.
sessionmaker: async_sessionmaker[AsyncSession] = async_sessionmaker(
    class_=Session, expire_on_commit=False
)
"""Makes every session of the application; bound to the engine when the application starts."""


@asynccontextmanager
async def open_database(settings: EngineSettings, url: str) -> AsyncIterator[None]:
    """Binds the sessions of this process to the database until the block ends."""
    engine = create_engine(url, **engine_options(settings))
    before = sessionmaker.kw.get("bind")
    sessionmaker.configure(bind=engine)
    try:
        yield
    finally:
        sessionmaker.configure(bind=before)
        await engine.dispose()


@asynccontextmanager
async def reading_session() -> AsyncIterator[AsyncSession]:
    """For code that only reads outside a GET: where the database allows one writer at a time, it does not wait its turn."""
    async with sessionmaker() as session:
        await session.connection(execution_options={"read_only": True})
        yield session


async def get_session(request: HTTPConnection) -> AsyncIterator[AsyncSession]:
    """One session per request; what was not committed is rolled back at the end. That of a GET is meant to read.

    In a WebSocket, the end may be an hour later; until then the session occupies a pooled connection and keeps what it
    has locked. If it waits for its client, write `async with sessionmaker() as session` around each use instead.
    """
    async with sessionmaker() as session:
        if request.scope.get("method") in SAFE_METHODS:
            engine: Any = session.sync_session.bind
            session.sync_session.bind = engine.execution_options(read_only=True)
        yield session


SessionDep = Annotated[AsyncSession, Depends(get_session)]
