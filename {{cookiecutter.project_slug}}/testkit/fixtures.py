"""The fixtures and options of the test kit, a pytest plugin.

The project tells it about its database with `use_database()`, in a `pytest_configure` of its own.
"""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from inspect import iscoroutinefunction
from typing import Any

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from testkit.databases import (
    DatabaseSetup,
    WorkerDatabase,
    describe_database,
    import_backend,
    open_worker_database,
    prepare,
)
from testkit.greenlets import in_greenlet
from testkit.isolation import Committed, Isolation, ObservingSession, Rollback, Worker
from testkit.performance.bookkeeper import DATABASE
from testkit.performance.counters import isolating
from testkit.tasks import cancel_tasks

SETUP = pytest.StashKey[DatabaseSetup]()
SET_UP = pytest.StashKey[dict[str, Any]]()

# With these a test reaches the database, but being wider in scope they cannot ask for its isolation.
NEEDS_ISOLATION = frozenset({"app", "engine", "class_session"})


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("testkit", "the test kit")
    group.addoption(
        "--db-driver",
        choices=("inline", "threaded"),
        default="inline",
        help="how the database's driver works: fast and made for tests, or as in production",
    )
    parser.addini(
        "db_isolation", "how tests are undone: `rollback` or `committed`", default="rollback"
    )


def pytest_configure(config: pytest.Config) -> None:
    isolation = config.getini("db_isolation")
    if isolation not in ("rollback", "committed"):
        raise pytest.UsageError(
            f"db_isolation is {isolation!r}; write `rollback` or `committed` instead"
        )


def use_database(config: pytest.Config, setup: DatabaseSetup) -> None:
    config.stash[SETUP] = setup
    config.stash[DATABASE] = make_url(setup.url).get_backend_name()
    import_backend(setup)  # before anybody blocks sockets


def pytest_report_header(config: pytest.Config) -> str:
    return f"database: {describe_database(config.stash[SETUP])}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    # What all workers need is made once, and what is wrong with it is said once.
    prepared = ExitStack()
    config.add_cleanup(prepared.close)
    try:
        prepared.enter_context(prepare(config.stash[SETUP], config))
    except pytest.UsageError:
        raise
    except Exception:
        # A migration that fails, for example. Tests will come across it, and can show it better.
        prepared.close()


def pytest_collection_finish() -> None:
    # What is there now stays until the end. A garbage collector that need not walk it each time
    # makes every test about 8 % shorter.
    gc.collect()
    gc.freeze()


def pytest_itemcollected(item: pytest.Item) -> None:
    if not isinstance(item, pytest.Function) or "database_isolation" in item.fixturenames:
        return
    if NEEDS_ISOLATION.isdisjoint(item.fixturenames):
        return
    # The names are sorted by scope. The isolation comes first in its own.
    fixtures = item._fixtureinfo.name2fixturedefs
    wider = sum(
        name in fixtures and fixtures[name][-1].scope != "function" for name in item.fixturenames
    )
    item.fixturenames.insert(wider, "database_isolation")


def set_up_once(request: pytest.FixtureRequest, name: str) -> Any:
    """A session-scoped fixture, without making it a part of this test.

    Each fixture in a test's closure takes 0.1 ms of it, also when it was set up long ago, and
    pytest keeps a finalizer of 0.5 KB for every test that has it there.
    """
    fixtures = request.config.stash.setdefault(SET_UP, {})
    if name not in fixtures:
        fixtures[name] = request.getfixturevalue(name)
    return fixtures[name]


@pytest.fixture(scope="session")
def worker_database(request: pytest.FixtureRequest) -> Iterator[WorkerDatabase]:
    """This process's own database, migrated. Some 10 ms, or 1 s when migrations have changed."""
    with open_worker_database(request.config.stash[SETUP], request.config) as database:
        yield database


@pytest.fixture(scope="session")
async def session_loop() -> asyncio.AbstractEventLoop:
    """The event loop that all tests share."""
    return asyncio.get_running_loop()


@pytest.fixture(scope="session")
def database_worker(
    request: pytest.FixtureRequest, session_loop: asyncio.AbstractEventLoop
) -> Iterator[Worker]:
    setup = request.config.stash[SETUP]
    database: WorkerDatabase = request.getfixturevalue("worker_database")
    engine = setup.create_engine(database.url, **database.engine_options)
    if engine.url.render_as_string(hide_password=False) != database.url:
        pytest.exit(
            f"The engine of the tests is connected to {engine.url!r}, which is not theirs. "
            "`create_engine` in tests/fixtures/database.py must use the URL that it is given.",
            returncode=pytest.ExitCode.USAGE_ERROR,
        )
    worker = Worker(database, engine, setup.sessionmaker)
    in_production = dict(worker.sessionmaker.kw)
    session_loop.run_until_complete(worker.start())
    yield worker
    session_loop.run_until_complete(worker.stop())
    worker.sessionmaker.kw = in_production


@pytest.fixture(scope="session")
def engine(database_worker: Worker) -> AsyncEngine:
    """The worker's engine. What is committed through it is undone, also without `committed`."""
    return database_worker.engine


@pytest.fixture
def database_isolation(request: pytest.FixtureRequest) -> Iterator[Isolation]:
    """Undoes whatever the test does to the database. About 0.2 ms; other fixtures ask for it."""
    committed = (
        request.node.get_closest_marker("committed") is not None
        or request.config.getini("db_isolation") == "committed"
    )
    loop: asyncio.AbstractEventLoop = set_up_once(request, "session_loop")
    worker: Worker = set_up_once(request, "database_worker")
    isolation = Committed(worker) if committed else Rollback(worker)
    with isolating():
        loop.run_until_complete(isolation.begin())
    yield isolation
    with isolating():
        leaks = loop.run_until_complete(isolation.end())
    if leaks:
        _fail(request, leaks)


@pytest.fixture(params=["rollback", pytest.param("committed", marks=pytest.mark.committed)])
def each_isolation(request: pytest.FixtureRequest) -> str:
    """Runs the test once in each isolation."""
    isolation: str = request.param
    return isolation


@pytest.fixture
def session(database_isolation: Isolation) -> AsyncSession:
    """A session to arrange and to assert with. It is not the one that requests use: commit what
    they should see. It reads what the database holds now, never what it remembers."""
    return database_isolation.session()


@pytest.fixture
def sync_session(request: pytest.FixtureRequest, database_isolation: Isolation) -> Session:
    """A plain `Session` on the same data, for sync code; in async fixtures, use `session`."""
    if iscoroutinefunction(request.node.obj):
        request.node.obj = in_greenlet(request.node.obj)
    return database_isolation.sync_session()


@pytest.fixture(scope="class")
async def class_session(database_worker: Worker) -> AsyncIterator[AsyncSession]:
    """To arrange expensive rows once for a class, in a class-scoped fixture.

    Every test of the class sees them, and is undone back to them. The tests themselves read and
    write through `session` and `client`. Costs some milliseconds for each class.
    """
    await database_worker.database.push_baseline()
    session = AsyncSession(
        database_worker.engine.execution_options(read_only=True),
        sync_session_class=ObservingSession,
        expire_on_commit=False,
    )
    database_worker.class_sessions.append(session)
    yield session
    database_worker.class_sessions.remove(session)
    await session.close()
    await database_worker.pop_baseline()


@pytest.fixture(autouse=True)
def no_tasks_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a task running: on the loop that all tests share, it would go on
    in the middle of the next ones."""
    session_loop: asyncio.AbstractEventLoop = set_up_once(request, "session_loop")
    earlier = asyncio.all_tasks(session_loop)
    yield
    leaks = asyncio.all_tasks(session_loop) - earlier
    if leaks:
        _fail(request, session_loop.run_until_complete(cancel_tasks(leaks)))


def _fail(request: pytest.FixtureRequest, leaks: list[str]) -> None:
    pytest.fail(f"{request.node.nodeid} left open: {'; '.join(leaks)}", pytrace=False)
