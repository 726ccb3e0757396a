"""Every command and snippet of the guide, as somebody would follow it."""

import re
import tomllib

import pytest

from tests.commands import outcome, run
from tests.projects import Project, sqlite_first

GUIDE = "docs/testing.md"


def blocks(project: Project, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", project.read(GUIDE), re.DOTALL)


def needs_more(snippet: str) -> bool:
    """Whether it says that something has to be installed: `tests/compatibility` runs it."""
    return "after `uv add" in snippet.partition("\n")[0]


@pytest.fixture
def followed(copy_of_each: Project) -> Project:
    """A project in which the snippets have been written down."""
    for number, snippet in enumerate(blocks(copy_of_each, "python")):
        if needs_more(snippet):
            continue
        named = re.match(r"# (\S+\.py)\n", snippet)
        name = named[1] if named else f"tests/test_guide_{number}.py"
        assert not (copy_of_each.path / name).exists(), name
        (copy_of_each.path / name).write_text(snippet)
    return copy_of_each


@sqlite_first
def test_snippets(followed: Project) -> None:
    # The guide says that the next run asks for a fake.
    refused = followed.pytest("tests/users", check=False)
    assert refused.returncode == 4
    assert "get_sms has no fake" in refused.stdout
    (followed.path / "app" / "services" / "sms.py").unlink()

    guides = sorted(str(path) for path in followed.path.glob("tests/test_guide_*.py"))
    named = ("tests/users/test_former_users.py", "tests/products/test_price_without_rates.py")
    said = followed.pytest(*guides, *named).stdout
    assert outcome(said) == "16 passed, 2 subtests passed", said
    for tool in (("ruff", "check"), ("ruff", "format", "--check"), ("mypy",)):
        followed.run(*tool)


def test_settings(copy_of_each: Project) -> None:
    (settings,) = (tomllib.loads(block) for block in blocks(copy_of_each, "toml"))

    options = [f"--override-ini={name}={value}" for name, value in settings.items()]
    output = copy_of_each.pytest("tests/test_health.py", *options).stdout

    assert "passed" in output
    assert "warning" not in output


@pytest.mark.long
@pytest.mark.alone
def test_commands(installed_copy_of_each: Project) -> None:
    project = installed_copy_of_each
    for block in blocks(project, "sh"):
        run("bash", "-euxc", block, cwd=project.path)


# Messages of the table, each with a test that shows it.
SYMPTOMS = {
    "ScopeMismatch": """
        import pytest

        @pytest.fixture(scope="class")
        def too_wide(session): ...

        def test_it(too_wide): ...
    """,
    "SocketBlockedError": """
        import socket

        def test_it():
            socket.create_connection(("127.0.0.1", 1))
    """,
    "left open: the task": """
        import asyncio

        async def test_it():
            asyncio.create_task(asyncio.sleep(60), name="forgotten").add_done_callback(print)
    """,
    "left open: a session": """
        from app.database import sessionmaker
        from sqlalchemy import text

        async def test_it(app):
            global kept
            kept = sessionmaker()
            await kept.execute(text("SELECT 1"))
    """,
    "The test has changed ... through its session without a commit": """
        from tests.fixtures.factories import User

        async def test_it(session, client):
            session.add(User(email="ada@example.com", hashed_password=""))
            await client.get("/health/ready")
    """,
    "was never awaited: write await before the call": """
        async def test_it(client):
            client.get("/health/live")
    """,
    "stops the event loop, and with it all other requests": """
        import time

        async def test_it():
            time.sleep(0.3)
    """,
    "waits for its client while the transaction": """
        from fastapi import FastAPI, WebSocket
        from sqlalchemy import text
        from app.database import SessionDep
        from tests.fixtures.client import create_client

        async def test_it(database_isolation):
            app = FastAPI()

            @app.websocket("/")
            async def route(socket: WebSocket, session: SessionDep):
                await socket.accept()
                await session.execute(text("SELECT 1"))
                await socket.send_text("ready")
                await socket.receive_text()

            async with create_client(app).websocket("/") as socket:
                await socket.receive_text()
    """,
    "goes on while the transaction": """
        from collections.abc import AsyncIterable
        from fastapi import FastAPI
        from fastapi.sse import EventSourceResponse
        from sqlalchemy import text
        from app.database import SessionDep
        from tests.fixtures.client import create_client

        async def test_it(database_isolation):
            app = FastAPI()

            @app.get("/ticks", response_class=EventSourceResponse)
            async def ticks(session: SessionDep) -> AsyncIterable[int]:
                yield await session.scalar(text("SELECT 1"))
                yield 2

            await create_client(app).get("/ticks")
    """,
    "LateCommit": """
        from fastapi import Depends, FastAPI
        from app.database import sessionmaker
        from app.users.models import User
        from tests.fixtures.client import create_client

        async def unit_of_work():
            async with sessionmaker() as session:
                yield session
                await session.commit()

        async def test_it(database_isolation):
            app = FastAPI()

            @app.post("/users")
            async def add(session=Depends(unit_of_work)) -> None:
                session.add(User(email="ada@example.com", hashed_password=""))

            await create_client(app).post("/users")
    """,
    "which failed, and nobody awaited it": """
        import asyncio

        async def fail():
            raise ValueError

        async def test_it():
            task = asyncio.create_task(fail())
            await asyncio.sleep(0.001)
    """,
    "missing 1 required positional argument: 'request'": """
        from fastapi import Depends, FastAPI, Request, WebSocket
        from tests.fixtures.client import create_client

        async def of_requests(request: Request): ...

        async def test_it(database_isolation):
            app = FastAPI()

            @app.websocket("/")
            async def route(socket: WebSocket, wanted=Depends(of_requests)): ...

            async with create_client(app).websocket("/"):
                pass
    """,
    "'State' object has no attribute": """
        async def test_it(app):
            app.state.redis.get("key")
    """,
    "The test has changed app.state.settings": """
        async def test_it(app):
            app.state.settings.smtp_host = "elsewhere"
    """,
    "was undone by the rollback at": """
        import pytest
        from app.database import sessionmaker
        from tests.fixtures.canaries import Canary

        @pytest.mark.rollback
        async def test_it(app):
            async with sessionmaker() as outer:
                outer.add(Canary(name="outer"))
                await outer.flush()
                async with sessionmaker() as inner:
                    inner.add(Canary(name="inner"))
                    await inner.commit()
                await outer.rollback()
    """,
    "left open: the thread": """
        import threading
        import time

        def test_it():
            threading.Thread(target=time.sleep, args=(3,)).start()
    """,
    "A transaction is already begun on this Session": """
        from sqlalchemy import text

        async def test_it(session):
            await session.execute(text("SELECT 1"))
            async with session.begin(): ...
    """,
    "attached to a different loop": """
        import asyncio

        async def test_it():
            other = asyncio.new_event_loop()
            future = other.create_future()
            other.close()
            await future
    """,
    "Event loop is closed": """
        import asyncio

        async def test_it():
            other = asyncio.new_event_loop()
            other.close()
            other.call_soon(print)
    """,
    "Another task has kept a transaction open for 5 s": """
        import asyncio
        import pytest
        from app.database import sessionmaker
        from sqlalchemy import text

        @pytest.mark.rollback
        async def test_it(app):
            async with sessionmaker() as first:
                await first.execute(text("SELECT 1"))

                async def other():
                    async with sessionmaker() as second:
                        await second.execute(text("SELECT 1"))

                await asyncio.create_task(other())
    """,
    "When time ran out, these were waiting": """
        import asyncio

        import pytest

        @pytest.mark.timeout(0.2)
        async def test_it():
            await asyncio.Event().wait()
    """,
    "Timeout (>60.0s)": """
        import time

        import pytest

        @pytest.mark.timeout(0.2)
        def test_it():
            time.sleep(5)
    """,
}
ON_SQLITE = {
    "database is locked": """
        import pytest
        from sqlalchemy import text

        async def test_it(engine):
            write = text("UPDATE users SET email = email")
            async with engine.connect() as first, engine.connect() as second:
                await second.exec_driver_sql("PRAGMA busy_timeout = 10")
                await first.execute(write)
                await second.execute(write)
    """,
    "no such table": """
        from sqlalchemy import text
        from sqlalchemy.ext.asyncio import create_async_engine

        async def test_it():
            async with create_async_engine("sqlite+aiosqlite://").connect() as connection:
                await connection.execute(text("SELECT * FROM users"))
    """,
}
ON_POSTGRESQL = {
    "another operation is in progress": """
        import asyncio

        import pytest
        from sqlalchemy import text

        async def test_it(engine):
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
                driver = (await connection.get_raw_connection()).driver_connection
                await asyncio.gather(*(driver.fetch("SELECT 1") for _ in range(2)))
    """,
    "relation ... does not exist": """
        from sqlalchemy import text

        async def test_it(session):
            await session.execute(text("SELECT * FROM nowhere"))
    """,
}


@sqlite_first
def test_messages(copy_of_each: Project) -> None:
    """The table of messages is of messages that appear, in these very words."""
    own = {"sqlite": ON_SQLITE, "postgresql": ON_POSTGRESQL}[copy_of_each.database]
    guide = copy_of_each.read(GUIDE)
    symptoms = SYMPTOMS | own
    for number, (message, test) in enumerate(symptoms.items()):
        assert f"`{message}" in guide, message
        indented = re.sub(r"^ {8}", "", test, flags=re.MULTILINE)
        (copy_of_each.path / "tests" / f"test_symptom_{number}.py").write_text(indented)

    output = copy_of_each.pytest("--tb=short", check=False).stdout.replace("`", "")

    for message in symptoms:
        said = re.escape(message).replace(r"\.\.\.", ".*").replace(r">60\.0s", ">[0-9.]+s")
        assert re.search(said, output), f"{message}\n{output}"
