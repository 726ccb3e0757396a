"""Projects are generated and installed once for all tests; those who change one get a copy."""

import fcntl
import hashlib
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pytest

from tests.forked import run_forked

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "{{cookiecutter.project_slug}}"
UV = os.environ.get("UV") or shutil.which("uv") or "uv"

collect_ignore_glob = [f"adoption/{sample}/*" for sample in ("clinic", "notes", "shop")]
pytest_plugins = ["tests.servers", "tests.releases"]

logger = logging.getLogger("tests")

SLOWEST = 15
BYTECODE = ROOT / "build" / "bytecode"


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


Result = subprocess.CompletedProcess[str]


def run(*command: str | Path, cwd: Path, check: bool = True, **environment: str) -> Result:
    """Runs a command in `cwd`; with `check`, its failure fails the test and shows the output."""
    share_bytecode(cwd)
    begun = time.monotonic()
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean_environment() | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return judge(done, begun, check=check)


def share_bytecode(folder: Path) -> None:
    """In a new virtual environment, Python would compile the same libraries again, for 4 s."""
    venv, mark = folder / ".venv", folder / ".venv" / ".has-bytecode"
    if venv.is_dir() and not venv.is_symlink() and not mark.exists():
        link_bytecode(BYTECODE, venv)
        mark.touch()


def keep_bytecode(folder: Path) -> None:
    """Of the libraries that the tests of a project import, unless it is there."""
    venv = folder / ".venv"
    libraries = sorted(path.name for path in venv.glob("lib/*/site-packages/*.dist-info"))
    mark = BYTECODE / hashlib.sha256(repr(libraries).encode()).hexdigest()[:16]
    if not mark.exists():
        run(venv / "bin" / "python", "-m", "pytest", "--collect-only", "-q", cwd=folder)
        link_bytecode(venv, BYTECODE)
        mark.touch()


def link_bytecode(origin: Path, to: Path) -> None:
    """Python compares each file with its source."""
    for compiled in origin.glob("lib/*/site-packages/**/*.pyc"):
        copy = to / compiled.relative_to(origin)
        if copy.exists() and copy.samefile(compiled):
            continue
        if to == BYTECODE or copy.parents[1].exists():  # not of what is not installed there
            copy.parent.mkdir(parents=True, exist_ok=True)
            unfinished = copy.with_suffix(f".{os.getpid()}")
            try:
                unfinished.hardlink_to(compiled)
            except OSError:  # on another disk
                shutil.copy2(compiled, unfinished)
            unfinished.replace(copy)


def fork(
    module: str, *arguments: str | Path, cwd: Path, check: bool = True, **environment: str
) -> Result:
    """The same of a module of `tests.forked.PROGRAMS`."""
    begun = time.monotonic()
    words = [str(argument) for argument in arguments]
    status, output = run_forked(module, words, cwd, clean_environment() | environment)
    return judge(Result([module, *words], status, output), begun, check=check)


def judge(done: Result, begun: float, *, check: bool) -> Result:
    shown = " ".join(part.replace(f"{sys.prefix}/bin/", "") for part in done.args)
    logger.info("%5.1f s  %s", time.monotonic() - begun, shown[:110])
    if check and done.returncode:
        pytest.fail(f"`{shown}` has failed with {done.returncode}:\n{done.stdout}")
    return done


def clean_environment() -> dict[str, str]:
    """The environment of a user who has uv: no virtual environment, and nothing of this run of
    pytest.

    Without bytecode every start of Python would take a second longer. And mypy reads the libraries once for
    all projects, not for eleven seconds in each: it compares what it knows with the files.
    """
    python = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
    unwanted = ("VIRTUAL_ENV", "PYTEST_", *python, "UV_RUN", "MAKE", "MFLAGS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    types = ROOT / "build" / "mypy" / os.environ.get("PYTEST_XDIST_WORKER", "main")
    path = f"{Path(UV).parent}{os.pathsep}{os.environ['PATH']}"
    return kept | {"UV": UV, "PATH": path, "MYPY_CACHE_DIR": str(types)}


def heed_interrupts() -> None:
    """Which is switched off in the background of a shell."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(
    *command: str | Path,
    cwd: Path,
    stdin: int = subprocess.DEVNULL,
    stdout: int | TextIO = subprocess.DEVNULL,
    **environment: str,
) -> subprocess.Popen[str]:
    """Starts a process that leads a group of its own, and goes on. It ends with the test."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=clean_environment() | environment,
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    started.append(process)
    return process


def find_python(version: str) -> Path | None:
    """An interpreter like `3.12` on this machine: on the path, or beside the one that runs this."""
    beside = Path(sys.base_prefix).parent.glob(f"{version}.*/bin/python{version}")
    for candidate in (shutil.which(f"python{version}"), *beside):
        works = candidate and subprocess.run([candidate, "-V"], capture_output=True).returncode == 0
        if candidate and works:
            return Path(candidate)
    return None


COOKIECUTTER = {
    "COOKIECUTTER_CONFIG": str(ROOT / "tests" / "cookiecutter.yaml"),
    "REPLAYS": str(ROOT / "build" / "replays"),
}


def cookiecutter(output: Path, *, check: bool = True, **answers: str) -> Result:
    """Generates a project below `output` as a user does, without prompts."""
    chosen = [f"{question}={answer}" for question, answer in answers.items()]
    arguments = (ROOT, "--no-input", "--output-dir", output, *chosen)
    return fork("cookiecutter", *arguments, cwd=output, check=check, **COOKIECUTTER)


@dataclass
class Project:
    """A generated project, and the virtual environment that its commands run in."""

    path: Path
    venv: Path
    database: str
    shares_venv: bool = True

    def run(self, *command: str | Path, check: bool = True, **environment: str) -> Result:
        """Runs a command of the project's virtual environment."""
        program = self.venv / "bin" / command[0]
        return run(program, *command[1:], cwd=self.path, check=check, **environment)

    def pytest(
        self, *options: str, check: bool = True, cold: bool = False, **environment: str
    ) -> Result:
        """Runs its tests, as `make t` does: in a fork of a process that has the libraries.

        It is a second sooner, and `tests/warm` shows that it is the same; `cold` is for tests of how
        pytest starts.
        """
        is_warm = not cold and self.shares_venv
        if is_warm:
            keep_warm(self)
        module = "testkit.warm" if is_warm else "pytest"
        return self.run("python", "-m", module, "-q", *options, check=check, **environment)

    def install(self, *packages: str) -> None:
        """For this project alone, if its virtual environment is its own."""
        python = self.venv / "bin" / "python"
        run(UV, "pip", "install", "--quiet", "--python", python, *packages, cwd=self.path)

    def make(self, *arguments: str, check: bool = True, **environment: str) -> Result:
        return run("make", *arguments, cwd=self.path, check=check, **environment)

    def read(self, name: str) -> str:
        return (self.path / name).read_text()

    def edit(self, name: str, old: str, new: str) -> None:
        edit(self.path / name, old, new)

    def removal(self) -> str:
        """The step of its README that removes the example domain."""
        section = self.read("README.md").split("## Remove the example domain")[1]
        step: str = re.findall(r"```\n(.*?)```", section, re.DOTALL)[0]
        return step

    def files(self) -> list[str]:
        """The paths that a user would commit, sorted."""
        listed = run("git", "ls-files", "-co", "--exclude-standard", cwd=self.path).stdout
        return sorted(listed.splitlines())


def keep_warm(project: Project) -> None:
    """Has the warm parent of its virtual environment listen for this project too.

    It ends with the worker that has started it, whose end of its input is then closed.
    """
    home = project.venv.parent
    address = warm_address(home)
    with locked(home.parent / "warm.lock"), socket.socket(socket.AF_UNIX) as connection:
        if connection.connect_ex(str(address)):
            # In the virtual environment, where no project takes the parent's code for its own.
            folder = project.venv / "warm"
            shutil.copytree(home / "testkit", folder / "testkit", dirs_exist_ok=True)
            parent = start(
                *(project.venv / "bin" / "python", "-c", PARENT.format(str(folder))),
                cwd=home,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            started.remove(parent)
            warm_parents.append(parent)
            assert parent.stdout
            assert parent.stdout.readline() == "ready\n"
        if project.path != home:
            link = warm_address(project.path)
            link.unlink(missing_ok=True)
            link.symlink_to(address)
            warm_links.append(link)


def warm_address(place: Path) -> Path:
    """Where `testkit.warm` looks for a parent, there."""
    found = place.stat()
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"testkit-{os.getuid()}"
    return folder / f"{found.st_dev:x}-{found.st_ino:x}.sock"


PARENT = """\
import runpy, sys
sys.path[0] = {!r}
runpy.run_module("testkit.warm.parent", run_name="__main__", alter_sys=True)
"""
started: list[subprocess.Popen[str]] = []
warm_parents: list[subprocess.Popen[str]] = []
warm_links: list[Path] = []


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path} does not hold {old!r}"
    path.write_text(text.replace(old, new))


def commit_all(directory: Path) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    if not (directory / ".git").exists():
        run("git", "init", "--quiet", cwd=directory)
    run("git", "add", "--all", cwd=directory)
    run(
        "git",
        *identity,
        "commit",
        "--quiet",
        "--allow-empty",
        "--message",
        "All of it",
        cwd=directory,
    )


@contextmanager
def locked(path: Path, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
    with path.open("a") as lock:
        fcntl.flock(lock, kind)
        yield


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
    return _installed_project(shared_folder, "postgresql")


@pytest.fixture(scope="session")
def sqlite_project(shared_folder: Path) -> Project:
    return _installed_project(shared_folder, "sqlite")


def _installed_project(folder: Path, database: str) -> Project:
    output = folder / database
    path = output / "my-service"
    with locked(folder / f"{database}.lock"):
        if not (path / ".git").exists():
            output.mkdir()
            cookiecutter(output, database=database)
            run("make", "setup", cwd=path)
            keep_bytecode(path)
            commit_all(path)
    return Project(path, path / ".venv", database)


@pytest.fixture(params=["sqlite", "postgresql"])
def each_project(request: pytest.FixtureRequest) -> Project:
    """The project of each database, not to be changed."""
    project: Project = request.getfixturevalue(f"{request.param}_project")
    return project


def sqlite_first_of(fixture: str) -> pytest.MarkDecorator:
    """For what takes long, and differs little: on PostgreSQL only `make test-all` tests it."""
    databases = ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)]
    return pytest.mark.parametrize(fixture, databases, indirect=True)


sqlite_first = sqlite_first_of("each_project")


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


def copy_of(original: Project, path: Path) -> Project:
    shutil.copytree(
        original.path,
        path,
        # pytest's own bytecode holds the paths of the original.
        ignore=shutil.ignore_patterns(".venv", "*_cache", "*-pytest-*.pyc", ".performance"),
    )
    return Project(path, original.venv, original.database)
