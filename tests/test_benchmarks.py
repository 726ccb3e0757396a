"""The benchmarks find what they measure, and lose nothing of it."""

import shutil
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.__main__ import Bench
from benchmarks.report import Row
from tests.projects import Project, copy_of


def test_worker_start(postgresql_project: Project, tmp_path: Path) -> None:
    project = copy_of(postgresql_project, tmp_path / "postgresql" / "my-service")
    Path(project.path, ".venv").symlink_to(project.venv)
    shutil.copytree(Path(report.FOLDER, "suite"), Path(project.path, "tests", "benchmark"))
    rows = Bench(tmp_path, rounds=1).worker_start()
    assert [0 < row.value < 60 for row in rows] == [True, True]


def test_rows_are_written_in_place_of_those_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(Path(report.FOLDER, "README.md"), tmp_path)
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    before = Path(tmp_path, "README.md").read_text()
    name = "The shipped tests, `python -m pytest -n 2`: time"
    report.write_report([Row(name, 12345, "s", 0.5, "spawned workers"), Row("New", 1, "ms")])
    changed = set(Path(tmp_path, "README.md").read_text().splitlines()) - set(before.splitlines())
    assert changed == {
        f"| {name} | 12345 s | 0.5x spawned workers |  |",
        "| New | 1 ms |  |  |",
    }
    assert "create_all and drop_all" in Path(tmp_path, "isolation.svg").read_text()
