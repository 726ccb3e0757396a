"""Whole runs of pytest, as processes of their own: what has to fail does so, and by name."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fixtures.database import ROOT

Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow

UNDONE = ROOT / "tests/isolation/test_undone.py"

FAILURES = """
import asyncio
import time

import pytest
from sqlalchemy import text

from app.database import sessionmaker
from app.users.models import User

kept = []


async def wait_for_ever():
    await asyncio.Event().wait()


async def test_leaks_a_task():
    kept.append(asyncio.create_task(wait_for_ever()))


async def test_leaks_a_task_beside_a_session(session):
    kept.append(asyncio.create_task(wait_for_ever()))


@pytest.mark.usefixtures("session", "each_isolation")
async def test_leaks_a_transaction():
    leaked = sessionmaker()
    leaked.add(User(email="leaked@example.com", hashed_password=""))
    await leaked.flush()
    kept.append(leaked)


@pytest.mark.committed
async def test_leaks_a_connection(engine, session):
    connection = await engine.connect()
    await connection.execute(text("DELETE FROM users"))
    kept.append(connection)


@pytest.mark.timeout(0.2)
@pytest.mark.usefixtures("each_isolation")
@pytest.mark.parametrize("wait", [asyncio.sleep, time.sleep])
async def test_hangs(session, wait):
    session.add(User(email="ada@example.com", hashed_password=""))
    await session.commit()
    if (waiting := wait(60)) is not None:
        await waiting


@pytest.mark.parametrize("number", range(3))
async def test_is_innocent(session, number):
    assert await session.scalar(text("SELECT count(*) FROM users")) == 0
"""

CRASH = """

@pytest.mark.committed
async def test_crashes(session):
    import os

    session.add(ada())
    await session.commit()
    os._exit(1)
"""

SEALED = """
import asyncio
import socket

import pytest

from app.settings import Settings


def test_settings():
    settings = Settings()
    assert settings.environment == "test"
    assert settings.smtp_port == 1025
    assert "poison" not in repr(settings) + settings.secret_key.get_secret_value()


async def test_sockets_are_blocked():
    with pytest.raises(RuntimeError, match="socket"):
        socket.create_connection(("127.0.0.1", 9))
    with pytest.raises(RuntimeError, match="socket"):
        await asyncio.open_connection("127.0.0.1", 9)
    with pytest.raises(RuntimeError, match="socket"):
        socket.getaddrinfo("example.com", 80)


def test_unix_sockets_are_allowed(tmp_path):
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.connect(str(tmp_path / "s"))


@pytest.mark.network
async def test_marker_lifts_the_block():
    async with await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1") as server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.close()
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs pytest on a module with this source, on the fixtures of this project."""

    def run_pytest(
        source: str, *options: str, cwd: Path = ROOT, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        module = tmp_path / "test_inner.py"
        module.write_text(source)
        command = f"{sys.executable} -m pytest -c {ROOT}/pyproject.toml --rootdir {ROOT}".split()
        for plugin in ("tests.conftest", "no:randomly"):
            command += ["-p", plugin]
        return subprocess.run(
            # These runs leave nothing in the developer's cache and ledger.
            [*command, "-p", "no:cacheprovider", "--no-ledger", *options, str(module)],
            cwd=cwd,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | (environment or {}),
            capture_output=True,
            text=True,
        )

    return run_pytest


def outcomes(result: subprocess.CompletedProcess[str]) -> str:
    """The last line, like `= 2 failed, 3 passed in 0.50s =`."""
    return result.stdout.strip().splitlines()[-1]


def test_failures_are_named_and_stay_alone(run: Run) -> None:
    result = run(FAILURES)

    assert "4 failed, 8 passed, 7 errors" in outcomes(result), result.stdout
    for leak in (
        "test_leaks_a_task left open: the task wait_for_ever at ",
        "test_leaks_a_task_beside_a_session left open: the task wait_for_ever at ",
        "test_leaks_a_transaction[rollback] left open: a session with an open transaction",
        "test_leaks_a_transaction[committed] left open: a session with an open transaction",
        "test_leaks_a_connection left open: a connection, opened at ",
        "test_hangs[rollback-sleep0] left open: the task test_hangs at ",
    ):
        assert leak in result.stdout


def test_order_workers_and_a_crash_do_not_matter(run: Run) -> None:
    options = ("-p", "randomly", "-n", "2", "--dist", "worksteal")

    result = run(UNDONE.read_text() + CRASH, *options)

    assert re.search(r"= 2 failed, \d+ passed in", outcomes(result)), result.stdout
    assert "crashed while running" in result.stdout


def test_nothing_of_the_outside_gets_in(run: Run, tmp_path: Path) -> None:
    poison = {
        "DATABASE_URL": "poison://",
        "SECRET_KEY": "poison",
        "smtp_port": "0",
        "ENVIRONMENT": "poison",
        "EXCHANGE_RATES_URL": "poison",
    }
    (tmp_path / ".env").write_text("".join(f"{k}={v}\n" for k, v in poison.items()))

    result = run(SEALED, cwd=tmp_path, environment=poison)

    assert "= 4 passed" in outcomes(result), result.stdout


def test_nothing_heavy_is_imported() -> None:
    heavy = {"numpy", "py3langid", "torch", "transformers"}
    program = (
        "import sys, pytest;"
        "pytest.main(['--collect-only', '-q', '-p', 'no:cacheprovider']);"
        f"sys.exit(' '.join({heavy!r} & sys.modules.keys()))"
    )

    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )

    assert result.stderr.strip() == ""
    assert "tests collected" in result.stdout
