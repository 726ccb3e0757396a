"""The machinery of the tests, where a user would only see it fail."""

import os
import shutil
import signal
import sqlite3
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.commands import clean_environment, outcome, run, start
from tests.projects import Project
from tests.servers import wait_until
from tests.test_generated import leftovers

ONE_TEST = "tests/test_health.py::test_ready"


@pytest.fixture
def cache(project: Project) -> Path:
    return project.path / ".pytest_cache" / "d" / "testkit"


def template(cache: Path) -> Path:
    (path,) = cache.glob("template-*.db")
    return path


class TestTemplate:
    def test_is_made_once(self, project: Project, cache: Path) -> None:
        project.pytest(ONE_TEST)
        first = template(cache).stat()
        project.pytest(ONE_TEST)

        assert template(cache).stat().st_mtime_ns == first.st_mtime_ns

    def test_is_made_once_by_workers_and_runs_at_the_same_time(
        self, project: Project, cache: Path
    ) -> None:
        project.edit(
            "testkit/migrations.py",
            'command.upgrade(config, "head")',
            'command.upgrade(config, "head"); print("made", file=open("made.txt", "a"))',
        )
        with ThreadPoolExecutor() as runs:
            list(runs.map(lambda _: project.pytest("tests/users", "-n", "2"), range(2)))

        assert project.read("made.txt") == "made\n"

    @pytest.mark.parametrize("damage", [b"", b"garbage", b"SQLite format 3\0"])
    def test_is_made_again_when_damaged(self, project: Project, cache: Path, damage: bytes) -> None:
        project.pytest(ONE_TEST)
        intact = template(cache).read_bytes()
        template(cache).write_bytes(damage)

        project.pytest("tests/users")

        assert template(cache).read_bytes() == intact

    def test_is_made_again_when_one_byte_has_changed(self, project: Project, cache: Path) -> None:
        project.pytest(ONE_TEST)
        content = bytearray(template(cache).read_bytes())
        content[-1] ^= 1
        template(cache).write_bytes(content)

        project.pytest("tests/users")

        assert template(cache).read_bytes()[-1] != content[-1]

    def test_follows_the_migrations(self, project: Project, cache: Path) -> None:
        project.pytest(ONE_TEST)
        first = template(cache).name
        project.edit(
            "migrations/versions/0002_products.py", 'revision = "0002"', 'revision = "0002"  # !'
        )

        project.pytest(ONE_TEST)

        assert template(cache).name != first

    def test_follows_the_models(self, project: Project, cache: Path) -> None:
        project.pytest(ONE_TEST)
        first = template(cache).name
        project.edit("app/products/models.py", "price > 0", "price > 1")

        project.pytest(ONE_TEST)

        assert template(cache).name != first

    def test_broken_migration_says_so(self, project: Project) -> None:
        project.edit(
            "migrations/versions/0002_products.py",
            'down_revision = "0001"',
            'down_revision = "0000"',
        )

        for options in ((), ("-n", "2")):
            result = project.pytest(ONE_TEST, *options, check=False)

            assert result.returncode == 1
            assert "0000" in result.stdout

    def test_needs_no_checkout_that_can_be_written(self, project: Project, tmp_path: Path) -> None:
        (project.path / ".pytest_cache").write_text("a file where a folder should be")

        assert outcome(project.pytest(ONE_TEST).stdout) == "1 passed"


@pytest.mark.alone
class TestWorkerDatabase:
    def test_goes_at_the_end(self, project: Project) -> None:
        project.pytest("tests/users", "-n", "2")

        assert leftovers() == []

    @pytest.fixture
    def endless_run(self, project: Project) -> subprocess.Popen[str]:
        """A run of pytest that has its worker database and does not end by itself."""
        (project.path / "tests" / "test_endless.py").write_text(
            "import time\n\n\ndef test_endless(worker_database):\n    time.sleep(600)\n"
        )
        python = project.venv / "bin" / "python"
        process = start(python, "-m", "pytest", "tests/test_endless.py", cwd=project.path)
        wait_until(lambda: leftovers() != [], 30)
        return process

    def test_goes_with_the_next_run_when_the_process_was_killed(
        self, project: Project, endless_run: subprocess.Popen[str]
    ) -> None:
        (alive,) = leftovers()
        project.pytest(ONE_TEST)
        assert leftovers() == [alive], "the database of a living run has gone"

        endless_run.kill()
        endless_run.wait()
        project.pytest(ONE_TEST)
        assert leftovers() == []

    @pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
    def test_goes_when_the_run_is_interrupted(
        self, project: Project, endless_run: subprocess.Popen[str], signal_number: signal.Signals
    ) -> None:
        endless_run.send_signal(signal_number)
        endless_run.wait(10)
        if signal_number == signal.SIGTERM:  # nobody can clean up after that but the next run
            project.pytest(ONE_TEST)

        assert leftovers() == []

    def test_of_another_run_that_ends_is_no_error(self, project: Project) -> None:
        """It was found, and is not there when it is looked at. Nor can this be looked into."""
        project.pytest(ONE_TEST)
        gone = Path(f"/dev/shm/testkit-{os.getuid()}/worker-gone")
        gone.touch()
        try:
            assert outcome(project.pytest(ONE_TEST).stdout) == "1 passed"
        finally:
            gone.unlink()

    @pytest.mark.long
    def test_development_database_is_not_touched(self, project: Project) -> None:
        database = project.path / "my-service.db"
        project.run("alembic", "upgrade", "head")
        with sqlite3.connect(database) as connection:
            connection.execute(
                "INSERT INTO products (name, sku, price, currency) VALUES ('Mine', 'M', 1, 'EUR')"
            )
        connection.close()
        (project.path / ".env").write_text(f"DATABASE_URL=sqlite+aiosqlite:///{database}\n")
        before = database.read_bytes()

        project.pytest("--deselect", "tests/smoke", DATABASE_URL=f"sqlite+aiosqlite:///{database}")

        assert database.read_bytes() == before

    @pytest.mark.long
    def test_engine_of_another_database_is_refused(self, project: Project) -> None:
        project.edit(
            "tests/fixtures/database.py",
            "create_engine=create_engine,",
            'create_engine=lambda url, **options: create_engine("sqlite+aiosqlite:///precious.db"),',
        )

        result = project.pytest("tests/users", check=False)

        assert result.returncode == 4
        assert "precious.db" in result.stdout
        assert "which is not theirs" in result.stdout
        assert not (project.path / "precious.db").exists()


class TestServices:
    NEW = (
        "from fastapi import FastAPI\n\nfrom app.services import provider\n\n\n"
        "@provider\nasync def get_payments(_app: FastAPI) -> object:\n    return object()\n"
    )

    def test_new_provider_without_a_fake_is_named(self, project: Project) -> None:
        (project.path / "app" / "services" / "payments.py").write_text(self.NEW)

        result = project.pytest(check=False)

        assert result.returncode == 4
        assert "app.services.payments.get_payments has no fake" in result.stdout
        assert "tests/fixtures/mock_services.py" in result.stdout

    def test_provider_that_cannot_be_faked_is_named(self, project: Project) -> None:
        plain = self.NEW.replace("@provider\n", "").replace(
            "from app.services import provider\n", ""
        )
        (project.path / "app" / "services" / "payments.py").write_text(plain)

        result = project.pytest(check=False)

        assert result.returncode == 4
        assert "get_payments is not decorated with `@provider`" in result.stdout

    def test_new_provider_with_a_fake_works(self, project: Project) -> None:
        (project.path / "app" / "services" / "payments.py").write_text(self.NEW)
        project.edit(
            "tests/fixtures/mock_services.py",
            '    "email": FakeEmail,\n',
            '    "email": FakeEmail,\n    "payments": list,\n',
        )
        (project.path / "tests" / "test_new.py").write_text(
            "def test_new(mock_services):\n    assert mock_services.payments == []\n"
        )

        assert outcome(project.pytest("tests/test_new.py").stdout) == "1 passed"

    def test_the_real_language_model(self, project: Project, tmp_path: Path) -> None:
        """The extra is installed, the provider loads the model, and it works."""
        environment = {"UV_PROJECT_ENVIRONMENT": str(tmp_path / "venv")}
        uv = clean_environment()["UV"]
        program = (
            "import asyncio, sys\n"
            "from fastapi import FastAPI, Request\n"
            "from app.services import Services\n"
            "from app.services.language import get_language\n"
            "assert 'py3langid' not in sys.modules\n"
            "async def main():\n"
            "    app = FastAPI()\n"
            "    app.state.services = Services(app)\n"
            "    detector = await get_language(Request({'type': 'http', 'app': app}))\n"
            "    print(await detector.detect('Das ist ein Satz in deutscher Sprache.'))\n"
            "asyncio.run(main())\n"
        )
        run(
            uv,
            "sync",
            "--quiet",
            "--no-dev",
            "--extra",
            "language",
            cwd=project.path,
            **environment,
        )
        result = run(tmp_path / "venv" / "bin" / "python", "-c", program, cwd=project.path)

        assert result.stdout.strip() == "de"


class TestOptions:
    def test_wrong_isolation_is_refused(self, project: Project) -> None:
        result = project.pytest("-o", "db_isolation=none", ONE_TEST, check=False)

        assert result.returncode == 4
        assert "write `committed` or `rollback` instead" in result.stdout

    def test_speed_markers_come_from_durations(self, project: Project) -> None:
        (project.path / "tests" / "test_speed.py").write_text(
            "import time\n\n\ndef test_quick():\n    pass\n\n\n"
            "def test_slower():\n    time.sleep(0.2)\n"
        )
        assert outcome(project.pytest("tests/test_speed.py", "-m", "fast").stdout) == "2 passed"

        for speed in ("fast", "medium"):
            output = project.pytest("tests/test_speed.py", "-m", speed).stdout
            assert outcome(output) == "1 passed, 1 deselected"

    def test_slow_tests_can_be_skipped(self, project: Project) -> None:
        (project.path / "tests" / "test_speed.py").write_text(
            "import pytest\n\n\n@pytest.mark.slow\ndef test_slow():\n    pass\n"
        )

        assert (
            outcome(project.pytest("tests/test_speed.py", SKIP_SLOW_TESTS="true").stdout)
            == "1 skipped"
        )
        assert outcome(project.pytest("tests/test_speed.py").stdout) == "1 passed"

    def test_unknown_marker_is_refused(self, project: Project) -> None:
        (project.path / "tests" / "test_speed.py").write_text(
            "import pytest\n\n\n@pytest.mark.fst\ndef test_typo():\n    pass\n"
        )

        result = project.pytest("tests/test_speed.py", check=False)

        assert "'fst' not found in `markers`" in result.stdout


@pytest.mark.parametrize("workers", ["0", "2"])
def test_where_nothing_can_be_written(project: Project, workers: str) -> None:
    """A full disk, or a checkout that is read-only: here, files where folders belong."""
    for name in (".performance", ".pytest_cache"):
        shutil.rmtree(project.path / name, ignore_errors=True)
        (project.path / name).write_text("")

    output = project.pytest("tests/products", "-n", workers, cold=True, CI="").stdout

    assert outcome(output) == "50 passed"
    assert "This run is not recorded." in output
    assert "Traceback" not in output
