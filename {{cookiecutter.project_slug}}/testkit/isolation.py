"""The two ways of undoing a test.

`Committed`, the default: commits are real, on the engine's real pool. Afterwards the database is reset.

`Rollback`: the test runs inside one outer transaction, which is rolled back. Sessions join it with
savepoints of their own, so that `commit()`, `rollback()` and an `IntegrityError` mean to the
application what they mean in production (SQLAlchemy documents this as "Joining a Session into an
External Transaction", with `join_transaction_mode="create_savepoint"`). Where a single connection cannot
behave as in production, the problem is reported by name.

In both cases, whatever the test left open is closed, and reported with the place where it was opened.
"""

import asyncio
import sys
import threading
import warnings
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

from sqlalchemy import Connection as SyncConnection
from sqlalchemy import Engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only, greenlet_spawn

from testkit.call_site import call_site
from testkit.databases import ResetError, WorkerDatabase
from testkit.eager import Eager
from testkit.engines import refuse
from testkit.faults import note_fault
from testkit.leftovers import Task, finish_tasks, lineage, responsible_task
from testkit.sessions import (
    ApplicationSession,
    ObservingSession,
    SavepointSession,
    has_locked,
    has_written,
    joined,
    unflushed,
)

TURN_TIMEOUT = 5.0  # seconds


class RequestsOverlapped(UserWarning):
    """With `rollback`, transactions that should have overlapped ran one after the other."""


class LateCommit(UserWarning):
    """A client got its response before the changes behind it were committed."""


class HeldTransaction(UserWarning):
    """A transaction stays open for as long as a client stays connected."""


class Begun(NamedTuple):
    """Where a transaction of the application was begun, and by which task."""

    place: str
    task: Task | None


class Worker:
    """What one process keeps for all its tests: its database, the engine, and the connection
    that carries the outer transaction of `Rollback`."""

    def __init__(
        self,
        database: WorkerDatabase,
        engine: AsyncEngine,
        sessionmaker: async_sessionmaker[Any],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.loop = loop
        self.database = database
        self.engine = engine
        self.sessionmaker = sessionmaker
        self.connection: AsyncConnection | None = None
        self.class_sessions: list[AsyncSession] = []
        self.checked_out: dict[ConnectionPoolEntry, str] = {}
        """Connections in use, each with the place that opened it."""
        self.used: set[ConnectionPoolEntry] = set()
        """Connections that were in use since the last reset."""
        self.outdated: set[ConnectionPoolEntry] = set()
        """Connections in use whose pool was disposed of, and will close them no more."""
        self.cleaning: Eager[None] | None = None
        """The cleaning in progress: it undoes the last test while pytest prepares the next one."""
        self.was_reconnected = False
        self.is_clean = True
        self.refuses_connections = False
        """Whether the running test has no isolation, so that nothing would undo what it writes."""

    async def start(self) -> None:
        await self.database.start(self.engine)
        pool = self.engine.sync_engine.pool
        event.listen(pool, "checkout", self._note_checkout)
        event.listen(pool, "checkin", self._note_checkin)
        event.listen(pool, "detach", self._note_checkin)
        event.listen(self.engine.sync_engine, "engine_disposed", self._note_disposal)

    def observe(self, sync_engine: Engine) -> None:
        """Holds a sync engine of the application to the same rules. Its pool keeps no connections."""
        event.listen(sync_engine.pool, "checkout", self._note_sync_checkout)
        event.listen(sync_engine.pool, "checkin", self._note_checkin)
        event.listen(sync_engine.pool, "detach", self._note_checkin)

    async def connect(self) -> AsyncConnection:
        """Returns the connection of the outer transaction, opened if necessary. It belongs to no test."""
        if self.connection is None:
            earlier = self.checked_out.copy(), self.used.copy()
            await asyncio.sleep(0)  # drivers connect only while the event loop runs
            self.connection = await self.engine.connect()
            self.checked_out, self.used = earlier
            # An engine that knows the option takes no write lock before the first write.
            await self.connection.execution_options(read_only=True)
        return self.connection

    async def disconnect(self) -> None:
        """Drops the connection of the outer transaction, whatever state a test left it in."""
        if self.connection is not None:
            await asyncio.sleep(0)
            await self.connection.invalidate()
            await self.connection.close()
            self.connection = None
            self.was_reconnected = True

    def begin_cleaning(self) -> None:
        """Starts to undo everything that was committed, on any connection; what takes longer continues later."""
        self.is_clean = False
        self.cleaning = Eager(self._clean())

    async def finish_cleaning(self) -> None:
        """Waits until the database is clean. Raises `ResetError` if a lock prevents that."""
        if self.cleaning is not None:
            cleaning, self.cleaning = self.cleaning, None
            await cleaning
        elif not self.is_clean:
            await self._clean()

    async def _clean(self) -> None:
        renewing = Eager(self.database.renew(self.used - self.checked_out.keys()))
        committed = bool(self.used) or self.was_reconnected
        is_same = await self.database.reset(committed=committed)
        await renewing
        if not is_same:
            await self._reconnect_all()
        self.used.clear()
        self.was_reconnected = False
        self.is_clean = True

    async def push_baseline(self) -> None:
        await self.finish_cleaning()
        await self.database.push_baseline()

    async def pop_baseline(self) -> None:
        await self.finish_cleaning()
        if not await self.database.pop_baseline():
            await self._reconnect_all()

    async def begin_class_rows(self) -> None:
        """Begins a new baseline, so that what class sessions arrange from now on can be undone separately."""
        for session in self.class_sessions:
            await session.commit()
        await self.finish_cleaning()
        await self.database.save_baseline()
        await self.push_baseline()

    async def forget_class_rows(self) -> None:
        for session in self.class_sessions:
            await session.rollback()
            session.expunge_all()
        await self.pop_baseline()

    async def _reconnect_all(self) -> None:
        await self.engine.dispose()
        await self.disconnect()

    async def stop(self) -> None:
        await self.disconnect()
        await self.engine.dispose()
        await self.database.stop()

    def _note_checkout(self, _raw: Any, entry: ConnectionPoolEntry, _fairy: Any) -> None:
        if self.refuses_connections:
            refuse()
        self.used.add(entry)
        self.checked_out[entry] = call_site()

    def _note_sync_checkout(self, _raw: Any, entry: ConnectionPoolEntry, _fairy: Any) -> None:
        thread = threading.current_thread()
        if (
            thread is not threading.main_thread()
            and asyncio._get_running_loop() is not self.loop
            and not thread.name.startswith("AnyIO worker")  # of a route that is not async
        ):
            return  # it works for no test, or for several
        if self.refuses_connections:
            refuse()
        self.checked_out[entry] = call_site()

    def _note_checkin(self, _raw: Any, entry: ConnectionPoolEntry) -> None:
        self.checked_out.pop(entry, None)
        if entry in self.outdated:
            self.outdated.remove(entry)
            entry.invalidate()

    def _note_disposal(self, _engine: Engine) -> None:
        self.outdated.update(self.checked_out)


class Isolation:
    """One test's view of the worker database, from `begin()` to `end()`."""

    bind: AsyncEngine | AsyncConnection
    commit_check: str | None = None
    keeps_locks = False
    """Whether a row that one session has locked is locked for other sessions."""
    join_transaction_mode: Literal["create_savepoint", "conditional_savepoint"]
    session_class: type[ApplicationSession]

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._sessions: list[ObservingSession] = []
        self._admitted: dict[Session, Begun] = {}
        """The application's open transactions."""
        self._answered: dict[Session, str] = {}
        """Sessions that had something to commit when the response was complete, each with a sentence that says so."""
        self._makers: WeakKeyDictionary[Session, Task | None] = WeakKeyDictionary()
        """The task in which each session of the application was created."""
        self._suspected: set[Session] = set()

    async def begin(self) -> None:
        """Prepares everything for the test. The database must be clean."""
        await self._save_class_arrangements()
        self._earlier_connections = frozenset(self.worker.checked_out)
        await self._enter()
        self._configuration = dict(self.worker.sessionmaker.kw)
        self.worker.sessionmaker.configure(
            bind=self.bind,
            join_transaction_mode=self.join_transaction_mode,
            sync_session_class=joined(self.session_class, self.worker.sessionmaker),
            info={"isolation": self},
        )

    def session(self) -> AsyncSession:
        """A session for the test itself."""
        maker = self.worker.sessionmaker
        session: AsyncSession = maker.class_(
            self.bind,
            sync_session_class=joined(ObservingSession, maker),
            join_transaction_mode=self.join_transaction_mode,
            expire_on_commit=False,
            info={"isolation": self},
        )
        observing = session.sync_session
        assert isinstance(observing, ObservingSession)
        self._sessions.append(observing)
        return session

    def sync_session(self) -> Session:
        """Returns a session for the test itself, for sync code."""
        session = joined(ObservingSession, self.worker.sessionmaker)(
            self._sync_bind(),
            join_transaction_mode=self.join_transaction_mode,
            expire_on_commit=False,
            info={"isolation": self},
        )
        self._sessions.append(session)
        return session

    def note_made(self, session: Session) -> None:
        """Records the task in which a session of the application was created."""
        self._makers[session] = None if asyncio._get_running_loop() is None else responsible_task()

    def admit(self, session: Session) -> None:
        """Called in SQLAlchemy's greenlet, before every statement of the application."""
        if session not in self._admitted:
            self._take_turn()
            self._admitted[session] = Begun(call_site(), responsible_task())
            self._end_idle_transactions()

    def note_commit(self, session: Session) -> None:
        """Called after a commit, if it released a savepoint."""

    def note_answer(self, what: str, task: Task) -> None:
        """Records which sessions of this task still have something to commit, now that its response is complete."""
        tasks = lineage(task)
        for session, maker in list(self._makers.items()):
            if maker in tasks and (has_written(session) or unflushed(session)):
                self._answered[session] = what

    def note_begin_of_commit(self, session: Session) -> None:
        """Warns if the client already has its response."""
        what = self._answered.pop(session, None)
        if what is not None and (has_written(session) or unflushed(session)):
            warnings.warn(
                LateCommit(
                    f"{what} before its transaction was committed, at {call_site()}: the client can ask for "
                    "what is not there yet, and is never told if the commit fails. Commit before the route returns."
                ),
                stacklevel=2,
            )

    def dismiss(self, session: Session) -> None:
        self._answered.pop(session, None)
        self._suspected.discard(session)
        if self._admitted.pop(session, None) is not None:
            self._give_turn()

    def note_outside_call(self, what: str, fakes: str) -> None:
        """Fails the test if the current task has a transaction open while it waits for an external service."""
        for place in self._open_transactions({responsible_task()}):
            note_fault(
                f"{what} is called, at {call_site(fakes)}, while the transaction that was begun at "
                f"{place} is open: its connection is held as long as the service outside takes, "
                "and its locks as well. End it before: `await session.commit()`."
            )

    def note_wait(self, what: str, task: Task) -> None:
        """Warns if `task`, or a task between it and the current one, has a transaction open.

        Also warns if another task uses a session created by one of these, in a transaction that was already open
        when this was last called.
        """
        tasks = lineage(task)
        places = self._open_transactions(tasks)
        for session, begun in self._admitted.items():
            if begun.task not in tasks and self._makers.get(session) in tasks:
                if session in self._suspected:
                    places.append(begun.place)
                self._suspected.add(session)
        for place in places:
            warnings.warn(
                HeldTransaction(
                    f"{what} while the transaction that was begun at {place} is open: its connection "
                    "is held as long as the client stays, and its locks as well. End it before, with "
                    "`await session.commit()`, or write `async with sessionmaker() as session` around "
                    "each use."
                ),
                stacklevel=2,
            )

    def _open_transactions(self, tasks: set[Task | None]) -> list[str]:
        """Returns where the open transactions of these tasks were begun."""
        return [begun.place for begun in self._admitted.values() if begun.task in tasks]

    async def end(self, earlier_tasks: set[Task]) -> list[str]:
        """Closes what the test left open, and begins to undo the test. Returns a description of each leak."""
        leaks = await finish_tasks(self.worker.loop, earlier_tasks)
        for place, _ in self._admitted.values():
            leaks.append(f"a session with an open transaction, begun at {place}")
        if self._admitted or self._connections_in_use():
            await asyncio.sleep(0)  # drivers end connections only while the event loop runs
        if self._admitted:
            for entry in self._connections_in_use():
                leaks[-1] += await self._last_statement(entry)
        try:
            for session in (*self._sessions, *self._admitted):
                await _close(session)
            for class_session in self.worker.class_sessions:
                await _let_go(class_session)
            await self._leave()
        except SQLAlchemyError:  # raw SQL has ended a transaction behind SQLAlchemy's back
            await self.worker.disconnect()
        for entry in self._connections_in_use():
            place = self.worker.checked_out.pop(entry)
            leaks.append(f"a connection, opened at {place}{await self._last_statement(entry)}")
            await greenlet_spawn(entry.invalidate)
        self.worker.sessionmaker.kw.clear()
        self.worker.sessionmaker.configure(**self._configuration | {"bind": None})
        try:
            self.worker.begin_cleaning()
            if leaks:
                await self.worker.finish_cleaning()
        except ResetError as error:
            leaks.append(str(error))
        return leaks

    def _connections_in_use(self) -> set[ConnectionPoolEntry]:
        return self.worker.checked_out.keys() - self._earlier_connections

    async def _last_statement(self, connection: ConnectionPoolEntry) -> str:
        statement = await self.worker.database.last_statement(connection)
        return f", with `{statement}` as its last statement" if statement else ""

    async def _enter(self) -> None:
        pass

    async def _leave(self) -> None:
        pass

    def _sync_bind(self) -> Engine | SyncConnection:
        raise NotImplementedError

    def _take_turn(self) -> None:
        pass

    def _give_turn(self) -> None:
        pass

    async def _save_class_arrangements(self) -> None:
        for session in self.worker.class_sessions:
            await session.commit()
        if self.worker.class_sessions and self.worker.used:
            await self.worker.database.save_baseline()
            self.worker.used.clear()

    def _end_idle_transactions(self) -> None:
        """Ends transactions in which the test's own sessions have only read, as these would see old data otherwise."""
        for session in self._sessions:
            if session.is_busy:  # something in the background is using it
                continue
            if self.keeps_locks and has_locked(session):  # the application should run into them
                continue
            pending = unflushed(session)
            if pending or has_written(session):
                what = f"changed {_named(pending)}" if pending else "written"
                note_fault(
                    f"The test has {what} through its session without a commit, and then the "
                    f"application began a transaction, at {call_site()}. In production it would "
                    "not see these changes: write `await session.commit()` before."
                )
                if has_written(session):  # else the application would wait for its locks
                    session.rollback()
                continue
            transaction = session.get_transaction()
            if transaction is not None and not transaction.nested and not _has_owner(session):
                session.commit()


class Committed(Isolation):
    join_transaction_mode = "conditional_savepoint"  # SQLAlchemy's default
    session_class = ApplicationSession

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        self.bind = worker.engine
        self.keeps_locks = worker.database.has_row_locks

    def _sync_bind(self) -> Engine:
        return self.worker.database.sync_engine(None)


class Rollback(Isolation):
    join_transaction_mode = "create_savepoint"
    session_class = SavepointSession

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)
        self.commit_check = worker.database.commit_check
        self._joined: SyncConnection | None = None
        self._turn = asyncio.Lock()
        self._turn_of: asyncio.Task[Any] | None = None
        self._has_overlapped = False
        self._commits_inside: dict[Session, list[str]] = {}
        """For each open transaction of the application, the places where others have committed meanwhile."""

    async def _enter(self) -> None:
        self.bind = await self.worker.connect()
        if self.bind.in_transaction():  # an earlier test could not be ended
            await self.worker.disconnect()
            self.bind = await self.worker.connect()
        self._outer = await self.bind.begin()

    async def _leave(self) -> None:
        if self._joined is not None:
            self._joined.close()
        await self._outer.rollback()

    def _sync_bind(self) -> SyncConnection:
        if self._joined is None:
            self._joined = self.worker.database.sync_engine(self.worker.connection).connect()
            self._joined.begin()
        return self._joined

    # When two transactions overlap, the later one is a savepoint within the earlier one.

    def note_commit(self, session: Session) -> None:
        kept = self._commits_inside.pop(session, [])
        if has_written(session):
            kept.append(call_site())
        admitted = list(self._admitted)
        older = admitted[: admitted.index(session)] if session in self._admitted else admitted
        if kept and older:
            self._commits_inside.setdefault(older[-1], []).extend(kept)

    def dismiss(self, session: Session) -> None:
        for commit in self._commits_inside.pop(session, []):
            note_fault(
                f"The commit at {commit} was undone by the rollback at {call_site()}, as both "
                "transactions share one connection in a test with `rollback`. In production it "
                "would have stayed: mark the test with `@pytest.mark.committed`."
            )
        super().dismiss(session)

    # Savepoints of one connection nest, so only one task at a time may use them.

    def _take_turn(self) -> None:
        task = responsible_task()
        if self._turn_of is not task:
            await_only(self._wait_for_turn())
            self._turn_of = task

    async def _wait_for_turn(self) -> None:
        if not self._turn.locked():
            await self._turn.acquire()
            return
        if not self._has_overlapped:
            self._has_overlapped = True
            warnings.warn(
                "Transactions of this test have overlapped and were served in turn, the second one at "
                f"{call_site()}, since it is undone by `rollback`: it cannot show a race or a lock. Mark it "
                "with `@pytest.mark.committed`.",
                RequestsOverlapped,
                stacklevel=2,
            )
        try:
            async with asyncio.timeout(TURN_TIMEOUT):
                await self._turn.acquire()
        except TimeoutError:
            places = ", ".join(begun.place for begun in self._admitted.values())
            raise RuntimeError(
                f"Another task has kept a transaction open for {TURN_TIMEOUT:g} s "
                f"(begun at {places}). With the isolation `rollback` "
                "all tasks share one connection and take turns; mark the test with "
                "`@pytest.mark.committed` if they have to run at the same time."
            ) from None

    def _give_turn(self) -> None:
        if not self._admitted:
            self._turn_of = None
            self._turn.release()


def note_outside_call(sessionmaker: async_sessionmaker[AsyncSession], what: str) -> None:
    """Call it when the application waits for an external service; `what` is the service's method."""
    if (isolation := _isolation_of(sessionmaker)) is not None:
        fakes = sys._getframe(1).f_code.co_filename
        isolation.note_outside_call(f"`{what}`", fakes)


def note_wait(sessionmaker: async_sessionmaker[AsyncSession], what: str, task: Task) -> None:
    """Call it when a route that runs in this task waits, or goes on, for as long as its client stays."""
    if (isolation := _isolation_of(sessionmaker)) is not None:
        isolation.note_wait(what, task)


def note_answer(sessionmaker: async_sessionmaker[AsyncSession], what: str, task: Task) -> None:
    """Call it when the response that this task sends is complete."""
    if (isolation := _isolation_of(sessionmaker)) is not None:
        isolation.note_answer(what, task)


def _isolation_of(sessionmaker: async_sessionmaker[AsyncSession]) -> Isolation | None:
    """Returns the isolation of the current test, if it has one."""
    isolation: Isolation | None = sessionmaker.kw.get("info", {}).get("isolation")
    return isolation


def _named(instances: list[object]) -> str:
    names = sorted({type(instance).__name__ for instance in instances})
    return " and ".join(f"a `{name}`" for name in names)


def _has_owner(session: Session) -> bool:
    """Whether a context manager, `session.begin()`, will end the transaction."""
    return getattr(session, "_trans_context_manager", None) is not None


async def _close(session: Session) -> None:
    if session.in_transaction():
        await greenlet_spawn(session.close)
    elif session.identity_map or session.new:
        session.close()


async def _let_go(session: AsyncSession) -> None:
    """Ends the session's transaction. Its objects keep their attributes, unlike after a rollback."""
    if has_written(session.sync_session) or session.new or session.dirty or session.deleted:
        await session.close()
    elif session.in_transaction():
        await session.commit()
