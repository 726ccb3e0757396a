"""The two kinds of sessions in a test: the test's own, and the application's."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, Protocol, TypeVar

import pytest
from sqlalchemy import TextClause, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction

READS = re.compile(r"\s*(SELECT|WITH|VALUES|EXPLAIN|PRAGMA|SHOW)\b", re.IGNORECASE)


LOCKS = re.compile(
    r"\bFOR\s+(NO\s+KEY\s+UPDATE|UPDATE|KEY\s+SHARE|SHARE)\b|pg_(try_)?advisory_",
    re.IGNORECASE,
)


class Judge(Protocol):
    """What a session reports to the isolation that it belongs to."""

    commit_check: str | None

    def note_made(self, session: Session) -> None:
        """Called when the application has created a session."""

    def admit(self, session: Session) -> None:
        """Called when a session of the application is about to send a statement."""

    def note_begin_of_commit(self, session: Session) -> None:
        """Called when a session of the application is about to commit."""

    def note_commit(self, session: Session) -> None:
        """Called when a session of the application has committed, by releasing a savepoint."""

    def dismiss(self, session: Session) -> None:
        """Called when the transaction of a session of the application has ended."""


def _judge(session: Session) -> Judge:
    judge: Judge = session.info["isolation"]
    return judge


def _busy(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(session: Any, *args: Any, **kwargs: Any) -> Any:
        was_busy, session.is_busy = session.is_busy, True
        try:
            return method(session, *args, **kwargs)
        finally:
            session.is_busy = was_busy

    return call


class ObservingSession(Session):
    """A session of the test itself. It always reads what the database holds now.

    Answers from the identity map would hide what the application did or failed to do.
    """

    is_busy = False
    """Whether it is waiting for the database; what other tasks see of it meanwhile is not its final state."""

    commit = _busy(Session.commit)
    execute = _busy(Session.execute)
    flush = _busy(Session.flush)
    refresh = _busy(Session.refresh)
    scalar = _busy(Session.scalar)
    scalars = _busy(Session.scalars)

    @_busy
    def get(self, *args: Any, **kwargs: Any) -> Any:
        return super().get(*args, **self._afresh(kwargs))

    @_busy
    def get_one(self, *args: Any, **kwargs: Any) -> Any:
        return super().get_one(*args, **self._afresh(kwargs))

    def _afresh(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        # Changes that have not been flushed would be overwritten.
        return kwargs if self.dirty else kwargs | {"populate_existing": True}


class ApplicationSession(Session):
    """A session of the application. The isolation admits it before its transaction reaches the database."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _judge(self).note_made(self)

    def get_bind(self, *args: Any, **kwargs: Any) -> Any:
        _judge(self).admit(self)
        return super().get_bind(*args, **kwargs)


class SavepointSession(ApplicationSession):
    """An application session whose commits release a savepoint. Records whether there was anything to commit."""

    def connection(self, *args: Any, **kwargs: Any) -> Any:
        # The session does not see what is sent through this connection directly, so assume a write.
        if not (kwargs.get("execution_options") or {}).get("read_only"):
            self.info["has_written"] = True
        return super().connection(*args, **kwargs)


Kind = TypeVar("Kind", bound=Session)


def joined(kind: type[Kind], maker: async_sessionmaker[Any]) -> type[Kind]:
    """Returns a class that derives from `kind` and from the application's session class, which may have methods of
    its own, such as `exec()` of SQLModel."""
    base = maker.class_.sync_session_class
    given = maker.kw.get("sync_session_class")
    is_ours = given is None or issubclass(given, ApplicationSession)
    joined: type[Kind] = _joined(kind, base if is_ours else given)  # type: ignore[arg-type]
    return joined


@cache
def _joined(kind: Any, base: type[Session]) -> Any:
    return kind if issubclass(kind, base) else type(kind.__name__, (kind, base), {})


@contextmanager
def made_by(
    maker: async_sessionmaker[Any] | type[AsyncSession],
) -> Iterator[async_sessionmaker[Any]]:
    """Yields the application's sessionmaker, and restores its configuration afterwards.

    For a session class, yields a sessionmaker whose configuration applies to all of the application's sessions of
    that class, however they are created: by `AsyncSession(engine)`, or by several sessionmakers.
    """
    if isinstance(maker, async_sessionmaker):
        in_production = dict(maker.kw)
        yield maker
        maker.kw = in_production
        return

    everyone: async_sessionmaker[Any] = async_sessionmaker(class_=maker)
    everyone.kw.clear()  # its own defaults must not apply to other sessions
    create = maker.__init__

    def configured(session: AsyncSession, bind: Any = None, **options: Any) -> None:
        of_tests = issubclass(options.get("sync_session_class") or Session, ObservingSession)
        if not of_tests and everyone.kw.get("bind") is not None:
            configuration = dict(everyone.kw)
            of_test = configuration.pop("bind")
            bind = _bind_of_test(bind, of_test)
            if bind is not of_test:  # a connection of the application, which it joins as it likes
                del configuration["join_transaction_mode"]
            information = (options.get("info") or {}) | configuration.pop("info")
            options |= configuration | {"info": information}
        create(session, bind, **options)

    patch = pytest.MonkeyPatch()
    patch.setattr(maker, "__init__", configured)
    yield everyone
    patch.undo()


def _bind_of_test(given: Any, of_test: AsyncEngine | AsyncConnection) -> Any:
    """Returns what a session is bound to in the current test. Where commits are real, a connection that the application
    has opened itself keeps its transaction, and an engine with other options keeps them."""
    if isinstance(of_test, AsyncConnection):  # the one of `rollback`
        return of_test
    if isinstance(given, AsyncEngine) and given.sync_engine.pool is not of_test.sync_engine.pool:
        return of_test
    return given or of_test


def has_written(session: Session) -> bool:
    """Whether the session's transaction may have changed something, as far as the session knows."""
    return bool(session.info.get("has_written"))


def has_locked(session: Session) -> bool:
    """Whether the session's transaction may hold locks that block others."""
    return bool(session.info.get("has_locked"))


def unflushed(session: Session) -> list[object]:
    """Returns the objects that were added, changed or deleted but have not been sent to the database yet."""
    changed = [instance for instance in session.dirty if session.is_modified(instance)]
    return [*session.new, *changed, *session.deleted]


@event.listens_for(ObservingSession, "do_orm_execute")
def _read_afresh(state: ORMExecuteState) -> None:
    if state.is_select:
        state.update_execution_options(populate_existing=True)


def _note_statement(state: ORMExecuteState) -> None:
    statement = state.statement
    is_raw_lock = isinstance(statement, TextClause) and LOCKS.search(statement.text)
    if is_raw_lock or getattr(statement, "_for_update_arg", None) is not None:
        state.session.info["has_locked"] = True
    reads = isinstance(statement, TextClause) and READS.match(statement.text)
    if not state.is_select and not reads:
        state.session.info["has_written"] = True


def _note_flush(session: Session, _context: object) -> None:
    session.info["has_written"] = True


def _end_transaction(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info["has_written"] = session.info["has_locked"] = False


def _check_as_a_commit_does(session: Session) -> None:
    check = _judge(session).commit_check if "isolation" in session.info else None
    if check is not None and not session.in_nested_transaction():
        session.flush()
        Session.connection(session).exec_driver_sql(check)


@event.listens_for(SavepointSession, "after_commit")
def _note_commit(session: Session) -> None:
    if not session.in_nested_transaction():
        _judge(session).note_commit(session)


@event.listens_for(ApplicationSession, "after_transaction_end")
def _dismiss(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        _judge(session).dismiss(session)


@event.listens_for(ApplicationSession, "before_commit")
def _note_begin_of_commit(session: Session) -> None:
    if not session.in_nested_transaction():
        _judge(session).note_begin_of_commit(session)


for session_class in (ObservingSession, ApplicationSession):
    event.listen(session_class, "do_orm_execute", _note_statement)
    event.listen(session_class, "after_flush", _note_flush)
    event.listen(session_class, "after_transaction_end", _end_transaction)
for session_class in (ObservingSession, SavepointSession):
    event.listen(session_class, "before_commit", _check_as_a_commit_does)
