"""The projects as fixtures, and how the tests share the machine."""

import fcntl
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.commands import locked, started
from tests.projects import Project, copy_of, installed_project, warm_links

collect_ignore_glob = [f"adoption/{sample}/*" for sample in ("clinic", "notes", "shop")]
pytest_plugins = ["tests.servers", "tests.releases"]

SLOWEST = 15


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Those that need the machine to themselves come last, when no worker has to wait for them.
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)


def pytest_sessionfinish() -> None:
    for link in warm_links:
        link.unlink(missing_ok=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Where the time went."""
    files: Counter[str] = Counter()
    tests: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                files[report.nodeid.partition("::")[0]] += report.duration
                tests[report.nodeid] += report.duration
    terminalreporter.section("where the time went, in seconds of all workers")
    for name, seconds in [*files.most_common(), *tests.most_common(SLOWEST)]:
        terminalreporter.write_line(f"{seconds:7.1f}  {name}")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for all workers of this run."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(autouse=True)
def machine(request: pytest.FixtureRequest, shared_folder: Path) -> Iterator[None]:
    """Tests marked `alone` have the machine to themselves; the others share it."""
    alone = request.node.get_closest_marker("alone") is not None
    with ExitStack() as held:
        # Whoever waits to be alone lets nobody else begin.
        with locked(shared_folder / "next"):
            kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
            held.enter_context(locked(shared_folder / "machine", kind))
        yield


@pytest.fixture(autouse=True)
def end_processes(machine: None) -> Iterator[None]:
    """Those of a test that has failed before it could end them, with all that they have started."""
    yield
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    started.clear()


@pytest.fixture(scope="session")
def postgresql_project(shared_folder: Path) -> Project:
    return installed_project(shared_folder, "postgresql")


@pytest.fixture(scope="session")
def sqlite_project(shared_folder: Path) -> Project:
    return installed_project(shared_folder, "sqlite")


@pytest.fixture(params=["sqlite", "postgresql"])
def each_project(request: pytest.FixtureRequest) -> Project:
    """The project of each database, not to be changed."""
    project: Project = request.getfixturevalue(f"{request.param}_project")
    return project


@pytest.fixture
def project(sqlite_project: Project, tmp_path: Path) -> Project:
    """A copy to change, which shares the virtual environment of the original."""
    return copy_of(sqlite_project, tmp_path / "my-service")


@pytest.fixture
def copy_of_each(each_project: Project, tmp_path: Path) -> Project:
    return copy_of(each_project, tmp_path / "my-service")


@pytest.fixture
def installed_copy_of_each(copy_of_each: Project) -> Project:
    """A copy with a virtual environment of its own, for what installs or starts something."""
    copy_of_each.make("setup")
    venv = copy_of_each.path / ".venv"
    return Project(copy_of_each.path, venv, copy_of_each.database, shares_venv=False)
