"""What holds for every WebSocket; the routes are of an application of their own."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, HTTPException, WebSocket
from fastapi import WebSocketDisconnect as StarletteDisconnect
from httpx2.websockets import WebSocketDisconnect, WebSocketUpgradeError
from sqlalchemy.exc import TimeoutError  # noqa: A004

from app.errors import AppError
from app.main import create_app
from app.services.email import Email, EmailDep
from app.settings import Settings, SettingsDep
from app.throttle import ThrottleDep
from app.users import WebSocketUser
from app.users.models import User
from testkit.isolation import Isolation
from tests.fixtures.client import create_client
from tests.fixtures.mock_services import SERVICES, MockServices


@pytest.fixture(scope="module")
def socket_app(settings: Settings) -> FastAPI:
    app = create_app(settings)
    app.state.services = SERVICES

    @app.websocket("/dependencies")
    async def dependencies(
        socket: WebSocket, email: EmailDep, throttle: ThrottleDep, settings: SettingsDep
    ) -> None:
        await throttle.check("open", settings.throttle_login, "ada@example.com")
        await socket.accept()
        await email.send(Email(to="ada@example.com", subject="Hello", body="It is open."))
        await socket.close()

    @app.websocket("/me")
    async def me(socket: WebSocket, user: WebSocketUser) -> None:
        await socket.accept()
        await socket.send_text(user.email)
        await socket.close()

    @app.websocket("/echo/{count}")
    async def echo(socket: WebSocket, count: int) -> None:
        await socket.accept()
        while True:
            await socket.send_text(await socket.receive_text() * count)

    @app.websocket("/group")
    async def group(socket: WebSocket) -> None:
        await socket.accept()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(2):
                tasks.create_task(socket.receive_text())

    @app.websocket("/fails/{when}/{how}")
    async def fails(socket: WebSocket, when: str, how: str) -> None:
        errors = {
            "app": AppError(409, "CHAT_FULL", "The chat is full."),
            "http": HTTPException(404, "There is no such chat."),
            "database": TimeoutError("QueuePool limit reached"),
            "crash": RuntimeError("secret detail"),
        }
        if when != "before":
            await socket.accept()
        if when == "late":
            await socket.close()
        raise errors[how]

    @app.websocket("/task")
    async def task(socket: WebSocket) -> None:
        async def fail() -> None:
            raise AppError(409, "CHAT_FULL", "The chat is full.")

        await socket.accept()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())
            tasks.create_task(socket.receive_text())

    @app.websocket("/json")
    async def read_json(socket: WebSocket) -> None:
        await socket.accept()
        await socket.receive_json()

    @app.websocket("/of-another")
    async def of_another(socket: WebSocket) -> None:
        await socket.accept()
        raise StarletteDisconnect(1006)

    @app.websocket("/slow/{how}")
    async def slow(socket: WebSocket, how: str) -> None:
        await asyncio.sleep(0.05)
        if how == "crash":
            raise RuntimeError("secret detail")
        await socket.accept()

    @app.websocket("/closed")
    async def closed(socket: WebSocket) -> None:
        await socket.close(1008, "The chat is over.")

    mounted = FastAPI()
    app.mount("/mounted", mounted)

    @mounted.websocket("/crash")
    async def crash(socket: WebSocket) -> None:
        raise RuntimeError("secret detail")

    @app.websocket("/silent")
    async def silent(socket: WebSocket) -> None:
        """Never accepts the WebSocket."""

    return app


@pytest.fixture
def socket_client(socket_app: FastAPI, database_isolation: Isolation) -> httpx2.AsyncClient:
    return create_client(socket_app)


async def refusal(client: httpx2.AsyncClient, path: str, **options: Any) -> httpx2.Response:
    """Returns the response that a client gets in place of a WebSocket."""
    with pytest.raises(WebSocketUpgradeError) as caught:
        async with client.websocket(path, **options):
            pass
    return caught.value.response


async def end(client: httpx2.AsyncClient, path: str) -> tuple[int, str]:
    """Returns how an accepted WebSocket was closed."""
    async with client.websocket(path) as socket:
        with pytest.raises(WebSocketDisconnect) as caught:
            await socket.receive_text()
    return int(caught.value.code), caught.value.reason or ""


async def test_has_what_requests_have(
    socket_client: httpx2.AsyncClient, mock_services: MockServices
) -> None:
    assert (await end(socket_client, "/dependencies"))[0] == 1000
    assert mock_services.email.outbox[0].to == "ada@example.com"


class TestUser:
    async def test_is_known_by_a_header(
        self, socket_client: httpx2.AsyncClient, user: User, user_client: httpx2.AsyncClient
    ) -> None:
        headers = {"Authorization": user_client.headers["authorization"]}
        async with socket_client.websocket("/me", headers=headers) as socket:
            assert socket.subprotocol is None
            assert await socket.receive_text() == user.email

    async def test_is_known_by_what_a_browser_can_send(
        self, socket_client: httpx2.AsyncClient, user: User, user_client: httpx2.AsyncClient
    ) -> None:
        _, _, token = user_client.headers["authorization"].partition(" ")
        protocols = ["bearer", token, "chat"]
        async with socket_client.websocket("/me", subprotocols=protocols) as socket:
            assert socket.subprotocol == "bearer"  # else a browser would close it
            assert await socket.receive_text() == user.email

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"headers": {"Authorization": "Basic YWRhOmFkYQ=="}},
            {"headers": {"Authorization": "Bearer wrong"}},
            {"subprotocols": ["bearer", "wrong"]},
            {"subprotocols": ["bearer"]},
            {"subprotocols": ["chat", "bearer"]},
        ],
    )
    async def test_is_not_known(
        self, socket_client: httpx2.AsyncClient, options: dict[str, Any]
    ) -> None:
        response = await refusal(socket_client, "/me", **options)

        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"

    async def test_is_not_active(
        self,
        socket_client: httpx2.AsyncClient,
        superuser_client: httpx2.AsyncClient,
        user: User,
        user_client: httpx2.AsyncClient,
    ) -> None:
        await superuser_client.patch(f"/api/v1/users/{user.id}", json={"is_active": False})

        headers = {"Authorization": user_client.headers["authorization"]}
        assert (await refusal(socket_client, "/me", headers=headers)).status_code == 401


class TestErrors:
    @pytest.mark.parametrize(
        ("path", "status", "code"),
        [
            ("/fails/before/app", 409, "CHAT_FULL"),
            ("/fails/before/http", 404, "NOT_FOUND"),
            ("/fails/before/database", 503, "DATABASE_UNAVAILABLE"),
            ("/fails/before/crash", 500, "INTERNAL_SERVER_ERROR"),
            ("/silent", 500, "INTERNAL_SERVER_ERROR"),
            ("/echo/many", 422, "INVALID_REQUEST"),
            ("/echo/1?name=%00", 400, "BAD_REQUEST"),
            ("/nowhere", 404, "NOT_FOUND"),
            ("/closed", 403, "FORBIDDEN"),
            ("/mounted/crash", 500, "INTERNAL_SERVER_ERROR"),
        ],
    )
    async def test_before_it_is_accepted(
        self, socket_client: httpx2.AsyncClient, path: str, status: int, code: str
    ) -> None:
        response = await refusal(socket_client, path)

        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.json()["code"] == code
        assert "secret" not in response.text

    @pytest.mark.parametrize(
        ("how", "expected"),
        [
            ("app", (4409, "CHAT_FULL")),
            ("http", (4404, "NOT_FOUND")),
            ("database", (4503, "DATABASE_UNAVAILABLE")),
            ("crash", (1011, "")),
        ],
    )
    async def test_after_it_was_accepted(
        self, socket_client: httpx2.AsyncClient, how: str, expected: tuple[int, str]
    ) -> None:
        assert await end(socket_client, f"/fails/after/{how}") == expected

    async def test_in_a_task(self, socket_client: httpx2.AsyncClient) -> None:
        assert await end(socket_client, "/task") == (4409, "CHAT_FULL")

    async def test_of_another_websocket(self, socket_client: httpx2.AsyncClient) -> None:
        """It may happen when a message is sent to all, and one of them has left."""
        assert await end(socket_client, "/of-another") == (1011, "")

    @pytest.mark.parametrize("how", ["app", "crash"])
    async def test_after_it_was_closed(self, socket_client: httpx2.AsyncClient, how: str) -> None:
        assert await end(socket_client, f"/fails/late/{how}") == (1000, "")

    @pytest.mark.parametrize(
        ("when", "how_it_ends"), [("before", refusal), ("after", end), ("late", end)]
    )
    async def test_are_reported_once(
        self,
        socket_client: httpx2.AsyncClient,
        caplog: pytest.LogCaptureFixture,
        when: str,
        how_it_ends: Callable[[httpx2.AsyncClient, str], Awaitable[object]],
    ) -> None:
        await how_it_ends(socket_client, f"/fails/{when}/crash")

        (record,) = caplog.records
        assert record.exc_info
        assert str(record.exc_info[1]) == "secret detail"

    async def test_fail_the_test(
        self, client: httpx2.AsyncClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Errors of WebSockets are raised by the fixture `client`, like those of requests."""
        monkeypatch.setattr(app.router, "routes", [*app.router.routes])

        @app.websocket("/crash")
        async def crash(socket: WebSocket) -> None:
            raise RuntimeError("nobody has foreseen it")

        with pytest.raises(RuntimeError, match="foreseen"):
            async with client.websocket("/crash"):
                pass


@pytest.mark.parametrize(
    ("path", "message"), [("/echo/1", b"bytes"), ("/json", b"bytes"), ("/json", "{no json")]
)
async def test_message_that_the_route_cannot_read(
    socket_client: httpx2.AsyncClient,
    caplog: pytest.LogCaptureFixture,
    path: str,
    message: str | bytes,
) -> None:
    async with socket_client.websocket(path) as socket:
        send = socket.send_text if isinstance(message, str) else socket.send_bytes
        await send(message)  # type: ignore[arg-type]
        with pytest.raises(WebSocketDisconnect) as caught:
            await socket.receive_text()

    assert caught.value.code == 1003
    assert caplog.records == []


class Gone:
    """Stands for a server whose client leaves at the first message that it does not expect."""

    def __init__(self, app: FastAPI, path: str, expected: str = "") -> None:
        self.app = app
        self.expected = expected
        self.sent: list[str] = []
        self.scope = {
            "type": "websocket",
            "path": path,
            "query_string": b"",
            "headers": [],
            "subprotocols": [],
            "scheme": "ws",
            "extensions": {"websocket.http.response": {}},
        }

    async def receive(self) -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message["type"])
        if message["type"] != self.expected:
            raise OSError("the client has gone")

    async def open(self) -> None:
        await self.app(self.scope, self.receive, self.send)


@pytest.mark.parametrize(("path", "errors"), [("/slow/accept", 0), ("/slow/crash", 1), ("/me", 0)])
async def test_client_that_has_gone_before_it_is_answered(
    socket_app: FastAPI,
    database_isolation: Isolation,
    caplog: pytest.LogCaptureFixture,
    path: str,
    errors: int,
) -> None:
    await Gone(socket_app, path).open()

    assert len(caplog.records) == errors


@pytest.mark.parametrize("is_ending", [True, False])
async def test_route_that_goes_on_when_the_server_ends(settings: Settings, is_ending: bool) -> None:
    app = create_app(settings)
    if is_ending:
        app.state.shutdown.set()

    @app.websocket("/{when}")
    async def endless(socket: WebSocket, when: str) -> None:
        if when == "after":
            await socket.accept()
        await asyncio.Event().wait()

    for when, answer in (
        ("before", "websocket.http.response.start"),
        ("after", "websocket.accept"),
    ):
        connection = Gone(app, f"/{when}", "websocket.accept")
        task = asyncio.create_task(connection.open())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task})

        assert task.cancelled() is not is_ending
        assert connection.sent == ([answer] if is_ending or when == "after" else [])


@pytest.mark.parametrize("path", ["/echo/2", "/group"])
async def test_client_that_leaves_is_no_error(
    socket_client: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    async with socket_client.websocket(path) as socket:
        await socket.send_text("hello")
        if path == "/echo/2":
            assert await socket.receive_text() == "hellohello"

    assert caplog.records == []


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/echo/1?token=secret", "WEBSOCKET /echo/{count} 101"),
        ("/fails/before/app", "WEBSOCKET /fails/{when}/{how} 409"),
        ("/nowhere", "WEBSOCKET - 404"),
        ("/closed", "WEBSOCKET /closed 403"),
    ],
)
async def test_line_in_the_log(
    socket_client: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture, path: str, message: str
) -> None:
    caplog.set_level(logging.INFO, "app.access")
    try:
        async with socket_client.websocket(path):
            pass
    except (WebSocketUpgradeError, WebSocketDisconnect):
        pass

    (record,) = caplog.records
    assert record.getMessage() == message
