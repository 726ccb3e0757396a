"""Lets sync code inside an async test wait for the database."""

from collections.abc import Callable, Coroutine, Generator
from functools import partial, wraps
from typing import Any

from sqlalchemy.util import await_only, greenlet_spawn


def in_greenlet(
    function: Callable[..., Coroutine[Any, Any, Any]],
) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Makes a coroutine function run in a greenlet of SQLAlchemy.

    Sync sessions used in it can then wait for an async driver, as those underneath an `AsyncSession` do.
    """

    @wraps(function)
    async def run(*args: Any, **kwargs: Any) -> Any:
        return await greenlet_spawn(_drive, function(*args, **kwargs))

    return run


def _drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    step = partial(coroutine.send, None)
    while True:
        try:
            awaited = step()
        except StopIteration as end:
            return end.value
        try:
            step = partial(coroutine.send, await_only(_Yield(awaited)))
        except BaseException as error:
            step = partial(coroutine.throw, error)


class _Yield:
    """Passes what a coroutine yielded, usually a future, on to the event loop."""

    def __init__(self, awaited: Any) -> None:
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self._awaited)
