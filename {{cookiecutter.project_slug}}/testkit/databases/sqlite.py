"""SQLite: the template is a cached file, a worker database a copy of it on tmpfs.

The worker database is a file in WAL mode, as in production, so that readers do not block the
writer. A reset is one `backup()`, which copies a few dozen pages in memory.
"""

import asyncio
import hashlib
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

import aiosqlite
import pytest
from filelock import FileLock
from sqlalchemy import Connection, Engine, NullPool, StaticPool, create_engine, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only, greenlet_spawn

from testkit.clock import clock
from testkit.databases import DatabaseSetup, ResetError, WorkerDatabase

BUSY_TIMEOUT = 5.0  # seconds, like the driver's default
RESET_TIMEOUT = 2.0  # seconds
MEMORY_DIRECTORY = Path("/dev/shm")  # noqa: S108  # in it, a directory that only we can read
MEMORY_NEEDED = 32 * 1024 * 1024  # bytes; a container may have as little as twice that


STATEMENTS = {"execute", "executemany", "commit", "rollback"}
EXPLAIN = "EXPLAIN QUERY PLAN"
ORDINARY = re.compile(
    r"\s*(SELECT|WITH|VALUES|INSERT|UPDATE|DELETE|BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE)\b",
    re.IGNORECASE,
)


class InlineConnection(aiosqlite.Connection):
    """An aiosqlite connection that runs every call in place instead of in a thread.

    A hop to the thread and back takes 60 us, several times for each statement, and a test gains nothing from it.
    While another connection holds a lock, the event loop can run instead of being blocked.
    """

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, iter_chunk_size=64)
        self._tx = _RunInPlace()  # type: ignore[assignment]
        self.is_as_new = False
        """Whether nothing has been done to the connection, since it was opened, that its next user could notice."""

    def __await__(self) -> Generator[Any, None, Self]:
        return self._open().__await__()

    async def _open(self) -> Self:
        self._connection = self._connector()
        return self

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._connection is None:
            raise ValueError("no active connection")
        if self.is_as_new and not _leaves_no_trace(fn, args):
            self.is_as_new = False
        if getattr(fn, "__name__", "") in STATEMENTS and _others_are_ready():
            await asyncio.sleep(0)  # as production's driver would let them run meanwhile
        deadline = None
        while True:
            try:
                return fn(*args, **kwargs)
            except sqlite3.OperationalError as error:
                # SQLITE_BUSY_SNAPSHOT has a code of its own: waiting does not help against it.
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise
                deadline = deadline or clock() + BUSY_TIMEOUT
                if clock() > deadline:
                    raise
                await asyncio.sleep(0.0005)

    async def close(self) -> None:
        self.stop()

    def stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _others_are_ready() -> bool:
    """Whether something else would run in the event loop now: another request, or a task. About 0.1 us."""
    loop = asyncio._get_running_loop()
    return bool(getattr(loop, "_ready", None))


def _leaves_no_trace(call: Callable[..., Any], arguments: tuple[Any, ...]) -> bool:
    """Whether a call leaves nothing on the connection: no pragma, temporary table, function or unfinished cursor."""
    name = getattr(call, "__name__", "")
    if name in ("execute", "executemany"):
        return ORDINARY.match(arguments[0]) is not None
    return name in ("cursor", "fetchall", "close", "commit", "rollback")


class _RunInPlace:
    """Stands in for the queue to aiosqlite's thread, to which SQLAlchemy also posts directly."""

    def put_nowait(self, call: tuple[asyncio.Future[Any], Callable[[], Any]]) -> None:
        future, function = call
        future.set_result(function())


class SQLiteDatabase:
    """The worker database, a file in `directory`."""

    def __init__(self, directory: Path, template: bytes, *, threaded: bool) -> None:
        self.path = directory / "worker.db"
        self.url = f"sqlite+aiosqlite:///{self.path}"
        self.engine_options: dict[str, Any] = (
            # Sync code shares the connection, from another thread than the driver's.
            {"connect_args": {"check_same_thread": False}}
            if threaded
            else {"async_creator": partial(InlineConnection, partial(self._connect, timeout=0))}
        )
        self.commit_check: str | None = None
        self.has_row_locks = False
        self._baselines = [sqlite3.connect(":memory:")]
        self._baselines[0].deserialize(template)
        kinds = {kind for _, _, kind, *_ in self._baselines[0].execute("PRAGMA table_list")}
        self._has_virtual_tables = "virtual" in kinds
        self._control = self._connect(timeout=RESET_TIMEOUT)
        self._control.execute("PRAGMA journal_mode = WAL")
        self._control.execute("PRAGMA synchronous = OFF")
        self._restore()
        self._own_sync_engine = create_engine(
            "sqlite://", creator=partial(self._connect, timeout=BUSY_TIMEOUT), poolclass=NullPool
        )
        event.listen(self._own_sync_engine, "connect", _enforce_foreign_keys)
        event.listen(self._own_sync_engine, "begin", _begin)
        self._joined_sync_engine: tuple[sqlite3.Connection, Engine] | None = None

    def _connect(self, timeout: float) -> sqlite3.Connection:
        return sqlite3.connect(
            self.path, timeout=timeout, isolation_level=None, check_same_thread=False
        )

    async def start(self, engine: AsyncEngine) -> None:
        # These run after the application's own listeners for new connections and transactions.
        event.listen(engine.sync_engine, "connect", _note_connected)
        event.listen(engine.sync_engine, "begin", _begin_outer)

    async def stop(self) -> None:
        pass

    async def renew(self, connections: Collection[ConnectionPoolEntry]) -> None:
        # A connection keeps pragmas, temporary tables and functions, and opening a new one takes 0.4 ms. One that has
        # opened a virtual table may find no table at all when it rereads the schema, as it does after a reset.
        for entry in connections:
            is_as_new = getattr(entry.driver_connection, "is_as_new", False)
            if self._has_virtual_tables or not is_as_new:
                await greenlet_spawn(entry.invalidate)

    def _data_version(self) -> int:
        # It changes when another connection commits; reading it takes a few microseconds.
        (version,) = self._control.execute("PRAGMA data_version").fetchone()
        return int(version)

    async def reset(self, *, committed: bool) -> bool:
        if self._data_version() != self._clean_version:
            self._restore()
        return True

    async def last_statement(self, connection: ConnectionPoolEntry) -> str | None:
        return None

    def _restore(self) -> None:
        try:
            # backup() itself would wait for a lock forever.
            self._control.execute("BEGIN IMMEDIATE")
            self._control.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            raise ResetError(
                f"a connection has kept a lock on the worker database for {RESET_TIMEOUT:g} s"
            ) from error
        self._baselines[-1].backup(self._control)
        self._clean_version = self._data_version()

    async def push_baseline(self) -> None:
        self._baselines.append(sqlite3.connect(":memory:"))
        await self.save_baseline()

    async def save_baseline(self) -> None:
        self._control.backup(self._baselines[-1])
        self._clean_version = self._data_version()

    async def pop_baseline(self) -> bool:
        self._baselines.pop().close()
        self._restore()
        return True

    def sync_engine(self, joined: AsyncConnection | None) -> Engine:
        if joined is None:
            return self._own_sync_engine
        driver_connection = joined.sync_connection.connection.driver_connection  # type: ignore[union-attr]
        raw: sqlite3.Connection = driver_connection._conn  # type: ignore[union-attr]
        if self._joined_sync_engine is None or self._joined_sync_engine[0] is not raw:
            engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
            engine.dialect.do_commit = engine.dialect.do_rollback = _leave_open  # type: ignore[assignment,method-assign]
            self._joined_sync_engine = raw, engine
        return self._joined_sync_engine[1]

    def close(self) -> None:
        for connection in (*self._baselines, self._control):
            connection.close()


def _note_connected(_connection: Any, entry: ConnectionPoolEntry) -> None:
    if isinstance(entry.driver_connection, InlineConnection):
        entry.driver_connection.is_as_new = True


def _begin_outer(connection: Connection) -> None:
    """Begins the outer transaction of `rollback` at once. Left to itself, the driver would begin it only with the first
    write, and not before a savepoint."""
    if not connection.get_execution_options().get("read_only"):
        return
    driver: Any = connection.connection.driver_connection
    if not driver.in_transaction:
        await_only(driver.execute("BEGIN"))


def _enforce_foreign_keys(connection: sqlite3.Connection, _entry: object) -> None:
    connection.execute("PRAGMA foreign_keys = ON")


def _begin(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN")


def _leave_open(_connection: object) -> None:
    """The transaction is not this engine's to end."""


def statements_that_empty(tables: list[str]) -> list[str]:
    return [f"DELETE FROM {table}" for table in reversed(tables)]  # noqa: S608


def describe() -> str:
    return f"SQLite {sqlite3.sqlite_version}"


@contextmanager
def prepare(setup: DatabaseSetup, config: pytest.Config) -> Iterator[None]:
    _cached_template(setup, _cache_directory(config))
    yield


@contextmanager
def open_worker_database(setup: DatabaseSetup, config: pytest.Config) -> Iterator[WorkerDatabase]:
    template = _cached_template(setup, _cache_directory(config))
    with _own_directory() as directory:
        database = SQLiteDatabase(
            directory, template, threaded=config.getoption("db_driver") == "threaded"
        )
        with closing(database):
            yield database


@contextmanager
def open_empty_database(_setup: DatabaseSetup, _config: pytest.Config) -> Iterator[str]:
    with _own_directory() as directory:
        yield f"sqlite+aiosqlite:///{directory}/empty.db"


def _cache_directory(config: pytest.Config) -> Path:
    cache = getattr(config, "cache", None)  # pytest can run without one
    if cache is not None:
        with suppress(OSError):  # the checkout may be read-only
            return Path(cache.mkdir("testkit"))
    return _base_directory(Path(tempfile.gettempdir()))


def _cached_template(setup: DatabaseSetup, cache: Path) -> bytes:
    """Returns the migrated template, which is made once for all workers and runs, and again if it is damaged."""
    prefix = f"template-{setup.template_key(sqlite3.sqlite_version)}-"
    with FileLock(cache / "template.lock"):
        for path in cache.glob("template-*.db"):
            content = path.read_bytes()
            if path.name == f"{prefix}{_digest(content)}.db":
                return content
            path.unlink()
        content = _migrated(setup)
        unfinished = cache / "template.unfinished"
        with suppress(OSError):  # on a full disk, every run makes its own
            unfinished.write_bytes(content)
            unfinished.rename(cache / f"{prefix}{_digest(content)}.db")
        return content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _migrated(setup: DatabaseSetup) -> bytes:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as raw:
        engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
        event.listen(engine, "begin", _begin)
        with engine.connect() as connection:
            setup.make_tables(connection)
            connection.commit()
        return raw.serialize()


@contextmanager
def _own_directory() -> Iterator[Path]:
    """Yields a directory for this process, on tmpfs if possible, and removes those of dead processes."""
    base = _base_directory(
        MEMORY_DIRECTORY
        if os.access(MEMORY_DIRECTORY, os.W_OK)
        and shutil.disk_usage(MEMORY_DIRECTORY).free > MEMORY_NEEDED
        else Path(tempfile.gettempdir())
    )
    # A process loses its locks however it ends. Creating and sweeping must not happen at the same time.
    with FileLock(base / "directories.lock"):
        for other in base.glob("worker-*"):
            # Unless the process is alive (`Timeout` is an `OSError`), or the directory is just being removed.
            with suppress(OSError), FileLock(other / "alive.lock", timeout=0):
                shutil.rmtree(other, ignore_errors=True)
        directory = Path(tempfile.mkdtemp(prefix="worker-", dir=base))
        alive = FileLock(directory / "alive.lock")
        alive.acquire()
    try:
        yield directory
    finally:
        alive.release()
        shutil.rmtree(directory, ignore_errors=True)


def _base_directory(parent: Path) -> Path:
    if not hasattr(os, "getuid"):  # Windows, where everybody has a directory of their own
        base = parent / "testkit"
        base.mkdir(exist_ok=True)
        return base
    base = parent / f"testkit-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    if base.stat().st_uid != os.getuid():  # somebody else was there first
        return Path(tempfile.mkdtemp(prefix="testkit-"))
    return base
