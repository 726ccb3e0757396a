"""After any change, testmon leaves out no test that would fail."""

import re
from pathlib import Path

import pytest

from tests.commands import outcome
from tests.projects import Project, sqlite_first

CHOSEN = ("tests/products", "tests/users", "tests/test_http.py")
FEW = ("tests/users/test_factories.py", "tests/new")
AFFECTED = ("--testmon", "--testmon-nocollect")
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
PASSED = re.compile(r"^(\d+) passed", re.MULTILINE)


def run(
    project: Project, *options: str, chosen: tuple[str, ...] = CHOSEN, **environment: str
) -> tuple[set[str], str]:
    """The tests that failed, and what pytest said."""
    options = ("--tb=no", *chosen, *options)
    said = project.pytest(*options, check=False, **environment).stdout
    assert "INTERNALERROR" not in said
    return set(FAILED.findall(said)), said


def affected(
    project: Project, *options: str, chosen: tuple[str, ...] = CHOSEN, **environment: str
) -> tuple[set[str], str]:
    """As in `make watch`."""
    return run(project, *AFFECTED, *options, chosen=chosen, **environment)


def learn(project: Project, chosen: tuple[str, ...] = CHOSEN, **environment: str) -> str:
    failed, said = run(project, "--testmon", "-p", "no:randomly", chosen=chosen, **environment)
    assert failed == set()
    return said


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


@pytest.fixture
def new(copy_of_each: Project) -> Path:
    """A folder for tests, which are run with `FEW` others."""
    (copy_of_each.path / "tests" / "new").mkdir()
    return copy_of_each.path / "tests" / "new"


READS = """
from pathlib import Path

from app import greetings


def test_reads():
    text = Path(greetings.__file__).with_name("greetings.yaml").read_text()
    assert text == "hello"
"""


@sqlite_first
def test_data_beside_a_module(copy_of_each: Project, new: Path) -> None:
    project = copy_of_each
    (project.path / "app" / "greetings.py").touch()
    data = project.path / "app" / "greetings.yaml"
    data.write_text("hello")
    (new / "test_greetings.py").write_text(READS)
    learn(project, FEW)

    (project.path / "compose.yaml").write_text("# No test reads this.\n")
    assert number_of(affected(project, chosen=FEW)[1]) == 0
    data.write_text("bye")
    assert affected(project, chosen=FEW)[0] == {"tests/new/test_greetings.py::test_reads"}


@sqlite_first
@pytest.mark.parametrize(
    "statement",
    [
        "from tests.new.test_limits import LIMIT",
        "from tests.new import (\n    test_limits,\n)\n\nLIMIT = test_limits.LIMIT",
    ],
    ids=["name", "module"],
)
def test_test_module_that_another_one_imports(
    copy_of_each: Project, new: Path, statement: str
) -> None:
    project = copy_of_each
    limits, alone = (new / "test_limits.py", new / "test_alone.py")
    limits.write_text("LIMIT = 1\n")
    alone.write_text("def test_alone():\n    assert True\n")
    test = f"{statement}\n\n\ndef test_limit():\n    assert LIMIT == 1\n"
    (new / "test_uses.py").write_text(test)
    learn(project, FEW)

    alone.write_text("def test_alone():\n    assert 1\n")
    assert number_of(affected(project, chosen=FEW)[1]) == 1
    limits.write_text("LIMIT = 2\n")
    assert affected(project, chosen=FEW)[0] == {"tests/new/test_uses.py::test_limit"}


FOR_SEVERAL = """
import pytest


def cases():
    limit = 1
    return list(range(limit))


def pytest_generate_tests(metafunc):
    if "number" in metafunc.fixturenames:
        metafunc.parametrize("number", [1])


@pytest.fixture(scope="class")
def wide():
    value = 5
    return value


@pytest.mark.parametrize("case", cases())
def test_cases(case):
    assert case < 1


def test_number(number):
    assert number < 10


class TestWide:
    def test_first(self, wide):
        pass

    def test_other(self, wide):
        assert wide == 5
"""


@sqlite_first
def test_functions_of_a_test_module_that_several_tests_depend_on(
    copy_of_each: Project, new: Path
) -> None:
    """They are executed while tests are collected, or by a fixture that one of them sets up."""
    project, module = copy_of_each, new / "test_several.py"
    module.write_text(FOR_SEVERAL)
    learn(project, FEW)
    learnt = {path: path.read_bytes() for path in project.path.glob(".testmondata*")}
    for before, after in (
        ("limit = 1", "limit = 3"),
        ("[1]", "[1, 20]"),
        ("value = 5", "value = 6"),
    ):
        module.write_text(FOR_SEVERAL.replace(before, after))

        failing, said = affected(project, chosen=FEW)

        assert failing == run(project, "--no-testmon", chosen=FEW)[0] != set(), before
        assert "may affect every test" not in said
        assert "test_factories" not in said
        for data, content in learnt.items():
            data.write_bytes(content)
    module.write_text(FOR_SEVERAL.replace("assert number", "assert 1 + number"))
    assert number_of(affected(project, chosen=FEW)[1]) == 1


SKIPS = """
import os

import pytest


@pytest.mark.skipif("UNWANTED" in os.environ, reason="it is not wanted")
def test_skips():
    assert "BROKEN" not in os.environ
"""


@sqlite_first
def test_what_was_skipped_has_not_passed(copy_of_each: Project, new: Path) -> None:
    project = copy_of_each
    (new / "test_skips.py").write_text(SKIPS)
    assert outcome(learn(project, FEW, UNWANTED="1")) == "2 passed, 1 skipped"
    said = affected(project, chosen=FEW, UNWANTED="1")[1]
    assert outcome(said).startswith("1 skipped")
    assert "may affect every test" not in said

    failing = affected(project, chosen=FEW, BROKEN="1")[0]
    assert failing == {"tests/new/test_skips.py::test_skips"}
    assert number_of(affected(project, chosen=FEW)[1]) == 1
    assert number_of(affected(project, chosen=FEW)[1]) == 0


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
def test_module_that_is_saved_while_testmon_learns(copy_of_each: Project, new: Path) -> None:
    """By an editor; here, by a test."""
    (new / "test_late.py").write_text(SAVES)
    learn(copy_of_each, FEW)

    assert affected(copy_of_each, chosen=FEW)[0] == {"tests/new/test_late.py::test_second"}


SAVES_TOO_LATE = """
import os
from pathlib import Path

import app.greetings


def pytest_configure():
    if "SAVE" in os.environ:
        Path(app.greetings.__file__).write_text("WORD = 'bye'\\n")
"""


@sqlite_first
def test_module_that_is_saved_while_a_run_begins(copy_of_each: Project, new: Path) -> None:
    """After it was imported; here, by a plugin."""
    project, greetings = copy_of_each, copy_of_each.path / "app" / "greetings.py"
    greetings.write_text("WORD = 'hello'\n")
    (new / "saves.py").write_text(SAVES_TOO_LATE)
    test = "from app.greetings import WORD\n\n\ndef test_word():\n    assert WORD == 'hello'\n"
    (new / "test_word.py").write_text(test)
    learn(project, FEW)

    greetings.write_text("WORD = 'hello'\nOTHER = 1\n")
    assert affected(project, "-p", "tests.new.saves", chosen=FEW, SAVE="yes")[0] == set()
    assert affected(project, chosen=FEW)[0] == {"tests/new/test_word.py::test_word"}


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
