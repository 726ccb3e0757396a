"""The databases of the tests, and how they are reset."""

import ast
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.commands import outcome, start
from tests.projects import Project, copy_of
from tests.servers import TCPServer, wait_until

ONE_TEST = "tests/test_health.py::test_ready"


@pytest.fixture
def own(tcp_server: TCPServer) -> Iterator[TCPServer]:
    """A server without databases of tests."""
    drop_all(tcp_server)
    yield tcp_server
    drop_all(tcp_server)


def drop_all(server: TCPServer) -> None:
    for name in databases(server):
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def databases(server: TCPServer, kind: str = "") -> list[str]:
    return [name for name in re.findall(r"'(testkit_\w+)'", server.databases()) if kind in name]


class TestTemplate:
    def test_is_made_once(self, project: Project, own: TCPServer) -> None:
        project.edit(
            "testkit/migrations.py",
            'command.upgrade(config, "head")',
            'command.upgrade(config, "head"); print("made", file=open("made.txt", "a"))',
        )

        for options in (("-n", "2"), (), ("-n", "2")):
            project.pytest("tests/users", *options, TEST_DATABASE_URL=own.url())

        assert project.read("made.txt") == "made\n"

    @pytest.mark.parametrize(
        ("file", "old", "new"),
        [
            ("migrations/versions/0002_products.py", 'revision = "0002"', 'revision = "0002"  # !'),
            ("app/products/models.py", "price > 0", "price > 1"),
        ],
    )
    def test_follows_migrations_and_models(
        self, project: Project, own: TCPServer, file: str, old: str, new: str
    ) -> None:
        project.pytest(ONE_TEST, TEST_DATABASE_URL=own.url())
        (first,) = databases(own)
        project.edit(file, old, new)

        project.pytest(ONE_TEST, TEST_DATABASE_URL=own.url())

        (second,) = databases(own)
        assert second != first

    def test_broken_migration_says_so_and_leaves_nothing(
        self, project: Project, own: TCPServer
    ) -> None:
        project.edit(
            "migrations/versions/0002_products.py",
            'op.create_table(\n        "products"',
            'op.execute("nonsense")\n    op.create_table(\n        "products"',
        )

        for options in ((), ("-n", "2")):
            result = project.pytest(ONE_TEST, *options, check=False, TEST_DATABASE_URL=own.url())

            assert result.returncode == 1
            assert 'syntax error at or near "nonsense"' in result.stdout
            assert databases(own) == []


class TestWorkerDatabase:
    def test_of_a_dead_run_is_dropped_and_that_of_a_living_one_is_not(
        self, project: Project, own: TCPServer
    ) -> None:
        (project.path / "tests" / "test_endless.py").write_text(
            "import time\n\n\ndef test_endless(worker_database):\n    time.sleep(600)\n"
        )
        endless = start(
            *(project.venv / "bin" / "python", "-m", "pytest", "tests/test_endless.py"),
            cwd=project.path,
            TEST_DATABASE_URL=own.url(),
        )
        wait_until(lambda: databases(own, "main") != [], 30)
        (living,) = databases(own, "main")

        project.pytest(ONE_TEST, TEST_DATABASE_URL=own.url())
        assert databases(own, "main") == [living]

        os.kill(endless.pid, signal.SIGKILL)
        endless.wait()
        project.pytest(ONE_TEST, TEST_DATABASE_URL=own.url())
        assert databases(own, "main") == []


WHICH = """
from pathlib import Path
from sqlalchemy import text


async def test_which(session):
    found = await session.execute(
        text("SELECT oid::text FROM pg_database WHERE datname = current_database()")
    )
    Path("which.txt").write_text(found.scalar_one())
"""


PATIENT = """
import time
from pathlib import Path


def test_patient(sync_session):
    Path("waiting.txt").touch()
    while not Path("go.txt").exists():
        time.sleep(0.05)
"""


class TestSpares:
    """What `make watch` keeps: databases that a run only has to rename."""

    def run(self, project: Project, own: TCPServer) -> str:
        """The id of the database that it has had."""
        test = project.path / "tests" / "test_which.py"
        test.write_text(WHICH)
        project.pytest("tests/test_which.py", TEST_DATABASE_URL=own.url())
        return project.read("which.txt")

    def spares(self, own: TCPServer) -> dict[str, str]:
        """Their ids, and the templates that they are of."""
        said = own.execute(
            "SELECT oid::text, shobj_description(oid, 'pg_database') FROM pg_database "
            "WHERE starts_with(datname, 'testkit_spare_')"
        )
        return {oid: template for oid, template in ast.literal_eval(said) if template}

    @contextmanager
    def kept(self, project: Project, own: TCPServer) -> Iterator[subprocess.Popen[str]]:
        with start(
            *(project.venv / "bin" / "python", "-m", "testkit.databases.postgresql.keep"),
            cwd=project.path,
            stdin=subprocess.PIPE,
            TEST_DATABASE_URL=own.url(),
        ) as keeper:
            wait_until(lambda: "LISTEN" in own.execute("SELECT query FROM pg_stat_activity"))
            yield keeper
            keeper.communicate()

    def test_are_taken_and_made_again(self, project: Project, own: TCPServer) -> None:
        with self.kept(project, own):
            self.run(project, own)
            wait_until(lambda: len(self.spares(own)) == 1)
            for _ in range(2):
                (spare,) = self.spares(own)

                assert self.run(project, own) == spare

                wait_until(lambda: len(self.spares(own)) == 1)
                assert spare not in self.spares(own)

        assert databases(own, "template") == databases(own)

    def test_are_never_of_an_older_template(self, project: Project, own: TCPServer) -> None:
        with self.kept(project, own):
            self.run(project, own)
            wait_until(lambda: len(self.spares(own)) == 1)
            ((old, template),) = self.spares(own).items()
            project.edit("app/products/models.py", "price > 0", "price > 1")

            assert self.run(project, own) != old

            wait_until(lambda: template not in self.spares(own).values())
            wait_until(lambda: len(self.spares(own)) == 1)

    def test_are_for_the_runs_of_this_directory(
        self, project: Project, own: TCPServer, tmp_path: Path
    ) -> None:
        other = copy_of(project, tmp_path / "other")
        with self.kept(project, own):
            self.run(other, own)
            self.run(project, own)
            wait_until(lambda: len(self.spares(own)) == 1)

            (template,) = self.spares(own).values()
            assert template in databases(own, "template")
            assert self.run(other, own) not in self.spares(own)

    def test_whose_maker_has_ended_is_dropped_by_the_run(
        self, project: Project, own: TCPServer
    ) -> None:
        (project.path / "tests" / "test_patient.py").write_text(PATIENT)
        with self.kept(project, own):
            self.run(project, own)
            wait_until(lambda: len(self.spares(own)) == 1)
            (spare,) = self.spares(own)
            patient = start(
                *(project.venv / "bin" / "python", "-m", "pytest", "tests/test_patient.py"),
                cwd=project.path,
                TEST_DATABASE_URL=own.url(),
            )
            wait_until((project.path / "waiting.txt").exists, 30)
            assert spare not in self.spares(own)
        (project.path / "go.txt").touch()

        assert patient.wait(30) == 0
        assert databases(own, "template") == databases(own)

    def test_of_a_killed_process_are_dropped_by_the_next_run(
        self, project: Project, own: TCPServer
    ) -> None:
        with self.kept(project, own) as keeper:
            project.pytest("tests/users", "-n", "2", TEST_DATABASE_URL=own.url())
            wait_until(lambda: len(self.spares(own)) == 2)
            keeper.kill()
            keeper.wait()

        self.run(project, own)

        assert databases(own, "template") == databases(own)


ORIGIN = """
from pathlib import Path
from sqlalchemy import text


async def test_origin(session):
    origin = await session.scalar(
        text(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database "
            "WHERE datname = current_database()"
        )
    )
    Path("origin.txt").write_text(str(origin))


def test_nothing():
    pass
"""


GONE = """
import os


def test_gone(sync_session, tmp_path):
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
"""


class TestAhead:
    """While a run begins, the database is made that it will probably need."""

    NOTE = ".performance/database.txt"

    def origin(self, project: Project, own: TCPServer) -> str:
        """The template, of a database that was made ahead; otherwise nothing is noted."""
        (project.path / "tests" / "test_origin.py").write_text(ORIGIN)
        project.pytest("tests/test_origin.py", TEST_DATABASE_URL=own.url())
        assert databases(own, "template") == databases(own)
        return project.read("origin.txt")

    def test_as_the_last_run_has_needed_one(self, project: Project, own: TCPServer) -> None:
        assert self.origin(project, own) == "None"
        (template,) = databases(own)
        assert project.read(self.NOTE) == f"postgresql {template}"
        assert self.origin(project, own) == template

        project.pytest("tests/test_origin.py::test_nothing", TEST_DATABASE_URL=own.url())

        assert not (project.path / self.NOTE).exists()
        assert databases(own) == [template]
        assert self.origin(project, own) == "None"

    def test_for_workers_too(self, project: Project, own: TCPServer) -> None:
        self.origin(project, own)

        project.pytest("tests/users", "-n", "2", TEST_DATABASE_URL=own.url())

        assert databases(own, "template") == databases(own)
        assert self.origin(project, own) != "None"

    def test_run_may_end_in_another_folder(self, project: Project, own: TCPServer) -> None:
        (project.path / "tests" / "test_gone.py").write_text(GONE)
        self.origin(project, own)

        output = project.pytest("tests/test_gone.py", TEST_DATABASE_URL=own.url()).stdout

        assert outcome(output) == "1 passed"
        assert databases(own, "template") == databases(own)

    def test_of_another_template_is_not_taken(self, project: Project, own: TCPServer) -> None:
        self.origin(project, own)
        project.edit("app/products/models.py", "price > 0", "price > 1")

        assert self.origin(project, own) == "None"
        assert self.origin(project, own) in databases(own)

    @pytest.mark.parametrize(
        "note", ["", "postgresql", "nonsense x", "postgresql testkit_template_gone", "a b c"]
    )
    def test_what_is_noted_may_be_wrong(self, project: Project, own: TCPServer, note: str) -> None:
        self.origin(project, own)
        (project.path / self.NOTE).write_text(note)

        assert self.origin(project, own) == "None"

    def test_server_that_cannot_be_reached_is_said_once(self, project: Project) -> None:
        (project.path / ".performance").mkdir()
        (project.path / self.NOTE).write_text("postgresql testkit_template_1")
        url = "postgresql://nobody@127.0.0.1:1/nothing"

        result = project.pytest(ONE_TEST, check=False, TEST_DATABASE_URL=url)

        assert result.returncode == 4
        assert result.stdout.count("connecting to it fails") == 1
        assert "Traceback" not in result.stdout


BESIDE_ANOTHER_WORKER = """
import pytest
from sqlalchemy import make_url
from testkit.databases.postgresql.connect import connect
from tests.isolation.test_postgresql import TestUndone as Undone


@pytest.fixture
async def another(worker_database):
    connection = await connect(make_url(worker_database.url).set(database="postgres"))
    await connection.execute("SELECT pg_advisory_lock(42)")
    yield
    await connection.close()


@pytest.mark.usefixtures("another")
class TestBesideAnother(Undone):
    pass
"""


def test_the_shipped_tests_do_not_see_another_worker(project: Project) -> None:
    """Some of the server's tables list what is in all of its databases."""
    (project.path / "tests" / "test_beside.py").write_text(BESIDE_ANOTHER_WORKER)

    project.pytest("tests/test_beside.py")


LOCKS = """
import pytest
from app.database import sessionmaker
from sqlalchemy import make_url, text
from testkit.databases.postgresql.connect import connect

pytestmark = pytest.mark.committed
kept = []


async def test_locks_past_the_engine(session, worker_database):
    stranger = await connect(make_url(worker_database.url))
    await stranger.execute("BEGIN; LOCK TABLE users IN SHARE MODE")
    kept.append(stranger)
    assert await session.scalar(text("SELECT count(*) FROM users")) == 0


async def test_is_innocent(session):
    assert await session.scalar(text("SELECT count(*) FROM users")) == 0
    await session.execute(
        text("INSERT INTO users VALUES (gen_random_uuid(), 'a@b.c', '', true, true, true)")
    )
    await session.commit()


async def test_locks_in_a_connection(engine):
    connection = await engine.connect()
    await connection.execute(text("LOCK TABLE users"))
    kept.append(connection)


async def test_is_innocent_too(session):
    assert await session.scalar(text("SELECT count(*) FROM users")) == 0


async def test_locks_in_a_session(session):
    leaked = sessionmaker()
    await leaked.execute(text("DELETE FROM users"))
    kept.append(leaked)


async def test_is_innocent_as_well(session):
    assert await session.scalar(text("SELECT count(*) FROM users")) == 0
"""


def test_locks_are_failures_that_name_the_test_and_the_statement(project: Project) -> None:
    (project.path / "tests" / "test_locks.py").write_text(LOCKS)

    result = project.pytest("tests/test_locks.py", "-p", "no:randomly", check=False)

    assert outcome(result.stdout) == "6 passed, 3 errors", result.stdout
    for leak in (
        "::test_locks_past_the_engine left open: a transaction that keeps a lock on the database; "
        "its last statement: `BEGIN; LOCK TABLE users IN SHARE MODE`",
        "::test_locks_in_a_connection left open: a connection, opened at ",
        ", with `LOCK TABLE users` as its last statement",
        "::test_locks_in_a_session left open: a session with an open transaction, begun at ",
        ", with `DELETE FROM users` as its last statement",
    ):
        assert leak in result.stdout, result.stdout


SYNC = """
import pytest
from app.users.models import User
from sqlalchemy import func, select

pytestmark = pytest.mark.usefixtures("each_isolation")
twice = pytest.mark.parametrize("run", [1, 2])


@pytest.fixture
def arranged(sync_session):
    sync_session.add(User(email="ada@example.com", hashed_password=""))
    sync_session.commit()


@twice
def test_sync(sync_session, arranged, run):
    assert sync_session.query(User).one().email == "ada@example.com"


@twice
def test_fetches_row_by_row(sync_session, arranged, run):
    with sync_session.begin_nested():
        sync_session.add(User(email="eve@example.com", hashed_password=""))
    one_by_one = select(User.email).order_by("email").execution_options(yield_per=1)
    assert list(sync_session.scalars(one_by_one)) == ["ada@example.com", "eve@example.com"]
    sync_session.rollback()
    assert sync_session.scalars(one_by_one).first() == "ada@example.com"


@twice
async def test_async(sync_session, arranged, session, run):
    user = await session.scalar(select(User))
    sync_session.get(User, user.id).email = "eve@example.com"
    sync_session.commit()
    assert (await session.scalars(select(User.email))).all() == ["eve@example.com"]
    assert sync_session.query(User).count() == 1


@twice
async def test_client(sync_session, client, run):
    account = {"email": "ada@example.com", "password": "correct horse battery staple"}
    assert (await client.post("/api/v1/auth/register", json=account)).status_code == 201
    assert sync_session.scalar(select(func.count()).select_from(User)) == 1


@pytest.fixture
async def wrong(sync_session):
    sync_session.query(User).count()


@pytest.mark.xfail(raises=RuntimeError, strict=True)
def test_async_fixture_is_told_what_to_do(wrong):
    pass
"""


def test_sync_sessions(project: Project) -> None:
    (project.path / "tests" / "test_sync.py").write_text(SYNC)

    output = project.pytest("tests/test_sync.py").stdout

    assert outcome(output) == "16 passed, 2 xfailed", output
