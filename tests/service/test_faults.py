"""What the service does when something around it fails: real processes, on both databases."""

import asyncio
import http.client
import json
import os
import re
import resource
import select
import shutil
import signal
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from tests.commands import start
from tests.projects import Project, sqlite_first
from tests.servers import TCPServer, free_port, new_database, running_server, wait_until
from tests.service.servers import (
    PASSWORD,
    Background,
    Door,
    MailServer,
    Service,
    memory,
    running,
)

SLOW_ROUTES = """
import asyncio

from fastapi import APIRouter, WebSocket

slow = APIRouter()
ROUTERS = (*ROUTERS, slow)


@slow.get("/slow")
async def wait() -> str:
    await asyncio.sleep(0.5)
    return "done"


@slow.websocket("/socket")
async def accept(socket: WebSocket) -> None:
    await socket.accept()
    await socket.receive()
"""


def readiness(service: Service) -> tuple[int, str | None]:
    """The answer, which has to come in two seconds."""
    begun = time.monotonic()
    response = service.client.get("/health/ready")
    assert time.monotonic() - begun < 2.5
    assert service.client.get("/health/live").status_code == 200
    return response.status_code, response.json().get("code")


def test_readiness_follows_the_database(
    postgresql_project: Project, tcp_server: TCPServer, background: Background, tmp_path: Path
) -> None:
    name = new_database(tcp_server)
    door = Door(background, tcp_server.port)
    url = f"postgresql+asyncpg://postgres:secret@127.0.0.1:{door.port}/{name}"
    with running(postgresql_project, url, tmp_path, migrate=False) as service:
        assert readiness(service) == (503, "DATABASE_NOT_MIGRATED")
        service.run("alembic", "upgrade", "head")
        assert readiness(service) == (200, None)

        door.freeze()
        assert readiness(service) == (503, "DATABASE_TIMEOUT")
        door.thaw()
        wait_until(lambda: readiness(service) == (200, None))

        door.close()
        assert readiness(service) == (503, "DATABASE_UNAVAILABLE")
        door.open()
        wait_until(lambda: readiness(service) == (200, None))
    tcp_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_postgresql_that_restarts_under_load(postgresql_project: Project, tmp_path: Path) -> None:
    with running_server(postgresql_project) as server:
        url = server.url(database=new_database(server)).replace(
            "postgresql:", "postgresql+asyncpg:"
        )
        with running(postgresql_project, url, tmp_path) as service:
            service.register("ada@example.com")
            statuses = asyncio.run(read_while(service, lambda: crash(server)))
            assert set(statuses) <= {200, 503}
            assert statuses[-1] == 200
            assert service.log_in("ada@example.com").status_code == 200
            assert "Traceback" not in service.log.read_text()


def crash(server: TCPServer) -> None:
    """PostgreSQL closes all connections and recovers when one of its processes dies."""
    others = (
        "SELECT pid FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )

    def kill_one() -> bool:
        for pid in re.findall(r"\d+", server.execute(others)):
            with suppress(ProcessLookupError):  # a connection beyond the pool, closed meanwhile
                os.kill(int(pid), signal.SIGKILL)
                return True
        return False

    wait_until(kill_one)


async def read_while(service: Service, happens: Callable[[], None]) -> list[int]:
    """The answers to requests of many clients, until they are what they were before it happened."""
    statuses: list[int] = []
    async with httpx2.AsyncClient(base_url=service.url, timeout=60, trust_env=False) as client:

        async def read() -> None:
            good = 0
            while good < 20:
                status = (await client.get("/api/v1/products")).status_code
                statuses.append(status)
                good = good + 1 if status == 200 and has_happened.is_set() else 0
                if status == 503:
                    await asyncio.sleep(0.05)

        has_happened = asyncio.Event()
        readers = asyncio.gather(*(read() for _ in range(10)))
        await asyncio.to_thread(happens)
        has_happened.set()
        await asyncio.wait_for(readers, 60)
    return statuses


def test_full_disk_costs_nothing_but_the_answer(sqlite_project: Project, tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/service.db"
    with running(sqlite_project, url, tmp_path) as service:
        service.register("ada@example.com")
        largest = (tmp_path / "service.db-wal").stat().st_size
        process = service.process.pid
        limits = resource.prlimit(process, resource.RLIMIT_FSIZE)
        resource.prlimit(process, resource.RLIMIT_FSIZE, (largest, limits[1]))
        refused = [service.register(f"user-{number}@example.com") for number in range(5)]
        assert {response.status_code for response in refused} == {503}
        assert service.log_in("ada@example.com").status_code == 200

        resource.prlimit(process, resource.RLIMIT_FSIZE, limits)
        assert service.register("user-0@example.com").status_code == 201
        with sqlite3.connect(tmp_path / "service.db") as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        database.close()


def test_mail_server_that_hangs_holds_up_nobody(
    each_project: Project, database_url: str, background: Background, tmp_path: Path
) -> None:
    mails = MailServer(background, hangs=True)
    mails.open()
    with running(each_project, database_url, tmp_path, **mails.environment) as service:
        service.register("ada@example.com")
        for _ in range(20):
            assert service.forgot_password("ada@example.com").status_code == 202
        wait_until(lambda: mails.conversations > 0)

        begun = time.monotonic()
        for number in range(5):
            assert service.register(f"user-{number}@example.com").status_code == 201
        assert time.monotonic() - begun < 5

        assert service.stop() < 5


def test_mail_that_nobody_takes_is_sent_later(
    each_project: Project, database_url: str, background: Background, tmp_path: Path
) -> None:
    mails = MailServer(background)  # it is away
    with running(each_project, database_url, tmp_path, **mails.environment) as service:
        service.register("ada@example.com")
        for _ in range(3):
            service.forgot_password("ada@example.com")
        time.sleep(1)
        service.kill()
        mails.open()
        service.start()

        wait_until(lambda: len(set(mails.ids)) == 3, 30)


@pytest.mark.long
def test_killed_while_a_mail_is_sent(
    each_project: Project, database_url: str, background: Background, tmp_path: Path
) -> None:
    mails = MailServer(background, hangs=True)
    mails.open()
    with running(each_project, database_url, tmp_path, **mails.environment) as service:
        service.register("ada@example.com")
        service.forgot_password("ada@example.com")
        wait_until(lambda: mails.conversations == 1)
        service.kill()
        mails.hangs = False
        service.start()

        wait_until(lambda: len(mails.ids) == 1, 40)


def test_workers_share_the_jobs_that_the_service_leaves_to_them(
    each_project: Project, database_url: str, background: Background, tmp_path: Path
) -> None:
    mails = MailServer(background)
    mails.open()
    environment = mails.environment | {"JOBS_IN_PROCESS": "false"}
    with running(each_project, database_url, tmp_path, **environment) as service:
        service.register("ada@example.com")
        for _ in range(20):
            service.forgot_password("ada@example.com")
        assert mails.ids == []
        workers = [service.spawn("app", "worker") for _ in range(2)]
        wait_until(lambda: len(mails.ids) == 20, 30)
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(5) == 0

    assert len(set(mails.ids)) == 20


def test_connection_survives_an_unexpected_error(sqlite_project: Project, tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/service.db"
    with running(sqlite_project, url, tmp_path) as service:
        with sqlite3.connect(tmp_path / "service.db") as database:
            database.execute("ALTER TABLE products RENAME TO gone")
        database.close()
        connection = http.client.HTTPConnection("127.0.0.1", service.port)
        for _ in range(2):
            connection.request("GET", "/api/v1/products")
            opened = connection.sock
            response = connection.getresponse()
            assert response.status == 500
            assert b"INTERNAL_SERVER_ERROR" in response.read()
            assert connection.sock is opened

        wait_until(lambda: service.log.read_text().count("unexpected error") == 2)


def test_large_body_is_refused_before_it_is_read(sqlite_project: Project, tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/service.db"
    with running(sqlite_project, url, tmp_path) as service:
        service.status("/health/ready")
        before = memory(service.process)
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            head = "POST /api/v1/auth/register HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            client.sendall(f"{head}Content-Length: 104857600\r\n\r\n".encode())
            answer = client.recv(100)
        assert b" 413 " in answer
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            try:
                for _ in range(1000):
                    client.sendall(b"19000\r\n" + b" " * 0x19000 + b"\r\n")
            except OSError:  # it has hung up
                pass
        assert memory(service.process) - before < 30  # MiB


def test_endless_head_is_refused(sqlite_project: Project, tmp_path: Path) -> None:
    """One that is as long as some cookies and tokens is not."""
    url = f"sqlite+aiosqlite:///{tmp_path}/service.db"
    with running(sqlite_project, url, tmp_path) as service:
        before = memory(service.process)
        cookies = {"Cookie": "x" * 30_000}
        assert service.client.get("/health/live", headers=cookies).status_code == 200
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n")
            try:
                for number in range(2000):
                    client.sendall(f"X-{number}: {'x' * 50_000}\r\n".encode())
            except OSError:  # it has hung up
                pass
        assert memory(service.process) - before < 30  # MiB
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\nX: ")
            client.settimeout(10)
            for _ in range(20):
                client.sendall(b"x" * 20_000)
                time.sleep(0.01)
                if client in select.select([client], [], [], 0)[0]:
                    break
            assert b" 431 " in client.recv(100)


def test_clients_that_do_not_read_hold_up_nobody(
    each_project: Project, database_url: str, tmp_path: Path
) -> None:
    """They ask for more than fits into the buffers between, and for changes after that."""
    with running(each_project, database_url, tmp_path) as service:
        service.command("create-superuser", "ada@example.com", text=PASSWORD)
        token = service.log_in("ada@example.com").json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        for number in range(100):
            names = {"name": "x" * 200, "sku": f"SKU-{number}"}
            product = {**names, "price": "1.00", "currency": "EUR"}
            made = service.client.post("/api/v1/products", json=product, headers=headers)
            assert made.status_code == 201, made.text
        read = b"GET /api/v1/products?limit=100 HTTP/1.1\r\nHost: x\r\n\r\n"
        write = (
            b"POST /api/v1/auth/logout HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
            b"Authorization: Bearer %s\r\n\r\n" % token.encode()
        )
        # As many as it takes to use up what there is.
        count = 16 if each_project.database == "postgresql" else 1
        clients = [deaf_client(service, (read + write) * 150) for _ in range(count)]
        wait_until(lambda: is_quiet(service), 30)

        assert readiness(service) == (200, None)
        assert service.register("eve@example.com").status_code == 201
        for client in clients:
            client.close()
        wait_until(lambda: is_quiet(service), 30)
        assert "unexpected error" not in service.log.read_text()


def deaf_client(service: Service, requests: bytes) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.connect(("127.0.0.1", service.port))
    client.setblocking(False)
    client.send(requests)
    return client


def is_quiet(service: Service) -> bool:
    """Whether it has answered nothing for a while."""
    before = service.log.stat().st_size
    time.sleep(0.5)
    return service.log.stat().st_size == before


def test_many_logins_at_once(each_project: Project, database_url: str, tmp_path: Path) -> None:
    """Beside writers; passwords are hashed as in production."""
    production = {"ARGON2_TIME_COST": "3", "ARGON2_MEMORY_COST": "65536"}
    with running(each_project, database_url, tmp_path, **production) as service:
        assert service.register("ada@example.com").status_code == 201
        statuses = asyncio.run(drive(service, seconds=6))

    assert set(statuses) <= {200, 201}
    assert statuses.count(200) >= 40


async def drive(service: Service, seconds: float) -> list[int]:
    statuses: list[int] = []
    end = time.monotonic() + seconds
    form = {"username": "ada@example.com", "password": PASSWORD}
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(
        base_url=f"{service.url}/api/v1/auth", timeout=60, limits=limits, trust_env=False
    ) as client:

        async def log_in() -> None:
            statuses.append((await client.post("/login", data=form)).status_code)

        async def write(name: str) -> None:
            number = 0
            while time.monotonic() < end:
                number += 1
                account = {"email": f"{name}-{number}@example.com", "password": PASSWORD}
                statuses.append((await client.post("/register", json=account)).status_code)

        await asyncio.gather(*(log_in() for _ in range(40)), *(write(f"w{n}") for n in range(3)))
    return statuses


@pytest.fixture
def redis_url() -> str:
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        pytest.skip("no Redis is installed")
    port = free_port()
    start(program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", cwd=Path("/tmp"))

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(answers)
    return f"redis://127.0.0.1:{port}"


def test_processes_count_tries_together(
    sqlite_project: Project, redis_url: str, tmp_path: Path
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/service.db"
    limits = {"REDIS_URL": redis_url, "THROTTLE_LOGIN": "3/minute"}
    with (
        running(sqlite_project, url, tmp_path, **limits) as first,
        running(sqlite_project, url, tmp_path, **limits) as second,
    ):
        tries = [service.log_in("ada@example.com") for service in (first, second) * 2]

    assert [response.status_code for response in tries] == [400, 400, 400, 429]
    assert 0 < int(tries[-1].headers["Retry-After"]) <= 60


@sqlite_first
def test_upgrades(copy_of_each: Project, database_url: str, tmp_path: Path) -> None:
    """One that is not offered is ignored, and does not make the body the next request. A handshake does not overtake
    the response to another request."""
    routers = copy_of_each.path / "app" / "api.py"
    routers.write_text(routers.read_text() + SLOW_ROUTES)
    with running(copy_of_each, database_url, tmp_path) as service:
        account = json.dumps({"email": "ada@example.com", "password": PASSWORD}).encode()
        upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAQ\r\n"
        register = (
            b"POST /api/v1/auth/register HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        )
        smuggled = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
        for pause in (0, 0.2):
            for body, status in ((account, 201), (smuggled, 422)):
                head = b"%b%bContent-Length: %d\r\n\r\n" % (register, upgrade, len(body))
                assert statuses_of(service, head, body, pause=pause) == [status]
            account = account.replace(b"ada", b"eve")

        handshake = (
            b"GET /api/v1/%b HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        )
        handshake += (
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Ng==\r\n\r\n"
        )
        slow = b"GET /api/v1/slow HTTP/1.1\r\nHost: x\r\n\r\n"
        for path in (b"socket", b"nowhere"):
            assert statuses_of(service, slow + handshake % path) == [200]
        assert statuses_of(service, handshake % b"socket") == [101]
        assert statuses_of(service, b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n") == [400]
        assert "Traceback" not in service.log.read_text()


def statuses_of(service: Service, *parts: bytes, pause: float = 0) -> list[int]:
    """Sends these parts. Returns the statuses of all responses until nothing more comes."""
    received = b""
    with socket.create_connection(("127.0.0.1", service.port)) as client:
        for part in parts:
            client.sendall(part)
            time.sleep(pause)
        client.settimeout(2)
        with suppress(TimeoutError):
            while data := client.recv(65536):
                received += data
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+)", received)]
