"""The dependencies of a generated project: their bounds.

`make test-lowest` runs this and the suite with other versions installed.
"""

import os
import re
import tomllib

import pytest
from packaging.version import Version

from tests.projects import Project

ON_DEMAND = {"py3langid", "schemathesis"}
"""An extra, and what `make fuzz` installs."""
REQUIREMENT = re.compile(r"(?P<name>[\w-]+)(\[\w+\])?>=(?P<lowest>[\d.]+),<(?P<above>[\d.]+)")


def requirements(project: Project) -> list[str]:
    """All that `pyproject.toml` names, but the groups that are included."""
    content = tomllib.loads(project.read("pyproject.toml"))
    groups = [
        *content["dependency-groups"].values(),
        *content["project"]["optional-dependencies"].values(),
    ]
    listed = [*content["project"]["dependencies"], *(one for group in groups for one in group)]
    return [requirement for requirement in listed if isinstance(requirement, str)]


def test_have_bounds(each_project: Project) -> None:
    for requirement in requirements(each_project):
        assert REQUIREMENT.fullmatch(requirement), requirement


@pytest.mark.skipif(
    os.environ.get("UV_RESOLUTION") != "lowest-direct", reason="`make test-lowest` asks for it"
)
def test_lowest_are_installed(each_project: Project) -> None:
    program = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
    for requirement in requirements(each_project):
        bounds = REQUIREMENT.fullmatch(requirement)
        assert bounds
        if bounds["name"] in ON_DEMAND:
            continue
        found = each_project.run("python", "-c", program, bounds["name"]).stdout.strip()
        assert Version(found) == Version(bounds["lowest"]), f"{requirement}, but {found}"
