"""Every kind of test that a service needs, on both databases."""

import pytest

from tests.projects import Project
from tests.traps.inner import run_inner

KINDS = r"""
    import asyncio
    import gc
    import itertools
    from collections.abc import AsyncIterator

    import httpx2
    import pytest
    from fastapi import FastAPI, UploadFile, WebSocket
    from fastapi.responses import StreamingResponse
    from fastapi.sse import EventSourceResponse, ServerSentEvent
    from httpx2.websockets import WebSocketUpgradeError
    from sqlalchemy import select
    from starlette.testclient import TestClient

    from app.database import SessionDep, sessionmaker
    from app.users.models import User
    from tests.fixtures.canaries import Canary
    from tests.fixtures.client import create_client
    from tests.isolation.conftest import count_canaries

    gone = []
    own = FastAPI()


    @own.websocket("/echo")
    async def echo(socket: WebSocket, session: SessionDep) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            session.add(Canary(name=text))
            await session.commit()
            await socket.send_text(text)
        gone.append("echo")


    @own.websocket("/refused")
    async def refused(socket: WebSocket) -> None:
        await socket.close(1008)


    @own.get("/ticks", response_class=EventSourceResponse)
    async def ticks() -> AsyncIterator[ServerSentEvent]:
        try:
            for number in itertools.count():
                yield ServerSentEvent(data={"tick": number}, event="tick")
                await asyncio.sleep(0.001)
        finally:
            gone.append("ticks")


    @own.get("/spin")
    async def spin() -> StreamingResponse:
        async def numbers():
            for number in itertools.count():
                yield f"{number}\n"

        return StreamingResponse(numbers())


    @own.get("/slow")
    async def slow(is_untidy: bool = False) -> StreamingResponse:
        async def never():
            try:
                yield "first"
                await asyncio.Event().wait()
            finally:
                gone.append("slow")
                if is_untidy:
                    raise RuntimeError("while it tidies up")

        return StreamingResponse(never())


    @own.get("/csv")
    async def csv(session: SessionDep) -> StreamingResponse:
        async def rows():
            async for name in await session.stream_scalars(select(Canary.name).order_by(Canary.id)):
                yield f"{name}\n"

        return StreamingResponse(rows(), media_type="text/csv")


    @own.post("/upload")
    async def upload(file: UploadFile) -> int:
        return len(await file.read())


    @own.post("/canaries/{name}")
    async def keep(name: str, session: SessionDep) -> int:
        session.add(Canary(name=name))
        await session.commit()
        return await count_canaries(session)


    @own.get("/fails")
    async def fails() -> StreamingResponse:
        async def broken():
            yield "first"
            raise RuntimeError("in the middle")

        return StreamingResponse(broken())


    @pytest.fixture
    def own_client(database_isolation) -> httpx2.AsyncClient:
        return create_client(own)


    async def test_websocket(own_client, session):
        async with own_client.websocket("/echo") as socket:
            await socket.send_text("hello")
            assert await socket.receive_text() == "hello"
        assert await count_canaries(session) == 1


    async def test_websocket_is_refused(own_client):
        with pytest.raises(WebSocketUpgradeError) as caught:
            async with own_client.websocket("/refused"):
                pass
        assert caught.value.response.status_code == 403  # as a server says it, whatever the code


    @pytest.mark.parametrize("run", [1, 2])
    def test_websocket_in_sync_code(database_isolation, sync_session, run):
        with TestClient(own).websocket_connect("/echo") as socket:
            socket.send_text("hello")
            assert socket.receive_text() == "hello"
        assert sync_session.query(Canary).count() == 1


    async def test_server_sent_events(own_client):
        async with own_client.sse("/ticks") as events:
            numbers = [event.json()["tick"] async for event in aislice(events, 3)]
        assert numbers == [0, 1, 2]


    async def aislice(iterable, count):
        async for item in iterable:
            yield item
            count -= 1
            if not count:
                return


    async def test_endless_stream(own_client):
        async with own_client.stream("GET", "/spin") as response:
            async for line in response.aiter_lines():
                if line == "100":
                    break


    async def test_stream_that_waits(own_client):
        async with own_client.stream("GET", "/slow") as response:
            assert await anext(response.aiter_text()) == "first"


    async def test_error_when_the_client_has_gone(own_client, caplog):
        async with own_client.stream("GET", "/slow?is_untidy=true") as response:
            assert await anext(response.aiter_text()) == "first"
        (record,) = caplog.records  # as a server does, not whenever the task is collected
        assert "after the client had gone" in record.getMessage()
        gc.collect()
        assert caplog.records == [record]


    async def test_timeout_of_the_client(own_client):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await own_client.get("/slow")


    def test_everybody_has_noticed():
        assert sorted(gone) == ["echo"] * 3 + ["slow"] * 3 + ["ticks"]


    async def test_error_in_a_stream(own_client):
        with pytest.raises(RuntimeError, match="in the middle"):
            await own_client.get("/fails")


    async def test_stream_that_reads_the_database(own_client, session):
        session.add_all(Canary(name=f"canary {n}") for n in range(500))
        await session.commit()

        response = await own_client.get("/csv")

        assert response.text.splitlines() == [f"canary {n}" for n in range(500)]


    async def test_upload(own_client):
        files = {"file": ("big.bin", b"x" * 3_000_000)}
        assert (await own_client.post("/upload", files=files)).json() == 3_000_000


    async def test_several_at_once(own_client, session):
        found = await asyncio.gather(*(own_client.post(f"/canaries/{n}") for n in range(8)))
        assert {response.status_code for response in found} == {200}
        assert await count_canaries(session) == 8


    @pytest.mark.parametrize("run", [1, 2])
    def test_sync_client(database_isolation, sync_session, run):
        client = TestClient(own)
        assert client.post("/canaries/Ada").json() == 1
        assert client.post("/canaries/Eve").json() == 2
        assert sync_session.query(Canary).count() == 2


    @pytest.mark.parametrize("run", [1, 2])
    def test_sync_client_with_its_lifespan(app, sync_session, run):
        with TestClient(app) as client:
            account = {"email": "ada@example.com", "password": "correct horse battery staple"}
            assert client.post("/api/v1/auth/register", json=account).status_code == 201
            assert client.post("/api/v1/auth/register", json=account).status_code == 400
            assert sync_session.query(User).count() == 1


    async def test_after_it_all_is_as_before(client, session):
        assert await count_canaries(session) == 0
        assert (await client.get("/health/ready")).status_code == 200


    def test_subtests(subtests):
        for number in range(3):
            with subtests.test(number=number):
                assert number < 3
"""


def test_kinds(copy_of_each: Project) -> None:
    run_inner(copy_of_each, KINDS).assert_passed()


EXAMPLES = """
    from hypothesis import given, settings, strategies as st

    from app.users.models import User
    from tests.fixtures.canaries import Canary
    from tests.isolation.conftest import count_canaries

    names = st.text("abc", min_size=1, max_size=5)
    seen = []


    @given(name=names)
    async def test_every_example_starts_from_the_baseline(session, user, mock_services, name):
        assert await count_canaries(session) == 0
        assert await session.get(User, user.id)
        assert mock_services.email.outbox == []
        mock_services.email.outbox.append(name)
        session.add(Canary(name=name))
        await session.commit()
        seen.append(name)


    @given(name=names)
    async def test_requests(client, user_client, user, name):
        account = {"email": f"{name}@example.com", "password": "correct horse battery staple"}
        assert (await client.post("/api/v1/auth/register", json=account)).status_code == 201
        me = await user_client.get("/api/v1/users/me")
        assert me.json()["email"] == user.email


    @given(name=names)
    def test_sync(sync_session, name):
        assert sync_session.query(Canary).count() == 0
        sync_session.add(Canary(name=name))
        sync_session.commit()


    @settings(max_examples=5)
    @given(name=names)
    async def test_finds_what_is_wrong(session, name):
        assert len(name) < 1


    async def test_afterwards_all_is_as_before(session):
        assert len(seen) > 50
        assert await count_canaries(session) == 0
"""


@pytest.mark.long
def test_hypothesis(installed_copy_of_each: Project) -> None:
    project = installed_copy_of_each
    project.install("hypothesis")

    inner = run_inner(project, EXAMPLES)

    inner.assert_says("test_finds_what_is_wrong", "Failing test case", "name='a'")
    inner.assert_passed(*inner.outcomes.keys() - {"test_finds_what_is_wrong"})
