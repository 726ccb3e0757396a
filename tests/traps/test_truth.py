"""The suite is green where production is, and red where production would be."""

import re

import pytest

from tests.projects import Project
from tests.traps.inner import line_of, run_inner

COMMITS = """
    import asyncio

    import pytest
    from fastapi import BackgroundTasks
    from sqlalchemy import select

    from app.database import SessionDep, sessionmaker
    from tests.fixtures.canaries import Canary
    from tests.isolation.conftest import count_canaries


    @pytest.fixture
    def receipts(own_app):
        async def send_receipt():
            async with sessionmaker.begin() as own:
                own.add(Canary(name="receipt sent"))

        @own_app.get("/report")
        async def report(session: SessionDep, background: BackgroundTasks):
            background.add_task(send_receipt)
            return await count_canaries(session)

        @own_app.post("/buy")
        async def buy(session: SessionDep):
            left = 1 - await count_canaries(session)
            await asyncio.sleep(0.02)
            if left:
                session.add(Canary(name=f"sold {id(session)}"))
                await session.commit()
            return left


    async def test_receipt_by_default(receipts, own_client, session):
        await own_client.get("/report")

        assert (await session.scalars(select(Canary.name))).all() == ["receipt sent"]


    @pytest.mark.rollback
    async def test_receipt_with_rollback(receipts, own_client, session):
        await own_client.get("/report")


    @pytest.mark.rollback
    async def test_receipt_with_rollback_and_an_assertion(receipts, own_client, session):
        await own_client.get("/report")

        assert await count_canaries(session) == 1


    @pytest.mark.rollback
    async def test_what_an_inner_session_only_reads_is_no_lie(session, app):
        async with sessionmaker() as outer:
            await count_canaries(outer)
            async with sessionmaker.begin() as inner:
                await count_canaries(inner)


    @pytest.mark.rollback
    async def test_what_an_outer_session_commits_is_no_lie(session, app):
        async with sessionmaker() as outer:
            await count_canaries(outer)
            async with sessionmaker.begin() as inner:
                inner.add(Canary(name="inner"))
            await outer.commit()
        assert await count_canaries(session) == 1


    @pytest.mark.rollback
    async def test_what_is_lost_two_levels_up_is_a_lie(session, app):
        async with sessionmaker() as outer:
            await count_canaries(outer)
            async with sessionmaker.begin() as middle:
                await count_canaries(middle)
                async with sessionmaker.begin() as inner:
                    inner.add(Canary(name="inner"))


    async def test_sold_by_default(receipts, own_client):
        sold = await asyncio.gather(*(own_client.post("/buy") for _ in range(4)))

        assert sum(response.json() for response in sold) == 1


    @pytest.mark.rollback
    async def test_sold_with_rollback(receipts, own_client):
        sold = await asyncio.gather(*(own_client.post("/buy") for _ in range(4)))

        assert sum(response.json() for response in sold) == 1
"""


def test_commits(copy_of_each: Project) -> None:
    inner = run_inner(copy_of_each, COMMITS, module="tests/isolation/test_inner.py")

    inner.assert_passed(
        *("test_receipt_by_default", "test_what_an_inner_session_only_reads_is_no_lie"),
        *("test_what_an_outer_session_commits_is_no_lie", "test_sold_with_rollback"),
    )
    commit = r"The commit at tests/isolation/test_inner\.py:\d+ was undone by the rollback at "
    for name in ("test_receipt_with_rollback", "test_receipt_with_rollback_and_an_assertion"):
        inner.assert_says(name, rf"{commit}app/database\.py:\d+", "`@pytest.mark.committed`")
    inner.assert_says("test_what_is_lost_two_levels_up_is_a_lie", commit)
    if copy_of_each.database == "postgresql":  # SQLite lets only one of them write
        inner.assert_says("test_sold_by_default", "assert 4 == 1")
    assert inner.output.count("Transactions of this test have overlapped") == 1


FORGOTTEN = """
    import asyncio
    import time

    import pytest
    from sqlalchemy import select

    from app.users.models import User
    from tests.fixtures.factories import UserFactory

    def ada():
        return User(email="ada@example.com", hashed_password="")


    async def test_forgotten_await_of_a_commit(session):
        session.add(ada())
        session.commit()  # the first one


    async def test_forgotten_await_of_a_request(client):
        client.post("/api/v1/auth/register", json={})


    async def test_forgotten_await_of_what_is_kept(client):
        response = client.get("/health/live")
        assert response


    def test_forgotten_await_in_a_sync_test(session):
        session.commit()


    @pytest.fixture
    def arranged(session):
        session.flush()


    async def test_forgotten_await_in_a_fixture(arranged):
        pass


    async def test_added_and_not_flushed(client, session):
        session.add(ada())
        await client.get("/api/v1/products")


    async def test_flushed_and_not_committed(client, session):
        session.add(ada())
        await session.flush()
        await client.get("/api/v1/products")


    async def test_changed_and_not_committed(client, session, user):
        (await session.get_one(User, user.id)).is_verified = True
        await client.get("/api/v1/products")


    async def test_deleted_and_not_committed(client, session, user):
        await session.delete(user)
        await client.get("/api/v1/products")


    async def test_raw_sql_and_not_committed(client, session, user):
        await session.execute(User.__table__.delete())
        await client.get("/api/v1/products")


    async def test_committed(client, session):
        session.add(ada())
        await session.commit()
        await client.get("/api/v1/products")


    async def test_set_to_what_it_was(client, session, user):
        user.is_verified = False
        await client.get("/api/v1/products")


    async def test_changes_the_settings(app):
        app.state.settings.access_token_lifetime = 1


    async def test_replaces_the_settings(app):
        app.state.settings = app.state.settings.model_copy()


    async def test_settings_are_as_before(app):
        assert app.state.settings.access_token_lifetime == 3600


    async def test_blocks_the_loop():
        time.sleep(0.4)


    async def test_blocks_it_not_too_long():
        time.sleep(0.01)


    def test_sleeps_without_a_loop():
        time.sleep(0.3)
"""


def test_what_is_forgotten_fails(copy_of_each: Project) -> None:
    inner = run_inner(copy_of_each, FORGOTTEN)

    never = "was never awaited: write `await` before the call"
    for name, code in (("of_a_commit", "# the first one"), ("of_a_request", "client.post")):
        place = re.escape(line_of(FORGOTTEN, code))
        inner.assert_says(f"test_forgotten_await_{name}", f"{place}: coroutine .* {never}")
    inner.assert_says("test_forgotten_await_of_what_is_kept", f"^Failed: coroutine .* {never}")
    inner.assert_says("test_forgotten_await_in_a_sync_test", never, "`async def`.*`sync_session`")
    inner.assert_says("test_forgotten_await_in_a_fixture", never, kind="error")

    for name, what in {
        "test_added_and_not_flushed": "changed a `User`",
        "test_flushed_and_not_committed": "written",
        "test_changed_and_not_committed": "changed a `User`",
        "test_deleted_and_not_committed": "changed a `User`",
        "test_raw_sql_and_not_committed": "written",
    }.items():
        inner.assert_says(
            name,
            f"The test has {what} through its session without a commit",
            "write `await session.commit\\(\\)` before",
        )
    inner.assert_passed("test_committed", "test_set_to_what_it_was")

    for name in ("test_changes_the_settings", "test_replaces_the_settings"):
        inner.assert_says(name, "app.state.settings", "override_settings\\(", kind="error")
    inner.assert_passed("test_settings_are_as_before")

    assert f"`time.sleep(0.4)` at {line_of(FORGOTTEN, 'time.sleep(0.4)')} stops" in inner.output
    assert inner.output.count("stops the event loop") == 1
    inner.assert_passed(
        *("test_blocks_the_loop", "test_blocks_it_not_too_long", "test_sleeps_without_a_loop")
    )


OUTSIDE = """
    import pytest
    from fastapi import FastAPI
    from sqlalchemy import text

    from app.database import SessionDep
    from app.services.email import Email, EmailDep
    from tests.fixtures.client import create_client
    from tests.fixtures.mock_services import SERVICES, FakeEmail

    own = FastAPI()
    own.state.services = SERVICES
    EMAIL = Email(to="ada@example.com", subject="Hello", body="It is open.")


    @own.post("/sends")
    async def sends(session: SessionDep, email: EmailDep) -> None:
        await session.execute(text("SELECT 1"))  # begun here
        await email.send(EMAIL)  # called here


    @own.post("/reads")
    async def reads(session: SessionDep, email: EmailDep) -> list[str]:
        await session.execute(text("SELECT 1"))
        return [name async for name in email.names()]  # read here


    @own.post("/commits")
    async def commits(session: SessionDep, email: EmailDep) -> None:
        await session.execute(text("SELECT 1"))
        await session.commit()
        await email.send(EMAIL)


    async def names(self):
        yield "ada"


    @pytest.mark.parametrize("path", ["sends", "reads", "commits"])
    async def test_calls(database_isolation, monkeypatch, path):
        monkeypatch.setattr(FakeEmail, "names", names, raising=False)
        assert (await create_client(own).post(f"/{path}")).status_code == 200
"""


def test_service_outside_that_is_called_within_a_transaction(copy_of_each: Project) -> None:
    inner = run_inner(copy_of_each, OUTSIDE)

    begun = re.escape(line_of(OUTSIDE, "# begun here"))
    for path, method, code in (
        ("sends", "send", "# called here"),
        ("reads", "names", "# read here"),
    ):
        called = re.escape(line_of(OUTSIDE, code))
        inner.assert_says(
            f"test_calls[{path}]", f"`email.{method}` is called, at {called}, while the"
        )
    inner.assert_says("test_calls[sends]", f"begun at {begun} is open")
    inner.assert_passed("test_calls[commits]")


WAITING = """
    import asyncio
    from collections.abc import AsyncIterable, AsyncIterator

    from fastapi import FastAPI, WebSocket
    from fastapi.responses import StreamingResponse
    from fastapi.sse import EventSourceResponse
    from sqlalchemy import select, text

    from app.database import SessionDep, sessionmaker
    from app.users.models import User
    from tests.fixtures.client import create_client

    sockets = FastAPI()


    @sockets.websocket("/held")
    async def held(socket: WebSocket, session: SessionDep) -> None:
        await socket.accept()
        async for name in socket.iter_text():
            await session.execute(text("SELECT 1"))  # the first one
            await socket.send_text(name)


    @sockets.websocket("/committed")
    async def committed(socket: WebSocket, session: SessionDep) -> None:
        await socket.accept()
        async for name in socket.iter_text():
            await session.execute(text("SELECT 1"))
            await session.commit()
            await socket.send_text(name)


    @sockets.websocket("/own")
    async def own(socket: WebSocket) -> None:
        await socket.accept()
        async for name in socket.iter_text():
            async with sessionmaker() as session:
                await session.execute(text("SELECT 1"))
            await socket.send_text(name)


    @sockets.websocket("/last")
    async def last(socket: WebSocket, session: SessionDep) -> None:
        await socket.accept()
        name = await socket.receive_text()
        await session.execute(text("SELECT 1"))
        await socket.send_text(name)
        await socket.close()


    @sockets.websocket("/tasks")
    async def tasks(socket: WebSocket, session: SessionDep) -> None:
        await socket.accept()
        await session.execute(text("SELECT 1"))  # the second one
        async with asyncio.TaskGroup() as group:
            text_from_client = group.create_task(socket.receive_text())
        await session.commit()
        await socket.send_text(text_from_client.result())
        await socket.close()


    @sockets.get("/held", response_class=EventSourceResponse)
    async def held_events(session: SessionDep) -> AsyncIterable[int]:
        yield await session.scalar(text("SELECT 1"))  # the third one
        yield 2


    @sockets.get("/committed", response_class=EventSourceResponse)
    async def committed_events(session: SessionDep) -> AsyncIterable[int]:
        await session.commit()
        for _ in range(2):
            async with sessionmaker() as own:
                number = await own.scalar(text("SELECT 1"))
            yield number


    @sockets.get("/users.csv")
    async def lines(session: SessionDep) -> StreamingResponse:
        async def users() -> AsyncIterator[str]:
            async for user in await session.stream_scalars(select(User)):
                yield user.email

        return StreamingResponse(users())


    async def use(path, pause=0):
        async with create_client(sockets).websocket(path) as socket:
            await asyncio.sleep(pause)
            await socket.send_text("ada")
            assert await socket.receive_text() == "ada"


    async def test_held(session):
        await session.execute(text("SELECT 1"))  # of the test itself
        await use("/held")


    async def test_not_held(database_isolation):
        for path in ("/committed", "/own", "/last"):
            await use(path)
        for path in ("/committed", "/users.csv"):
            await create_client(sockets).get(path)


    async def test_held_by_another_task(session):
        await use("/tasks", pause=0.2)


    async def test_held_by_events(session):
        await session.execute(text("SELECT 1"))
        assert (await create_client(sockets).get("/held")).text.count("data:") == 2
"""


def test_transaction_that_is_held_as_long_as_a_client_stays(copy_of_each: Project) -> None:
    inner = run_inner(copy_of_each, WAITING)

    inner.assert_passed()
    for what, place in (
        ("The WebSocket /held waits for its client", line_of(WAITING, "# the first one")),
        ("The WebSocket /tasks waits for its client", line_of(WAITING, "# the second one")),
        ("The event stream /held goes on", line_of(WAITING, "# the third one")),
    ):
        assert re.search(f"{what} while the transaction that was begun at {place}", inner.output)
    for what in ("waits for its client while", "goes on while"):
        named = set(re.findall(rf"(/\S+) {what}", inner.output))
        assert named == ({"/held"} if "goes" in what else {"/held", "/tasks"})


KEPT_BY_A_TRACEBACK = """
    import asyncio
    import gc


    async def test_that_forgets(session):
        asyncio.run(session.commit())


    async def test_that_forgets_in_a_cycle(session):
        try:
            asyncio.run(session.commit())
        except RuntimeError as error:
            kept = error
            raise


    def test_that_is_innocent():
        gc.collect()
"""


def test_what_is_forgotten_by_a_test_that_fails_is_blamed_on_no_other(project: Project) -> None:
    inner = run_inner(project, KEPT_BY_A_TRACEBACK)

    for name in ("test_that_forgets", "test_that_forgets_in_a_cycle"):
        inner.assert_says(name, "The test runs in an event loop already")
        assert inner[name].kinds == ["failed"]
    inner.assert_passed("test_that_is_innocent")


ASKED_IN_THE_BODY = """
    import pytest


    @pytest.mark.parametrize("number", range(2))
    def test_asks(request, session_loop, number):
        client = request.getfixturevalue("client")
        account = {"email": "ada@example.com", "password": "correct horse battery staple"}
        response = session_loop.run_until_complete(
            client.post("/api/v1/auth/register", json=account)
        )
        assert response.status_code == 201
"""


def test_fixtures_that_are_asked_for_in_the_test(copy_of_each: Project) -> None:
    """As pytest-bdd does for its steps."""
    inner = run_inner(copy_of_each, ASKED_IN_THE_BODY)

    inner.assert_passed(*(f"test_asks[{number}]" for number in range(2)))


ASKED_IN_ASYNC_CODE = """
    import pytest


    class TestArranged:
        @pytest.fixture(autouse=True)
        async def arrange(self, request):
            self.session = request.getfixturevalue("session")

        async def test_arranged(self):
            pass


    async def test_asks(request):
        request.getfixturevalue("client")


    async def test_innocent(client, session):
        assert (await client.get("/health/ready")).status_code == 200


    @pytest.mark.asyncio(loop_scope="function")
    async def test_elsewhere():
        pass
"""


@pytest.mark.parametrize("isolation", ["committed", "rollback"])
def test_fixtures_that_are_asked_for_in_async_code(copy_of_each: Project, isolation: str) -> None:
    """Only who asks fails, whichever comes first."""
    options = ("-p", "no:randomly", "-o", f"db_isolation={isolation}")
    inner = run_inner(copy_of_each, ASKED_IN_ASYNC_CODE, *options)

    inner.assert_says("test_arranged", "Name it as an argument", kind="error")
    inner.assert_says("test_asks", "Name it as an argument")
    inner.assert_passed("test_innocent", "test_elsewhere")
    assert "::test_elsewhere runs in an event loop of its own" in inner.output
