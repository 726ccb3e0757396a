"""How the service ends: nobody loses a request, and who listens is told."""

import os
import re
import signal
import threading
import time
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from httpx2.websockets import WebSocketDisconnect, WebSocketUpgradeError

from tests.projects import Project, sqlite_first
from tests.servers import wait_until
from tests.service.servers import Service, running

CLIENTS = 8
PAUSE = 0.02  # seconds of each, in which a connection is open that nobody uses
# Seconds, as on a machine that is busy; uvicorn waits for 5 unless it is told otherwise.
SLOW_START = {"sqlite": 6, "postgresql": 0}
STREAMS = """
import asyncio
from collections.abc import AsyncIterable, AsyncIterator

from fastapi import APIRouter, Request, WebSocket
from fastapi.sse import EventSourceResponse

from app.shutdown import until_shutdown

streams = APIRouter()
ROUTERS = (*ROUTERS, streams)


async def ticks() -> AsyncIterator[int]:
    try:
        yield 0
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0.02)


@streams.get("/ticks", response_class=EventSourceResponse)
async def send_ticks(request: Request) -> AsyncIterable[int]:
    async for tick in until_shutdown(request.app, ticks()):
        yield tick


@streams.get("/slow")
async def slow() -> str:
    await asyncio.sleep(2)
    return "done"


@streams.get("/endless")
async def endless() -> None:
    await asyncio.Event().wait()


@streams.websocket("/slow/{seconds}")
async def slow_socket(socket: WebSocket, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await socket.accept()
    await socket.receive_text()


@streams.websocket("/echo")
async def echo(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text)
"""


class Load:
    """Clients that ask again and again, each on its own connection as long as it is kept open."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers = 0
        self.lost: list[str] = []
        self._is_wanted = True
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        with httpx2.Client(base_url=self.url, trust_env=False, timeout=10) as client:
            while self._is_wanted:
                try:
                    answer = client.get("/api/v1/products")
                except httpx2.TransportError as error:
                    self.lost.append(repr(error))
                else:
                    self.answers += 1
                    if answer.status_code != 200:
                        self.lost.append(answer.text)
                time.sleep(PAUSE)

    def end(self) -> None:
        self._is_wanted = False
        for thread in self._threads:
            thread.join()


def processes(service: Service, event: str) -> list[str]:
    return re.findall(rf"{event} server process \[(\d+)\]", service.log.read_text())


def test_rolling_restart_loses_no_request(
    copy_of_each: Project, database_url: str, tmp_path: Path
) -> None:
    service = Service(copy_of_each, database_url, tmp_path / "service.log")
    service.command("migrate")
    application = copy_of_each.path / "app" / "main.py"
    pause = SLOW_START[copy_of_each.database]
    application.write_text(f"{application.read_text()}\n__import__('time').sleep({pause})\n")
    service.start("--workers", "2")
    wait_until(lambda: len(processes(service, "Started")) == 2, 30)
    load = Load(service.url)
    try:
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(processes(service, "Finished")) == 2, 60)
    except BaseException as error:
        lines = service.log.read_text().splitlines()
        error.add_note("\n".join(line for line in lines if "app.access" not in line))
        raise
    finally:
        load.end()
        service.stop()

    assert load.lost == []
    assert load.answers > 100
    assert len(set(processes(service, "Started"))) == 4


@sqlite_first
def test_processes_that_cannot_start_hold_up_no_signal(
    copy_of_each: Project, database_url: str, tmp_path: Path
) -> None:
    service = Service(copy_of_each, database_url, tmp_path / "service.log")
    application = copy_of_each.path / "app" / "main.py"
    application.write_text(f"{application.read_text()}\nraise ImportError('broken')\n")
    process = service.spawn("app", "serve", "--port", str(service.port), "--workers", "2")
    wait_until(lambda: len(re.findall("Child process .* died", service.log.read_text())) > 2, 30)

    process.terminate()

    assert process.wait(8) == 0


@sqlite_first
def test_processes_say_that_they_end_like_a_single_one(
    copy_of_each: Project, database_url: str, tmp_path: Path
) -> None:
    service = Service(copy_of_each, database_url, tmp_path / "log", SHUTDOWN_DELAY="1.5")
    service.command("migrate")
    service.start("--workers", "3")
    # One that is told before that ends at once.
    wait_until(lambda: service.log.read_text().count("startup complete") == 3, 30)

    service.stop()

    entries = service.entries()
    told, ends = (
        [datetime.fromisoformat(entry["time"]) for entry in entries if words in entry["message"]]
        for words in ("Terminated child process", "Shutting down")
    )
    assert len(told) == len(ends) == 3
    assert min(ends) - max(told) > timedelta(seconds=1.4)


@sqlite_first
def test_processes_end_with_the_one_that_started_them(
    copy_of_each: Project, database_url: str, tmp_path: Path
) -> None:
    service = Service(copy_of_each, database_url, tmp_path / "service.log")
    service.command("migrate")
    service.start("--workers", "2")
    wait_until(lambda: len(processes(service, "Started")) == 2, 30)
    try:
        service.kill()

        wait_until(lambda: len(processes(service, "Finished")) == 2, 15)
        assert "Traceback" not in service.log.read_text()
    finally:
        for process in processes(service, "Started"):
            with suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)


def test_who_listens_is_told(copy_of_each: Project, database_url: str, tmp_path: Path) -> None:
    routers = copy_of_each.path / "app" / "api.py"
    routers.write_text(routers.read_text() + STREAMS)
    answers: list[httpx2.Response] = []
    with running(copy_of_each, database_url, tmp_path, SHUTDOWN_DELAY="0.5") as service:
        client = service.client
        slow = threading.Thread(target=lambda: answers.append(client.get("/api/v1/slow")))
        slow.start()
        with client.sse("/api/v1/ticks") as response:  # who leaves is no error
            assert next(iter(response)).data == "0"
        with client.websocket("/api/v1/echo") as socket, client.sse("/api/v1/ticks") as response:
            socket.send_text("hello")
            assert socket.receive_text() == "hello"
            events = iter(response)
            assert next(events).data == "0"
            begun = time.monotonic()
            service.process.terminate()
            wait_until(lambda: service.status("/health/ready") == 503, 1)
            assert list(events) == []  # an end, not a broken connection
            with pytest.raises(WebSocketDisconnect) as told:
                socket.receive_text(timeout=5)
            assert told.value.code == 1012
        slow.join()
        assert [answer.text for answer in answers] == ['"done"']
        service.process.wait(10)
        assert time.monotonic() - begun < 6
        assert service.process.returncode == -signal.SIGTERM
    assert "Traceback" not in service.log.read_text()


@sqlite_first
def test_what_takes_too_long_is_answered(
    copy_of_each: Project, database_url: str, tmp_path: Path
) -> None:
    routers = copy_of_each.path / "app" / "api.py"
    routers.write_text(routers.read_text() + STREAMS)
    answers: list[httpx2.Response] = []
    codes: list[int] = []
    with running(copy_of_each, database_url, tmp_path) as service:
        client = service.client

        def open_socket(seconds: int) -> None:
            try:
                with client.websocket(f"/api/v1/slow/{seconds}") as socket:
                    socket.receive_text()
            except WebSocketDisconnect as error:
                codes.append(error.code)
            except WebSocketUpgradeError as error:
                answers.append(error.response)

        threads = [
            threading.Thread(target=lambda: answers.append(client.get("/api/v1/endless"))),
            *(threading.Thread(target=open_socket, args=[seconds]) for seconds in (2, 60)),
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        service.process.terminate()
        for thread in threads:
            thread.join(15)
        service.process.wait(15)
    assert codes == [1012]
    assert [answer.status_code for answer in answers] == [503, 503]
    assert "Traceback" not in service.log.read_text()
