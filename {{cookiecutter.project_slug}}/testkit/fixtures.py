"""Pytest plugin with the fixtures and options of the test kit.

The project tells it about its database by calling `use_database()` in its own `pytest_configure`.
"""

import asyncio
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from inspect import iscoroutinefunction
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from testkit.databases import (
    DatabaseSetup,
    ResetError,
    TemplateError,
    WorkerDatabase,
    describe_database,
    import_backend,
    open_worker_database,
    prepare,
)
from testkit.eager import run
from testkit.engines import keep_closed, rewire_sync, wired_engine
from testkit.examples import has_examples, isolated_examples
from testkit.greenlets import in_greenlet
from testkit.interruptions import Uninterrupted
from testkit.isolation import Committed, Isolation, Rollback, Worker
from testkit.performance.bookkeeper import DATABASE
from testkit.performance.counters import isolating, waiting_for_others
from testkit.sessions import ObservingSession, joined, made_by
from testkit.supervision import EARLIER_TASKS, fail, set_up_once

ISOLATIONS: dict[str, type[Isolation]] = {"committed": Committed, "rollback": Rollback}
SETUP = pytest.StashKey[DatabaseSetup]()
UNBOUND = (
    "The test kit does not know your database: call `use_database(config, SETUP)` of `testkit.fixtures` "
    "in a `pytest_configure`."
)
IN_ASYNC_CODE = (
    "A fixture of the database is asked for while the event loop runs, by `request.getfixturevalue` in async code. "
    "Name it as an argument of the test or of the fixture."
)
WORKER = pytest.StashKey[Worker]()
LAST_ISOLATED = pytest.StashKey[pytest.Item]()

# Fixtures that give a test access to the database, but cannot request its isolation because their scope is wider.
NEEDS_ISOLATION = frozenset({"app", "class_session", "engine", "worker_database"})


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("testkit", "the test kit")
    group.addoption(
        "--db-driver",
        choices=("inline", "threaded"),
        default="inline",
        help="how the database's driver works: fast and made for tests, or as in production",
    )
    parser.addini(
        "db_isolation", "how tests are undone: `committed` or `rollback`", default="committed"
    )


def pytest_configure(config: pytest.Config) -> None:
    isolation = config.getini("db_isolation")
    if isolation not in ISOLATIONS:
        raise pytest.UsageError(
            f"db_isolation is {isolation!r}; write `committed` or `rollback` instead"
        )


def use_database(config: pytest.Config, setup: DatabaseSetup) -> None:
    if setup.migrations is not None and not setup.migrations.is_dir():
        raise pytest.UsageError(
            f"`DatabaseSetup.migrations` is {setup.migrations}, and there is no such folder."
        )
    config.stash[SETUP] = setup
    for engine in (wired_engine(setup.create_engine), *setup.sync_engines):
        if engine is not None:
            keep_closed(engine)
    config.stash[DATABASE] = make_url(setup.url).get_backend_name()
    import_backend(setup)  # before anything blocks sockets


def setup_of(config: pytest.Config) -> DatabaseSetup:
    if SETUP not in config.stash:
        raise pytest.UsageError(UNBOUND)
    return config.stash[SETUP]


def pytest_report_header(config: pytest.Config) -> str:
    return f"database: {describe_database(setup_of(config))}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    # What all workers need is made once here, and problems with it are reported once.
    prepared = ExitStack()
    config.add_cleanup(prepared.close)
    with _ends_the_run(config):
        prepared.enter_context(prepare(setup_of(config), config))


def pytest_itemcollected(item: pytest.Item) -> None:
    if not isinstance(item, pytest.Function):
        return
    names = item.fixturenames
    if "database_isolation" in names:
        names.remove("database_isolation")
    elif NEEDS_ISOLATION.isdisjoint(names):
        return
    # First of its scope, except for the fixture that watches over all tests: before anything connects.
    names.insert(names.index("nothing_left_running") + 1, "database_isolation")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Keeps tests without isolation away from the database: the next test would find their rows."""
    worker = item.config.stash.get(WORKER, None)
    if worker is None or "database_isolation" in getattr(item, "fixturenames", ()):
        return (yield)
    worker.refuses_connections = True
    try:
        return (yield)
    finally:
        worker.refuses_connections = False


@pytest.fixture(scope="session")
def worker_database(request: pytest.FixtureRequest) -> Iterator[WorkerDatabase]:
    """This process's own migrated database. Takes about 10 ms, or 1 s when migrations have changed."""
    with (
        _ends_the_run(request.config),
        open_worker_database(setup_of(request.config), request.config) as database,
    ):
        yield database


@contextmanager
def _ends_the_run(config: pytest.Config) -> Iterator[None]:
    """Ends the run if there is no database, as no test could run; the problem is reported once."""
    try:
        yield
    except (TemplateError, OSError) as error:
        terminal = config.pluginmanager.get_plugin("terminalreporter")
        capture = config.pluginmanager.get_plugin("capturemanager")
        if terminal is not None and capture is not None:  # not in an xdist worker
            with capture.global_and_fixture_disabled():
                terminal.line("")
                terminal.section("there is no database to test with", red=True)
                terminal.line(_in_words(error))
        pytest.exit("there is no database to test with", pytest.ExitCode.TESTS_FAILED)


def _in_words(error: TemplateError | OSError) -> str:
    if isinstance(error, TemplateError):
        return str(error)
    place = f" ({error.filename})" if error.filename else ""
    return (
        f"The tests cannot keep their database on this machine{place}: {error.strerror or error}."
    )


@pytest.fixture(scope="session")
def database_worker(
    request: pytest.FixtureRequest, session_loop: asyncio.AbstractEventLoop
) -> Iterator[Worker]:
    setup = setup_of(request.config)
    database: WorkerDatabase = request.getfixturevalue("worker_database")
    try:
        engine = setup.create_engine(database.url, **database.engine_options)
    except pytest.UsageError as error:  # the same for every test, so report it once
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)
    if engine.url.render_as_string(hide_password=False) != database.url:
        pytest.exit(
            f"The engine of the tests is connected to {engine.url!r}, which is not theirs. "
            "The `create_engine` that `use_database` was given must use the URL that it gets.",
            returncode=pytest.ExitCode.USAGE_ERROR,
        )
    with made_by(setup.sessionmaker) as sessionmaker:
        worker = Worker(database, engine, sessionmaker, session_loop)
        for sync_engine in setup.sync_engines:
            rewire_sync(sync_engine, database.url)
            worker.observe(sync_engine)
        with Uninterrupted():
            session_loop.run_until_complete(worker.start())
        request.config.stash[WORKER] = worker
        yield worker
        del request.config.stash[WORKER]
        _finish_cleaning(request.config, worker)
        with Uninterrupted():
            session_loop.run_until_complete(worker.stop())


@pytest.fixture(scope="session")
def engine(database_worker: Worker) -> AsyncEngine:
    """The worker's engine. Whatever is committed through it is undone, even with `rollback`."""
    return database_worker.engine


@pytest.fixture
def database_isolation(request: pytest.FixtureRequest) -> Iterator[Isolation]:
    """Undoes everything the test does to the database. Takes about 0.2 ms; usually requested by other fixtures."""
    item: pytest.Item = request.node
    loop: asyncio.AbstractEventLoop = set_up_once(request, "session_loop")
    if loop.is_running():
        pytest.fail(IN_ASYNC_CODE, pytrace=False)
    worker: Worker = set_up_once(request, "database_worker")
    with isolating():
        with waiting_for_others():
            _finish_cleaning(request.config, worker)
        isolation = _isolation_class(item)(worker)
        worker.refuses_connections = False  # it is set if the test requests this in its body
        run(loop, isolation.begin())
    earlier_tasks = item.stash[EARLIER_TASKS]
    with ExitStack() as examples:
        if has_examples(item):
            examples.enter_context(isolated_examples(item, isolation, earlier_tasks))
        yield isolation
    with isolating():
        request.config.stash[LAST_ISOLATED] = item
        leaks = run(loop, isolation.end(earlier_tasks))
    if leaks:
        fail(item, leaks)


def _isolation_class(item: pytest.Item) -> type[Isolation]:
    if has_examples(item):  # each example is undone by a reset
        return Committed
    for marker in item.iter_markers():  # the closest one first
        if marker.name in ISOLATIONS:
            return ISOLATIONS[marker.name]
    return ISOLATIONS[item.config.getini("db_isolation")]


def _finish_cleaning(config: pytest.Config, worker: Worker) -> None:
    """Waits until the last test is undone. If that is impossible, reports that test as failed, although pytest has
    already finished with it."""
    try:
        run(worker.loop, worker.finish_cleaning())
    except ResetError as error:
        item = config.stash[LAST_ISOLATED]
        call = pytest.CallInfo.from_call(partial(fail, item, [str(error)]), "teardown")
        report = pytest.TestReport.from_item_and_call(item, call)
        item.ihook.pytest_runtest_logreport(report=report)
        # Whatever held the lock has been ended by now, if that was possible.
        run(worker.loop, worker.finish_cleaning())


@pytest.fixture(
    params=[
        pytest.param("committed", marks=pytest.mark.committed),
        pytest.param("rollback", marks=pytest.mark.rollback),
    ]
)
def each_isolation(request: pytest.FixtureRequest) -> str:
    """Runs the test once in each isolation."""
    isolation: str = request.param
    return isolation


@pytest.fixture
def session(database_isolation: Isolation) -> AsyncSession:
    """A session for arranging and asserting. Requests use sessions of their own, so commit what they should see. It
    always reads what the database holds now, never what it remembers."""
    return database_isolation.session()


@pytest.fixture
def sync_session(request: pytest.FixtureRequest, database_isolation: Isolation) -> Session:
    """A plain `Session` on the same data, for sync code; in async fixtures, use `session`."""
    if iscoroutinefunction(request.node.obj):
        request.node.obj = in_greenlet(request.node.obj)
    return database_isolation.sync_session()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Undoes what a parametrized class-scoped fixture arranged for one parameter before it arranges rows for the next.

    Only works for fixtures that request `class_session` directly.
    """
    worker = request.config.stash.get(WORKER, None)
    is_of_a_class = fixturedef.scope == "class" and "class_session" in fixturedef.argnames
    if worker is not None and is_of_a_class and hasattr(request, "param"):
        run(worker.loop, worker.begin_class_rows())
        fixturedef.addfinalizer(lambda: run(worker.loop, worker.forget_class_rows()))
    return (yield)


@pytest_asyncio.fixture(scope="class")
async def class_session(database_worker: Worker) -> AsyncIterator[AsyncSession]:
    """A session for arranging expensive rows once per class, in a class-scoped fixture.

    Every test of the class sees them, and is undone back to them. The tests themselves read and write through
    `session` and `client`. Costs a few milliseconds per class.
    """
    await database_worker.push_baseline()
    maker = database_worker.sessionmaker
    session = maker.class_(
        database_worker.engine.execution_options(read_only=True),
        sync_session_class=joined(ObservingSession, maker),
        expire_on_commit=False,
    )
    database_worker.class_sessions.append(session)
    yield session
    database_worker.class_sessions.remove(session)
    await session.close()
    await database_worker.pop_baseline()
