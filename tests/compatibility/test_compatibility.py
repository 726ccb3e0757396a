"""What people use beside the kit: libraries, each installed and tried on both databases, and options."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.commands import clean_environment, outcome, run
from tests.projects import Project
from tests.test_docs import blocks
from tests.traps.inner import run_inner

LEDGER = ".performance/ledger.jsonl"
SUITE = Path(__file__).parent / "suite"
LIBRARIES = [
    *("hypothesis", "respx", "pytest-mock", "polyfactory", "factory_boy", "pytest-bdd"),
    *("time-machine", "freezegun", "syrupy", "inline-snapshot", "dirty-equals"),
    *("pytest-rerunfailures", "pytest-repeat", "pytest-subtests", "pytest-sugar"),
    "pytest-benchmark",
]
FOR_RESPX = "import httpx2\n\nhttpx2.alias_httpx()\n\n"


@pytest.mark.long
def test_libraries(installed_copy_of_each: Project) -> None:
    project = installed_copy_of_each
    project.install(*LIBRARIES)
    (project.path / "tests" / "compatibility").mkdir()
    for path in SUITE.iterdir():
        name = f"test_{path.name}" if path.suffix == ".py" else path.name
        shutil.copy(path, project.path / "tests" / "compatibility" / name)
    # As the guide has it for respx.
    conftest = project.path / "tests" / "conftest.py"
    text = conftest.read_text().replace(
        "pytest_plugins = [", 'pytest_plugins = [\n    "respx.plugin",'
    )
    conftest.write_text(FOR_RESPX + text)
    project.edit("pyproject.toml", 'addopts = "', 'addopts = "-p no:respx ')
    guides = {
        found[1]: text
        for text in blocks(project, "python")
        if (found := re.match(r"# (\S+), after `uv add", text))
    }
    assert len(guides) == 2
    for name, text in guides.items():
        (project.path / name).write_text(text)

    for options in ((), ("-n", "2", "--dist=load"), ("-o", "db_isolation=rollback")):
        create = ("--snapshot-update",) if not options else ()
        output = project.pytest(
            "tests/compatibility", *guides, *create, *options, check=False
        ).stdout
        assert outcome(output).startswith("1 failed, "), output
        assert "AssertionError: it was run" in output, output
        assert not re.search(r"\d+ errors?\b", output.splitlines()[-1]), output
        assert "RequestsOverlapped" not in output
    # And the project's own tests beside all of these.
    project.pytest("--ignore=tests/compatibility")


FROZEN = """
    import asyncio
    import time
    from datetime import UTC, datetime

    import pytest
    from freezegun import freeze_time

    sleep = time.sleep


    @pytest.fixture(autouse=True, scope="module")
    def frozen():
        with freeze_time("2031-01-01"):
            yield


    async def test_waits(session):
        await asyncio.sleep(0.01)
        assert datetime.now(UTC).year == 2031


    async def test_leaves_a_task(session):
        asyncio.create_task(asyncio.sleep(600))


    @pytest.mark.fast
    def test_is_slow(session):
        sleep(0.2)
"""


@pytest.mark.long
def test_time_that_is_frozen_for_longer_than_a_test(installed_copy_of_each: Project) -> None:
    project = installed_copy_of_each
    project.install("freezegun")

    inner = run_inner(project, FROZEN, "-p", "no:randomly")

    inner.assert_passed("test_waits", "test_is_slow")
    inner.assert_says("test_leaves_a_task", "left open: the task sleep", kind="error")

    output = project.pytest("tests/test_inner.py", "-p", "no:randomly", check=False).stdout
    assert "::test_is_slow took 0.2" in output
    seconds = map(
        float, re.findall(r'"(?:setup|call|teardown)": (-?[\d.e+]+)', project.read(LEDGER))
    )
    assert all(0 <= phase < 600 for phase in seconds)


FAILING = """
async def test_one(client, user):
    wanted = user.email.upper()
    assert (await client.get("/health/live")).json() == wanted


async def test_two(session): ...


async def test_three(session):
    breakpoint()
"""


class TestOptions:
    @pytest.fixture
    def failing(self, project: Project) -> Project:
        (project.path / "tests" / "test_failing.py").write_text(FAILING)
        return project

    def ask(self, project: Project, *options: str, said: str) -> str:
        """What pytest prints when this is typed."""
        command = [str(project.venv / "bin" / "python"), "-m", "pytest", "-p", "no:randomly"]
        return subprocess.run(
            [*command, "tests/test_failing.py", *options],
            cwd=project.path,
            env=clean_environment(),
            input=said,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        ).stdout

    def test_pdb(self, failing: Project) -> None:
        output = self.ask(failing, "--pdb", "-k", "one or two", said="p wanted[-4:]\nc\n")

        assert "'.COM'" in output
        assert outcome(output) == "1 failed, 1 passed, 1 deselected"

    def test_breakpoint(self, failing: Project) -> None:
        output = self.ask(failing, "-k", "two or three", said="p session.bind is None\nc\n")

        assert "False" in output
        assert outcome(output) == "2 passed, 1 deselected"

    def test_only_some(self, failing: Project) -> None:
        def run(*options: str) -> str:
            tests = ("tests/test_failing.py", "-k", "one or two")
            return outcome(failing.pytest(*tests, *options, check=False).stdout)

        assert run() == "1 failed, 1 passed, 1 deselected"
        assert run("--lf") == "1 failed, 2 deselected"
        assert run("--ff") == "1 failed, 1 passed, 1 deselected"
        assert run("-x", "--ff") == "1 failed, 1 deselected"

    def test_another_working_directory(self, failing: Project) -> None:
        for folder, tests in (("tests", "test_health.py"), ("app", "../tests/test_health.py")):
            output = run(
                *(failing.venv / "bin" / "pytest", "-q", tests), cwd=failing.path / folder
            ).stdout
            assert "passed" in output
