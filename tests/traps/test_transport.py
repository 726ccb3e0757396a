"""What an application may say to the client of the tests is what it may say to one behind uvicorn."""

from tests.projects import Project
from tests.traps.inner import run_inner

SERVER = """
    import asyncio
    from collections.abc import AsyncIterator
    from contextlib import asynccontextmanager

    import httpx2
    import pytest
    import uvicorn

    from testkit.asgi import ASGITransport


    @asynccontextmanager
    async def behind_uvicorn(app) -> AsyncIterator[httpx2.AsyncClient]:
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        _, port = server.servers[0].sockets[0].getsockname()
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            yield client
        server.should_exit = True
        await task
"""
RESPONSES = r"""
    def start(status=200, *headers):
        return {"type": "http.response.start", "status": status, "headers": list(headers)}


    def body(data=b"", more_body=False):
        return {"type": "http.response.body", "body": data, "more_body": more_body}


    FIELDS = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"x-tab", b"a\tb"), (b"x-latin", b"caf\xe9")]
    GOOD = {
        "whole": [start(200, (b"content-length", b"5"), *FIELDS), body(b"hello")],
        "chunks": [start(), body(b"a", True), body(b"", True), body(b"b")],
        "no-content": [start(204), body()],
        "not-modified": [start(304, (b"etag", b'"1"')), body()],
    }
    BAD = {
        "longer": [start(200, (b"content-length", b"3")), body(b"hello")],
        "shorter": [start(200, (b"content-length", b"7")), body(b"hello")],
        "no-content": [start(204), body(b"x")],
        "injection": [start(200, (b"location", b"/a\r\nset-cookie: b=1")), body()],
        "no-name": [start(200, (b"x name", b"1")), body()],
        "twice": [start(), body(b"a", True), start(500), body(b"b")],
        "half": [start(), body(b"a", True)],
    }
    said = []


    async def own(scope, receive, send):
        for message in said:
            await send(message)


    @pytest.fixture
    async def server() -> AsyncIterator[httpx2.AsyncClient]:
        async with behind_uvicorn(own) as client:
            yield client


    @pytest.fixture
    def fake() -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=ASGITransport(own), base_url="http://test")


    def content(response):
        names = ("set-cookie", "x-tab", "x-latin", "etag")
        fields = [field for field in response.headers.multi_items() if field[0] in names]
        return response.status_code, fields, response.content


    @pytest.mark.network
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("name", GOOD)
    async def test_good(server, fake, name, method):
        said[:] = GOOD[name]
        expected, found = [await client.request(method, "/") for client in (server, fake)]
        assert content(found) == content(expected)


    @pytest.mark.network
    @pytest.mark.parametrize("name", BAD)
    async def test_bad(server, fake, name, caplog):
        said[:] = BAD[name]
        try:
            await server.get("/")
        except httpx2.RemoteProtocolError:
            pass
        assert "ASGI" in caplog.text, "a server does not mind"
        with pytest.raises((AssertionError, httpx2.RemoteProtocolError), match="the application "):
            await fake.get("/")
"""
LEAVES = "test_goes_on_when_the_client_has_gone"
SCENES = r"""
    from fastapi import FastAPI, HTTPException, WebSocket, WebSocketDisconnect
    from fastapi.responses import JSONResponse
    from httpx2.websockets import WebSocketDisconnect as Disconnected
    from httpx2.websockets import WebSocketNetworkError, WebSocketUpgradeError

    from tests.fixtures.client import create_client

    own = FastAPI()
    seen = []


    @own.websocket("/scope/{place}")
    async def scope(socket: WebSocket, place: str) -> None:
        await socket.accept(
            subprotocol=socket.scope["subprotocols"][-1],
            headers=[(b"x-place", b"caf\xe9 a\x85b"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")],
        )
        names = ("scheme", "subprotocols", "http_version", "extensions", "path", "query_string", "asgi", "state")
        await socket.send_json({name: str(socket.scope[name]) for name in names})
        await socket.send_text(socket.url.scheme)
        await socket.close()


    @own.websocket("/reads")
    async def reads(socket: WebSocket) -> None:
        await socket.accept()
        await asyncio.sleep(0.1)
        try:
            while True:
                seen.append(await socket.receive_text())
        except WebSocketDisconnect as error:
            seen.append(error.code)


    @own.websocket("/sends")
    async def sends(socket: WebSocket) -> None:
        await socket.accept()
        try:
            while True:
                await socket.send_text("tick")
                await asyncio.sleep(0.01)
        except WebSocketDisconnect as error:
            seen.append(error.code)


    @own.websocket("/fails")
    async def fails(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("bye")
        await socket.receive_text()
        raise RuntimeError("after the last message")


    @own.websocket("/ends")
    async def ends(socket: WebSocket) -> None:
        await socket.accept()


    @own.websocket("/naive")
    async def naive(socket: WebSocket) -> None:
        await socket.accept()
        while True:
            await socket.send_text(await socket.receive_text())


    @own.websocket("/deaf")
    async def deaf(socket: WebSocket) -> None:
        await socket.accept()
        await asyncio.Event().wait()


    @own.websocket("/silent")
    async def silent(socket: WebSocket) -> None:
        pass


    @own.websocket("/broken")
    async def broken(socket: WebSocket) -> None:
        raise RuntimeError("before it accepts")


    async def terse(scope, receive, send) -> None:
        # It leaves out what a message need not hold.
        await receive()
        if scope["path"] == "/terse/denies":
            await send({"type": "websocket.http.response.start", "status": 418})
            await send({"type": "websocket.http.response.body", "body": b""})
        else:
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close"})


    own.mount("/terse", terse)


    @own.websocket("/denied")
    async def denied(socket: WebSocket) -> None:
        raise HTTPException(401, "who are you?")


    @own.websocket("/closes")
    async def closes(socket: WebSocket) -> None:
        await socket.close(1008, "not now")


    @own.websocket("/denies")
    async def denies(socket: WebSocket) -> None:
        await socket.send_denial_response(JSONResponse({"is": "full"}, 409))


    @pytest.fixture(params=["in this process", "over uvicorn"])
    async def any_client(request) -> AsyncIterator[httpx2.AsyncClient]:
        seen.clear()
        if request.param == "over uvicorn":
            async with behind_uvicorn(own) as client:
                yield client
        else:
            yield httpx2.AsyncClient(
                transport=ASGITransport(own, raise_app_exceptions=False), base_url="http://test"
            )


    pytestmark = pytest.mark.network


    async def comes_to_see(expected):
        async with asyncio.timeout(5):
            while seen != expected:
                await asyncio.sleep(0.01)


    async def test_scope(any_client):
        async with any_client.websocket("/scope/é b?a=%20b", subprotocols=["old", "new"]) as socket:
            assert socket.subprotocol == "new"
            headers = socket.response.headers
            assert headers.get_list("set-cookie") == ["a=1", "b=2"]
            assert headers["x-place"].encode(headers.encoding) == b"caf\xe9 a\x85b"
            assert await socket.receive_json() == {
                "scheme": "ws",
                "subprotocols": "['old', 'new']",
                "http_version": "1.1",
                "extensions": "{'websocket.http.response': {}}",
                "path": "/scope/é b",
                "query_string": "b'a=%20b'",
                "asgi": "{'version': '3.0', 'spec_version': '2.4'}",
                "state": "{}",
            }
            assert await socket.receive_text() == "ws"


    async def test_all_is_read_that_was_sent(any_client):
        async with any_client.websocket("/reads") as socket:
            for text in ("a", "b", "c"):
                await socket.send_text(text)
        await comes_to_see(["a", "b", "c", 1000])


    async def test_nothing_can_be_sent_to_who_has_gone(any_client):
        async with any_client.websocket("/sends") as socket:
            assert await socket.receive_text() == "tick"
        await comes_to_see([1006])


    @pytest.mark.parametrize(
        ("path", "status", "body"),
        [
            ("denied", 401, b"who are you?"),
            ("denies", 409, b'{"is":"full"}'),
            ("closes", 403, b""),
            ("terse/denies", 418, b""),
            ("nowhere", 403, b""),
            ("broken", 500, b"Internal Server Error"),
            ("silent", 500, b"Internal Server Error"),
        ],
    )
    async def test_is_denied(any_client, path, status, body):
        with pytest.raises(WebSocketUpgradeError) as caught:
            async with any_client.websocket(f"/{path}"):
                pass
        assert caught.value.response.status_code == status
        if any_client.base_url.host == "test":  # a body that comes later is not read
            assert body in caught.value.response.content


    async def test_end_that_says_nothing(any_client):
        with pytest.RaisesGroup(pytest.RaisesExc(Disconnected, check=lambda end: end.code == 1000)):
            async with any_client.websocket("/terse/closes") as socket:
                await socket.receive_text()


    @pytest.mark.parametrize("path", ["ends", "fails"])
    async def test_end_is_noticed(any_client, path):
        with pytest.RaisesGroup(pytest.RaisesExc((Disconnected, WebSocketNetworkError))):
            async with any_client.websocket(f"/{path}") as socket:
                await socket.send_text("hello")
                await socket.receive_text()
                await socket.receive_text()


    async def test_error_after_the_last_message(database_isolation):
        with pytest.raises(RuntimeError, match="after the last message"):
            async with create_client(own).websocket("/fails") as socket:
                assert await socket.receive_text() == "bye"
                await socket.send_text("hello")


    async def test_error_that_ends_it(database_isolation):
        with pytest.raises(RuntimeError, match="after the last message"):
            async with create_client(own).websocket("/fails") as socket:
                assert await socket.receive_text() == "bye"
                await socket.send_text("hello")
                await socket.receive_text()


    async def test_route_that_does_not_expect_that_a_client_goes(any_client):
        async with any_client.websocket("/naive") as socket:
            await socket.send_text("hello")
            assert await socket.receive_text() == "hello"


    async def test_says_that_it_is_not_expected(database_isolation, caplog):
        async with create_client(own).websocket("/naive") as socket:
            await socket.send_text("hello")
            assert await socket.receive_text() == "hello"
        assert "/naive does not expect that a client goes" in caplog.text


    async def test_goes_on_when_the_client_has_gone(database_isolation):
        async with create_client(own).websocket("/deaf"):
            pass


    async def test_error_before_it_accepts(database_isolation):
        with pytest.raises(RuntimeError, match="before it accepts"):
            async with create_client(own).websocket("/broken"):
                pass


    async def test_neither_accepted_nor_closed(database_isolation):
        with pytest.raises(RuntimeError, match="has not accepted"):
            async with create_client(own).websocket("/silent"):
                pass
"""


def test_responses(copy_of_each: Project) -> None:
    run_inner(copy_of_each, SERVER + RESPONSES).assert_passed()


def test_websockets(copy_of_each: Project) -> None:
    inner = run_inner(copy_of_each, SERVER + SCENES)

    inner.assert_says(LEAVES, "left open: the task", kind="error")
    inner.assert_passed(*inner.outcomes.keys() - {LEAVES})
