"""The test kit as a package, which is built from the folder that the template renders."""

import re
import shutil
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

import pytest

from tests.adoption.test_adoption import GUIDE, blocks
from tests.commands import ROOT, TEMPLATE, UV, commit_all, outcome, run
from tests.projects import COOKIECUTTER, Project
from tests.releases import NEW, Template, create_linked

METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and an sdist."""
    folder = tmp_path_factory.mktemp("built")
    run(UV, "build", "--quiet", "--out-dir", folder, cwd=ROOT)
    return folder


def files_of(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def contents_of(sdist: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member)
            if file is not None:
                yield member.name, file.read()


def test_has_all_of_the_folder_and_nothing_of_a_template(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    in_wheel, in_sdist = files_of(wheel), dict(contents_of(sdist))

    kit = {
        f"testkit/{path.relative_to(TEMPLATE / 'testkit').as_posix()}"
        for path in (TEMPLATE / "testkit").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in in_wheel if ".dist-info/" not in name} == kit
    assert {name.partition("/")[2] for name in in_sdist if "/testkit/" in name} == kit
    assert "testkit/py.typed" in kit
    for name, content in (*in_wheel.items(), *in_sdist.items()):
        assert not re.search(rb"\{\{|\{%|\{#", content + name.encode()), name


def test_the_sdist_makes_the_same_wheel(built: Path, tmp_path: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")

    run(UV, "build", "--quiet", "--wheel", "--out-dir", tmp_path, sdist, cwd=tmp_path)

    (again,) = tmp_path.glob("*.whl")
    assert files_of(again) == files_of(wheel)


def test_metadata(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    files = files_of(wheel)
    (name,) = (name for name in files if name.endswith(".dist-info/METADATA"))
    metadata = message_from_bytes(files[name])

    assert metadata["Version"] == METADATA["version"]
    assert metadata["License-Expression"] == "MIT"
    assert metadata.get_all("Provides-Extra") == ["postgresql", "sqlite"]
    assert metadata.get_payload().strip() == GUIDE.strip()  # the README is the guide
    assert "Typing :: Typed" in metadata.get_all("Classifier")


def test_dependencies_are_those_of_projects(copy_of_each: Project) -> None:
    """What a project needs for its copy of the kit is what the package asks for."""
    settings = tomllib.loads(copy_of_each.read("pyproject.toml"))
    groups = settings["dependency-groups"]
    in_project = [*settings["project"]["dependencies"], *groups["test"], *groups["dev"]]
    extras = METADATA["optional-dependencies"][copy_of_each.database]

    assert {*METADATA["dependencies"], *extras} <= {str(each) for each in in_project}


def test_style_and_types_of_what_projects_do_not_get(project: Project) -> None:
    for name in ("adopt", "entry.py", "passwords.py"):
        path = TEMPLATE / "testkit" / name
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, project.path / "testkit" / name)

    project.run("ruff", "check", "testkit")
    project.run("ruff", "format", "--check", "--config", "format.exclude=[]", "testkit")
    project.run("mypy", "-p", "testkit")


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_projects_switch_to_it_and_back(releases: Path, tmp_path: Path, database: str) -> None:
    shutil.copytree(releases, tmp_path / "template")
    linked = create_linked(Template(tmp_path / "template"), tmp_path, database, NEW)
    here, there = blocks(10, "sh")
    (skip,) = blocks(10, "toml")
    packages = 'packages = ["app", "scripts", "testkit", "tests"]'

    def shell(command: str) -> str:
        command = command.replace(
            "git+https://github.com/org/fast-fastapi", f"git+file://{releases}"
        )
        command = command.replace("https://github.com/org/fast-fastapi", str(releases))
        command = re.sub(r"v\d+\.\d+\.\d+", NEW, command)
        command = command.replace("[postgresql]", f"[{database}]")
        command = command.replace("database=postgresql", f"database={database}")
        return run("bash", "-euc", command, cwd=linked.path, **COOKIECUTTER).stdout

    kit = {path.name: path.read_text() for path in (linked.path / "testkit").glob("*.py")}
    assert "entry.py" not in kit  # which only the package needs
    shell(here)
    linked.edit("pyproject.toml", packages, packages.replace('"testkit", ', ""))
    (linked.path / "pyproject.toml").write_text(f"{linked.read('pyproject.toml')}\n{skip}")
    commit_all(linked.path)
    assert not (linked.path / "testkit").exists()
    assert re.search(r"\d{3} passed", shell("uv run pytest -q -n 2"))
    assert outcome(shell("uv run python -m testkit.warm -q tests/products")) == "50 passed"
    shell("uv run ruff check . && uv run mypy")

    linked.edit("pyproject.toml", f"\n{skip}", "")
    linked.edit("pyproject.toml", packages.replace('"testkit", ', ""), packages)
    shell(there)
    assert kit == {path.name: path.read_text() for path in (linked.path / "testkit").glob("*.py")}
    assert "fast-fastapi" not in linked.read("pyproject.toml")
    assert outcome(shell("uv run pytest -q tests/products")) == "50 passed"
