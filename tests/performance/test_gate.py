"""The regression gate: quiet on a tree that has not changed, loud about what became slower."""

import json
import re
from pathlib import Path

import pytest

from tests.commands import run
from tests.projects import Project, sqlite_first

SUITE = "tests/products"
BASELINE = ".performance/baseline.json"


def gate(project: Project, command: str, *arguments: str) -> tuple[int, str]:
    result = project.run("python", "-m", "testkit.performance", command, *arguments, check=False)
    assert "Traceback" not in result.stdout
    return result.returncode, result.stdout


@pytest.mark.alone
@sqlite_first
def test_names_what_became_slower_and_why(copy_of_each: Project) -> None:
    project = copy_of_each
    assert gate(project, "baseline", SUITE)[0] == 0

    code, output = gate(project, "check")
    assert code == 0, output
    assert output.startswith("Nothing became slower. ")

    repository = "app/products/repository.py"
    total = "        rows = (await self.session.execute("
    project.edit(
        repository, total, f"        import asyncio\n        await asyncio.sleep(0.05)\n{total}"
    )
    code, output = gate(project, "check")
    assert code == 1
    assert re.search(
        r"TestCatalogue::test_first_page: 0\.\d+ s, was 0\.\d+ s, \+0\.\d+ s in its call", output
    )
    assert "neither SQL nor a fixture" in output
    assert "TestDelete" not in output
    run("git", "checkout", "--quiet", ".", cwd=project.path)

    project.edit(
        repository,
        total,
        "        for _ in range(3):\n"
        "            await self.session.scalar(select(func.count()).select_from(Product))\n"
        f"{total}",
    )
    code, output = gate(project, "check")
    assert code == 1
    assert "TestCatalogue::test_last_page: " in output
    assert "  5 SQL statements, up from 2" in output
    assert f"  4 times in one request, at {repository}:" in output
    assert "SELECT count(*) AS count_1 FROM products" in output
    run("git", "checkout", "--quiet", ".", cwd=project.path)

    project.edit("tests/fixtures/client.py", '@pytest.fixture(scope="session")', "@pytest.fixture")
    code, output = gate(project, "check")
    assert code == 1
    assert "fixture tests.fixtures.client:app: " in output
    assert "up from 1: its scope is function, was session" in output


@pytest.mark.long
@pytest.mark.alone
def test_a_slow_fixture_is_named(project: Project) -> None:
    assert gate(project, "baseline", "tests/products/test_price.py")[0] == 0
    project.edit("tests/products/conftest.py", "import pytest\n", "import time\n\nimport pytest\n")
    text = project.read("tests/products/conftest.py")
    function = re.search(r"def product_factory\(.*\n", text)[0]  # type: ignore[index]
    project.edit("tests/products/conftest.py", function, f"{function}    time.sleep(0.04)\n")

    code, output = gate(project, "check")

    assert code == 1
    assert "s in its setup" in output
    assert "  fixture tests.products.conftest:product_factory takes 0.04" in output


@pytest.mark.parametrize(
    ("stored", "sentence"),
    [
        (None, "There is no baseline"),
        ("", "is damaged"),
        ("[]", "is damaged"),
        ('{"baseline": 1, "python": "3.11.1", "database": "sqlite"}', "is damaged"),
        ('{"baseline": 2}', "has version 2, and this test kit knows 1"),
        (
            '{"baseline": 1, "python": "3.9.1", "database": "sqlite", "arguments": [], "runs": '
            '[{"run": {"calibration": 1, "fixtures": {}}, "tests": []}]}',
            "was made on Python 3.9, and this is 3.",
        ),
    ],
)
def test_baseline_that_cannot_be_used(project: Project, stored: str | None, sentence: str) -> None:
    path = project.path / BASELINE
    path.parent.mkdir()
    if stored is not None:
        path.write_text(stored)

    code, output = gate(project, "check")

    assert code == 2
    assert sentence in output
    assert "make perf-baseline" in output


@pytest.mark.long
def test_baseline_of_something_else(project: Project) -> None:
    assert gate(project, "baseline", "tests/test_health.py")[0] == 0

    code, output = gate(project, "check", "tests/test_settings.py")
    assert (code, "None of these tests is in the baseline" in output) == (2, True)

    path: Path = project.path / BASELINE
    baseline = json.loads(path.read_text())
    path.write_text(json.dumps(baseline | {"database": "postgresql"}))
    code, output = gate(project, "check")
    assert (code, "was made on postgresql, and these tests run on sqlite" in output) == (2, True)


@pytest.mark.long
def test_failing_tests_are_not_compared(project: Project) -> None:
    assert gate(project, "baseline", "tests/test_health.py")[0] == 0
    project.edit("app/health.py", '"ok"', '"broken"')

    for command in ("check", "baseline"):
        code, output = gate(project, command, "tests/test_health.py")

        assert code == 2
        assert "The tests have to pass before they are compared." in output
        assert "FAILED tests/test_health.py" in output
