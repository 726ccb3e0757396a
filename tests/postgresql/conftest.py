"""Servers, and what is left of them."""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.projects import Project, copy_of


@pytest.fixture
def project(postgresql_project: Project, tmp_path: Path) -> Project:
    """A copy to change, which shares the virtual environment of the original."""
    return copy_of(postgresql_project, tmp_path / "my-service")


def private_servers() -> list[int]:
    """The ids of the processes that are private servers of this test kit."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().split(b"\0")
            parent = (path / "stat").read_text().rsplit(")", 1)[1].split()[1]
        except OSError:  # it has ended
            continue
        if len(command) > 2 and re.search(rb"/testkit(-postgresql-\d+)?/postgresql/", command[2]):
            parents[int(path.name)] = int(parent)
    # A server's children bear its name in the beginning.
    return [process for process, parent in parents.items() if parent not in parents]


def kill(process_id: int) -> None:
    os.kill(process_id, signal.SIGKILL)
