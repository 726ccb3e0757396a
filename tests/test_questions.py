"""Which answers are accepted; what is said of the others."""

import ast
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, TEMPLATE, clean_environment
from tests.projects import COOKIECUTTER, cookiecutter

GOOD_SLUGS = ["a", "shop", "my-service", "my_service", "s3-proxy", "a1-b2_c3", "x" * 50]
BAD_SLUGS = [
    "",
    " ",
    ".",
    "..",
    "../outside",
    "/tmp/outside",
    "a/b",
    "a\\b",
    "My-Service",
    "my service",
    "my.service",
    'my"service',
    "my'service",
    "möbel",
    "1st-service",
    "-service",
    "service-",
    "service_",
    "my--service",
    "my-_service",
    "service\n",
    "x" * 51,
    "x" * 300,
    "fastapi",
    "sqlalchemy",
    "pytest-asyncio",
    "pytest_asyncio",
]


@pytest.mark.parametrize("slug", GOOD_SLUGS)
def test_good_slug(tmp_path: Path, slug: str) -> None:
    cookiecutter(tmp_path, project_slug=slug)

    assert [path.name for path in tmp_path.iterdir()] == [slug]


@pytest.mark.parametrize("slug", BAD_SLUGS)
def test_bad_slug(tmp_path: Path, slug: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()

    result = cookiecutter(inside, check=False, project_slug=slug)

    assert result.returncode == 1
    assert result.stdout.startswith("project_slug ")
    assert "; write " in result.stdout
    assert len(result.stdout.splitlines()) == 1
    assert list(tmp_path.rglob("*")) == [inside]
    assert not Path("/tmp/outside").exists()


@pytest.mark.parametrize("question", ["project_name", "description", "author_name"])
@pytest.mark.parametrize("answer", ["", "  ", "two\nlines", "a\tb", "bell\a"])
def test_bad_words(tmp_path: Path, question: str, answer: str) -> None:
    result = cookiecutter(tmp_path, check=False, project_slug="shop", **{question: answer})

    assert result.returncode == 1
    assert result.stdout.startswith(f"{question} ")
    assert list(tmp_path.iterdir()) == []


def test_every_dependency_is_refused_as_a_slug() -> None:
    refused = runpy.run_path(str(ROOT / "hooks" / "pre_gen_project.py"))["DEPENDENCIES"]
    pyproject = (TEMPLATE / "pyproject.toml").read_text()

    required = set(re.findall(r'"([a-z][a-z0-9_-]*)(?:\[[a-z]+\])?>=', pyproject))

    assert {"fastapi", "fastapi-users", "asyncpg", "pytest", "uv_build"} <= required
    assert {name.replace("_", "-") for name in required} <= refused


def test_prompts_ask_every_question(tmp_path: Path) -> None:
    answers = ["Corner Shop", "", "Sells things.", "Ada", "2"]
    result = subprocess.run(
        [Path(sys.prefix) / "bin" / "cookiecutter", ROOT],
        cwd=tmp_path,
        env=clean_environment() | COOKIECUTTER,
        input="\n".join(answers) + "\n",
        capture_output=True,
        text=True,
    )

    assert result.returncode == 0, result.stderr
    assert "Which database does it use?" in result.stdout
    pyproject = (tmp_path / "corner-shop" / "pyproject.toml").read_text()
    assert 'description = "Sells things."' in pyproject
    assert "asyncpg" in pyproject


def test_existing_folder_is_kept(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "work.txt").write_text("precious")

    result = cookiecutter(tmp_path, check=False, project_slug="shop")

    assert result.returncode == 1
    assert (tmp_path / "shop" / "work.txt").read_text() == "precious"


def test_questions_are_few_and_explained() -> None:
    questions = json.loads((ROOT / "cookiecutter.json").read_text())

    public = [name for name in questions if not name.startswith("_")]

    assert public == ["project_name", "project_slug", "description", "author_name", "database"]
    assert questions["database"] == ["sqlite", "postgresql"]
    assert list(questions["__prompts__"]) == public


def test_the_hook_says_what_to_do_next(tmp_path: Path) -> None:
    assert "cd my-service\n  make local-smoke" in cookiecutter(tmp_path).stdout


@pytest.mark.parametrize(
    "name", ["early_refusal.py", "hooks/pre_gen_project.py", "hooks/post_gen_project.py"]
)
def test_cookiecutter_may_run_on_an_older_python(name: str) -> None:
    text = (ROOT / name).read_text()

    tree = ast.parse(text, feature_version=(3, 9))

    has_annotations = any(
        getattr(node, "returns", None) or getattr(node, "annotation", None)
        for node in ast.walk(tree)
    )
    assert not has_annotations or "from __future__ import annotations" in text
