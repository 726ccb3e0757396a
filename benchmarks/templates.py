"""What a test costs in a project of another template, as that template sets up its tests.

    uv run python -m benchmarks.templates --python python3.13

`fastapi_template` (https://github.com/s3rius/FastAPI-template) is the best-known one that is on PyPI; it needs Python
3.12. It makes a project with SQLite and SQLAlchemy, whose fixtures create the tables once and roll back a transaction
for each test. That project and one of ours get 300 tests, each of which sends one request that stores a row. What
counts is the time of 300 tests without that of one, the median over some rounds in which both take turns.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
UV = os.environ.get("UV") or shutil.which("uv") or "uv"
OTHER = "fastapi-template==6.1.2"
TESTS = 300

THEIR_TESTS = """
import pytest


@pytest.mark.parametrize("number", range({count}))
async def test_stores_a_row(number, fastapi_app, client):
    response = await client.put("/api/dummy/", json={{"name": str(number)}})
    assert response.status_code == 200
"""
OUR_TESTS = """
import pytest


@pytest.mark.parametrize("number", range({count}))
async def test_stores_a_row(number, superuser_client):
    product = {{"name": "Tea", "sku": str(number), "price": "1.00", "currency": "EUR"}}
    response = await superuser_client.post("/api/v1/products", json=product)
    assert response.status_code == 201
"""


@dataclass
class Project:
    name: str
    path: Path
    tests: str

    def seconds(self, count: int) -> float:
        """One run of so many tests."""
        file = self.path / "tests" / "test_benchmark.py"
        file.write_text(self.tests.format(count=count))
        start = time.perf_counter()
        done = run(".venv/bin/python", "-m", "pytest", "-q", file, cwd=self.path)
        taken = time.perf_counter() - start
        if f"{count} passed" not in done:
            sys.exit(done)
        return taken


def run(*command: str | Path, cwd: Path) -> str:
    unwanted = ("VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE", "UV_")
    environment = {name: v for name, v in os.environ.items() if not name.startswith(unwanted)}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.stdout


def generate_theirs(folder: Path, python: str) -> Project:
    options = "--name theirs --quiet --api-type rest --db sqlite --orm sqlalchemy --migrations --dummy --routers"
    with_setuptools = ("--with", "setuptools<81", "--from", OTHER)
    command = (UV, "tool", "run", *with_setuptools, "fastapi_template", *options.split())
    run(*command, "--ci", "none", cwd=folder)
    path = folder / "theirs"
    for step in (("venv", "--clear", "--python", python), ("sync",)):
        done = run(UV, *step, cwd=path)
    if not (path / ".venv" / "bin" / "pytest").exists():
        sys.exit(f"The project of {OTHER} cannot be installed: {done}")
    return Project(OTHER.replace("==", " "), path, THEIR_TESTS)


def generate_ours(folder: Path, python: str) -> Project:
    run(sys.executable, "-m", "cookiecutter", ROOT, "--no-input", "-o", folder, cwd=folder)
    path = folder / "my-service"
    run(UV, "sync", "--python", python, cwd=path)
    return Project("here", path, OUR_TESTS)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.templates")
    parser.add_argument("--python", default=sys.executable, help="3.12 or newer")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        projects = [
            generate(Path(folder), arguments.python)
            for generate in (generate_theirs, generate_ours)
        ]
        costs: dict[str, list[float]] = {project.name: [] for project in projects}
        for project in projects:
            project.seconds(1)
        for _ in range(arguments.rounds):
            for project in projects:
                cost = (project.seconds(TESTS) - project.seconds(1)) / (TESTS - 1)
                costs[project.name].append(cost)
    for name, found in costs.items():
        print(f"{name}: {statistics.median(found) * 1000:.1f} ms for a test with one request")


if __name__ == "__main__":
    main()
