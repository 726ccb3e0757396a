"""What a test, and the suite, may take."""

import re

import pytest

from tests.commands import outcome
from tests.performance.conftest import INNER, write_tests
from tests.projects import Project

SLEEPS = """
    import time

    import pytest


    @pytest.mark.fast
    def test_sleeps():
        time.sleep(0.15)


    @pytest.mark.medium
    def test_is_medium():
        time.sleep(0.15)


    def test_has_no_marker():
        time.sleep(0.15)
"""


class TestOfTests:
    @pytest.mark.parametrize("options", [(), ("-n", "2")])
    def test_warn_locally_and_fail_in_ci(self, lean: Project, options: tuple[str, ...]) -> None:
        write_tests(lean, SLEEPS)

        local = lean.pytest(INNER, *options, CI="")
        in_ci = lean.pytest(INNER, *options, check=False, CI="true")

        assert in_ci.returncode == 1
        for result in (local, in_ci):
            assert re.search(r"test_sleeps took 0\.\d+ s, and may take 0\.1 s", result.stdout)
            assert "test_is_medium took" not in result.stdout
            assert "test_has_no_marker took" not in result.stdout
            assert outcome(result.stdout) == "3 passed"

    def test_one_hiccup_does_not_fail(self, lean: Project) -> None:
        # Also when nothing is known yet: the test is run again before it is judged.
        write_tests(
            lean,
            """
            import time
            from pathlib import Path

            import pytest


            @pytest.mark.fast
            def test_hiccup():
                if not Path("was-here").exists():
                    Path("was-here").touch()
                    time.sleep(0.3)
            """,
        )

        assert "over budget" not in lean.pytest(INNER, CI="true").stdout
        (lean.path / "was-here").unlink()
        assert "over budget" not in lean.pytest(INNER, CI="true").stdout

    def test_shared_fixtures_do_not_count(self, lean: Project) -> None:
        write_tests(
            lean,
            """
            import time

            import pytest


            @pytest.fixture(scope="module")
            def shared():
                time.sleep(0.2)
                yield
                time.sleep(0.2)


            @pytest.mark.fast
            def test_is_first(shared):
                pass
            """,
        )

        assert "over budget" not in lean.pytest(INNER, CI="true").stdout

    def test_are_set_in_pyproject(self, lean: Project) -> None:
        lean.edit("pyproject.toml", 'budget_fast = "0.1"', 'budget_fast = "0.5"')
        write_tests(lean, SLEEPS)

        assert "over budget" not in lean.pytest(INNER, CI="true").stdout
        assert "fast: takes at most 0.5 s" in lean.pytest("--markers").stdout


class TestOfTheSuite:
    @pytest.mark.parametrize(
        ("budget", "sentence"),
        [
            ("budget_suite=0.1", "The suite took"),
            ("budget_memory=20", "A process of tests needed"),
            ("budget_growth=30", "A process of tests grew by"),
        ],
    )
    def test_fail_in_ci(self, lean: Project, budget: str, sentence: str) -> None:
        write_tests(
            lean,
            """
            import time

            import pytest

            KEPT = []


            @pytest.mark.parametrize("number", range(60))
            def test_leaks(number):
                KEPT.append(bytearray(b"x") * 1_000_000)
                time.sleep(0.005)
            """,
        )
        suite = ("-o", f"testpaths={INNER}", "-o", budget)

        assert sentence in lean.pytest(*suite, CI="").stdout
        in_ci = lean.pytest(*suite, check=False, CI="true")
        assert in_ci.returncode == 1
        assert sentence in in_ci.stdout
        # A part of the suite is not the suite.
        assert sentence not in lean.pytest(*suite, "-k", "leaks", CI="true").stdout


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("budget_fast=quick", "budget_fast is 'quick'"),
        ("budget_fast=-1", "budget_fast is '-1'"),
        ("budget_fast=nan", "budget_fast is 'nan'"),
        ("budget_fast=0", "the smaller number for budget_fast"),
        ("budget_medium=0.05", "the smaller number for budget_fast"),
        ("budget_memory=inf", "budget_memory is 'inf'"),
    ],
)
def test_impossible_ones_are_refused(project: Project, option: str, sentence: str) -> None:
    for workers in ((), ("-n", "2")):
        result = project.pytest("tests/test_health.py", "-o", option, *workers, check=False)

        assert result.returncode == 4
        assert sentence in result.stdout
        assert "Traceback" not in result.stdout


class TestOfQueries:
    def test_are_judged_and_the_statements_shown(self, copy_of_each: Project) -> None:
        project = copy_of_each
        write_tests(
            project,
            """
            import pytest
            from sqlalchemy import text

            from testkit.performance.queries import assert_queries


            @pytest.mark.query_budget(2)
            async def test_within(client):
                await client.get("/api/v1/products")


            @pytest.mark.query_budget(1)
            async def test_over(client):
                await client.get("/api/v1/products")


            async def test_exactly(session):
                with assert_queries(1) as statements:
                    await session.execute(text("SELECT 3"))
                assert len(statements) == 1


            async def test_fewer(session):
                with assert_queries(2):
                    await session.execute(text("SELECT 4"))


            async def test_at_most(session):
                with assert_queries(at_most=2):
                    await session.execute(text("SELECT 5"))


            async def test_more(session):
                with assert_queries(at_most=0):
                    await session.execute(text("SELECT 6"))


            async def test_other_errors_stay():
                with assert_queries(5):
                    raise LookupError("of the test")
            """,
        )

        output = project.pytest(INNER, "-p", "no:randomly", check=False).stdout

        assert outcome(output) == "4 failed, 3 passed"
        assert "2 SQL statements, expected at most 1:" in output
        assert "FROM products" in output
        assert "[app/products/repository.py:" in output
        assert "1 SQL statements, expected exactly 2:" in output
        assert f"SELECT 6   [{INNER}:36]" in output
        assert "LookupError: of the test" in output

    @pytest.mark.parametrize("budget", ["", "'5'", "-1", "1, 2", "count=3"])
    def test_impossible_ones_are_refused(self, lean: Project, budget: str) -> None:
        write_tests(
            lean,
            f"""
            import pytest


            @pytest.mark.query_budget({budget})
            def test_nothing():
                pass
            """,
        )

        result = lean.pytest(INNER, check=False)

        assert result.returncode == 4
        assert "`query_budget` needs the number of SQL statements" in result.stdout
        assert "Traceback" not in result.stdout
