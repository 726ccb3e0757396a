"""Ctrl-C ends the run in order, whatever it meets."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.commands import start
from tests.projects import Project, copy_of

UNDOING = """
import os
import signal

from testkit.isolation import Worker

original = Worker._clean


async def interrupted(worker):
    Worker._clean = original
    worker.loop.call_soon(os.kill, os.getpid(), signal.SIGINT)
    await original(worker)


Worker._clean = interrupted
"""
CLONING = """
import os
import signal

from testkit.databases.postgresql.databases import Databases

original = Databases._clone


async def interrupted(*args):
    Databases._clone = original
    os.kill(os.getpid(), signal.SIGINT)
    await original(*args)


Databases._clone = interrupted
"""
COLLECTED = """
import time
import weakref


class Thing: ...


def interrupt(_):
    raise KeyboardInterrupt


def test_collects():
    thing = Thing()
    reference = weakref.ref(thing, interrupt)
    del thing
    time.sleep(5)
"""
ENDED = """
import pytest


@pytest.fixture(scope="session")
def resource():
    yield
    raise RuntimeError("it cannot be ended")


def test_ends_the_run(resource):
    pytest.exit("over")
"""
LEAVES = """
import asyncio
import os
import signal

import pytest


@pytest.fixture
def interrupted():
    yield
    os.kill(os.getpid(), signal.SIGINT)


async def test_leaves_a_task(interrupted, session):
    asyncio.create_task(asyncio.sleep(60))
"""


def assert_interrupted(project: Project, test: str) -> None:
    command = ("-m", "pytest", "-q", "-p", "no:randomly", test)
    python = project.venv / "bin" / "python"
    with start(python, *command, cwd=project.path, stdout=subprocess.PIPE) as process:
        output, _ = process.communicate(timeout=120)

    assert process.returncode == 2, output
    assert "Traceback" not in output
    assert "KeyboardInterrupt" in output
    last = output.splitlines()[-1]
    assert re.search(r" in [\d.]+s", last)
    assert "error" not in last


@pytest.mark.parametrize("meanwhile", [UNDOING, CLONING], ids=["undone", "cloned"])
def test_while_a_database_is(postgresql_project: Project, tmp_path: Path, meanwhile: str) -> None:
    project = copy_of(postgresql_project, tmp_path / "my-service")
    conftest = project.path / "tests" / "conftest.py"
    conftest.write_text(f"{conftest.read_text()}\n{meanwhile}")

    assert_interrupted(project, "tests/products/test_price.py")


def test_teardown_after_the_run_was_ended_otherwise(project: Project) -> None:
    """What is wrong there is told, as nobody has interrupted anything."""
    (project.path / "tests" / "test_inner.py").write_text(ENDED)

    assert (
        "RuntimeError: it cannot be ended"
        in project.pytest("tests/test_inner.py", check=False, cold=True).stdout
    )


@pytest.mark.parametrize("test", [COLLECTED, LEAVES], ids=["collector", "leaves a task"])
def test_of_a_test(project: Project, test: str) -> None:
    (project.path / "tests" / "test_inner.py").write_text(test)

    assert_interrupted(project, "tests/test_inner.py")
