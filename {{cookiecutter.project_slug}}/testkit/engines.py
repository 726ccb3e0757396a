"""Existing engines for `DatabaseSetup`: for applications that create their engine on import, or in a function that
takes no options.

    create_engine=partial(rewired, engine)
    create_engine=lambda url, **options: rewired(make_engine(url), url, **options)
"""

from functools import partial
from typing import Any, NoReturn

import pytest
from sqlalchemy import Engine, NullPool, create_engine, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from testkit.call_site import call_site
from testkit.faults import note_fault

UNISOLATED = (
    "The database of the application is used here, at {place}, and nothing would undo what is done to it. Let the "
    "test, or the fixture that makes its client, ask for `database_isolation`; a fixture of a wider scope, for "
    "`engine`."
)


def refuse(*_: Any, **__: Any) -> NoReturn:
    """Raises an error, and also fails the current test, as the application may handle the error in its own way."""
    said = UNISOLATED.format(place=call_site())
    note_fault(said)
    raise RuntimeError(said)


def keep_closed(engine: Engine | AsyncEngine) -> None:
    """Keeps the engine from connecting until it is rewired: the database in its URL may be a real one."""
    pool = engine.pool
    pool.dispose()
    pool._creator = refuse


def wired_engine(create_engine: Any) -> AsyncEngine | None:
    """Returns the engine in `partial(rewired, engine)`; `None` for anything else, where it is not known yet."""
    if isinstance(create_engine, partial) and create_engine.func is rewired:
        found: AsyncEngine = create_engine.args[0]
        return found
    return None


def rewired(engine: AsyncEngine, url: str, **options: Any) -> AsyncEngine:
    """Makes an engine connect to `url` from now on, in place, so that everything created with it follows.

    Keeps its dialect, events and execution options, but not production's pool and `connect_args`. Connections that
    were opened earlier are not used again. Raises `pytest.UsageError` if `url` needs another driver.
    """
    other = create_async_engine(url, **options).sync_engine
    if other.driver != engine.driver:
        raise pytest.UsageError(
            f"The application's engine uses `{engine.driver}`, and the tests `{other.driver}`: give "
            f"it a URL that begins with `{other.url.drivername}://` in the tests."
        )
    _replace_pool(engine.sync_engine, other)
    return engine


def rewire_sync(engine: Engine, url: str) -> None:
    """Does the same for a sync engine, which keeps its driver. It opens a connection each time it needs one, as a
    connection that stays open would block a reset."""
    own_url = make_url(url).set(drivername=engine.url.drivername)
    _replace_pool(engine, create_engine(own_url, poolclass=NullPool))


def _replace_pool(engine: Engine, other: Engine) -> None:
    """Gives the engine a pool like the other engine's, but keeps its own pool events."""
    earlier, kind = engine.pool, type(other.pool)
    earlier.dispose()
    engine.pool = kind(
        other.pool._creator,
        dialect=engine.dialect,
        reset_on_return=earlier._reset_on_return,
        _dispatch=earlier.dispatch,
    )
    engine.url = other.url
