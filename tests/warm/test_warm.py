"""Runs from a process that holds the libraries are those of pytest, and leave nothing behind."""

import colorsys
import os
import re
import resource
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest

from tests.commands import clean_environment, heed_interrupts, outcome, start
from tests.postgresql.conftest import private_servers
from tests.projects import Project, sqlite_first
from tests.servers import wait_until

ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "", "COLUMNS": "100", "NO_COLOR": ""}
FAILING = """
import sys
import warnings

from alembic.config import Config


def test_fails(tmp_path):
    print("out")
    Config().print_stdout("out of a library")
    print("err", file=sys.stderr)
    assert [1, 2, {"a": 3}] == [1, 2, {"a": 4}]


def test_passes():
    pass


def test_warns():
    warnings.warn("old")
"""
READING = """
import os
import signal
import sys
import time


def test_reads():
    print(sys.stdin.readline().upper())


def test_waits():
    print("waiting", flush=True)
    time.sleep(30)


def test_prints():
    print("printed")
    time.sleep(30)


def test_dies():
    os.kill(os.getpid(), signal.SIGKILL)
"""
ODD = """
import importlib.util
import signal
import sys
from types import ModuleType

spec = importlib.util.find_spec("xmlrpc.server")
lazy = importlib.util.module_from_spec(spec)
spec.loader = importlib.util.LazyLoader(spec.loader)
spec.loader.exec_module(lazy)


class Stub:
    def __getattr__(self, name):
        return self


class Missing:
    def __getattr__(self, name):
        raise ImportError("it is not installed")


sys.modules |= {"xmlrpc.server": lazy, "heavy": Stub(), "missing": Missing()}


def test_passes():
    pass


def test_flags():
    assert not __debug__


def test_signals_are_not_ignored():
    assert signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL
"""
ADDING = """
import pytest
from _pytest import tmpdir


@pytest.fixture
def given():
    return 1


tmpdir.added = given
del given
"""
KIT = """
import os
from pathlib import Path

from testkit import markers


def test_kit():
    assert "testkit.warm" in Path("/proc", str(os.getppid()), "cmdline").read_text()
    assert (markers.PROCESS == os.getppid()) is {}
"""
COLORSYS = Path(colorsys.__file__).read_text()
Run = tuple[int, str, str]
OURS = re.compile(r"testkit\.(warm|databases)|-m pytest")
KEEPER = "testkit.databases.postgresql.keep"


@pytest.fixture
def warm(copy_of_each: Project, tmp_path: Path) -> Iterator[Project]:
    """A project with a parent that is open for it."""
    with parent_of(copy_of_each, tmp_path):
        yield copy_of_each


@contextmanager
def parent_of(project: Project, folder: Path) -> Iterator[subprocess.Popen[str]]:
    with run_module(project, folder, "testkit.warm.parent", stdin=subprocess.PIPE) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == "ready\n"
        yield parent
        parent.communicate("q")
    assert processes_in(project) == {}


def run_module(
    project: Project,
    folder: Path,
    module: str,
    *arguments: str,
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[str]:
    """Starts it, with its output in a pipe."""
    return start(
        *(project.venv / "bin" / "python", "-m", module, *arguments),
        cwd=project.path,
        stdin=stdin,
        stdout=subprocess.PIPE,
        **environment(folder),
    )


def environment(folder: Path) -> dict[str, str]:
    """Of the processes that find each other through a folder."""
    sockets = folder / "s"
    sockets.mkdir(exist_ok=True, parents=True)
    return ENVIRONMENT | {"TMPDIR": str(sockets)}


def pytest_of(
    project: Project,
    folder: Path,
    module: str,
    *arguments: str,
    text: str = "",
    options: tuple[str, ...] = (),
) -> Run:
    """The exit status, output and errors of a run, without what is another one each time."""
    done = subprocess.run(
        [project.venv / "bin" / "python", *options, "-m", module, *arguments],
        cwd=project.path,
        env=clean_environment() | environment(folder),
        input=text,
        capture_output=True,
        text=True,
    )
    return done.returncode, steady(done.stdout), steady(done.stderr)


def steady(output: str) -> str:
    output = re.sub(r"\d+\.\d+s( \([\d:]+\))?", "TIME", output)
    return re.sub(r"=+ (.*TIME.*?) =+", r"\1", re.sub(r"/tmp/pytest-of-\S+", "FOLDER", output))


def processes_in(project: Project) -> dict[int, str]:
    """The commands that have been started in a folder, and not ended, by their ids. But not servers."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if (process / "cwd").readlink() == project.path and OURS.search(command):
                found[int(process.name)] = command
        except OSError:  # it has ended
            pass
    return found


CASES = (
    "-q --deselect=tests/test_reading.py",
    "-v -n 2 --dist loadfile tests/users",
    "-q --color=yes -x tests/test_failing.py",
    "-q -n 1 tests/test_failing.py",
    "tests/test_failing.py tests/test_failing.py -rA",
    "-q --collect-only tests/users",
    "--no-such-option",
    "tests/no_such_file.py",
    "--version",
    "-q -s tests/test_reading.py::test_reads",
)


def test_is_what_pytest_says(warm: Project, tmp_path: Path) -> None:
    (warm.path / "tests" / "test_failing.py").write_text(FAILING)
    (warm.path / "tests" / "test_reading.py").write_text(READING)
    # What the database has no part in need not be seen on both.
    for case in CASES if warm.database == "sqlite" else CASES[:2]:
        arguments = ("--randomly-seed=7", *case.split())
        expected, found = (
            pytest_of(warm, tmp_path, module, *arguments, text="hello\n")
            for module in ("pytest", "testkit.warm")
        )
        if "-n" in arguments:  # who runs what is another each time
            expected, found = map(without_workers, (expected, found))
        assert found == expected, case


@sqlite_first
def test_nothing_has_changed_since_a_cold_run(warm: Project, tmp_path: Path) -> None:
    """By testmon, which has all tests run when other packages are installed."""
    arguments = ("-q", "--testmon", "tests/users/test_factories.py")
    assert outcome(pytest_of(warm, tmp_path, "pytest", *arguments)[1]) == "2 passed"

    output = pytest_of(warm, tmp_path, "testkit.warm", *arguments)[1]

    assert outcome(output) == "2 deselected"


@sqlite_first
def test_streams_that_are_closed(copy_of_each: Project, tmp_path: Path) -> None:
    python = copy_of_each.venv / "bin" / "python"
    with parent_of(copy_of_each, tmp_path) as parent:
        for closed in ("<&-", ">&-", "2>&-"):
            expected, found = (
                subprocess.run(
                    f"exec {python} -m {module} -q tests/users/test_factories.py {closed}",
                    shell=True,
                    cwd=copy_of_each.path,
                    env=clean_environment() | environment(tmp_path),
                    capture_output=True,
                ).returncode
                for module in ("pytest", "testkit.warm")
            )
            assert found == expected, closed
        assert parent.poll() is None


@sqlite_first
def test_output_comes_at_once_in_a_terminal(warm: Project, tmp_path: Path) -> None:
    (warm.path / "tests" / "test_reading.py").write_text(READING)
    child = pexpect.spawn(
        str(warm.venv / "bin" / "python"),
        ["-m", "testkit.warm", "-sq", "tests/test_reading.py::test_prints"],
        cwd=warm.path,
        env=clean_environment() | environment(tmp_path),
        preexec_fn=heed_interrupts,
        timeout=10,
    )
    child.expect_exact("printed")
    child.sendintr()
    child.expect(pexpect.EOF)


@sqlite_first
def test_odd_modules_and_ends(warm: Project, tmp_path: Path) -> None:
    """What pytest does not mind; with `-O` it ignores each `assert`."""
    (warm.path / "tests" / "test_odd.py").write_text(ODD)
    leaving = warm.path / ".leaving"
    leaving.mkdir()
    (leaving / "conftest.py").write_text('import sys\n\nsys.exit("set DATABASE_URL first")\n')
    for options, arguments in (
        ((), "-q -p no:randomly tests/test_odd.py"),
        (("-O",), "-q -p no:randomly tests/test_odd.py"),
        ((), ".leaving"),
    ):
        expected, found = (
            pytest_of(warm, tmp_path, module, *arguments.split(), options=options)
            for module in ("pytest", "testkit.warm")
        )
        assert found == expected, (options, arguments)
    assert "DATABASE_URL first" in found[2]


@sqlite_first
def test_fixtures_are_those_of_pytest(warm: Project, tmp_path: Path) -> None:
    """Also one that the project adds to a plugin of a library."""
    folder = warm.path / "tests" / "adding"
    folder.mkdir()
    (folder / "conftest.py").write_text(ADDING)
    (folder / "test_added.py").write_text("def test_added(added):\n    assert added == 1\n")
    for arguments in ("--fixtures -v -p no:randomly tests/users", "-q tests/adding"):
        expected, found = (
            pytest_of(warm, tmp_path, module, *arguments.split())
            for module in ("pytest", "testkit.warm")
        )
        assert found == expected
    assert outcome(found[1]) == "1 passed"


@sqlite_first
def test_signal_after_the_run(each_project: Project) -> None:
    """It comes when the parent no longer listens, before it has said how the run has ended."""
    assert each_project.run("python", "-c", LATE_SIGNAL).stdout == "0 None\n"


@sqlite_first
def test_nobody_else_can_ask(copy_of_each: Project, tmp_path: Path) -> None:
    folder = tmp_path / "s" / f"testkit-{os.getuid()}"
    folder.mkdir(parents=True)
    folder.chmod(0o755)

    with parent_of(copy_of_each, tmp_path):
        assert folder.stat().st_mode & 0o777 == 0o700


@sqlite_first
def test_temporary_folder_with_a_long_name(copy_of_each: Project, tmp_path: Path) -> None:
    with parent_of(copy_of_each, tmp_path / ("long" * 30)):
        pass


def without_workers(run: Run) -> Run:
    lines = re.sub(r"\[gw\d\] \[.*?\]", "", run[1]).split("\n")
    return run[0], "\n".join(sorted(lines)), run[2]


@sqlite_first
class TestSignals:
    def start(self, project: Project, folder: Path, test: str) -> subprocess.Popen[str]:
        (project.path / "tests" / "test_reading.py").write_text(READING)
        test = f"tests/test_reading.py::{test}"
        return run_module(project, folder, "testkit.warm", "-sq", test)

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 2), (signal.SIGTERM, -15)])
    def test_come_to_the_run(
        self, warm: Project, tmp_path: Path, number: signal.Signals, status: int
    ) -> None:
        with self.start(warm, tmp_path, "test_waits") as client:
            wait_for(client, "waiting")
            client.send_signal(number)
            output = client.communicate(timeout=10)[0]

        assert client.returncode == status, output

    def test_come_to_a_run_that_has_just_been_forked(
        self, copy_of_each: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slow = tmp_path / "sitecustomize.py"
        slow.write_text(
            "import os\nimport time\n\nos.register_at_fork(after_in_child=lambda: time.sleep(0.5))\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        with (
            parent_of(copy_of_each, tmp_path),
            self.start(copy_of_each, tmp_path, "test_waits") as client,
        ):
            wait_until(lambda: len(processes_in(copy_of_each)) == 3, 10)
            client.send_signal(signal.SIGINT)
            output = client.communicate(timeout=10)[0]

        assert client.returncode == -signal.SIGINT, output

    @pytest.mark.parametrize("size", [100, 4], ids=["breaks off", "is none"])
    def test_of_who_asks_leave_nothing_open(self, warm: Project, tmp_path: Path, size: int) -> None:
        """Behind the streams comes no request."""
        (address,) = (tmp_path / "s").glob("testkit-*/*.sock")
        ours, theirs = os.pipe()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(address))
            socket.send_fds(connection, [size.to_bytes(4)], [theirs] * 3)
            connection.sendall(b"what")
        os.close(theirs)

        with open(ours, "rb") as stream:
            assert select.select([stream], [], [], 10)[0]
            assert stream.read() == b""

    def test_of_the_run_come_to_who_waits(self, warm: Project, tmp_path: Path) -> None:
        with self.start(warm, tmp_path, "test_dies") as client:
            assert client.wait(20) == -signal.SIGKILL

    def test_run_ends_with_who_waits(self, warm: Project, tmp_path: Path) -> None:
        with self.start(warm, tmp_path, "test_waits") as client:
            wait_for(client, "waiting")
            client.kill()
        wait_until(lambda: len(processes_in(warm)) == 1, 10)  # the parent

    def test_run_ends_with_its_parent(self, copy_of_each: Project, tmp_path: Path) -> None:
        with (
            parent_of(copy_of_each, tmp_path) as parent,
            self.start(copy_of_each, tmp_path, "test_waits") as client,
        ):
            wait_for(client, "waiting")
            parent.kill()
            output = client.communicate(timeout=10)[0]
        assert client.returncode == -signal.SIGKILL
        assert output.endswith("has ended, and this run with it.\n")


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout
    for line in process.stdout:
        if word in line:
            return
    raise AssertionError(word)


@sqlite_first
class TestStale:
    """What is not the same any more starts cold, and the parent ends."""

    @pytest.mark.parametrize(
        "file", ["pyproject.toml", "testkit/warm/child.py", "testkit/markers.py", "colorsys.py"]
    )
    def test_settings_and_the_kit_and_what_comes_before_a_library(
        self, copy_of_each: Project, tmp_path: Path, file: str
    ) -> None:
        test = "import os\n\n\ndef test_parent():\n    print(os.getppid(), 'is the parent')\n"
        (copy_of_each.path / "tests" / "test_parent.py").write_text(test)
        with parent_of(copy_of_each, tmp_path) as parent:
            says = f"{parent.pid} is the parent"
            arguments = (copy_of_each, tmp_path, "testkit.warm", "-qs", "tests/test_parent.py")
            assert says in pytest_of(*arguments)[1]
            changed = copy_of_each.path / file
            changed.write_text(changed.read_text() if changed.exists() else COLORSYS)
            status, output, errors = pytest_of(*arguments)
            assert (status, errors, says in output) == (0, "", False)
            assert parent.wait(5) == 0

    def test_project_is_never_held(self, warm: Project, tmp_path: Path) -> None:
        def run() -> str:
            return pytest_of(warm, tmp_path, "testkit.warm", "-q", "tests/test_health.py")[1]

        assert "failed" not in run()
        warm.edit("app/health.py", '{"status": "ok"}', '{"status": "well"}')
        assert "failed" in run()

    def test_folders_that_it_has_not_seen(self, copy_of_each: Project, tmp_path: Path) -> None:
        with parent_of(copy_of_each, tmp_path) as parent:
            for _ in range(2):
                pytest_of(copy_of_each, tmp_path, "testkit.warm", "--collect-only", "tests/smoke")
            assert parent.poll() is None

    def test_runs_are_not_ended(self, copy_of_each: Project, tmp_path: Path) -> None:
        """Of others, when another parent is needed."""
        slow = copy_of_each.path / "tests" / "products" / "test_slow.py"
        slow.write_text("import time\n\n\ndef test_slow():\n    print('!')\n    time.sleep(5)\n")
        with (
            watching(copy_of_each, tmp_path, "tests/services") as watch,
            run_module(copy_of_each, tmp_path, "testkit.warm", "-sq", str(slow)) as client,
        ):
            wait_for(client, "!")
            settings = copy_of_each.path / "pyproject.toml"
            settings.write_text(settings.read_text())
            watch.expect("pyproject.toml saved", "No test is affected")
            assert outcome(client.communicate(timeout=20)[0]) == "1 passed"
        assert client.returncode == 0

    def test_kit_that_is_another_one_now(self, warm: Project, tmp_path: Path) -> None:
        with (warm.path / "testkit" / "plugin.py").open("a") as plugin:
            plugin.write('\n\ndef pytest_report_header():\n    return "another kit"\n')

        assert "another kit" in pytest_of(warm, tmp_path, "testkit.warm", "tests/products")[1]

    @pytest.mark.parametrize(
        ("added", "is_held"), [("", True), ("import app.work\n", False)], ids=["pure", "not pure"]
    )
    def test_kit_is_held_unless_it_imports_the_project(
        self, copy_of_each: Project, tmp_path: Path, added: str, is_held: bool
    ) -> None:
        with (copy_of_each.path / "testkit" / "markers.py").open("a") as markers:
            markers.write(f"\nimport os\n{added}\nPROCESS = os.getpid()\n")
        (copy_of_each.path / "tests" / "test_kit.py").write_text(KIT.format(is_held))
        with parent_of(copy_of_each, tmp_path):
            for module, *options in (("testkit.warm",), ("testkit.warm", "-n1"), ("pytest", "-n1")):
                arguments = (module, "-q", *options, "tests/test_kit.py", "tests/test_health.py")
                status, output, errors = pytest_of(copy_of_each, tmp_path, *arguments)
                assert (status, errors) == (0, ""), output
            copy_of_each.edit("app/health.py", '{"status": "ok"}', '{"status": "well"}')
            arguments = ("testkit.warm", "-q", "tests/test_health.py")
            assert pytest_of(copy_of_each, tmp_path, *arguments)[0] == 1

    @pytest.mark.parametrize(
        ("name", "value", "test"),
        [
            ("PYTHONDEVMODE", "1", "assert sys.flags.dev_mode is {}"),
            ("TZ", "EST5EDT", "assert ('EST' in time.tzname) is {}"),
        ],
    )
    def test_environment(
        self, warm: Project, tmp_path: Path, name: str, value: str, test: str
    ) -> None:
        test_file = warm.path / "tests" / "test_environment.py"
        for is_set in (False, True):
            code = test.format(is_set)
            test_file.write_text(f"import sys\nimport time\n\n\ndef test_it():\n    {code}\n")
            done = subprocess.run(
                [warm.venv / "bin" / "python", "-m", "testkit.warm", "-q", test_file],
                cwd=warm.path,
                env=clean_environment() | environment(tmp_path) | ({name: value} if is_set else {}),
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stdout


LIBRARY = "reader_of_variables"
READER = "import os\n\nVALUE = os.environ.get('READ_BY_A_LIBRARY')\n"
READS = """
import os

import {library}


def test_reads():
    print(os.getppid(), "is the parent")
    assert {library}.VALUE == {value!r} == os.environ.get("READ_BY_A_LIBRARY")
"""
SETS = """
import os

os.environ["READ_BY_A_LIBRARY"] = "{value}"
import {library}
"""


@pytest.fixture
def packages(installed_copy_of_each: Project) -> Path:
    """Where libraries can be put that no other test sees."""
    (packages,) = installed_copy_of_each.venv.glob("lib/python*/site-packages")
    return packages


@sqlite_first
class TestVariables:
    """Libraries read some while they are imported."""

    @pytest.fixture
    def reading(self, installed_copy_of_each: Project, packages: Path) -> Project:
        (packages / f"{LIBRARY}.py").write_text(READER)
        return installed_copy_of_each

    def test_of_who_asks(
        self, reading: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.expect(reading, None)
        with parent_of(reading, tmp_path) as parent:
            for value in (None, "1", None):
                self.expect(reading, value)
                if value:
                    monkeypatch.setenv("READ_BY_A_LIBRARY", value)
                else:
                    monkeypatch.delenv("READ_BY_A_LIBRARY", raising=False)
                says = f"{parent.pid} is the parent"
                assert (says in self.run(reading, tmp_path, "testkit.warm")) is (not value)

    def test_of_the_tests(self, reading: Project, tmp_path: Path) -> None:
        self.set(reading, "1")
        with parent_of(reading, tmp_path) as parent:
            says = f"{parent.pid} is the parent"
            for _ in range(2):
                assert says in self.run(reading, tmp_path, "testkit.warm")
            assert parent.poll() is None
            self.run(reading, tmp_path, "testkit.warm", "-n1")

            self.set(reading, "2")
            assert says not in self.run(reading, tmp_path, "testkit.warm")
            assert parent.wait(5) == 0

    def test_of_the_tests_with_workers(self, reading: Project, tmp_path: Path) -> None:
        for value in ("1", "1", "2"):
            self.set(reading, value)
            self.run(reading, tmp_path, "pytest", "-n1", "--workers=fork")
        assert (reading.path / ".performance" / "imported.json").exists()

    def set(self, project: Project, value: str) -> None:
        self.expect(project, value)
        conftest = project.path / "tests" / "reading" / "conftest.py"
        conftest.write_text(SETS.format(library=LIBRARY, value=value))

    def expect(self, project: Project, value: str | None) -> None:
        folder = project.path / "tests" / "reading"
        folder.mkdir(exist_ok=True)
        (folder / "test_reads.py").write_text(READS.format(library=LIBRARY, value=value))

    def run(self, project: Project, folder: Path, module: str, *options: str) -> str:
        arguments = ("-qs", *options, "tests/reading")
        status, output, errors = pytest_of(project, folder, module, *arguments)
        assert (status, errors) == (0, ""), output
        return output


STANDS_IN = """
import sys


def stand_in():
    assert "{name}" not in sys.modules, "it was imported already"
    sys.modules["{name}"] = sys.modules[__name__]
"""
NEEDS = "import {name}\n\nVALUE = {name}.__name__\n"
WITH_STAND_IN = """
import {name}_2

{name}_2.stand_in()
import {name}_user
"""
USES = """
import os

import {name}_user


def test_uses():
    print(os.getppid(), "is the parent")
    assert {name}_user.VALUE == "{name}_2"
"""
STARTS = """
import threading
import time

threading.Thread(target=time.sleep, args=[3600], daemon=True).start()
"""


@sqlite_first
class TestUnsuited:
    """Libraries that cannot be held are not, and no other is the worse for it."""

    def test_what_another_stands_in_for(
        self, installed_copy_of_each: Project, tmp_path: Path, packages: Path
    ) -> None:
        """As `httpx2.alias_httpx()` has it, for respx."""
        project, name = installed_copy_of_each, "unsuited"
        (packages / f"{name}.py").touch()
        (packages / f"{name}_2.py").write_text(STANDS_IN.format(name=name))
        (packages / f"{name}_user.py").write_text(NEEDS.format(name=name))
        self.write(project, "conftest.py", WITH_STAND_IN.format(name=name))
        self.write(project, "test_uses.py", USES.format(name=name))

        self.run_each_way(project, tmp_path)

    def test_what_starts_a_thread(
        self, installed_copy_of_each: Project, tmp_path: Path, packages: Path
    ) -> None:
        project, name = installed_copy_of_each, "unsuited"
        (packages / f"{name}.py").write_text(STARTS)
        test = "import os\n\nimport {}\n\n\ndef test_uses():\n    print(os.getppid(), 'is the parent')\n"
        self.write(project, "test_uses.py", test.format(name))

        self.run_each_way(project, tmp_path)

    def write(self, project: Project, name: str, text: str) -> None:
        folder = project.path / "tests" / "unsuited"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    def run_each_way(self, project: Project, folder: Path) -> None:
        for options in ((), ("-n1",), ("-n1",)):
            self.run(project, folder, "pytest", *options)
        with parent_of(project, folder) as parent:
            for _ in range(2):
                says = self.run(project, folder, "testkit.warm")
                assert f"{parent.pid} is the parent" in says
            self.run(project, folder, "testkit.warm", "-n1")

    def run(self, project: Project, folder: Path, module: str, *options: str) -> str:
        arguments = ("-qs", *options, "tests/unsuited")
        status, output, errors = pytest_of(project, folder, module, *arguments)
        assert (status, errors) == (0, ""), output
        return output


ASSERTING = """
import pytest


def check(found):
    assert found == [1, 2]


@pytest.fixture
def checked():
    check([1, 3])
"""
EXPLAINED = "E         At index 1 diff: 3 != 2"  # in CI, the summary says it once more
ENTRY = "[pytest11]\ncompany = company_plugin\n"
REGISTERS = """
import pytest

pytest.register_assert_rewrite("company")
import company
"""
CHECKS = """
import company


def test_library():
    company.check([1, 3])


def test_plugin(checked):
    pass
"""


@sqlite_first
def test_asserts_of_libraries_are_rewritten(
    installed_copy_of_each: Project, tmp_path: Path, packages: Path
) -> None:
    """Of those that are plugins, and those for which a `conftest.py` asks for it."""
    project, folder = installed_copy_of_each, installed_copy_of_each.path / "tests" / "asserting"
    for name in ("company", "company_plugin"):
        (packages / f"{name}.py").write_text(ASSERTING)
    distribution = packages / "company-1.dist-info"
    distribution.mkdir()
    (distribution / "entry_points.txt").write_text(ENTRY)
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: company\nVersion: 1\n")
    (distribution / "RECORD").write_text("company_plugin.py,,\n")
    folder.mkdir()
    (folder / "conftest.py").write_text(REGISTERS)
    (folder / "test_checks.py").write_text(CHECKS)
    arguments = ("-q", "-p", "no:randomly", "-W", "error::pytest.PytestWarning", "tests/asserting")
    expected = pytest_of(project, tmp_path, "pytest", *arguments)
    assert expected[1].count(EXPLAINED) == 2

    with parent_of(project, tmp_path):
        for module, *options in (("testkit.warm",), ("testkit.warm",), *[("pytest", "-n1")] * 2):
            found = pytest_of(project, tmp_path, module, *options, *arguments)
            assert found[1].count(EXPLAINED) == 2, found
            if not options:
                assert found == expected


STUBBORN = """
import os
import signal
import time


def test_new():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "TESTMON_DATAFILE" in os.environ:  # in the background
        time.sleep(60)
    signal.signal(signal.SIGTERM, before)
"""

LATE_SIGNAL = """
import signal, socket, subprocess, threading, time
from testkit.warm.protocol import receive, request

run = subprocess.Popen(["sleep", "60"])
here, there = socket.socketpair()


def answer():
    receive(there)
    there.sendall(b"pid %d\\n" % run.pid)
    there.shutdown(socket.SHUT_RD)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGWINCH)
    time.sleep(0.2)
    there.sendall(b"status 0\\n")
    there.close()


threading.Thread(target=answer).start()
print(request(here, []), run.poll())
run.kill()
"""


class Watch:
    """`make watch` in a terminal."""

    def __init__(self, project: Project, folder: Path, *arguments: str, **variables: str) -> None:
        self.project = project
        self.child = pexpect.spawn(
            str(project.venv / "bin" / "python"),
            ["-m", "testkit.warm.watch", *arguments],
            cwd=project.path,
            env=clean_environment() | environment(folder) | variables,
            encoding="utf-8",
            preexec_fn=heed_interrupts,
            timeout=30,
            dimensions=(40, 120),
        )

    def press(self, key: str) -> None:
        time.sleep(0.1)
        self.child.send(key)

    def expect(self, *said: str) -> str:
        """Waits for the words, then for the end of the run. Returns what was shown."""
        shown = ""
        for words in (*said, "Keys: "):
            self.child.expect_exact(words)
            shown += self.child.before + words
        return shown


@pytest.fixture
def watch(copy_of_each: Project, tmp_path: Path) -> Iterator[Watch]:
    """Of a few tests."""
    with watching(copy_of_each, tmp_path, "tests/services") as watch:
        yield watch


@pytest.fixture
def wide_watch(copy_of_each: Project, tmp_path: Path) -> Iterator[Watch]:
    """Of tests that a change affects in part."""
    arguments = ("tests/users", "tests/products", "--ignore=tests/users/test_auth.py")
    with watching(copy_of_each, tmp_path, *arguments) as watch:
        yield watch


@contextmanager
def watching(project: Project, folder: Path, *arguments: str, **variables: str) -> Iterator[Watch]:
    watch = Watch(project, folder, *arguments, **variables)
    watch.expect("the first run", "passed", "Passed")
    yield watch
    if watch.child.isalive():
        watch.press("q")
        watch.child.expect(pexpect.EOF)
        watch.child.wait()
        assert watch.child.exitstatus == 0
    wait_until(lambda: processes_in(project) == {}, 10)


def test_a_change_runs_what_it_affects(wide_watch: Watch) -> None:
    watch = wide_watch
    test = watch.project.path / "tests" / "products" / "test_new.py"
    test.write_text("def test_new():\n    assert 1 + 1 == 3\n")
    assert "1 failed" in watch.expect("test_new.py saved", "assert (1 + 1) == 3", "Failed")

    test.write_text("def test_new():\n    assert 1 + 1 == 2\n")
    assert "1 passed" in watch.expect("test_new.py saved", "Passed")
    learn(watch)  # now no test is affected
    for _ in range(2):
        watch.press("\r")
        assert "1 passed" in watch.expect("the same again", "Passed")

    watch.project.edit("app/products/routes.py", "status_code=201", "status_code=200")
    shown = watch.expect("routes.py saved", "Failed")
    assert re.search(r"\d failed", shown)
    assert "tests/users" not in shown


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "two workers"])
@sqlite_first
def test_says_when_nothing_is_affected(
    copy_of_each: Project, tmp_path: Path, options: tuple[str, ...]
) -> None:
    with watching(copy_of_each, tmp_path, "tests/services", *options) as watch:
        module = copy_of_each.path / "app" / "services" / "language.py"
        module.write_text(f"{module.read_text()}\n# A remark.\n")
        assert "Passed" not in watch.expect("saved", "no tests ran", "No test is affected")


@sqlite_first
def test_failure_is_no_interruption(watch: Watch) -> None:
    """pytest has one exit status for Ctrl-C and for a file that it cannot read."""
    test = watch.project.path / "tests" / "services" / "test_new.py"
    test.write_text("def test_new(:\n")
    assert "Interrupted," not in watch.expect("test_new.py saved", "1 error", "Failed,")


def test_what_tools_write_runs_nothing(watch: Watch) -> None:
    (watch.project.path / ".performance" / "imported.json").write_text("{}")
    test = watch.project.path / "tests" / "services" / "test_new.py"
    time.sleep(0.5)
    test.write_text("def test_new():\n    pass\n")

    shown = watch.expect("saved", "1 passed", "Passed")

    assert "test_new.py saved" in shown
    assert "imported.json" not in shown


@sqlite_first
def test_tests_that_save_a_file(watch: Watch) -> None:
    test = watch.project.path / "tests" / "services" / "test_new.py"
    test.write_text(
        "from pathlib import Path\nfrom time import time\n\n\ndef test_new():\n"
        "    Path(__file__).with_name('new.json').write_text(str(time()))\n"
    )
    watch.child.expect_exact("tests/services/new.json was saved during each of the last runs")
    assert watch.child.expect_exact([pexpect.TIMEOUT, "saved"], timeout=2) == 0
    test.write_text("def test_new():\n    pass\n")
    watch.expect("test_new.py saved", "Passed")


def test_keys(wide_watch: Watch) -> None:
    watch = wide_watch
    watch.press("\x1a")  # Ctrl-Z would leave a shell that waits forever
    watch.press("é")
    watch.press("\x1b[a")  # of some terminals, for Shift and an arrow
    watch.press("?")
    watch.child.expect_exact("under a path")
    assert watch.child.before.count("all tests") == 1  # among the keys
    watch.press("a")
    assert "passed" in watch.expect("all tests", "Passed")
    watch.press("t")
    watch.child.sendline("refuses")
    matching = "tests matching 'refuses'"
    assert "deselected" in watch.expect(matching, "Passed", f"Only {matching}")
    watch.press("\r")
    assert "deselected" in watch.expect("the same again", "Passed")
    watch.press("f")
    watch.expect("tests that failed", "No test has failed")
    watch.press("p")
    watch.child.sendline("x" * 300)  # a file cannot have this name
    watch.child.expect_exact("There is no x")
    watch.press("t")
    watch.child.sendline("")
    assert "deselected" not in watch.expect("all tests", "Passed")
    watch.press("p")
    watch.child.sendline("tests/users/test_factories.py")
    assert "2 passed" in watch.expect("tests under tests/users/test_factories.py", "Passed")
    test = watch.project.path / "tests" / "users" / "test_new.py"
    watch.press("a")
    assert "deselected" not in watch.expect("all tests", "Passed")
    test.write_text("def test_new():\n    assert False\n")
    watch.expect("test_new.py saved", "Failed")
    watch.press("f")
    assert "1 failed" in watch.expect("tests that failed", "Failed")
    watch.press("?")
    watch.child.expect_exact("under a path")


@sqlite_first
def test_choices_that_add_up_and_that_are_none(watch: Watch) -> None:
    (watch.project.path / "tests" / "services" / "test_new.py").write_text(
        "def test_one():\n    pass\n\n\ndef test_other():\n    pass\n"
    )
    watch.expect("saved", "2 passed")
    for key, line in (("t", "one"), ("p", "tests/services/test_new.py")):
        watch.press(key)
        watch.child.sendline(line)
        watch.expect("Passed")
    both = "tests under tests/services/test_new.py matching 'one'"
    watch.press("\r")
    watch.expect("the same again", "1 passed", f"Only {both}")

    watch.press("p")
    watch.child.sendline("tests/nowhere")
    watch.child.expect_exact("There is no tests/nowhere.")
    watch.press("t")
    watch.child.sendline("one two")
    watch.expect("matching 'one two'", "Wrong expression", "Failed", f"Only {both}")
    for leave in ("\x03", "\x1b\r"):  # Ctrl-C, and Esc, which comes with the line
        watch.press("t")
        watch.child.expect_exact("Ctrl-C: back")
        watch.press(leave)
    watch.press("t")
    watch.child.sendline("none_of_this_name")
    watch.expect("matching 'none_of_this_name'", "No tests ran")
    watch.press("a")
    assert "Only" not in watch.expect("all tests", "Passed")


@sqlite_first
def test_text_in_another_encoding(copy_of_each: Project, tmp_path: Path) -> None:
    encoding = {"PYTHONIOENCODING": "utf-8:strict"}
    with watching(copy_of_each, tmp_path, "tests/services", **encoding) as watch:
        watch.press("t")
        watch.child.expect_exact("Ctrl-C: back")
        watch.child.setecho(False)  # pexpect could not read it either
        os.write(watch.child.child_fd, b"\xff\n")
        watch.child.expect_exact("This cannot be read")
        watch.press("a")
        watch.expect("all tests", "Passed")


@sqlite_first
def test_files_that_cannot_be_watched(copy_of_each: Project, tmp_path: Path) -> None:
    """As where inotify has no watches left."""
    (copy_of_each.path / "watchfiles.py").write_text(
        "class Change:\n    deleted = 3\n\n\n"
        "def watch(*_, **__):\n    raise OSError(28, 'OS file watch limit reached.')\n"
    )
    watch = Watch(copy_of_each, tmp_path, "tests/services")
    watch.child.expect_exact("Files cannot be watched: [Errno 28] OS file watch limit reached.")
    watch.child.expect(pexpect.EOF)
    assert "Traceback" not in watch.child.before
    assert watch.child.wait() == 1
    wait_until(lambda: processes_in(copy_of_each) == {}, 10)


@sqlite_first
def test_full_disk(watch: Watch) -> None:
    """What cannot be noted down counts as affected, until it can."""
    test = watch.project.path / "tests" / "services" / "test_new.py"
    test.write_text("def test_new():\n    pass\n")
    watch.expect("saved", "1 passed", "Passed")
    learn(watch)
    assert watch.child.pid
    unlimited = resource.prlimit(watch.child.pid, resource.RLIMIT_FSIZE, (0, -1))
    for number in range(2):
        test.write_text(f"def test_new():\n    assert {number} >= 0\n")
        watch.expect("saved", "1 passed", "Passed")
        time.sleep(1)
        assert not list(watch.project.path.glob(".testmondata-learning*"))

    resource.prlimit(watch.child.pid, resource.RLIMIT_FSIZE, unlimited)
    services = watch.project.path / "app" / "services" / "language.py"
    services.write_text(f"{services.read_text()}\n# A remark.\n")
    watch.expect("saved", "1 passed", "Passed")
    learn(watch)
    services.write_text(f"{services.read_text()}\n# Another.\n")
    watch.expect("saved", "No test is affected")


def learn(watch: Watch) -> None:
    """Waits until the watcher has learnt what the last run depends on."""
    learning = watch.project.path / ".testmondata-learning"
    wait_until(learning.exists, 30)
    wait_until(lambda: not learning.exists(), 30)


@sqlite_first
def test_two_texts_of_one_second(copy_of_each: Project, tmp_path: Path) -> None:
    """Of the same length, so that Python takes the bytecode of one for that of the other."""
    module, second = copy_of_each.path / "app" / "one.py", int(time.time()) * 10**9
    test = copy_of_each.path / "tests" / "services" / "test_one.py"
    test.write_text("from app.one import ONE\n\n\ndef test_one():\n    assert ONE == 1\n")
    module.write_text("ONE = 1\n")
    os.utime(module, ns=(second, second))
    with watching(copy_of_each, tmp_path, "tests/services") as watch:
        draft = module.with_name(".draft")
        draft.write_text("ONE = 2\n")
        os.utime(draft, ns=(second, second + 1))
        draft.replace(module)
        watch.expect("one.py saved", "1 failed", "Failed")


@sqlite_first
def test_two_of_them(copy_of_each: Project, tmp_path: Path) -> None:
    """In one checkout: each tells what a change has done, and goes on without the other."""
    test = copy_of_each.path / "tests" / "services" / "test_new.py"
    with watching(copy_of_each, tmp_path, "tests/services") as one:
        other = Watch(copy_of_each, tmp_path, "tests/services")
        other.expect("the first run", "No test is affected")
        for number in range(3):
            test.write_text(f"def test_new():\n    assert {number} >= 0\n")
            for watch in (one, other):
                assert " failed" not in watch.expect("test_new.py saved", "1 passed", "Passed")
        test.write_text("def test_new():\n    assert False\n")
        for watch in (one, other):
            watch.expect("test_new.py saved", "1 failed", "Failed")
        one.press("q")
        one.child.expect(pexpect.EOF)
        test.write_text("def test_new():\n    assert True\n")
        other.expect("test_new.py saved", "1 passed", "Passed")
        other.press("q")
        other.child.expect(pexpect.EOF)
        assert other.child.wait() == 0


@sqlite_first
def test_interrupted_before_it_can_watch(copy_of_each: Project, tmp_path: Path) -> None:
    """While its libraries are imported."""
    for wait in (0.02, 0.05, 0.08, 0.12):
        watch = Watch(copy_of_each, tmp_path, "tests/services")
        time.sleep(wait)
        watch.child.sendintr()
        time.sleep(0.3)
        watch.press("q")
        watch.child.expect(pexpect.EOF)
        assert "watch.py" not in watch.child.before


@sqlite_first
def test_path_in_place_of_those_that_were_given(copy_of_each: Project, tmp_path: Path) -> None:
    """And of no value of an option, even if there is such a file."""
    given = ("tests/services", "--junitxml", "report.xml", "--ignore", "tests/users")
    test = copy_of_each.path / "tests" / "products" / "test_price.py"
    before = test.read_text()
    with watching(copy_of_each, tmp_path, *given) as watch:
        assert (copy_of_each.path / "report.xml").exists()
        watch.press("p")
        watch.child.sendline("tests/products/test_price.py")
        assert "Only tests under tests/products/test_price.py" in watch.expect("passed", "Passed")
        assert test.read_text() == before
        assert "test_price" in copy_of_each.read("report.xml")


@sqlite_first
def test_folders_that_are_moved(watch: Watch) -> None:
    services = watch.project.path / "app" / "services"
    elsewhere = services.with_name("elsewhere")
    services.rename(elsewhere)
    watch.expect("elsewhere and 1 more saved", "No module named 'app.services'", "Failed")
    elsewhere.rename(services)
    watch.expect("elsewhere and 1 more saved", "No test is affected")


@sqlite_first
def test_import_that_never_ends(copy_of_each: Project, tmp_path: Path) -> None:
    test = copy_of_each.path / "tests" / "services" / "test_new.py"
    test.write_text("import time\n\ntime.sleep(600)\n")
    watch = Watch(copy_of_each, tmp_path, "tests/services")
    watch.child.expect_exact("the first run")
    time.sleep(2)
    watch.press("\x03")
    watch.expect("Interrupted")
    assert not any("warm.parent" in command for command in processes_in(copy_of_each).values())
    test.write_text("")
    watch.expect("saved", "Passed")
    test.write_text("import time\n\ntime.sleep(600)\n")
    (copy_of_each.path / "tests" / "conftest.py").touch()
    watch.child.expect_exact("saved")
    time.sleep(2)
    watch.child.kill(signal.SIGKILL)
    wait_until(lambda: processes_in(copy_of_each) == {}, 10)


@sqlite_first
def test_interruption_of_a_cold_run(copy_of_each: Project, tmp_path: Path) -> None:
    """Where there can be no parent."""
    test = copy_of_each.path / "tests" / "services" / "test_new.py"
    test.write_text("import time\n\n\ndef test_new():\n    print('!')\n    time.sleep(600)\n")
    watch = Watch(copy_of_each, tmp_path, "-s", "-p", "no:randomly", str(test), TMPDIR="/nowhere")
    watch.child.expect_exact("!")
    watch.press("\x03")
    watch.expect("KeyboardInterrupt", "Interrupted")
    watch.press("q")
    watch.child.expect(pexpect.EOF)


@sqlite_first
def test_ended_during_a_run(watch: Watch) -> None:
    """As by whoever supervises it. A run that is learning in the background holds up nothing."""
    test = watch.project.path / "tests" / "services" / "test_new.py"
    test.write_text(STUBBORN)
    watch.expect("saved", "Passed")
    test.write_text("import time\n\n\ndef test_new():\n    print('!')\n    time.sleep(600)\n")
    watch.child.expect_exact("saved", timeout=4)
    time.sleep(1)
    watch.child.kill(signal.SIGTERM)
    watch.child.expect(pexpect.EOF)


@sqlite_first
def test_debugger_and_interruption(watch: Watch) -> None:
    test = watch.project.path / "tests" / "services" / "test_new.py"
    test.write_text("def test_new():\n    value = 41\n    breakpoint()\n    assert value == 42\n")
    watch.child.expect_exact("(Pdb)")
    watch.child.sendline("value = 42")
    watch.child.expect_exact("(Pdb)")
    watch.child.sendline("c")
    assert "1 passed" in watch.expect("Passed")

    test.write_text("import time\n\n\ndef test_new():\n    time.sleep(60)\n")
    watch.child.expect_exact("saved")
    time.sleep(1)
    watch.press("\x03")
    watch.expect("KeyboardInterrupt", "Interrupted")

    test.write_text("import os\n\n\ndef test_new():\n    os.kill(os.getpid(), 9)\n")
    watch.expect("saved", "Ended by SIGKILL")
    test.unlink()
    watch.expect("saved", "No test is affected")


@sqlite_first
def test_killed(watch: Watch) -> None:
    """No process stays, and the terminal is as it was."""
    attributes = terminal(watch)
    watch.child.kill(signal.SIGKILL)
    wait_until(lambda: processes_in(watch.project) == {}, 10)
    watch.child.wait()
    assert attributes != terminal(watch)
    assert "echo" in terminal(watch)


@sqlite_first
@pytest.mark.parametrize("killed", ["make watch", "testkit.warm.watch"])
@pytest.mark.parametrize("at", ["rest", "work"])
def test_killed_below_a_shell(copy_of_each: Project, tmp_path: Path, killed: str, at: str) -> None:
    """Whichever process of `make watch` it is, as by `pkill -9 -f`."""
    test = copy_of_each.path / "tests" / "services" / "test_new.py"
    test.write_text(f"import time\n\n\ndef test_new():\n    time.sleep({60 * (at == 'work')})\n")
    with shell_in(copy_of_each, tmp_path) as shell:
        shell.sendline(f"make watch UV=true T={test.relative_to(copy_of_each.path)}")
        shell.expect_exact("Keys: " if at == "rest" else "the first run")
        time.sleep(1)
        kill_below(shell, killed)
        wait_until(lambda: processes_in(copy_of_each) == {}, 10)
        assert {"icanon", "echo"} <= attributes_in(shell, tmp_path)
        shell.sendline("jobs; echo $((40 + 2))")
        shell.expect_exact("42")
        assert "Stopped" not in shell.before


@sqlite_first
def test_terminal_that_is_closed_during_a_run(copy_of_each: Project, tmp_path: Path) -> None:
    """Where it was opened for this command, nobody but `make` is told."""
    test = copy_of_each.path / "tests" / "services" / "test_new.py"
    test.write_text("import time\n\n\ndef test_new():\n    time.sleep(60)\n")
    (copy_of_each.path / ".venv").symlink_to(copy_of_each.venv)
    make = pexpect.spawn(
        "make",
        ["watch", "UV=true", f"T={test.relative_to(copy_of_each.path)}"],
        cwd=copy_of_each.path,
        env=clean_environment() | environment(tmp_path),
        timeout=30,
    )
    make.expect_exact("the first run")
    time.sleep(2)

    os.close(make.child_fd)
    make.closed = True

    wait_until(lambda: processes_in(copy_of_each) == {}, 10)


@sqlite_first
def test_killed_before_anybody_can_notice(copy_of_each: Project, tmp_path: Path) -> None:
    """The shell is back before the parent, which would give back the terminal as well."""
    with shell_in(copy_of_each, tmp_path) as shell:
        shell.sendline("make watch UV=true T=tests/services")
        shell.expect_exact("Keys: ")
        commands = processes_in(copy_of_each)
        (parent,) = [pid for pid, command in commands.items() if "warm.parent" in command]
        os.kill(parent, signal.SIGSTOP)
        kill_below(shell, "testkit.warm.watch")
        shell.expect_exact("$ ")
        os.kill(parent, signal.SIGCONT)
        wait_until(lambda: processes_in(copy_of_each) == {}, 10)
        assert {"icanon", "echo"} <= attributes_in(shell, tmp_path)


@contextmanager
def shell_in(project: Project, folder: Path) -> Iterator[pexpect.spawn]:
    (project.path / ".venv").symlink_to(project.venv)
    shell = pexpect.spawn(
        "bash",
        ["--norc", "-i"],
        cwd=project.path,
        env=clean_environment() | environment(folder) | {"PS1": "$ "},
        encoding="utf-8",
        timeout=30,
    )
    shell.expect_exact("$ ")
    yield shell
    shell.close(force=True)


def kill_below(shell: pexpect.spawn, command: str) -> None:
    tty = str(Path(f"/proc/{shell.pid}/fd/0").readlink()).removeprefix("/dev/")
    found = subprocess.run(["pgrep", "-f", command, "-t", tty], capture_output=True, text=True)
    assert found.stdout
    for pid in found.stdout.split():
        os.kill(int(pid), signal.SIGKILL)


def attributes_in(shell: pexpect.spawn, folder: Path) -> set[str]:
    """Of the terminal, as a command has it."""
    state = folder / "state"
    state.touch()
    shell.sendline(f"stty -a > {state}")
    wait_until(lambda: "echoke" in state.read_text(), 10)
    return set(state.read_text().split())


def terminal(watch: Watch) -> str:
    done = subprocess.run(
        ["stty", "-a"], stdin=watch.child.child_fd, capture_output=True, text=True
    )
    return re.sub(r"rows.*?;", "", done.stdout)


def test_private_server_stays_up(watch: Watch) -> None:
    is_kept = watch.project.database == "postgresql"
    keepers = [pid for pid, command in processes_in(watch.project).items() if KEEPER in command]
    assert len(keepers) == is_kept
    before = private_servers()
    time.sleep(1)  # longer than a server takes that nobody wants any more
    watch.press("a")
    watch.expect("Passed")
    if is_kept:
        assert before
        assert private_servers() == before


@sqlite_first
def test_killed_parent_is_replaced(watch: Watch) -> None:
    commands = processes_in(watch.project)
    (pid,) = [pid for pid, command in commands.items() if "testkit.warm.parent" in command]
    os.kill(pid, signal.SIGKILL)
    watch.press("a")

    assert "passed" in watch.expect("all tests", "Passed")


@sqlite_first
def test_needs_a_terminal(each_project: Project) -> None:
    done = each_project.run("python", "-m", "testkit.warm.watch", check=False)

    assert done.returncode == 1
    assert done.stdout.startswith("Watching needs a terminal")
