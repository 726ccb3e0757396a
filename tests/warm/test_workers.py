"""Workers that are forked are as those that are started."""

import json
import re
import signal
from pathlib import Path

import pytest

from tests.projects import Project, sqlite_first
from tests.servers import wait_until
from tests.warm.test_warm import parent_of, processes_in, run_module

# What the controller has, and its workers must not.
CONFTEST = """
import asyncio
import os
import random
import socket
import sys
import warnings

if "PYTEST_XDIST_WORKER" not in os.environ:
    random.seed(1)
    warnings.filterwarnings("error", "of the controller")
    listener = socket.socket()

    class Policy(asyncio.DefaultEventLoopPolicy):
        pass

    asyncio.set_event_loop_policy(Policy())
    sys.modules["of_the_controller"] = sys
    os.environ["OF_THE_CONTROLLER"] = "is inherited"
"""
STATE = """
import asyncio
import json
import os
import random
import signal
import sys
import threading
import warnings
from pathlib import Path


def test_state(worker_id):
    state = {
        "arguments": sys.argv,
        "path": list(dict.fromkeys(sys.path)),
        "flags": list(sys.flags),
        "directory": str(Path.cwd()),
        "variables": {k: v for k, v in os.environ.items() if k not in CHANGING},
        "policy": type(asyncio.get_event_loop_policy()).__name__,
        "filters": sorted(map(str, warnings.filters)),
        "sockets": sum("socket" in os.readlink(f"/proc/self/fd/{f}") for f in open_files()),
        "pipes": sum("pipe" in os.readlink(f"/proc/self/fd/{f}") for f in open_files()),
        "signals": {str(n): str(signal.getsignal(n)) for n in (2, 15, 17)},
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "modules": sorted(m for m in sys.modules if m.startswith(("of_the", "app", "tests"))),
        "main": sys.modules["__main__"].__name__,
    }
    Path(f"state-{os.environ['MODE']}.json").write_text(json.dumps(state))


def open_files():
    return [f for f in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{f}")]


CHANGING = {
    "MODE", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_TESTRUNUID", "PYTEST_VERSION", "_", "TMPDIR"
}
"""


@sqlite_first
def test_nothing_of_the_controller_leaks(copy_of_each: Project) -> None:
    conftest = copy_of_each.path / "tests" / "conftest.py"
    conftest.write_text(conftest.read_text() + CONFTEST)
    (copy_of_each.path / "tests" / "test_state.py").write_text(STATE)
    states = {}
    for mode, how, is_cold in (
        ("spawn", "spawn", True),
        ("fork", "fork", True),
        ("early", "fork", True),
        ("warm", "fork", False),
    ):
        options = ("-n", "1", f"--workers={how}", "tests/test_state.py")
        copy_of_each.pytest(*options, cold=is_cold, MODE=mode)
        states[mode] = json.loads(copy_of_each.read(f"state-{mode}.json"))

    assert states["fork"] == states["spawn"]
    for mode in ("early", "warm"):
        assert states[mode].pop("variables").pop("OF_THE_CONTROLLER") == "is inherited"
    states["spawn"].pop("variables")
    assert states["early"] == states["warm"] == states["spawn"]
    assert "of_the_controller" not in states["fork"]["modules"]


CRASH = """
import os
import time
from pathlib import Path

import pytest


def test_crashes():
    os.kill(os.getpid(), 9)


@pytest.mark.parametrize("number", range(30))
def test_passes(number):
    time.sleep(0.02)  # xdist does not survive that a test is stolen from a worker that has just crashed


@pytest.mark.parametrize("number", range(4))
def test_waits(number):
    Path(f"waits-{number}").touch()
    time.sleep(60)
"""


# With the others xdist tries what has crashed again, or waits forever, however workers start.
@pytest.mark.parametrize("dist", ["load", "worksteal"])
def test_crash_of_a_worker(project: Project, dist: str) -> None:
    (project.path / "tests" / "test_crash.py").write_text(CRASH)

    output = project.pytest(
        *("-n", "2", "--workers=fork", "--dist", dist, "tests/test_crash.py", "-k", "not waits"),
        *("-p", "no:randomly"),
        check=False,
    ).stdout

    assert re.search(r"1 failed, 30 passed", output), output
    assert "crashed while running" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
class TestEnd:
    """Nobody survives the run."""

    def test_cold(self, project: Project, tmp_path: Path, number: signal.Signals) -> None:
        # The controller, the process that is forked, and the workers.
        self.end(project, tmp_path, "pytest", number, ["", "zygote", "zygote", "zygote"])
        wait_until(lambda: processes_in(project) == {}, 10)

    def test_warm(self, project: Project, tmp_path: Path, number: signal.Signals) -> None:
        with parent_of(project, tmp_path):
            # The client, the parent, the run, and the workers, which the parent lends.
            self.end(project, tmp_path, "testkit.warm", number, ["", *["parent"] * 4])
            wait_until(lambda: len(processes_in(project)) == 1, 10)

    def end(
        self,
        project: Project,
        folder: Path,
        module: str,
        number: signal.Signals,
        expected: list[str],
    ) -> None:
        (project.path / "tests" / "test_crash.py").write_text(CRASH)
        options = ("-n", "2", "--workers=fork", "tests/test_crash.py", "-k", "waits")
        with run_module(project, folder, module, *options) as controller:
            # While workers start, execnet answers Ctrl-C with an internal error.
            wait_until(lambda: len(list(project.path.glob("waits-*"))) == 2, 20)
            assert kinds(project) == expected
            if number == signal.SIGINT:
                controller.send_signal(number)
                assert "KeyboardInterrupt" in controller.communicate(timeout=20)[0]
            else:
                controller.kill()


def kinds(project: Project) -> list[str]:
    """What has forked each of its processes, sorted; nothing for one that has been started."""
    forked = re.compile(r"testkit\.warm\.(zygote|parent)")
    found = map(forked.search, processes_in(project).values())
    return sorted(match[1] if match else "" for match in found)
