"""Developing without a server of one's own."""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.commands import run
from tests.postgresql.conftest import private_servers
from tests.projects import Project
from tests.servers import TCPServer, wait_until

pytestmark = pytest.mark.alone

INSERT = "INSERT INTO products (name, sku, price, currency) VALUES ('Lamp', 'L', 100, 'EUR')"


@pytest.fixture(autouse=True)
def no_data_are_left(project: Project) -> Iterator[None]:
    yield
    wait_until(lambda: private_servers() == [])
    checkout = hashlib.sha256(str(project.path).encode()).hexdigest()[:8]
    for base in (Path("/var/lib/testkit"), Path("~/.local/share/testkit").expanduser()):
        for directory in base.glob(f"postgresql/my-service-{checkout}-*"):
            shutil.rmtree(directory)


def on_database(project: Project, *command: str, check: bool = True, **environment: str) -> str:
    """What `make run` and the others do, without the start of uv."""
    module = "testkit.databases.postgresql"
    return project.run("python", "-m", module, *command, check=check, **environment).stdout


def psql(project: Project, statement: str, **environment: str) -> str:
    return on_database(project, "psql", "-tAc", statement, **environment).splitlines()[-1]


@pytest.mark.long
def test_data_are_durable_and_kept(project: Project) -> None:
    on_database(project, str(project.venv / "bin" / "alembic"), "upgrade", "head")
    psql(project, INSERT)
    wait_until(lambda: private_servers() == [])

    assert psql(project, "SELECT name FROM products") == "Lamp"
    assert psql(project, "SHOW fsync") == "on"
    project.pytest("tests/test_health.py")
    assert psql(project, "SELECT name FROM products") == "Lamp"


@pytest.mark.long
def test_make_db_shell(project: Project) -> None:
    shutil.copytree(project.venv, project.path / ".venv", symlinks=True)

    # It connects, and ends with its input.
    assert "using a private server" in run("make", "db-shell", cwd=project.path).stdout


@pytest.mark.parametrize("place", ["environment", ".env"])
def test_a_given_database_goes_first(project: Project, tcp_server: TCPServer, place: str) -> None:
    url = tcp_server.url().replace("postgresql:", "postgresql+asyncpg:")
    environment = {"DATABASE_URL": url} if place == "environment" else {}
    if place == ".env":
        (project.path / ".env").write_text(f"DATABASE_URL={url}\n")

    assert psql(project, "SHOW port", **environment) == str(tcp_server.port)


def test_failures_are_said_in_plain_words(project: Project) -> None:
    for command, environment, message in (
        (["no-such-program"], {}, "no-such-program cannot be run"),
        (["psql"], {"DATABASE_URL": "nonsense"}, "DATABASE_URL is not a URL"),
        ([], {}, "Runs a command on the development database"),
    ):
        output = on_database(project, *command, check=False, **environment)

        assert message in output
        assert "Traceback" not in output


@pytest.mark.long
def test_instances_that_start_together_do_not_race(project: Project, tcp_server: TCPServer) -> None:
    tcp_server.execute("CREATE DATABASE race")
    url = tcp_server.url(database="race").replace("postgresql:", "postgresql+asyncpg:")

    def upgrade(_: int) -> subprocess.CompletedProcess[str]:
        return project.run("alembic", "upgrade", "head", DATABASE_URL=url)

    with ThreadPoolExecutor() as instances:
        outputs = [result.stdout for result in instances.map(upgrade, range(4))]

    assert sum("Running upgrade  -> 0001" in output for output in outputs) == 1
    tcp_server.execute("DROP DATABASE race")
