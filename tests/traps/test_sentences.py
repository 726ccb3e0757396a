"""A sentence where there would be nothing, or a thousand lines."""

import re

import pytest

from tests.commands import outcome
from tests.projects import Project
from tests.traps.inner import run_inner

BROKEN = """
    import asyncio

    import httpx2
    import pytest
    from fastapi import Depends, FastAPI, Request, WebSocket
    from sqlalchemy import text

    from app.users.models import User
    from tests.fixtures.client import create_client

    CLIENT = httpx2.AsyncClient(base_url="https://example.com")
    LATER = asyncio.new_event_loop().create_future()


    async def test_reaches_for_a_name():
        await CLIENT.get("/")


    async def test_reaches_for_an_address():
        async with httpx2.AsyncClient() as client:
            await client.get("http://10.1.2.3:8080/")


    def test_reaches_for_a_host_in_sync_code():
        httpx2.get("http://mail.example.com")


    def test_opens_a_socket():
        import socket

        socket.socket()


    def test_sync_with_session(session):
        session.execute(text("SELECT 1")).scalar()


    def test_sync_with_client(client):
        assert client.get("/health/live").status_code == 200


    async def test_asyncio_run(session):
        asyncio.run(session.execute(text("SELECT 1")))


    async def test_made_at_module_level():
        await LATER


    async def test_dependency_of_a_websocket(database_isolation):
        app = FastAPI()

        async def wanted(request: Request): ...

        @app.websocket("/")
        async def route(socket: WebSocket, wanted=Depends(wanted)): ...

        async with create_client(app).websocket("/"):
            pass


    async def test_made_in_the_lifespan(app):
        app.state.redis.get("key")


    async def test_lazy_attribute(session, user):
        session.expire(user)
        print(user.email)


    @pytest.mark.rollback
    async def test_interleaved(app):
        from app.database import sessionmaker

        async with sessionmaker() as one, sessionmaker() as other:
            await one.execute(text("SELECT 1"))
            await other.execute(text("SELECT 1"))
            await one.rollback()
            await other.execute(text("SELECT 1"))
            await other.commit()


    async def test_gathered(session):
        await asyncio.gather(*(session.execute(text("SELECT 1")) for _ in range(2)))


    @pytest.fixture(scope="module")
    async def rows():
        from app.database import sessionmaker

        async with sessionmaker() as session:
            await session.execute(text("SELECT 1"))


    def test_of_rows(rows):
        pass


    @pytest.fixture(scope="module")
    def broken():
        raise RuntimeError("Event loop is closed")


    @pytest.mark.parametrize("number", range(3))
    def test_broken_fixture(broken, number):
        pass
"""


def test_errors_come_with_a_hint(copy_of_each: Project) -> None:
    inner = run_inner(copy_of_each, BROKEN)

    remedies = "provider.*fake.*`@pytest.mark.network`"
    for name, host in {
        "test_reaches_for_a_name": "example.com",
        "test_reaches_for_an_address": "10.1.2.3",
        "test_reaches_for_a_host_in_sync_code": "mail.example.com",
        "test_opens_a_socket": "the network",
    }.items():
        inner.assert_says(
            name, f"opened to reach {re.escape(host)}, and the network is blocked", remedies
        )
    for name, hint in {
        "test_sync_with_session": "make it `async def` and await what `session` does.*`sync_session`",
        "test_sync_with_client": "make it `async def` and await what `client` does",
        "test_asyncio_run": "The test runs in an event loop already: `await`",
        "test_made_at_module_level": "made in another event loop.*in the lifespan",
        "test_dependency_of_a_websocket": "a WebSocket is no `Request`.*HTTPConnection",
        "test_made_in_the_lifespan": "Does the lifespan.*when it is first needed",
        "test_lazy_attribute": "was not loaded.*selectinload",
        "test_interleaved": "overlapped on the one connection.*`@pytest.mark.committed`",
    }.items():
        inner.assert_says(name, f"Hint: .*{hint}")
    if copy_of_each.database == "postgresql":  # SQLite's driver does not wait, so nothing overlaps
        inner.assert_says("test_gathered", "Hint: Two tasks use one session at the same time")
    inner.assert_says("test_of_rows", "outlives a test has no database", kind="error")
    # pytest keeps the error of a fixture for all tests that use it.
    said = [inner[f"test_broken_fixture[{number}]"].text for number in range(3)]
    assert len({text.count("Hint: ") for text in said}) == 1


FAR_BELOW = """
    from sqlalchemy import text

    from app.products.repository import ProductRepository


    async def wrong(self, **_):
        await self.session.execute(text("SELECT wrong"))


    async def test_route(user_client, monkeypatch):
        monkeypatch.setattr(ProductRepository, "page", wrong)
        await user_client.get("/api/v1/products")
"""


def test_tracebacks_are_those_of_the_project(copy_of_each: Project) -> None:
    inner = run_inner(copy_of_each, FAR_BELOW)

    text = inner["test_route"].text
    places = (
        *(
            r"await user_client.get\(",
            r"app/products/routes.py:\d+",
            r"await self.session.execute\(",
        ),
        "OperationalError|ProgrammingError",
        "frames of libraries are left out: --full-trace shows them",
    )
    inner.assert_says("test_route", *places)
    for library in ("starlette/", "httpx2/", "fastapi/"):
        assert library not in text
    complete = run_inner(copy_of_each, FAR_BELOW, "--full-trace")["test_route"].text
    assert "starlette/" in complete
    assert "left out" not in complete


@pytest.mark.parametrize("options", [(), ("-n", "2")])
def test_a_migration_that_fails_is_run_once(
    copy_of_each: Project, options: tuple[str, ...]
) -> None:
    project = copy_of_each
    project.edit(
        "migrations/versions/0002_products.py",
        "def upgrade() -> None:\n",
        "def upgrade() -> None:\n"
        '    open("ran.txt", "a").write("once\\n")\n'
        '    op.execute("CREATE TABEL mistakes (id INTEGER)")\n',
    )

    result = project.pytest(*options, check=False)

    assert result.returncode == 1
    for sentence in (
        "migrations/versions/0002_products.py:12   op.execute(",
        "  CREATE TABEL mistakes (id INTEGER)",
        {"sqlite": 'near "TABEL"', "postgresql": 'at or near "TABEL"'}[project.database],
    ):
        assert result.stdout.count(sentence) == 1, result.stdout
    assert project.read("ran.txt") == "once\n"
    assert len(result.stdout.splitlines()) < 25, result.stdout


def test_smoke_says_nothing_where_no_smoke_test_ran(sqlite_project: Project) -> None:
    output = sqlite_project.pytest("tests/smoke", "tests/test_health.py", "-k", "live").stdout

    assert outcome(output).startswith("1 passed, ")
    assert "the service works" not in output


def test_smoke_beside_a_module_that_cannot_be_imported(project: Project) -> None:
    (project.path / "tests" / "test_broken.py").write_text("import nothing\n")

    result = project.pytest("-o", "norecursedirs=.*", "-m", "fast or smoke", check=False)

    assert "No module named 'nothing'" in result.stdout
    assert "INTERNALERROR" not in result.stdout
    assert "AttributeError" not in result.stdout


def test_auto_does_not_count_tests_whose_files_are_gone(project: Project) -> None:
    many = project.path / "tests" / "test_many.py"
    many.write_text(
        "import pytest\n\n\n"
        '@pytest.mark.parametrize("number", range(2000))\ndef test_it(number):\n    pass\n'
    )
    project.pytest("tests/test_many.py")
    project.pytest("tests/test_health.py")
    many.unlink()

    output = project.run(
        "python", "-m", "pytest", "-n", "auto", "tests/test_health.py", "tests"
    ).stdout

    assert re.search(r"workers: none, since \d{1,3} tests take", output), output
