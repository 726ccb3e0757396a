"""How this service connects to PostgreSQL."""

import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import asyncpg
from pydantic import Field
from pydantic_settings import BaseSettings
from sqlalchemy import URL, Connection, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

MIGRATION_LOCK = 7_420_311_885  # any number, but always the same
LOOK_INTERVAL = 0.1  # seconds
LONGEST_TIMEOUT = 2_147_483  # seconds, as PostgreSQL counts milliseconds in 32 bits
CONNECT_TIMEOUT = 5  # seconds; each request waits this long for a host that does not answer


# SQLSTATE prefixes.
OUTAGES = (
    "08",  # no connection
    "53",  # no resources
    "55P03",  # a lock that others hold
    "57P",  # an operator, or a restart
    "40P01",  # a deadlock; may succeed when it is tried again
    "40001",  # a conflict of serializable transactions; the same
)


class NoConnectionError(ConnectionError):
    """The database cannot be reached, or refuses the connection. Other servers raise others."""


# Errors while connecting pass through SQLAlchemy unwrapped.
DRIVER_ERRORS = (asyncpg.PostgresError, NoConnectionError)
# Of a URL: those of the driver that can be written there, and SQLAlchemy's own.
NUMBERS = (
    *("command_timeout", "max_cacheable_statement_size", "max_cached_statement_lifetime"),
    *("prepared_statement_cache_size", "statement_cache_size"),
)
OBJECTS = {"connection_class", "loop", "record_class", "server_settings"}
OF_DRIVER = signature(asyncpg.connect).parameters.keys() - OBJECTS
KNOWN_OPTIONS = {*OF_DRIVER, *NUMBERS, "async_fallback", "plugin"}
QUIET_DRIVERS: dict[str, str] = {}  # its driver logs nothing


class EngineSettings(BaseSettings):
    """Limits that keep one slow query, or one busy instance, from taking the database for itself."""

    database_pool_size: int = Field(default=5, ge=1, description="connections that stay open")
    database_max_overflow: int = Field(default=10, ge=0, description="more, while they are needed")
    database_statement_timeout: float = Field(
        default=30, ge=0, le=LONGEST_TIMEOUT, description="seconds; 0 is none"
    )
    database_lock_timeout: float = Field(
        default=10, ge=0, le=LONGEST_TIMEOUT, description="seconds; 0 is none"
    )
    database_idle_transaction_timeout: float = Field(
        default=60, ge=0, le=LONGEST_TIMEOUT, description="seconds; 0 is none"
    )


def create_engine(url: str, **options: Any) -> AsyncEngine:
    """An engine that keeps values out of errors and logs; `options` go to SQLAlchemy."""
    connect_args = {"async_creator_fn": _connect} | options.pop("connect_args", {})
    options = {"hide_parameters": True} | options
    engine = create_async_engine(url, connect_args=connect_args, **options)
    event.listen(engine.sync_engine, "handle_error", _hide_values)
    event.listen(engine.sync_engine, "handle_error", _leave_standby)
    event.listen(engine.sync_engine, "checkout", _replace_closed)
    return engine


def _replace_closed(connection: Any, _record: Any, _proxy: Any) -> None:
    """Replaces a connection that the server has closed, instead of handing it out.

    The driver knows about it; SQLAlchemy's `pool_pre_ping` would ask the server in every request.
    """
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _leave_standby(context: Any) -> None:
    """Replaces connections to a read-only server: the address may lead to another one by now. A transaction that the
    application itself made read-only is a different case."""
    error = context.original_exception.__cause__
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError) and context.connection is not None:
        driver: Any = context.connection.connection.driver_connection
        names = ("in_hot_standby", "default_transaction_read_only")
        context.is_disconnect = "on" in [getattr(driver.get_settings(), name, "") for name in names]


def _hide_values(context: ExceptionContext) -> None:
    """Removes the values (addresses, hashes) that PostgreSQL and its driver quote when they refuse a row."""
    cause: Any = getattr(context.original_exception, "__cause__", None)
    errors = list(filter(None, (context.sqlalchemy_exception, context.original_exception)))
    for error in errors:
        error.args = tuple(str(text).partition("\nDETAIL:")[0] for text in error.args)
    if hasattr(cause, "detail"):
        cause.detail = None
    is_of_syntax = isinstance(cause, asyncpg.PostgresSyntaxError) and bool(context.parameters)
    if isinstance(cause, asyncpg.DataError) or is_of_syntax:  # of a search, for example
        # Only the driver's own message is always in English.
        argument = re.match(r"invalid input for query argument \$\d+", str(cause))
        where = argument[0] if argument else cause.sqlstate
        for error in (*errors, cause):
            error.args = (f"{type(cause).__name__} ({where})",)
        cause.__cause__ = cause.__context__ = None  # Python's own errors, which quote it as well


def engine_options(settings: EngineSettings) -> dict[str, Any]:
    """The options of the engine that serves requests."""
    timeouts = {
        "statement_timeout": settings.database_statement_timeout,
        "lock_timeout": settings.database_lock_timeout,
        "idle_in_transaction_session_timeout": settings.database_idle_transaction_timeout,
    }
    return {
        "pool_size": settings.database_pool_size,
        "max_overflow": settings.database_max_overflow,
        "connect_args": {
            "timeout": CONNECT_TIMEOUT,
            "server_settings": {
                name: str(math.ceil(seconds * 1000)) for name, seconds in timeouts.items()
            },
        },
    }


def check_options(url: URL) -> None:
    """Raises `ValueError` for what the driver would refuse with each connection."""
    for name in url.query:
        if name not in KNOWN_OPTIONS:
            remedy = ", write `ssl`" if name == "sslmode" else ""
            raise ValueError(f"it cannot have the option `{name}`{remedy}")
        if name in NUMBERS and not str(url.query[name]).isdecimal():
            raise ValueError(f"its option `{name}` has to be a number")


def is_outage(error: Exception) -> bool:
    """Whether the database cannot work, whatever the statement."""
    state: str = getattr(error, "sqlstate", None) or ""
    # A statement that a migration has outdated is prepared again the next time.
    is_outdated = isinstance(error.__cause__, asyncpg.InvalidCachedStatementError)
    return isinstance(error, NoConnectionError) or state.startswith(OUTAGES) or is_outdated


def is_table_missing(error: BaseException | None) -> bool:
    return getattr(error, "sqlstate", None) == "42P01"


async def _connect(*args: Any, **options: Any) -> asyncpg.Connection:
    in_url = [name for name in NUMBERS if isinstance(options.get(name), str)]
    numbers = {name: int(options[name]) for name in in_url}
    try:
        return await asyncpg.connect(*args, **options | numbers)
    except OSError as error:  # of any kind, including a time-out
        raise NoConnectionError("the server cannot be reached") from error
    except asyncpg.PostgresError as error:
        raise NoConnectionError(f"the server refuses the connection: {error}") from error
    except asyncpg.InterfaceError as error:  # of a certificate that is not there, for example
        raise NoConnectionError(f"it is not known how to connect: {error}") from error


def tables_of_others(connection: Connection) -> set[str]:
    """Tables that no model describes: those of extensions, and partitions."""
    return set(connection.exec_driver_sql(TABLES_OF_OTHERS).scalars())


TABLES_OF_OTHERS = """
    SELECT relname FROM pg_class
    WHERE relkind IN ('r', 'p', 'f') AND pg_table_is_visible(oid) AND (
        relispartition OR EXISTS (
            SELECT FROM pg_depend
            WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e'
        )
    )
"""

# A migration may begin with `op.get_context().autocommit_block()`, and use what an earlier one has added to an enum.
MIGRATION_OPTIONS = {"transaction_per_migration": True}


@contextmanager
def one_migration(connection: Connection) -> Iterator[None]:
    """If two instances start at once, the second one waits until the first has migrated.

    It polls: waiting in a statement would keep a transaction open, for which `CREATE INDEX CONCURRENTLY` would wait in
    turn.
    """
    while not connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({MIGRATION_LOCK})").scalar():
        connection.commit()
        time.sleep(LOOK_INTERVAL)
    connection.commit()
    try:
        yield
    finally:
        connection.rollback()  # what has failed
        connection.exec_driver_sql(f"SELECT pg_advisory_unlock({MIGRATION_LOCK})")
        connection.commit()
