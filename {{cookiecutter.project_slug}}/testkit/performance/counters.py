"""Counts what the current test does: statements, commits, requests, hashes, isolation."""

import asyncio
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from testkit.call_site import call_site
from testkit.clock import clock

# Not counted: they belong to the isolation, and differ between databases.
SAVEPOINTS = ("SAVEPOINT", "RELEASE SAVEPOINT", "ROLLBACK TO SAVEPOINT")
LONGEST_STATEMENT = 300  # characters that are kept

CHEAP_ARGON2 = 1024  # passes over a KiB of memory; production has 196,608
CHEAP_BCRYPT = 8  # rounds, as a power of two; production has 12


Shape = tuple[int, int, str]
"""The number of the request, the task (several may run at once), and the statement."""


class Counters:
    __slots__ = (
        "commits",
        "hashes",
        "isolation",
        "of_others",
        "repeated",
        "requests",
        "shapes",
        "sql",
        "statements",
    )

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.statements = self.commits = self.requests = self.hashes = 0
        self.sql = self.isolation = 0.0
        self.of_others = 0.0
        """Seconds that this test waited for what other tests caused."""
        self.shapes: set[Shape] = set()
        self.repeated: dict[Shape, list[Any]] = {}
        """The shapes that came up again: how often, and from where."""

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Counts nothing that happens in the block."""
        earlier = [(name, getattr(self, name)) for name in self.__slots__]
        self.reset()
        try:
            yield
        finally:
            for name, value in earlier:
                setattr(self, name, value)

    def note(self, statement: str) -> None:
        self.statements += 1
        shape = (self.requests, _current_task(), statement)
        if shape not in self.shapes:
            self.shapes.add(shape)
        elif shape in self.repeated:
            self.repeated[shape][0] += 1
        else:
            self.repeated[shape] = [2, call_site()]

    def costliest_repetitions(self, count: int) -> list[list[Any]]:
        """Returns `[times, statement, place]` for the most repeated statements, each in its worst request."""
        worst: dict[str, list[Any]] = {}
        for (_, _, statement), (times, place) in self.repeated.items():
            if times > worst.get(statement, [1])[0]:
                worst[statement] = [times, " ".join(statement.split())[:LONGEST_STATEMENT], place]
        return sorted(worst.values(), key=lambda found: -found[0])[:count]


def _current_task() -> int:
    try:
        return id(asyncio.current_task())
    except RuntimeError:  # sync code
        return 0


COUNTERS = Counters()


@contextmanager
def isolating() -> Iterator[None]:
    """Counts the time of the block as isolation."""
    start = clock()
    yield
    COUNTERS.isolation += clock() - start


@contextmanager
def waiting_for_others() -> Iterator[None]:
    """Excludes the time of the block from this test's time."""
    start = clock()
    yield
    COUNTERS.of_others += clock() - start


class Meter:
    """Feeds the counters, at a cost of about 5 us per statement."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def start(self) -> None:
        """Starts to count. Only libraries that are already imported are measured, so it has to be called after the
        test modules have been imported."""
        event.listen(Engine, "before_cursor_execute", _before_statement)
        event.listen(Engine, "after_cursor_execute", _after_statement)
        event.listen(Engine, "handle_error", _after_error)
        event.listen(Session, "after_commit", _after_commit)
        for library in ("httpx2", "httpx"):
            for client in ("Client", "AsyncClient"):
                self._wrap(library, client, "send", _count_request)
        for method in ("hash", "verify"):
            self._wrap("argon2", "PasswordHasher", method, _count_argon2)
        for function in ("hashpw", "checkpw"):
            self._wrap("bcrypt", None, function, _count_bcrypt)

    def stop(self) -> None:
        event.remove(Engine, "before_cursor_execute", _before_statement)
        event.remove(Engine, "after_cursor_execute", _after_statement)
        event.remove(Engine, "handle_error", _after_error)
        event.remove(Session, "after_commit", _after_commit)
        while self._undo:
            self._undo.pop()()

    def _wrap(
        self, module: str, name: str | None, function: str, count: Callable[..., None]
    ) -> None:
        owner: Any = sys.modules.get(module)
        if getattr(owner, "__name__", module) != module:  # alias of a wrapped module
            return
        if name is not None:
            owner = getattr(owner, name, None)
        original = getattr(owner, function, None)
        if original is None:
            return

        @functools.wraps(original)
        def counted(*args: Any, **kwargs: Any) -> Any:
            count(*args, **kwargs)
            return original(*args, **kwargs)

        setattr(owner, function, counted)
        self._undo.append(lambda: setattr(owner, function, original))


def _before_statement(
    _connection: Any, _cursor: Any, statement: str, _parameters: Any, context: Any, _many: bool
) -> None:
    if not statement.startswith(SAVEPOINTS):
        COUNTERS.note(statement)
    if context is not None:
        context.testkit_start = clock()


def _after_statement(
    _connection: Any, _cursor: Any, _statement: str, _parameters: Any, context: Any, _many: bool
) -> None:
    if context is not None:
        COUNTERS.sql += clock() - context.testkit_start


def _after_error(error: Any) -> None:
    start = getattr(error.execution_context, "testkit_start", None)
    if start is not None:
        COUNTERS.sql += clock() - start


def _after_commit(_session: Session) -> None:
    COUNTERS.commits += 1


def _count_request(*_args: Any, **_kwargs: Any) -> None:
    COUNTERS.requests += 1


# Invalid arguments are not counted: the libraries themselves say what is wrong with them.


def _count_argon2(hasher: Any, *args: Any, **kwargs: Any) -> None:
    passes = hasher.time_cost * hasher.memory_cost
    verified = kwargs.get("hash", args[0] if args else "")
    if isinstance(verified, bytes):
        verified = verified.decode(errors="replace")
    if str(verified).startswith("$argon2"):
        from argon2 import extract_parameters

        with suppress(ValueError):
            parameters = extract_parameters(verified)
            passes = parameters.time_cost * parameters.memory_cost
    COUNTERS.hashes += passes > CHEAP_ARGON2


def _count_bcrypt(*args: Any, **kwargs: Any) -> None:
    salt = kwargs.get("salt") or kwargs.get("hashed_password") or (args[-1] if args else b"")
    with suppress(AttributeError, IndexError, TypeError, ValueError):
        COUNTERS.hashes += int(salt.split(b"$")[2]) > CHEAP_BCRYPT
