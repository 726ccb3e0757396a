"""WebSockets of the service, over its real server: what clients are told, and what is in the log."""

import signal
import socket
from pathlib import Path

import pytest
from httpx2.websockets import WebSocketDisconnect, WebSocketSession, WebSocketUpgradeError

from tests.projects import Project, sqlite_first
from tests.servers import wait_until
from tests.service.servers import Service, running

ROUTES = """
import asyncio

from fastapi import APIRouter, WebSocket

from app.errors import AppError
from app.services.email import EmailDep
from app.settings import SettingsDep
from app.throttle import ThrottleDep
from app.users import WebSocketUser

sockets = APIRouter()
ROUTERS = (*ROUTERS, sockets)


@sockets.websocket("/me/{count}")
async def me(
    socket: WebSocket,
    user: WebSocketUser,
    count: int,
    email: EmailDep,
    settings: SettingsDep,
    throttle: ThrottleDep,
) -> None:
    await socket.accept()
    while True:
        await socket.send_text(await socket.receive_text() + user.email * count)


@sockets.websocket("/fails/{when}")
async def fails(socket: WebSocket, when: str) -> None:
    if when == "before":
        raise AppError(409, "CHAT_FULL", "The chat is full.")
    await socket.accept()
    if when == "after":
        raise AppError(409, "CHAT_FULL", "The chat is full.")
    raise RuntimeError("nobody has foreseen it")


@sockets.websocket("/sleeps")
async def sleeps(socket: WebSocket) -> None:
    await socket.accept()
    await asyncio.Event().wait()


@sockets.websocket("/silent")
async def silent(socket: WebSocket) -> None:
    pass
"""
EMAIL = "ada@example.com"
UNREADABLE = b"\r\n".join(
    [
        b"GET /api/v1/silent HTTP/1.1",
        b"Host: localhost",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Ng==",
        b"Sec-WebSocket-Version: 13",
        b"Content-Length: 5",
        b"",
        b"hello",
    ]
)


@sqlite_first
def test_websockets(copy_of_each: Project, database_url: str, tmp_path: Path) -> None:
    routers = copy_of_each.path / "app" / "api.py"
    routers.write_text(routers.read_text() + ROUTES)
    with running(copy_of_each, database_url, tmp_path, MAX_BODY_SIZE="1000") as service:
        service.register(EMAIL)
        token = service.log_in(EMAIL).json()["access_token"]
        as_a_program = {"headers": {"Authorization": f"Bearer {token}"}}
        as_a_browser = {"subprotocols": ["bearer", token]}
        for options in (as_a_program, as_a_browser):
            with service.client.websocket("/api/v1/me/1?secret=x", **options) as websocket:
                websocket.send_text("I am ")
                assert websocket.receive_text() == f"I am {EMAIL}"
        with service.client.websocket("/api/v1/me/1", **as_a_program) as websocket:
            websocket.send_text("x" * 1001)
            assert end_of(websocket)[0] == 1009

        assert refusal(service, "me/1") == 401
        assert refusal(service, "me/many", **as_a_program) == 422
        assert refusal(service, "fails/before") == 409
        assert refusal(service, "silent") == 500
        assert refusal(service, "nowhere") == 404
        with service.client.websocket("/api/v1/fails/after") as websocket:
            assert end_of(websocket) == (4409, "CHAT_FULL")
        with service.client.websocket("/api/v1/fails/unforeseen") as websocket:
            assert end_of(websocket) == (1011, "")

        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(UNREADABLE)
            assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")
            assert connection.recv(1000) == b""  # it has been closed

        expected = [
            *["WEBSOCKET /api/v1/me/{count} 101"] * 3,
            "WEBSOCKET /api/v1/me/{count} 401",
            "WEBSOCKET /api/v1/me/{count} 422",
            "WEBSOCKET /api/v1/fails/{when} 409",
            "WEBSOCKET /api/v1/silent 500",
            "WEBSOCKET - 404",
            *["WEBSOCKET /api/v1/fails/{when} 101"] * 2,
        ]
        wait_until(lambda: len(lines(service)) == len(expected), 5)
        assert lines(service) == expected
        errors = [entry for entry in service.entries() if entry["level"] == "error"]
        assert [entry["message"] for entry in errors] == ["unexpected error"] * 2
        assert "secret" not in service.log.read_text()
        assert token not in service.log.read_text()

        with (
            socket.create_connection(("127.0.0.1", service.port)) as connection,
            service.client.websocket("/api/v1/sleeps") as websocket,
        ):
            connection.sendall(UNREADABLE[:-10])
            service.process.terminate()
            assert end_of(websocket) == (1012, "")
            service.process.wait(15)
        assert service.process.returncode == -signal.SIGTERM
        assert service.log.read_text().count("Traceback") == 2
        assert service.entries()[-1]["message"].startswith("Finished server process")


def refusal(service: Service, path: str, **options: dict[str, str]) -> int:
    with (
        pytest.raises(WebSocketUpgradeError) as caught,
        service.client.websocket(f"/api/v1/{path}", **options),
    ):
        pass
    return caught.value.response.status_code


def end_of(websocket: WebSocketSession) -> tuple[int, str | None]:
    with pytest.raises(WebSocketDisconnect) as caught:
        websocket.receive_text(timeout=5)
    return int(caught.value.code), caught.value.reason


def lines(service: Service) -> list[str]:
    messages = [entry["message"] for entry in service.entries()]
    return [message for message in messages if message.startswith("WEBSOCKET")]
