"""Answers to single questions, asked by their Make targets."""

import re
from pathlib import Path

import pytest

from tests.commands import outcome
from tests.performance.conftest import INNER, write_tests
from tests.projects import Project, copy_of

ONE = "tests/products/test_products.py::TestList::test_goes_page_by_page"


@pytest.fixture
def ready(copy_of_each: Project) -> Project:
    """A copy that can use `make`."""
    (copy_of_each.path / ".venv").symlink_to(copy_of_each.venv)
    return copy_of_each


@pytest.fixture
def ready_sqlite(sqlite_project: Project, tmp_path: Path) -> Project:
    project = copy_of(sqlite_project, tmp_path / "my-service")
    (project.path / ".venv").symlink_to(project.venv)
    return project


def test_profile(ready: Project) -> None:
    write_tests(
        ready,
        """
        import asyncio
        import time

        def busy():
            end = time.perf_counter() + 0.5
            while time.perf_counter() < end:
                pass

        async def test_busy(client):
            await client.get("/api/v1/products")
            busy()
        """,
    )

    output = ready.make("profile", f"T={INNER}::test_busy").stdout

    assert f"{INNER}::test_busy: the first run took " in output
    assert re.search(r"\d{3}\.\d+ ms +[5-9]\d%.*busy  tests/test_inner\.py", output), output
    # All of it is shown.
    assert re.search(r"ms +(100|9\d)%  test_busy", output)


def test_profile_shows_libraries(ready: Project) -> None:
    output = ready.make("profile", f"T={ONE}").stdout

    assert re.search(r"ms +\d+% +fastapi$", output, re.MULTILINE)
    assert re.search(r"ms +\d+% +sqlalchemy$", output, re.MULTILINE)
    assert "hidden" not in output


def test_explain(ready: Project) -> None:
    output = ready.make("explain", f"T={ONE}").stdout

    assert "app/products/repository.py:" in output
    assert "FROM products ORDER BY products.id" in output
    plan = {"sqlite": "SCAN products", "postgresql": "Aggregate  (cost="}[ready.database]
    assert plan in output
    assert re.search(r"\d\.\d\d ms", output)
    assert "SAVEPOINT" not in output
    assert outcome(output) == "1 passed"


def test_explain_the_whole_suite(ready: Project) -> None:
    output = ready.make("explain").stdout

    assert re.search(r"^\d+ passed", output, re.MULTILINE), output[-3000:]
    assert not re.search(r"\d failed", output)
    # Tests look for a table that they have dropped, in a new database, for one that never was, and for a column that they
    # have renamed. An SQLite connection that has not noticed it still plans: explaining reads no schema.
    missing = re.findall(
        'no plan: .*(?:no such (?:table|column): |relation |column )"?(\\w+)', output
    )
    unnoticed = {"alembic_version", "version_num"}
    assert {*missing} | unnoticed == unnoticed | {"nowhere", "users"}
    # One of them sends what the driver refuses.
    refused = re.findall("no plan: .*invalid input", output)
    assert len(refused) == (ready.database == "postgresql")
    assert len(re.findall("no plan: ", output)) == len(missing) + len(refused)
    assert "warning" not in output.splitlines()[-1]


def test_leaks(ready: Project) -> None:
    write_tests(
        ready,
        """
        KEPT = []

        class Leaked:
            pass

        async def test_leaks(client):
            await client.get("/api/v1/products")
            KEPT.extend(Leaked() for _ in range(100))
            KEPT.append(bytearray(5_000_000))
        """,
    )

    output = ready.make("leaks", f"T={INNER} tests/users").stdout

    assert "100 more tests.test_inner.Leaked each time" in output
    assert re.search(rf"488\d\.\d KiB more each time, allocated at {INNER}:10", output)
    grown = re.search(r"A leak: .* the process grew by ([\d,]+) KiB", output)
    assert grown
    assert int(grown[1].replace(",", "")) > 4000
    assert "sqlalchemy" not in output.partition("what keeps growing")[2]


def test_no_leak(ready_sqlite: Project) -> None:
    assert "No leak: the tests ran 5 times" in ready_sqlite.make("leaks", "T=tests/products").stdout


def test_flaky(ready: Project) -> None:
    write_tests(
        ready,
        """
        from itertools import count

        numbers = count()

        async def test_flaky(session):
            assert next(numbers) % 4 != 3, "every fourth time"

        def test_sound():
            pass
        """,
    )

    result = ready.make("flaky", f"T={INNER}", "N=20", check=False)
    alone = ready.make("flaky", f"T={ONE}", "N=7")

    assert result.returncode != 0
    assert f"{INNER}::test_flaky failed 5 of 20 times" in result.stdout
    assert "5 x call: AssertionError: every fourth time" in result.stdout
    assert "none: 1 tests passed 7 times each" in alone.stdout
    unasked = ready.make("flaky", check=False)
    assert unasked.returncode != 0
    assert "Say which: make flaky T=" in unasked.stdout
    wrong = ready.make("flaky", f"T={ONE}", "N=0", check=False)
    assert "--times is the number of runs of each test: write 1 or more" in wrong.stdout


def test_changed(ready_sqlite: Project) -> None:
    project = ready_sqlite
    everything = project.make("test-changed", "T=tests/users tests/products").stdout
    nothing = project.make("test-changed", "T=tests/users tests/products").stdout
    project.edit(
        "app/products/repository.py",
        "        await self.session.delete(product)\n",
        "        await self.session.delete(product)\n        assert product\n",
    )
    something = project.make("test-changed", "T=tests/users tests/products").stdout

    assert passed(everything) > 70
    assert passed(nothing) == 0
    assert 0 < passed(something) < 40


def passed(output: str) -> int:
    found = re.search(r"(\d+) passed", output)
    return int(found[1]) if found else 0


def test_comparison_with_what_a_busy_machine_hides(sqlite_project: Project) -> None:
    output = sqlite_project.run(
        *("python", "-c"),
        "from testkit.performance.comparison.__main__ import table\n"
        "print(*table({'committed': 0.0, 'truncate': 0.01}), sep='\\n')",
    ).stdout

    assert "| emptying all tables after each test | 10.00 ms | not to be measured |" in output


def test_comparison(ready: Project) -> None:
    output = ready.run("python", "-m", "testkit.performance.comparison", "--rounds", "1").stdout

    line = re.compile(
        r"^\| (.*?) \| ([\d.]+) ms \| ([\d.e+]+x|not to be measured) \|$", re.MULTILINE
    )
    added = {name: float(milliseconds) for name, milliseconds, _ in line.findall(output)}
    assert added.keys() == {
        "`rollback`",
        "`committed`",
        "rollback without savepoints",
        "a new engine for each test",
        "a clone of the template for each test",
        "emptying all tables after each test",
        "create_all and drop_all for each test",
    }
    assert added["create_all and drop_all for each test"] > added["`committed`"]
    chart = (ready.path / ".performance" / "isolation.svg").read_text()
    assert chart.count("<rect") == len(added)
    assert "Traceback" not in output
