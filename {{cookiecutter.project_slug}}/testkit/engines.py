"""Engines that exist already, for `DatabaseSetup`: those of applications that make theirs when they are
imported, or by a function that takes no options.

    create_engine=partial(rewired, engine)
    create_engine=lambda url, **options: rewired(make_engine(url), url, **options)
"""

from typing import Any

import pytest
from sqlalchemy import Engine, NullPool, create_engine, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine


def rewired(engine: AsyncEngine, url: str, **options: Any) -> AsyncEngine:
    """Lets an engine connect to `url` from now on, in place: whatever was made with it follows.

    Its dialect, events and execution options stay. Its pool and its `connect_args` are not those of
    production. Connections that were open before are not used again.
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
    """The same for a sync engine, which keeps its driver. It makes a connection each time that it needs
    one, as one that stays open would be in the way of a reset."""
    own_url = make_url(url).set(drivername=engine.url.drivername)
    _replace_pool(engine, create_engine(own_url, poolclass=NullPool))


def _replace_pool(engine: Engine, other: Engine) -> None:
    """Gives it a pool like the other's, which has its own events."""
    earlier, kind = engine.pool, type(other.pool)
    earlier.dispose()
    engine.pool = kind(
        other.pool._creator,
        dialect=engine.dialect,
        reset_on_return=earlier._reset_on_return,
        _dispatch=earlier.dispatch,
    )
    engine.url = other.url
