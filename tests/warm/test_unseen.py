"""After any change, testmon leaves out no test that would fail."""

import re

import pytest

from tests.conftest import Project, sqlite_first

CHOSEN = ("--tb=no", "tests/products", "tests/users", "tests/test_http.py")
AFFECTED = ("--testmon", "--testmon-nocollect")
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
PASSED = re.compile(r"^(\d+) passed", re.MULTILINE)


def run(project: Project, *options: str) -> tuple[set[str], str]:
    """The tests that failed, and what pytest said."""
    said = project.pytest(*CHOSEN, *options, check=False).stdout
    assert "INTERNALERROR" not in said
    return set(FAILED.findall(said)), said


def affected(project: Project, *options: str) -> tuple[set[str], str]:
    """As in `make watch`."""
    return run(project, *AFFECTED, *options)


def learn(project: Project) -> None:
    assert run(project, "--testmon")[0] == set()


def number_of(said: str) -> int:
    """Of tests that have passed."""
    found = PASSED.search(said)
    return int(found[1]) if found else 0


CHANGES = {
    "a schema": ("app/products/schemas.py", "max_length=64", "max_length=1"),
    "a constant": ("app/products/schemas.py", 'CENT = Decimal("0.01")', 'CENT = Decimal("1")'),
    "a migration": ("migrations/versions/0002_products.py", "price > 0", "price > 100000"),
    "how the application is made": ("app/main.py", "install_conventions(app, settings)", "pass"),
    "a fixture of the session": ("tests/fixtures/client.py", "app.add_middleware(RunJobs)", "pass"),
    "data": ("app/users/common_passwords.txt", "\n", "!\n"),
    "what some tests execute": ("app/products/repository.py", "await self.session.delete", "id"),
}


@sqlite_first
def test_what_fails_is_run(copy_of_each: Project) -> None:
    project = copy_of_each
    learn(project)
    learnt = {path: path.read_bytes() for path in project.path.glob(".testmondata*")}
    for change, (name, old, new) in CHANGES.items():
        path = project.path / name
        before = path.read_text()
        path.write_text(before.replace(old, new))

        failing, _ = affected(project)

        assert failing == run(project, "--no-testmon")[0] != set(), change
        path.write_text(before)
        for data, content in learnt.items():
            data.write_bytes(content)


@sqlite_first
def test_what_failed_is_run_until_it_passes(copy_of_each: Project) -> None:
    project = copy_of_each
    learn(project)
    name, old, new = CHANGES["a schema"]

    project.edit(name, old, new)
    failing, said = affected(project)
    assert f"What has changed in {name} may affect every test." in said
    assert affected(project)[0] == failing != set()
    project.edit(name, new, old)
    assert affected(project)[0] == set()
    assert number_of(affected(project)[1]) == 0


@sqlite_first
def test_column_without_a_migration(copy_of_each: Project) -> None:
    learn(copy_of_each)
    copy_of_each.edit("app/products/models.py", "String(3)", "String(4)")

    for _ in range(2):
        _, said = affected(copy_of_each)
        assert "The models and the migrations differ" in said


@sqlite_first
def test_nothing_else_is_run(copy_of_each: Project) -> None:
    project = copy_of_each
    learn(project)
    repository = "app/products/repository.py"
    delete = "        await self.session.delete(product)\n"

    project.edit(repository, delete, f"        # Words.\n{delete}")
    project.edit("app/users/common_passwords.txt", "", "")
    (project.path / "app" / "main.py").touch()
    assert number_of(affected(project)[1]) == 0

    # A function that some tests execute, and again before testmon has learnt it.
    for _ in range(2):
        project.edit(repository, delete, f"        pass\n{delete}")
        assert 0 < number_of(affected(project)[1]) < 40

    # A function more may have any effect, once, but not upon who executes the others.
    (project.path / repository).write_text(project.read(repository) + "\n\ndef more(): ...\n")
    chosen = number_of(affected(project, "--ignore=tests/users/test_users.py")[1])
    every = number_of(run(project, "--no-testmon", "--ignore=tests/users/test_users.py")[1])
    assert chosen == every
    others = number_of(affected(project)[1])
    project.edit(repository, delete, f"        pass\n{delete}")
    assert 0 < number_of(affected(project)[1]) < others


@sqlite_first
def test_what_tests_execute_may_have_changed(copy_of_each: Project) -> None:
    """As by a listener that is registered, which no test calls."""
    project = copy_of_each
    learn(project)
    every = number_of(run(project, "--no-testmon")[1])
    repository = project.path / "app" / "products" / "repository.py"
    repository.write_text(repository.read_text() + "\n\nLIMIT = 1\n")
    assert number_of(affected(project)[1]) == every

    assert number_of(run(project, "--testmon")[1]) == every

    assert number_of(run(project, "--testmon")[1]) == 0


@sqlite_first
def test_domain_with_the_name_of_an_output(copy_of_each: Project) -> None:
    project = copy_of_each
    (project.path / "app" / "build").mkdir()
    (project.path / "app" / "build" / "__init__.py").write_text("LIMIT = 1\n")
    tests = project.path / "tests" / "users" / "build"
    tests.mkdir()
    (tests / "test_limit.py").write_text(
        "from app.build import LIMIT\n\n\ndef test_limit():\n    assert LIMIT == 1\n"
    )
    learn(project)

    project.edit("app/build/__init__.py", "LIMIT = 1", "LIMIT = 2")

    assert affected(project)[0] == {"tests/users/build/test_limit.py::test_limit"}


READS = """
import json
from pathlib import Path

from app import greetings


def test_reads():
    text = Path(greetings.__file__).with_name("greetings.yaml").read_text()
    assert json.loads(text) == ["hello"]
"""


@sqlite_first
def test_data_beside_a_module(copy_of_each: Project) -> None:
    project = copy_of_each
    (project.path / "app" / "greetings.py").touch()
    (project.path / "app" / "greetings.yaml").write_text('["hello"]')
    (project.path / "tests" / "products" / "test_greetings.py").write_text(READS)
    (project.path / "compose.yaml").touch()
    learn(project)

    (project.path / "compose.yaml").write_text("# No test reads this.\n")
    assert number_of(affected(project)[1]) == 0
    project.edit("app/greetings.yaml", "hello", "bye")
    assert affected(project)[0] == {"tests/products/test_greetings.py::test_reads"}


@sqlite_first
@pytest.mark.parametrize(
    "statement",
    [
        "from tests.products.test_limits import LIMIT",
        "from tests.products import (\n    test_limits,\n)\n\nLIMIT = test_limits.LIMIT",
    ],
    ids=["name", "module"],
)
def test_test_module_that_another_one_imports(copy_of_each: Project, statement: str) -> None:
    project = copy_of_each
    limits, alone = (
        project.path / "tests" / "products" / f"test_{name}.py" for name in ("limits", "alone")
    )
    limits.write_text("LIMIT = 1\n")
    alone.write_text("LIMIT = 1\n\n\ndef test_alone():\n    assert LIMIT\n")
    (project.path / "tests" / "users" / "test_uses.py").write_text(
        f"{statement}\n\n\ndef test_limit():\n    assert LIMIT == 1\n"
    )
    learn(project)

    alone.write_text(alone.read_text().replace("assert LIMIT", "assert LIMIT == 1"))
    assert number_of(affected(project)[1]) == 1
    limits.write_text("LIMIT = 2\n")
    assert affected(project)[0] == {"tests/users/test_uses.py::test_limit"}


SKIPS = """
import os

import pytest


@pytest.mark.skipif("UNWANTED" in os.environ, reason="it is not wanted")
def test_skips():
    assert "BROKEN" not in os.environ
"""


@sqlite_first
def test_what_was_skipped_has_not_passed(copy_of_each: Project) -> None:
    project = copy_of_each
    (project.path / "tests" / "users" / "test_skips.py").write_text(SKIPS)
    said = project.pytest(*CHOSEN, "--testmon", UNWANTED="1").stdout
    assert "1 skipped" in said
    said = project.pytest(*CHOSEN, *AFFECTED, UNWANTED="1").stdout
    assert "\n1 skipped" in said
    assert "may affect every test" not in said

    assert (
        project.pytest(*CHOSEN, *AFFECTED, check=False, BROKEN="1").stdout.count("\n1 failed") == 1
    )
    assert number_of(affected(project)[1]) == 1
    assert number_of(affected(project)[1]) == 0


SAVES = """
from pathlib import Path


def test_first():
    path = Path(__file__)
    path.write_text(path.read_text().replace("number" + " = 1", "number = 2"))


def test_second():
    number = 1
    assert number == 1
"""


@sqlite_first
def test_module_that_is_saved_while_testmon_learns(copy_of_each: Project) -> None:
    """By an editor; here, by a test."""
    project = copy_of_each
    (project.path / "tests" / "users" / "test_late.py").write_text(SAVES)
    assert run(project, "--testmon", "-p", "no:randomly")[0] == set()

    assert affected(project)[0] == {"tests/users/test_late.py::test_second"}


@sqlite_first
def test_with_workers(copy_of_each: Project) -> None:
    project = copy_of_each
    assert run(project, "--testmon", "-n2")[0] == set()
    assert number_of(affected(project, "-n2")[1]) == 0
    for name, old, new in (CHANGES["how the application is made"], CHANGES["a schema"]):
        project.edit(name, old, new)
        assert affected(project, "-n2")[0] == run(project, "--no-testmon")[0] != set()
        project.edit(name, new, old)
        assert affected(project, "-n2")[0] == set()
