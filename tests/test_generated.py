"""The generated project, as its team finds it: the suite in every way, the checks, the commands."""

import os
import re
import signal
import time
from pathlib import Path

import httpx2
import pytest

from tests.commands import UV, commit_all, outcome, run, start
from tests.projects import Project, sqlite_first
from tests.servers import free_port

GREEN = re.compile(r"^\d+ passed in ", re.MULTILINE)


class TestSuite:
    @pytest.mark.parametrize(
        "options",
        [
            pytest.param(("-p", "no:randomly"), marks=pytest.mark.long),
            pytest.param(("-p", "randomly"), marks=pytest.mark.long),
            ("-n", "2", "--dist", "worksteal"),
            ("-o", "db_isolation=rollback"),
        ],
        ids=["in order", "in random order", "two workers", "all rolled back"],
    )
    def test_is_green(self, each_project: Project, options: tuple[str, ...]) -> None:
        result = each_project.pytest(*options)

        assert GREEN.search(result.stdout), result.stdout

    def test_is_green_on_the_driver_of_production(self, sqlite_project: Project) -> None:
        result = sqlite_project.pytest("--db-driver=threaded")

        assert GREEN.search(result.stdout), result.stdout

    def test_covers_the_application(self, each_project: Project) -> None:
        result = each_project.make("cov")

        assert "Required test coverage of 100.0% reached. Total coverage: 100.00%" in result.stdout

    @pytest.mark.alone
    def test_leaves_nothing_behind(self, each_project: Project) -> None:
        each_project.make("test-fast")

        assert run("git", "status", "--porcelain", cwd=each_project.path).stdout == ""
        assert leftovers() == []

    def test_runs_alone_from_another_folder(self, sqlite_project: Project, tmp_path: Path) -> None:
        test = sqlite_project.path / "tests" / "test_health.py"

        run(sqlite_project.venv / "bin" / "pytest", "-q", f"{test}::test_ready", cwd=tmp_path)


def leftovers() -> list[Path]:
    """Worker databases of this user."""
    return [
        path
        for base in ("/dev/shm", "/tmp")
        for path in Path(base).glob(f"testkit-{os.getuid()}/worker-*")
    ]


class TestQuality:
    def test_lint(self, each_project: Project) -> None:
        each_project.make("lint")

    def test_types(self, each_project: Project) -> None:
        assert "no issues found" in each_project.make("typecheck").stdout

    def test_formatting_changes_nothing(self, copy_of_each: Project) -> None:
        project = copy_of_each
        project.run("ruff", "check", "--fix", ".")
        project.run("ruff", "format", ".")

        assert run("git", "status", "--porcelain", cwd=project.path).stdout == ""

    def test_wheel_can_be_built(self, copy_of_each: Project, tmp_path: Path) -> None:
        run(UV, "build", "--wheel", "-o", tmp_path, cwd=copy_of_each.path)

        assert [path.name for path in tmp_path.glob("*.whl")] == [
            "my_service-0.1.0-py3-none-any.whl"
        ]


# What people and other tools rely on.
CONTRACT = {
    *("setup", "run", "test", "test-fast", "test-all", "test-changed", "watch", "t", "local-smoke"),
    *("cov", "lint", "format", "typecheck", "check", "migrate", "migration", "downgrade"),
    *("perf", "perf-report", "perf-baseline", "perf-check", "upgrade", "clean"),
}


class TestCommands:
    def test_test_fast(self, each_project: Project) -> None:
        output = each_project.make("test-fast").stdout

        assert re.search(r"\d+ passed", output)
        assert "failed" not in output

    def test_help_lists_every_target(self, each_project: Project) -> None:
        listed = each_project.make("help").stdout

        targets = set(re.findall(r"^([a-z][a-z-]*):", each_project.read("Makefile"), re.MULTILINE))
        assert targets >= CONTRACT
        assert ("db-shell" in targets) == (each_project.database == "postgresql")
        targets.remove("help")
        for target in targets:
            assert re.search(rf"^  {target} +\w", listed, re.MULTILINE), target

    def test_local_smoke(self, each_project: Project) -> None:
        output = each_project.make("local-smoke").stdout

        for step in (
            "migrate",
            "start",
            "register",
            "log in",
            "create",
            "list",
            "convert",
            "delete",
        ):
            assert re.search(rf"^  {step}.* ok +\d+ ms$", output, re.MULTILINE), step
        assert "smoke: the service works" in output
        of_smoke = [name == "smoke" for name in re.findall(r"^tests/(\w+)", output, re.MULTILINE)]
        assert of_smoke == sorted(of_smoke)  # come last

    def test_local_smoke_shows_the_servers_log_on_failure(self, project: Project) -> None:
        project.edit(
            "app/health.py",
            "    # Not `asyncio.timeout`",
            '    raise RuntimeError("the disk is on fire")\n    # Not `asyncio.timeout`',
        )

        result = project.pytest("tests/smoke", check=False)

        assert result.returncode == 1
        assert "/health/ready answers 500" in result.stdout
        assert "RuntimeError: the disk is on fire" in result.stdout
        assert "smoke: something is broken" in result.stdout

    @pytest.mark.parametrize(
        ("file", "old", "new"),
        [
            ("app/cli/processes.py", "PatientProtocol", "NoSuchProtocol"),
            ("app/cli/database.py", "Config(ALEMBIC)", "NoSuchConfig(ALEMBIC)"),
        ],
        ids=["serve", "migrate"],
    )
    def test_local_smoke_starts_what_production_starts(
        self, project: Project, file: str, old: str, new: str
    ) -> None:
        project.edit(file, old, new)

        result = project.pytest("tests/smoke", check=False)

        assert result.returncode == 1
        assert new.partition("(")[0] in result.stdout

    def test_clean_keeps_the_database(self, project: Project) -> None:
        (project.path / "my-service.db").write_text("precious")

        project.make("clean")

        assert (project.path / "my-service.db").read_text() == "precious"


class TestServer:
    @sqlite_first
    def test_make_run_migrates_serves_and_reloads(self, installed_copy_of_each: Project) -> None:
        project = installed_copy_of_each
        port = free_port()
        with start("make", "run", cwd=project.path, PORT=str(port)) as process:
            try:
                url = f"http://127.0.0.1:{port}"
                wait_for(f"{url}/health/ready", "ok")
                assert "Swagger UI" in httpx2.get(f"{url}/docs").text
                assert httpx2.get(f"{url}/api/v1/products").json()["total"] == 0

                project.edit("app/health.py", '{"status": "ok"}', '{"status": "changed"}')

                wait_for(f"{url}/health/ready", "changed")
            finally:
                os.killpg(process.pid, signal.SIGINT)

    @pytest.mark.parametrize(
        ("environment", "name"),
        [
            ({"ENVIRONMENT": "production"}, "SECRET_KEY"),
            ({"ENVIRONMENT": "staging", "SECRET_KEY": "x" * 31}, "SECRET_KEY"),
            ({"ARGON2_MEMORY_COST": "8"}, "ARGON2_MEMORY_COST"),
            ({"ENVIRONMENT": "prod"}, "ENVIRONMENT"),
            ({"SMTP_PORT": "x"}, "SMTP_PORT"),
        ],
    )
    def test_wrong_settings_are_refused_in_plain_words(
        self, sqlite_project: Project, environment: dict[str, str], name: str
    ) -> None:
        result = sqlite_project.run(
            *("uvicorn", "app.main:create_app", "--factory", "--port", str(free_port())),
            check=False,
            **environment,
        )

        assert result.returncode == 1
        assert name in result.stdout
        assert "Traceback" not in result.stdout


def wait_for(url: str, status: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if httpx2.get(url).json() == {"status": status}:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail(f"{url} did not answer {status!r} within 30 s")


class TestReadme:
    @sqlite_first
    def test_examples_of_tests_work(self, copy_of_each: Project) -> None:
        project = copy_of_each
        examples = re.findall(r"```python\n(.*?)```", project.read("README.md"), re.DOTALL)
        modules = [f"tests/test_readme_{number}.py" for number in range(len(examples))]
        for module, example in zip(modules, examples, strict=True):
            (project.path / module).write_text(example)

        assert outcome(project.pytest(*modules).stdout) == "4 passed"
        run(project.venv / "bin" / "mypy", *modules, cwd=project.path)

    @pytest.mark.long
    def test_example_domain_can_be_removed_in_one_step(self, copy_of_each: Project) -> None:
        project = copy_of_each

        run("bash", "-euc", project.removal(), cwd=project.path)

        grep = ("grep", "-rilw", "--include=*.py", "products", "app", "migrations/versions")
        found = run(*grep, cwd=project.path, check=False).stdout.split()
        assert sorted(path.partition("_")[2] for path in found) == [
            "products.py",
            "remove_products.py",
        ]
        assert "100.00%" in project.pytest("--cov").stdout
        for tool in (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]):
            run(project.venv / "bin" / tool[0], *tool[1:], cwd=project.path)
        commit_all(project.path)
