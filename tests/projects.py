"""Generated projects, installed once for all tests; those who change one get a copy."""

import hashlib
import os
import re
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.commands import (
    BYTECODE,
    ROOT,
    UV,
    Result,
    commit_all,
    edit,
    fork,
    link_bytecode,
    locked,
    run,
    start,
    started,
)

COOKIECUTTER = {
    "COOKIECUTTER_CONFIG": str(ROOT / "tests" / "cookiecutter.yaml"),
    "REPLAYS": str(ROOT / "build" / "replays"),
}
PARENT = """\
import runpy, sys
sys.path[0] = {!r}
runpy.run_module("testkit.warm.parent", run_name="__main__", alter_sys=True)
"""
warm_parents: list[subprocess.Popen[str]] = []
warm_links: list[Path] = []


def cookiecutter(output: Path, *, check: bool = True, **answers: str) -> Result:
    """Generates a project below `output` as a user does, without prompts."""
    chosen = [f"{question}={answer}" for question, answer in answers.items()]
    arguments = (ROOT, "--no-input", "--output-dir", output, *chosen)
    return fork("cookiecutter", *arguments, cwd=output, check=check, **COOKIECUTTER)


@dataclass
class Project:
    """A generated project, and the virtual environment that its commands run in."""

    path: Path
    venv: Path
    database: str
    shares_venv: bool = True

    def run(self, *command: str | Path, check: bool = True, **environment: str) -> Result:
        """Runs a command of the project's virtual environment."""
        program = self.venv / "bin" / command[0]
        return run(program, *command[1:], cwd=self.path, check=check, **environment)

    def pytest(
        self, *options: str, check: bool = True, cold: bool = False, **environment: str
    ) -> Result:
        """Runs its tests, as `make t` does: in a fork of a process that has the libraries.

        It is a second sooner, and `tests/warm` shows that it is the same; `cold` is for tests of how
        pytest starts.
        """
        is_warm = not cold and self.shares_venv
        if is_warm:
            keep_warm(self)
        module = "testkit.warm" if is_warm else "pytest"
        return self.run("python", "-m", module, "-q", *options, check=check, **environment)

    def install(self, *packages: str) -> None:
        """For this project alone, if its virtual environment is its own."""
        python = self.venv / "bin" / "python"
        run(UV, "pip", "install", "--quiet", "--python", python, *packages, cwd=self.path)

    def make(self, *arguments: str, check: bool = True, **environment: str) -> Result:
        return run("make", *arguments, cwd=self.path, check=check, **environment)

    def read(self, name: str) -> str:
        return (self.path / name).read_text()

    def edit(self, name: str, old: str, new: str) -> None:
        edit(self.path / name, old, new)

    def removal(self) -> str:
        """The step of its README that removes the example domain."""
        section = self.read("README.md").split("## Remove the example domain")[1]
        step: str = re.findall(r"```\n(.*?)```", section, re.DOTALL)[0]
        return step

    def files(self) -> list[str]:
        """The paths that a user would commit, sorted."""
        listed = run("git", "ls-files", "-co", "--exclude-standard", cwd=self.path).stdout
        return sorted(listed.splitlines())


def installed_project(folder: Path, database: str) -> Project:
    output = folder / database
    path = output / "my-service"
    with locked(folder / f"{database}.lock"):
        if not (path / ".git").exists():
            output.mkdir()
            cookiecutter(output, database=database)
            run("make", "setup", cwd=path)
            keep_bytecode(path)
            commit_all(path)
    return Project(path, path / ".venv", database)


def copy_of(original: Project, path: Path) -> Project:
    shutil.copytree(
        original.path,
        path,
        # pytest's own bytecode holds the paths of the original.
        ignore=shutil.ignore_patterns(".venv", "*_cache", "*-pytest-*.pyc", ".performance"),
    )
    return Project(path, original.venv, original.database)


def keep_bytecode(folder: Path) -> None:
    """Of the libraries that the tests of a project import, unless it is there."""
    venv = folder / ".venv"
    libraries = sorted(path.name for path in venv.glob("lib/*/site-packages/*.dist-info"))
    mark = BYTECODE / hashlib.sha256(repr(libraries).encode()).hexdigest()[:16]
    if not mark.exists():
        run(venv / "bin" / "python", "-m", "pytest", "--collect-only", "-q", cwd=folder)
        link_bytecode(venv, BYTECODE)
        mark.touch()


def keep_warm(project: Project) -> None:
    """Has the warm parent of its virtual environment listen for this project too.

    It ends with the worker that has started it, whose end of its input is then closed.
    """
    home = project.venv.parent
    address = warm_address(home)
    with locked(home.parent / "warm.lock"), socket.socket(socket.AF_UNIX) as connection:
        if connection.connect_ex(str(address)):
            # In the virtual environment, where no project takes the parent's code for its own.
            folder = project.venv / "warm"
            shutil.copytree(home / "testkit", folder / "testkit", dirs_exist_ok=True)
            parent = start(
                *(project.venv / "bin" / "python", "-c", PARENT.format(str(folder))),
                cwd=home,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            started.remove(parent)
            warm_parents.append(parent)
            assert parent.stdout
            assert parent.stdout.readline() == "ready\n"
        if project.path != home:
            link = warm_address(project.path)
            link.unlink(missing_ok=True)
            link.symlink_to(address)
            warm_links.append(link)


def warm_address(place: Path) -> Path:
    """Where `testkit.warm` looks for a parent, there."""
    found = place.stat()
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"testkit-{os.getuid()}"
    return folder / f"{found.st_dev:x}-{found.st_ino:x}.sock"


def sqlite_first_of(fixture: str) -> pytest.MarkDecorator:
    """For what takes long, and differs little: on PostgreSQL only `make test-all` tests it."""
    databases = ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)]
    return pytest.mark.parametrize(fixture, databases, indirect=True)


sqlite_first = sqlite_first_of("each_project")
