"""Helpers for tests of `testkit/performance`, which is tried from outside, as a user would."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.projects import Project

LEDGER = ".performance/ledger.jsonl"
INNER = "tests/test_inner.py"


@pytest.fixture
def lean(project: Project) -> Project:
    """A project whose tests load the plugin, and nothing of the application, in half the time."""
    plugins = ["testkit.performance.plugin", "testkit.markers"]
    (project.path / "tests" / "conftest.py").write_text(f"pytest_plugins = {plugins}\n")
    project.edit("pyproject.toml", 'db_isolation = "committed"\n', "")
    return project


@dataclass
class Ledger:
    """What is in the file, read by its documentation alone."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)


def write_tests(project: Project, source: str, name: str = INNER) -> None:
    (project.path / name).write_text(dedent(source))


def ledger_of(project: Project, path: str | Path = LEDGER) -> Ledger:
    header, *lines = (project.path / path).read_text().removesuffix("\n").split("\n")
    assert json.loads(header)["ledger"] == 1
    ledger = Ledger()
    for line in map(json.loads, lines):
        if "test" in line:
            ledger.tests[line["test"]] = line
        else:
            ledger.runs.append(line)
    return ledger
