"""The ways to generate a project: the same answers give the same bytes through each of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import run
from tests.projects import COOKIECUTTER
from tests.releases import NEW, OLD, Template, cruft

BIN = Path(sys.prefix) / "bin"
ANSWERS = {
    "project_name": 'The "Best" Shop',
    "project_slug": "best-shop",
    "description": "Sells 100 % of it.",
    "author_name": "Ada's Team",
}
RELEASE = "cookiecutter@2.7.1"

pytestmark = pytest.mark.parametrize("database", ["sqlite", "postgresql"])


def contents(output: Path) -> dict[str, tuple[bytes, int]]:
    project = output / ANSWERS["project_slug"]
    return {
        str(path.relative_to(project)): (path.read_bytes(), path.stat().st_mode)
        for path in project.rglob("*")
        if path.is_file() and path.name != ".cruft.json"
    }


@pytest.fixture
def answers(database: str) -> dict[str, str]:
    return ANSWERS | {"database": database}


@pytest.fixture
def expected(
    releases: Path, tmp_path: Path, answers: dict[str, str]
) -> dict[str, tuple[bytes, int]]:
    """What `cookiecutter <path>` generates."""
    output = tmp_path / "expected"
    output.mkdir()
    generate(output, BIN / "cookiecutter", releases, answers=answers)
    found = contents(output)
    assert "app/main.py" in found
    return found


def generate(
    output: Path, *command: str | Path, answers: dict[str, str], **environment: str
) -> None:
    given = [f"{question}={answer}" for question, answer in answers.items()]
    run(
        *(*command, "--no-input", "--output-dir", output, *given),
        cwd=output,
        **(COOKIECUTTER | environment),
    )


def test_cookiecutter_with_a_url(
    releases: Path, tmp_path: Path, expected: dict[str, tuple[bytes, int]], answers: dict[str, str]
) -> None:
    home = str(tmp_path)  # where cookiecutter keeps its clones
    url = f"git+file://{releases}"
    generate(tmp_path, BIN / "cookiecutter", url, answers=answers, HOME=home)

    assert contents(tmp_path) == expected


def test_cookiecutter_with_a_version(
    template: Template,
    tmp_path: Path,
    expected: dict[str, tuple[bytes, int]],
    answers: dict[str, str],
) -> None:
    template.edit("{{cookiecutter.project_slug}}/README.md", "## Start", "## Not released yet")
    template.release("v3.0.0")
    url = f"git+file://{template.path}"
    options = ("--checkout", NEW)
    generate(tmp_path, BIN / "cookiecutter", url, *options, answers=answers, HOME=str(tmp_path))

    assert contents(tmp_path) == expected


def test_cruft(
    releases: Path, tmp_path: Path, expected: dict[str, tuple[bytes, int]], answers: dict[str, str]
) -> None:
    options = ("--no-input", "--output-dir", tmp_path, "--extra-context", json.dumps(answers))
    cruft("create", f"file://{releases}", *options, cwd=tmp_path)

    assert contents(tmp_path) == expected
    link = json.loads((tmp_path / ANSWERS["project_slug"] / ".cruft.json").read_text())
    assert link["template"] == str(releases)
    assert link["context"]["cookiecutter"]["description"] == ANSWERS["description"]


@pytest.mark.parametrize("version", [OLD, NEW])
def test_replay(
    releases: Path,
    tmp_path: Path,
    expected: dict[str, tuple[bytes, int]],
    answers: dict[str, str],
    version: str,
) -> None:
    """Of what was answered before; a question that was not there then takes its default."""
    url, first = f"git+file://{releases}", tmp_path / "first"
    first.mkdir()
    if version == OLD:
        del answers["description"]
    options = ("--checkout", version)
    generate(
        first,
        BIN / "cookiecutter",
        url,
        *options,
        answers=answers,
        HOME=str(tmp_path),
        REPLAYS=str(tmp_path / "replays"),
    )
    (replay,) = tmp_path.glob("replays/*.json")

    command = (BIN / "cookiecutter", releases, "--replay-file", replay, "--output-dir", tmp_path)
    enter = "\n"  # it asks the new question
    subprocess.run(command, input=enter, env=os.environ | COOKIECUTTER, check=True, text=True)

    if version == NEW:
        assert contents(tmp_path) == expected
    else:
        assert contents(tmp_path).keys() == expected.keys()
        assert b'description = "A FastAPI service."' in contents(tmp_path)["pyproject.toml"][0]


def test_answers_at_the_prompt(
    releases: Path, tmp_path: Path, expected: dict[str, tuple[bytes, int]], answers: dict[str, str]
) -> None:
    typed = "\n".join([*ANSWERS.values(), {"sqlite": "1", "postgresql": "2"}[answers["database"]]])
    subprocess.run(
        [BIN / "cookiecutter", releases, "--output-dir", tmp_path],
        input=f"{typed}\n",
        env=os.environ | COOKIECUTTER,
        capture_output=True,
        check=True,
        text=True,
    )

    assert contents(tmp_path) == expected


@pytest.mark.parametrize(
    "command",
    [
        ("uvx", RELEASE),
        ("uvx", "pipx", "run", "--spec", "cookiecutter==2.7.1", "cookiecutter"),
    ],
    ids=["uvx", "pipx"],
)
def test_without_an_installation(
    releases: Path,
    tmp_path: Path,
    expected: dict[str, tuple[bytes, int]],
    answers: dict[str, str],
    command: tuple[str, ...],
) -> None:
    generate(tmp_path, *command, releases, answers=answers)

    assert contents(tmp_path) == expected


def test_without_a_network(
    releases: Path, tmp_path: Path, expected: dict[str, tuple[bytes, int]], answers: dict[str, str]
) -> None:
    program = (
        "import sys\n"
        "def refuse(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo'):\n"
        "        sys.exit(f'{event} {arguments}')\n"
        "sys.addaudithook(refuse)\n"
        "from cookiecutter.cli import main\n"
        "main()\n"
    )
    generate(tmp_path, sys.executable, "-c", program, releases, answers=answers)

    assert contents(tmp_path) == expected


def test_older_version_can_still_be_had(releases: Path, tmp_path: Path, database: str) -> None:
    url = f"git+file://{releases}"
    answers = {"project_slug": ANSWERS["project_slug"], "database": database}
    options = ("--checkout", OLD)
    generate(tmp_path, BIN / "cookiecutter", url, *options, answers=answers, HOME=str(tmp_path))

    assert "testkit/obsolete.py" in contents(tmp_path)
