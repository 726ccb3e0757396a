"""The two ways in which a test is undone.

`Rollback`, the default: the test runs inside one outer transaction, which is rolled back. Sessions
join it with savepoints of their own, so that `commit()`, `rollback()` and an `IntegrityError` mean
to the application what they mean in production (SQLAlchemy documents this as "Joining a Session
into an External Transaction", with `join_transaction_mode="create_savepoint"`).

`Committed`: commits are real, on the engine's real pool. Afterwards the database is reset.

In both, what the test has left open is closed, and reported with the place it came from.
"""

import asyncio
import re
import warnings
from abc import ABC, abstractmethod
from typing import Any, Literal

from sqlalchemy import Connection as SyncConnection
from sqlalchemy import Engine, TextClause, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only, greenlet_spawn

from testkit.call_site import call_site
from testkit.databases import ResetError, WorkerDatabase
from testkit.tasks import cancel_tasks

TURN_TIMEOUT = 5.0  # seconds
READS = re.compile(r"\s*(SELECT|WITH|VALUES|EXPLAIN|PRAGMA|SHOW)\b", re.IGNORECASE)


class UncommittedChanges(UserWarning):
    """The test has written through its session without a commit, and now the application runs."""


class ObservingSession(Session):
    """A session of the test. What it reads is what the database holds now.

    An answer from the identity map would hide what the application did or failed to do.
    """

    def get(self, *args: Any, **kwargs: Any) -> Any:
        return super().get(*args, **self._afresh(kwargs))

    def get_one(self, *args: Any, **kwargs: Any) -> Any:
        return super().get_one(*args, **self._afresh(kwargs))

    def _afresh(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        # Changes that were not flushed yet would be overwritten.
        return kwargs if self.dirty else kwargs | {"populate_existing": True}


@event.listens_for(ObservingSession, "do_orm_execute")
def _read_afresh(state: ORMExecuteState) -> None:
    if state.is_select:
        state.update_execution_options(populate_existing=True)
    elif not (isinstance(state.statement, TextClause) and READS.match(state.statement.text)):
        state.session.info["has_written"] = True


@event.listens_for(ObservingSession, "after_flush")
def _note_write(session: Session, _context: object) -> None:
    session.info["has_written"] = True


@event.listens_for(ObservingSession, "after_transaction_end")
def _forget_writes(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info["has_written"] = False


class ApplicationSession(Session):
    """A session of the application. Before its transaction reaches the database, it is admitted."""

    def get_bind(self, *args: Any, **kwargs: Any) -> Any:
        self.info["isolation"].admit(self)
        return super().get_bind(*args, **kwargs)


@event.listens_for(ApplicationSession, "after_transaction_end")
def _dismiss(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info["isolation"].dismiss(session)


def _check_as_a_commit_does(session: Session) -> None:
    isolation: Isolation | None = session.info.get("isolation")
    if isolation is None or isolation.commit_check is None or session.in_nested_transaction():
        return
    session.flush()
    session.connection().exec_driver_sql(isolation.commit_check)


for session_class in (ObservingSession, ApplicationSession):
    event.listen(session_class, "before_commit", _check_as_a_commit_does)


class Worker:
    """What one process keeps for all its tests: its database, the engine, and the connection
    that carries the outer transaction of `Rollback`."""

    def __init__(
        self,
        database: WorkerDatabase,
        engine: AsyncEngine,
        sessionmaker: async_sessionmaker[AsyncSession],
    ) -> None:
        self.database = database
        self.engine = engine
        self.sessionmaker = sessionmaker
        self.class_sessions: list[AsyncSession] = []
        self.checked_out: dict[ConnectionPoolEntry, str] = {}
        """Connections in use, each with the place that opened it."""
        self.used: set[ConnectionPoolEntry] = set()
        """Connections that were in use since the last reset."""
        self.was_reconnected = False
        self.is_clean = True

    async def start(self) -> None:
        await self.database.start(self.engine)
        await self._connect()
        pool = self.engine.sync_engine.pool
        event.listen(pool, "checkout", self._note_checkout)
        event.listen(pool, "checkin", self._note_checkin)

    async def _connect(self) -> None:
        earlier = self.checked_out.copy(), self.used.copy()
        self.connection = await self.engine.connect()
        self.checked_out, self.used = earlier  # this connection belongs to no test
        # An engine that knows the option takes no write lock before the first write.
        await self.connection.execution_options(read_only=True)

    async def reconnect(self) -> None:
        """Drops the connection, with whatever state a test has put it into, for a new one."""
        await self.connection.invalidate()
        await self.connection.close()
        await self._connect()
        self.was_reconnected = True

    async def clean(self) -> None:
        """Undoes what was committed, wherever that was; `ResetError` when a lock prevents it."""
        if self.is_clean:
            return
        await self.database.renew(self.used - self.checked_out.keys())
        committed = bool(self.used) or self.was_reconnected
        if not await self.database.reset(committed=committed):
            await self._reconnect_all()
        self.used.clear()
        self.was_reconnected = False
        self.is_clean = True

    async def pop_baseline(self) -> None:
        if not await self.database.pop_baseline():
            await self._reconnect_all()

    async def _reconnect_all(self) -> None:
        await self.engine.dispose()
        await self.reconnect()

    async def stop(self) -> None:
        await self.connection.close()
        await self.engine.dispose()
        await self.database.stop()

    def _note_checkout(self, _raw: Any, entry: ConnectionPoolEntry, _fairy: Any) -> None:
        self.used.add(entry)
        self.checked_out[entry] = call_site()

    def _note_checkin(self, _raw: Any, entry: ConnectionPoolEntry) -> None:
        self.checked_out.pop(entry, None)


class Isolation(ABC):
    """One test's view of the worker database, from `begin()` to `end()`."""

    bind: AsyncEngine | AsyncConnection
    commit_check: str | None = None
    join_transaction_mode: Literal["create_savepoint", "conditional_savepoint"]

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._sessions: list[Session] = []
        self._admitted: dict[Session, str] = {}
        """The application's open transactions, each with the place that began it."""

    async def begin(self) -> None:
        """Prepares everything for the test; `ResetError` when an earlier test cannot be undone."""
        await self.worker.clean()
        self._earlier_tasks = asyncio.all_tasks()
        await self._save_class_arrangements()
        self._earlier_connections = frozenset(self.worker.checked_out)
        await self._enter()
        self.worker.sessionmaker.configure(
            bind=self.bind,
            join_transaction_mode=self.join_transaction_mode,
            sync_session_class=ApplicationSession,
            info={"isolation": self},
        )

    def session(self) -> AsyncSession:
        """A session for the test itself."""
        session = AsyncSession(
            self.bind,
            sync_session_class=ObservingSession,
            join_transaction_mode=self.join_transaction_mode,
            expire_on_commit=False,
            info={"isolation": self},
        )
        self._sessions.append(session.sync_session)
        return session

    def sync_session(self) -> Session:
        """The same for sync code."""
        session = ObservingSession(
            self._sync_bind(),
            join_transaction_mode=self.join_transaction_mode,
            expire_on_commit=False,
            info={"isolation": self},
        )
        self._sessions.append(session)
        return session

    def admit(self, session: Session) -> None:
        """Called in SQLAlchemy's greenlet, before every statement of the application."""
        if session not in self._admitted:
            self._take_turn(session)
            self._admitted[session] = call_site()
            self._end_idle_transactions()

    def dismiss(self, session: Session) -> None:
        if self._admitted.pop(session, None) is not None:
            self._give_turn()

    async def end(self) -> list[str]:
        """Undoes the test and closes what it has left open. Says what that was."""
        leaks = await cancel_tasks(
            asyncio.all_tasks() - self._earlier_tasks - {asyncio.current_task()}
        )
        for place in self._admitted.values():
            leaks.append(f"a session with an open transaction, begun at {place}")
        if self._admitted:
            for entry in self._connections_in_use():
                leaks[-1] += await self._last_statement(entry)
        try:
            for session in (*self._sessions, *self._admitted):
                await greenlet_spawn(session.close)
            for class_session in self.worker.class_sessions:
                await _let_go(class_session)
            await self._leave()
        except SQLAlchemyError:  # raw SQL has ended a transaction behind SQLAlchemy's back
            await self.worker.reconnect()
        for entry in self._connections_in_use():
            place = self.worker.checked_out.pop(entry)
            leaks.append(f"a connection, opened at {place}{await self._last_statement(entry)}")
            await greenlet_spawn(entry.invalidate)
        self.worker.sessionmaker.configure(bind=None)
        self.worker.is_clean = False
        try:
            await self.worker.clean()
        except ResetError as error:
            leaks.append(str(error))
        return leaks

    def _connections_in_use(self) -> set[ConnectionPoolEntry]:
        return self.worker.checked_out.keys() - self._earlier_connections

    async def _last_statement(self, connection: ConnectionPoolEntry) -> str:
        statement = await self.worker.database.last_statement(connection)
        return f", with `{statement}` as its last statement" if statement else ""

    @abstractmethod
    async def _enter(self) -> None: ...

    @abstractmethod
    async def _leave(self) -> None: ...

    @abstractmethod
    def _sync_bind(self) -> Engine | SyncConnection: ...

    @abstractmethod
    def _take_turn(self, session: Session) -> None: ...

    @abstractmethod
    def _give_turn(self) -> None: ...

    async def _save_class_arrangements(self) -> None:
        for session in self.worker.class_sessions:
            await session.commit()
        if self.worker.class_sessions and self.worker.used:
            await self.worker.database.save_baseline()
            self.worker.used.clear()

    def _end_idle_transactions(self) -> None:
        """Ends what the test's own sessions have only read, as it would see old data otherwise."""
        for session in self._sessions:
            transaction = session.get_transaction()
            if transaction is None or transaction.nested or _in_context_manager(session):
                continue
            if session.info.get("has_written"):
                warnings.warn(
                    UncommittedChanges(
                        "The test has written through its session without a commit, and the "
                        "application now begins a transaction. In production it would not see "
                        "these changes: add `await session.commit()` before."
                    ),
                    stacklevel=2,
                )
            elif not (session.new or session.dirty or session.deleted):
                session.commit()


class Rollback(Isolation):
    join_transaction_mode = "create_savepoint"

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        self.bind = worker.connection
        self.commit_check = worker.database.commit_check
        self._joined: SyncConnection | None = None
        self._turn = asyncio.Lock()
        self._turn_of: asyncio.Task[Any] | None = None

    async def _enter(self) -> None:
        if self.worker.connection.in_transaction():  # an earlier test could not be ended
            await self.worker.reconnect()
            self.bind = self.worker.connection
        self._outer = await self.worker.connection.begin()

    async def _leave(self) -> None:
        if self._joined is not None:
            self._joined.close()
        await self._outer.rollback()

    def _sync_bind(self) -> SyncConnection:
        if self._joined is None:
            self._joined = self.worker.database.sync_engine(self.worker.connection).connect()
            self._joined.begin()
        return self._joined

    # Savepoints of one connection nest, so only one task at a time may use them.

    def _take_turn(self, session: Session) -> None:
        task = asyncio.current_task()
        if self._turn_of is not task:
            await_only(self._wait_for_turn())
            self._turn_of = task

    async def _wait_for_turn(self) -> None:
        if not self._turn.locked():
            await self._turn.acquire()
            return
        try:
            async with asyncio.timeout(TURN_TIMEOUT):
                await self._turn.acquire()
        except TimeoutError:
            raise RuntimeError(
                f"Another task has kept a transaction open for {TURN_TIMEOUT:g} s "
                f"(begun at {', '.join(self._admitted.values())}). With the isolation `rollback` "
                "all tasks share one connection and take turns; mark the test with "
                "`@pytest.mark.committed` if they have to run at the same time."
            ) from None

    def _give_turn(self) -> None:
        if not self._admitted:
            self._turn_of = None
            self._turn.release()


class Committed(Isolation):
    join_transaction_mode = "conditional_savepoint"  # SQLAlchemy's default

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        self.bind = worker.engine

    async def _enter(self) -> None:
        pass

    async def _leave(self) -> None:
        pass

    def _sync_bind(self) -> Engine:
        return self.worker.database.sync_engine(None)

    def _take_turn(self, session: Session) -> None:
        pass

    def _give_turn(self) -> None:
        pass


def _in_context_manager(session: Session) -> bool:
    return getattr(session, "_trans_context_manager", None) is not None


async def _let_go(session: AsyncSession) -> None:
    """Ends the session's transaction. Its objects keep their attributes, unlike after a rollback."""
    if session.info.get("has_written") or session.new or session.dirty or session.deleted:
        await session.close()
    elif session.in_transaction():
        await session.commit()
