"""What has to fail does so, by name, and no other test is affected."""

import re

from tests.commands import run
from tests.projects import Project
from tests.traps.inner import line_of, run_inner

FAILURES = """
    import asyncio
    import threading
    import time

    import pytest
    from sqlalchemy import text

    from app.database import sessionmaker
    from tests.fixtures.canaries import Canary

    kept = []


    async def wait_for_ever():
        await asyncio.Event().wait()


    async def test_leaks_a_task():
        kept.append(asyncio.create_task(wait_for_ever()))


    async def test_leaks_a_task_of_a_library():
        kept.append(asyncio.create_task(asyncio.sleep(60)))


    async def test_leaks_a_task_beside_a_session(session):
        soon = wait_for_ever
        kept.append(asyncio.create_task(soon()))


    @pytest.mark.usefixtures("session", "each_isolation")
    async def test_leaks_a_transaction():
        leaked = sessionmaker()
        leaked.add(Canary(name="leaked"))
        await leaked.flush()
        kept.append(leaked)


    async def test_leaks_a_connection(engine, session):
        connection = await engine.connect()
        await connection.execute(text("DELETE FROM testkit_canaries"))
        kept.append(connection)


    def test_leaks_a_thread():
        threading.Thread(target=time.sleep, args=(3,), name="forgotten", daemon=True).start()


    def test_leaves_a_thread_that_just_ends():
        threading.Thread(target=time.sleep, args=(0.05,)).start()


    async def test_leaves_a_task_that_just_ends():
        kept.append(asyncio.create_task(asyncio.to_thread(time.sleep, 0.1)))


    @pytest.mark.timeout(0.2)
    @pytest.mark.usefixtures("each_isolation")
    @pytest.mark.parametrize("wait", [asyncio.sleep, time.sleep])
    async def test_hangs(session, wait):
        session.add(Canary(name="Ada"))
        await session.commit()
        if (waiting := wait(60)) is not None:
            await waiting


    @pytest.mark.parametrize("number", range(3))
    async def test_is_innocent(session, number):
        assert await session.scalar(text("SELECT count(*) FROM testkit_canaries")) == 0
"""


TRANSACTION = "a session with an open transaction, begun"


def test_what_is_left_open_is_named(copy_of_each: Project) -> None:
    inner = run_inner(copy_of_each, FAILURES)

    for name, what, code in (
        ("test_leaks_a_task", "the task wait_for_ever, created", "create_task(wait_for_ever())"),
        ("test_leaks_a_task_of_a_library", "the task sleep, created", "asyncio.sleep(60)"),
        ("test_leaks_a_task_beside_a_session", "the task wait_for_ever, created", "(soon())"),
        ("test_leaks_a_transaction[committed]", TRANSACTION, "leaked.flush()"),
        ("test_leaks_a_transaction[rollback]", TRANSACTION, "leaked.flush()"),
        ("test_leaks_a_connection", "a connection, opened", "engine.connect()"),
        ("test_leaks_a_thread", "the thread forgotten, started", "forgotten"),
    ):
        leak = f"{name} left open: {what} at {line_of(FAILURES, code)}"
        inner.assert_says(name, re.escape(leak), kind="error")
    for name in ("rollback-sleep0", "committed-sleep0", "rollback-sleep1", "committed-sleep1"):
        inner.assert_says(f"test_hangs[{name}]", "Timeout")
    for name in ("test_hangs[rollback-sleep0]", "test_hangs[committed-sleep0]"):
        place = re.escape(line_of(FAILURES, "await waiting"))
        inner.assert_says(
            name, rf"When time ran out, these were waiting:\n.* {place} in test_hangs"
        )
    inner.assert_passed("test_leaves_a_thread_that_just_ends")
    inner.assert_passed("test_leaves_a_task_that_just_ends")
    inner.assert_passed(*(f"test_is_innocent[{number}]" for number in range(3)))


def test_order_workers_and_a_crash_do_not_matter(copy_of_each: Project) -> None:
    project = copy_of_each
    (project.path / "tests" / "isolation" / "test_crash.py").write_text(
        "import os\n\nimport pytest\n\n"
        "from tests.fixtures.canaries import Canary\n\n\n"
        '@pytest.mark.usefixtures("each_isolation")\n'
        "async def test_crashes(session):\n"
        '    session.add(Canary(name="Ada"))\n'
        "    await session.commit()\n"
        "    os._exit(1)\n"
    )

    result = project.pytest("tests/isolation", "-n", "2", "--dist", "worksteal", check=False)

    assert re.search(r"^2 failed, \d+ passed", result.stdout, re.MULTILINE), result.stdout
    assert "crashed while running 'tests/isolation/test_crash.py" in result.stdout


HANGING = """
    import asyncio

    import pytest
    from fastapi import FastAPI, WebSocket

    from tests.fixtures.client import create_client

    own = FastAPI()


    @own.websocket("/deaf")
    async def deaf(socket: WebSocket) -> None:
        await socket.accept()
        await listen(socket)


    async def listen(socket: WebSocket) -> None:
        async for _ in socket.iter_text():
            pass


    @pytest.fixture
    async def never_ready() -> None:
        await asyncio.Event().wait()  # in a fixture


    async def wait() -> None:
        await asyncio.Event().wait()  # in a task


    @pytest.mark.timeout(0.5)
    async def test_websocket(database_isolation) -> None:
        async with create_client(own).websocket("/deaf") as socket:
            await socket.receive_text()


    @pytest.mark.timeout(0.5)
    async def test_fixture(never_ready) -> None:
        pass


    @pytest.mark.timeout(0.5)
    async def test_tasks() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(wait())


    @pytest.mark.timeout(0.5)
    def test_sync() -> None:
        while True:
            pass
"""


def test_what_hangs_is_named(project: Project) -> None:
    inner = run_inner(project, HANGING)

    for name, kind, codes in (
        ("test_websocket", "failed", ("in socket.iter_text()", "socket.receive_text()")),
        ("test_fixture", "error", ("# in a fixture",)),
        ("test_tasks", "failed", ("# in a task", "asyncio.TaskGroup()")),
    ):
        inner.assert_says(name, "When time ran out, these were waiting:", kind=kind)
        for code in codes:
            inner.assert_says(name, f"{re.escape(line_of(HANGING, code))} in ", kind=kind)
    inner.assert_says("test_sync", "Timeout")
    assert "these waited" not in inner["test_sync"].text


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
            await writer.wait_closed()
"""


def test_nothing_of_the_outside_gets_in(copy_of_each: Project) -> None:
    poison = {
        "DATABASE_URL": "poison://",
        "SECRET_KEY": "poison",
        "smtp_port": "0",
        "ENVIRONMENT": "poison",
        "EXCHANGE_RATES_URL": "poison",
    }
    (copy_of_each.path / ".env").write_text("".join(f"{k}={v}\n" for k, v in poison.items()))

    inner = run_inner(copy_of_each, SEALED, **poison)

    inner.assert_passed()


def test_nothing_heavy_is_imported(each_project: Project) -> None:
    heavy = {"numpy", "py3langid", "torch", "transformers"}
    program = (
        "import sys, pytest;"
        "pytest.main(['--collect-only', '-q', '-p', 'no:cacheprovider']);"
        f"print('heavy:', *({heavy!r} & sys.modules.keys()))"
    )

    output = run(each_project.venv / "bin" / "python", "-c", program, cwd=each_project.path).stdout

    assert "tests collected" in output
    assert output.endswith("heavy:\n")
