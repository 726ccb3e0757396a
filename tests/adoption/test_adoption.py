"""The guide for projects that were not generated, followed in one with other names for everything."""

import re
import shutil
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT, commit_all, run
from tests.releases import NEW, PROJECT, Template

GUIDE = (ROOT / "docs" / "adopting.md").read_text()
URLS = {"sqlite": "sqlite+aiosqlite://", "postgresql": "postgresql+asyncpg://"}


def steps(part: str) -> list[tuple[str, str]]:
    """The blocks of a part of the guide, each with its language."""
    (text,) = re.findall(rf"^## {part}\. .*?(?=^## |\Z)", GUIDE, re.MULTILINE | re.DOTALL)
    return re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)


class Follower:
    def __init__(self, path: Path, template: Template, database: str) -> None:
        self.path, self.template, self.database = path, template, database

    def shell(self, command: str) -> str:
        command = command.replace("https://github.com/org/fast-fastapi", str(self.template.path))
        command = command.replace("v1.0.0", NEW)
        command = command.replace("DATABASE=postgresql", f"DATABASE={self.database}")
        return run(
            *("bash", "-euc", command),
            cwd=self.path,
            DATABASE=self.database,
            TEST_KIND=URLS[self.database],
            SHOP_DSN="postgresql+asyncpg://production.example.com/precious",
            COOKIECUTTER_CONFIG=str(ROOT / "tests" / "cookiecutter.yaml"),
        ).stdout

    def follow(self, part: str) -> list[str]:
        return [self.shell(text) for language, text in steps(part) if language == "sh"]

    def write(self, part: str) -> None:
        for language, text in steps(part):
            if language == "python":
                name = text.partition("\n")[0].removeprefix("# ")
                (self.path / name).write_text(text)

    def add_to_pyproject(self, text: str) -> None:
        with (self.path / "pyproject.toml").open("a") as pyproject:
            pyproject.write(f"\n{text}")


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_guide(template: Template, tmp_path: Path, database: str) -> None:
    path = tmp_path / "shop"
    shutil.copytree(Path(__file__).parent / "project", path)
    follower = Follower(path, template, database)

    follower.follow("1")
    generated = (path / "kit" / "my-service" / "pyproject.toml").read_text()
    settings = re.search(
        r"^\[tool\.pytest\.ini_options\].*?(?=^\[tool\.coverage)", generated, re.M | re.S
    )
    group = re.search(r"^\[dependency-groups\].*?(?=^dev = )", generated, re.M | re.S)
    assert settings
    assert group
    follower.add_to_pyproject(settings[0])
    follower.add_to_pyproject(group[0] + 'dev = [{ include-group = "test" }]\n')
    shutil.rmtree(path / "kit")

    follower.write("2")
    environment = (path / "db_migrations" / "env.py").read_text()
    follower.write("3")
    taking = (path / "db_migrations" / "env.py").read_text()
    (path / "db_migrations" / "env.py").write_text(
        environment.replace("asyncio.run(run_on_engine())\n", taking)
    )
    follower.write("4")
    (output,) = follower.follow("4")
    assert len(re.findall(r"^=+ 5 passed in ", output, re.MULTILINE)) == 2
    assert "tests/test_orders.py::test_many_at_once" in output

    (skip,) = (text for language, text in steps("5") if language == "toml")
    follower.add_to_pyproject(skip)
    top = {entry.name for entry in (template.path / PROJECT).iterdir()}
    assert set(tomllib.loads(skip)["tool"]["cruft"]["skip"]) == top - {"testkit"}
    link, update = (text for language, text in steps("5") if language == "sh")
    follower.shell(link)
    commit_all(path)
    template.edit(f"{PROJECT}/testkit/greenlets.py", '"""Lets', '"""It lets')
    template.edit(f"{PROJECT}/README.md", "## Start", "## Begin")
    template.release("v3.0.0")
    follower.shell(update)

    changed = run("git", "diff", "--name-only", "HEAD", cwd=path).stdout.split()
    assert changed == [".cruft.json", "testkit/greenlets.py"]
    assert "5 passed" in follower.shell("uv run pytest")
