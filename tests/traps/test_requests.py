"""What requests do at the same time, after their response, or to what all tests share."""

from tests.projects import Project, sqlite_first
from tests.traps.inner import run_inner

ROUTES = """
    import asyncio
    import logging
    from contextvars import ContextVar
    from typing import Annotated

    import pytest
    from fastapi import BackgroundTasks, Depends, Request, Response
    from sqlalchemy import func, select

    from app.database import SessionDep, sessionmaker
    from app.jobs import enqueue, job
    from tests.fixtures.canaries import Canary
    from tests.isolation.conftest import count_canaries

    TENANT: ContextVar[str] = ContextVar("tenant", default="nobody")
    kept = []
    told = []
    logger = logging.getLogger("app.canaries")


    async def unit_of_work():
        async with sessionmaker() as session:
            yield session
            await session.commit()


    async def tenant():
        TENANT.set("umbrella")


    @job
    async def tell(context):
        told.append(TENANT.get())


    async def add_later(session):
        session.add(Canary(name="later"))
        await session.commit()


    @pytest.fixture
    def routes(app, client):
        @app.post("/gather")
        async def gather(session: SessionDep):
            names = (select(func.max(Canary.name)), select(func.min(Canary.name)))
            return await asyncio.gather(*map(session.scalar, names))

        @app.post("/count")
        async def count(session: SessionDep):
            canary = (await session.scalars(select(Canary))).one()
            await session.commit()
            canary.name = str(int(canary.name) + 1)
            await session.commit()

        @app.post("/task")
        async def task(session: SessionDep):
            kept.append(asyncio.create_task(add_later(session)))

        @app.post("/unit/{how}")
        async def unit(how: str, session: Annotated[object, Depends(unit_of_work)]):
            session.add(Canary(name=how))
            if how == "flushed":
                await session.flush()

        @app.get("/unit")
        async def read(session: Annotated[object, Depends(unit_of_work)]):
            return await count_canaries(session)

        @app.post("/background")
        async def background(session: SessionDep, background: BackgroundTasks):
            session.add(Canary(name="at once"))
            await session.commit()
            background.add_task(add_later, session)

        @app.post("/body")
        async def body(request: Request, background: BackgroundTasks):
            async def read_later():
                told.append(await request.json())

            background.add_task(read_later)

        @app.post("/tenant", dependencies=[Depends(tenant)])
        async def queue(session: SessionDep):
            enqueue(session, tell)
            await session.commit()

        @app.post("/log")
        async def log():
            logger.info("%s was created", "it", extra={"name": "a field of every record"})

        @app.post("/serializable")
        async def serializable(session: SessionDep):
            await session.connection(execution_options={"isolation_level": "SERIALIZABLE"})

        @app.get("/status")
        async def status():
            return Response(status_code=999)


    async def test_session_of_two_tasks(routes, client):
        await client.post("/gather")


    @pytest.mark.committed
    async def test_lost_updates(routes, client, session):
        session.add(Canary(name="0"))
        await session.commit()
        await asyncio.gather(*(client.post("/count") for _ in range(5)))
        assert await session.scalar(select(Canary.name)) == "5"


    async def test_task_with_the_session_of_the_request(routes, client):
        await client.post("/task")


    async def test_commit_after_the_flush(routes, client):
        await client.post("/unit/flushed")
        assert (await client.get("/unit")).json() == 1


    async def test_commit_after_the_response(routes, client):
        await client.post("/unit/added")
        assert (await client.get("/unit")).json() == 1


    async def test_commit_in_the_background(routes, client):
        await client.post("/background")
        assert (await client.get("/unit")).json() == 2


    async def test_body_in_the_background(routes, client):
        await client.post("/body", json={"a": 1})


    async def test_job_with_a_variable_of_the_request(routes, client):
        await client.post("/tenant")
        assert told == ["nobody"]


    async def test_line_of_the_log(routes, client):
        await client.post("/log")


    async def test_status_that_nobody_knows(routes, client):
        await client.get("/status")


    async def test_isolation_level(routes, client, each_isolation):
        await client.post("/serializable")


    async def test_routes_are_gone(client):
        assert (await client.post("/log")).status_code == 404


    async def fail():
        raise ValueError("the index is away")


    async def test_task_that_fails():
        kept.append(asyncio.create_task(fail()))
        await asyncio.sleep(0)


    async def test_task_that_fails_and_is_dropped():
        asyncio.create_task(fail())
        await asyncio.sleep(0.001)


    async def test_task_whose_error_is_awaited():
        kept.append(asyncio.create_task(fail()))
        await asyncio.sleep(0.001)
        with pytest.raises(ValueError, match="away"):
            await kept.pop()
"""
SHARED = """
    import pytest
    from fastapi import Depends, FastAPI

    from app.main import create_app


    def real():
        return "real"


    @pytest.fixture(scope="module")
    def route(app):
        @app.get("/which")
        async def which(value=Depends(real)):
            return value


    @pytest.fixture(scope="class")
    def replaced(app, route):
        app.dependency_overrides[real] = lambda: "of the class"
        app.state.colour = "red"
        yield
        del app.dependency_overrides[real]
        del app.state.colour


    @pytest.mark.usefixtures("replaced")
    class TestReplaced:
        async def test_first(self, client, app):
            assert (await client.get("/which")).json() == "of the class"
            app.dependency_overrides[real] = lambda: "of the test"
            app.state.colour = "blue"
            assert (await client.get("/which")).json() == "of the test"

        async def test_second(self, client, app):
            assert (await client.get("/which")).json() == "of the class"
            assert app.state.colour == "red"
            app.dependency_overrides = {}


    @pytest.fixture(scope="module")
    def wide():
        return 1


    async def test_that_asks_for_a_wide_fixture_later(app, request):
        app.dependency_overrides[real] = lambda: "of the test"
        request.getfixturevalue("wide")


    async def test_after_the_class(route, client, app):
        assert (await client.get("/which")).json() == "real"
        assert not hasattr(app.state, "colour")
        app.state.report_error = None


    async def test_after_that(app):
        assert app.state.report_error is not None


    class TestOwnApplication:
        @pytest.fixture
        def app(self, settings) -> FastAPI:
            return create_app(settings.model_copy(update={"docs": False}))

        async def test_is_used(self, client):
            assert (await client.get("/docs")).status_code == 404


    async def test_and_no_other(client):
        assert (await client.get("/docs")).status_code == 200
"""
SETTINGS = """
    import sys

    import app.settings


    def test_passes():
        pass
"""
OTHER = """

class StripeSettings(BaseSettings):
    model_config = SettingsConfigDict(env_file=".env", extra="ignore")

    stripe_key: str = ""
"""
SLEEPING = """

from time import sleep


async def wait() -> None:
    sleep(0.3)
"""


@sqlite_first
def test_red_where_production_is(copy_of_each: Project) -> None:
    run = run_inner(copy_of_each, ROUTES)

    run.assert_says("test_session_of_two_tasks", "concurrent|in progress")
    run.assert_says("test_lost_updates", "assert '[1-4]' == '5'")
    run.assert_says("test_task_with_the_session_of_the_request", "in progress|left open")
    run.assert_says("test_body_in_the_background", "ClientDisconnect")
    run.assert_says("test_line_of_the_log", "Attempt to overwrite 'name'")
    run.assert_says("test_status_that_nobody_knows", "999 is no status of HTTP")
    run.assert_says("test_isolation_level[rollback]", "With `rollback`, all sessions share one")
    failed = r"the task fail, created at tests/test_inner.py:\d+, which failed, and nobody"
    run.assert_says("test_task_that_fails", failed, "the index is away", kind="error")
    run.assert_says("test_task_that_fails_and_is_dropped", failed, "the index is away")
    run.assert_passed(
        "test_isolation_level[committed]",
        "test_commit_after_the_flush",
        "test_commit_after_the_response",
        "test_commit_in_the_background",
        "test_job_with_a_variable_of_the_request",
        "test_routes_are_gone",
        "test_task_whose_error_is_awaited",
    )
    late = run.output.count("LateCommit: The response to POST /unit/")
    assert (late, run.output.count("LateCommit: ")) == (2, 2)


def test_what_all_tests_share_is_as_before(project: Project) -> None:
    run_inner(project, SHARED).assert_passed()


def test_settings_that_nobody_has_sealed(project: Project) -> None:
    settings = project.path / "app" / "settings.py"
    settings.write_text(
        settings.read_text().replace("import NoDecode", "import BaseSettings, NoDecode") + OTHER
    )

    run = run_inner(project, SETTINGS)

    assert "UnsealedSettings: `StripeSettings` of app.settings reads" in run.output
    assert run.output.count("UnsealedSettings: ") == 1


def test_sleep_that_was_imported(project: Project) -> None:
    module = project.path / "app" / "work.py"
    module.write_text(module.read_text() + SLEEPING)

    run = run_inner(
        project,
        """
        from app.work import wait


        async def test_waits():
            await wait()
        """,
    )

    assert "BlockedLoop: `time.sleep(0.3)` at app/work.py" in run.output
