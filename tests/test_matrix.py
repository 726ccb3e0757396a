"""Both databases, every Python of this machine, every odd answer: all that CI would check, and more.

Each combination of a database and a Python comes with other answers, and each of the answers once.
"""

import re
import sys
from itertools import cycle, product
from pathlib import Path

import pytest

from tests.answers import ODD_ANSWERS, generate_odd
from tests.commands import UV, find_python, run
from tests.projects import Project

PYTHONS = ("3.11", "3.12", "3.13", "3.14", "3.15")
COMBINATIONS = [
    pytest.param(answer, database, python, id=f"{database}-{python}-{answer}")
    for answer, (database, python) in zip(
        ODD_ANSWERS, cycle(product(("sqlite", "postgresql"), PYTHONS)), strict=False
    )
]


@pytest.mark.long
@pytest.mark.parametrize(("answer", "database", "python"), COMBINATIONS)
def test_everything(tmp_path: Path, answer: str, database: str, python: str) -> None:
    interpreter = find_python(python)
    if interpreter is None:
        pytest.skip(f"Python {python} is not on this machine")
    path = generate_odd(tmp_path, answer, database)
    project = Project(path, path / ".venv", database)
    environment = {"UV_PYTHON": str(interpreter)}

    project.make("setup", **environment)
    assert f"Python {python}." in project.run("python", "--version").stdout
    project.make("lint", **environment)
    project.make("typecheck", **environment)
    assert "100.00%" in project.make("cov", **environment).stdout
    assert "passed" in project.make("test", **environment).stdout
    learn(project)
    migrate(project)
    run(Path(sys.prefix) / "bin" / "hadolint", "Dockerfile", cwd=project.path)
    run(UV, "build", "--wheel", "--out-dir", tmp_path, cwd=project.path, **environment)
    assert [path.name for path in tmp_path.glob("*.whl")] == ["odd-0.1.0-py3-none-any.whl"]


def learn(project: Project) -> None:
    """That several tests execute a function, which the tracer of some Pythons would not note."""
    assert "Warning" not in project.pytest("--testmon", "tests/products", cold=True).stdout
    project.edit("app/products/repository.py", "= Product(**", "= (lambda **_: Product(**_))(**")
    affected = project.pytest("--testmon", "--testmon-nocollect", "tests/products", cold=True)
    assert re.search(r"^[2-9] passed", affected.stdout, re.MULTILINE), affected.stdout


def migrate(project: Project) -> None:
    """Up, down and up again, and then there is nothing that the models have and the tables lack."""
    # On PostgreSQL with a private server, as `make migrate` has it.
    alembic = project.venv / "bin" / "alembic"
    on_database = ["python", "-m", "testkit.databases.postgresql", alembic]
    program = [alembic] if project.database == "sqlite" else on_database
    for command in (("upgrade", "head"), ("downgrade", "base"), ("upgrade", "head"), ("check",)):
        project.run(*program, *command)
