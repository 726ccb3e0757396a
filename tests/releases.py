"""A repository with releases of the template, and projects that are linked to it."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.commands import ROOT, commit_all, edit, fork, run
from tests.projects import COOKIECUTTER, Project

OLD, NEW = "v1.0.0", "v2.0.0"
PROJECT = "{{cookiecutter.project_slug}}"


@dataclass
class Template:
    """A repository of the template."""

    path: Path

    def edit(self, name: str, old: str, new: str) -> None:
        edit(self.path / name, old, new)

    def release(self, version: str) -> None:
        commit_all(self.path)
        run("git", "tag", version, cwd=self.path)

    def take_present_files(self) -> None:
        """Those of the working tree that these tests run in."""
        for path in self.path.iterdir():
            if path.name != ".git":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        listed = run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).stdout
        for name in filter(lambda name: (ROOT / name).exists(), listed.splitlines()):
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.path / name)


@pytest.fixture
def template(releases: Path, tmp_path: Path) -> Template:
    """A copy of `releases` to change."""
    shutil.copytree(releases, tmp_path / "template")
    return Template(tmp_path / "template")


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An older version, as `OLD`, and the present one, as `NEW`."""
    template = Template(tmp_path_factory.mktemp("template") / "fast-fastapi")
    template.path.mkdir()
    template.take_present_files()
    make_older(template)
    template.release(OLD)
    template.take_present_files()
    template.release(NEW)
    return template.path


def make_older(template: Template) -> None:
    """Takes something away, and writes some of it in another way."""
    # There was no question for the description.
    questions = json.loads((template.path / "cookiecutter.json").read_text())
    for name in [name for name in questions if name.startswith(("description", "__description"))]:
        del questions[name]
    del questions["__prompts__"]["description"]
    (template.path / "cookiecutter.json").write_text(json.dumps(questions, indent=2))
    template.edit("hooks/pre_gen_project.py", '"description", ', "")
    description = "{{ cookiecutter.__description_toml }}"
    template.edit(f"{PROJECT}/pyproject.toml", description, '"A FastAPI service."')
    description = "{{ cookiecutter.__description_markdown }}"
    template.edit(f"{PROJECT}/README.md", description, "A FastAPI service.")
    # Files that came, went, and changed.
    (template.path / PROJECT / "SECURITY.md").unlink()
    (template.path / PROJECT / "testkit" / "obsolete.py").write_text('"""It will go."""\n')
    template.edit(f"{PROJECT}/testkit/greenlets.py", '"""Lets', '"""Once upon a time: lets')
    template.edit(
        f"{PROJECT}/app/errors.py",
        '"""Raise it anywhere in the application; the client gets it as a problem document.',
        '"""Raise it; the client gets it.',
    )
    template.edit(f"{PROJECT}/app/errors.py", "detail=detail)", 'detail=detail or "")')
    repository = f"{PROJECT}/app/products/repository.py"
    template.edit(repository, '"""All', '"""Once upon a time: all')
    (template.path / "CHANGELOG.md").write_text("# Changelog\n\n## Before\n\n- The beginning.\n")


@pytest.fixture(params=["sqlite", "postgresql"])
def linked(request: pytest.FixtureRequest, template: Template, tmp_path: Path) -> Project:
    """A project that was made of `OLD` by cruft, committed as it came, and not installed."""
    return create_linked(template, tmp_path, request.param)


def create_linked(template: Template, output: Path, database: str, version: str = OLD) -> Project:
    cruft(
        "create",
        *(template.path, "--no-input", "--checkout", version, "--output-dir", output),
        *("--extra-context", json.dumps({"database": database})),
        cwd=output,
    )
    path = output / "my-service"
    commit_all(path)
    return Project(path, path / ".venv", database)


def cruft(*arguments: str | Path, cwd: Path) -> str:
    return fork("cruft", *arguments, cwd=cwd, **COOKIECUTTER).stdout
