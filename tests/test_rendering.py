"""What is generated: the files, and what is in them, for every kind of answer."""

import ast
import platform
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from tests.answers import ODD_ANSWERS, generate_odd
from tests.commands import TEMPLATE, run
from tests.projects import Project, cookiecutter

DATABASES = ("sqlite", "postgresql")
OTHER_NAMES = {
    "sqlite": re.compile("postgres|asyncpg|psycopg", re.IGNORECASE),
    "postgresql": re.compile("sqlite", re.IGNORECASE),
}
CHOSEN_FILES = {
    "sqlite": {"app/engine.py", "tests/test_engine.py", "testkit/databases/sqlite.py"},
    "postgresql": {
        "app/engine.py",
        "tests/test_engine.py",
        "tests/isolation/test_postgresql.py",
        "testkit/databases/postgresql/__init__.py",
        "testkit/databases/postgresql/__main__.py",
        "testkit/databases/postgresql/baseline.sql",
        "testkit/databases/postgresql/connect.py",
        "testkit/databases/postgresql/databases.py",
        "testkit/databases/postgresql/keep.py",
        "testkit/databases/postgresql/keeper.py",
        "testkit/databases/postgresql/server.py",
        "testkit/databases/postgresql/spares.py",
        "testkit/databases/postgresql/sync.py",
    },
}


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One project for each database, with plain answers."""
    projects = {}
    for database in DATABASES:
        output = tmp_path_factory.mktemp(database)
        cookiecutter(output, database=database)
        projects[database] = output / "my-service"
    return projects


def text_files(project: Path) -> list[Path]:
    return [path for path in sorted(project.rglob("*")) if path.is_file()]


def names(project: Path) -> set[str]:
    return {str(path.relative_to(project)) for path in text_files(project)}


def test_both_databases_have_the_same_files(generated: dict[str, Path]) -> None:
    common = {
        database: names(generated[database]) - CHOSEN_FILES[database] for database in DATABASES
    }

    assert common["sqlite"] == common["postgresql"]
    for database in DATABASES:
        assert CHOSEN_FILES[database] <= names(generated[database])


def test_every_file_of_the_template_is_generated(generated: dict[str, Path]) -> None:
    chosen = CHOSEN_FILES["sqlite"] | CHOSEN_FILES["postgresql"]
    for database in DATABASES:
        chosen |= {f"app/engine_{database}.py", f"tests/test_engine_{database}.py"}
    tracked = run("git", "ls-files", "-co", "--exclude-standard", cwd=TEMPLATE).stdout.splitlines()

    of_the_package = re.compile(r"testkit/(adopt/.*|entry\.py|passwords\.py)")
    expected = {name for name in tracked if not of_the_package.fullmatch(name)}
    assert expected - chosen == names(generated["sqlite"]) - chosen


def test_only_the_named_places_differ(generated: dict[str, Path]) -> None:
    sqlite, postgresql = (generated[database] for database in DATABASES)

    different = {
        name
        for name in names(sqlite) & names(postgresql)
        if (sqlite / name).read_text() != (postgresql / name).read_text()
    }

    assert different == {
        ".env.example",
        ".github/workflows/ci.yml",
        "Makefile",
        "README.md",
        "app/engine.py",
        "app/settings.py",
        "compose.production.yaml",
        "compose.yaml",
        "docs/operating.md",
        "docs/testing.md",
        "pyproject.toml",
        "tests/test_engine.py",
    }


@pytest.mark.parametrize("database", DATABASES)
def test_no_trace_of_the_other_database(generated: dict[str, Path], database: str) -> None:
    for path in text_files(generated[database]):
        assert not OTHER_NAMES[database].search(path.name), path
        found = OTHER_NAMES[database].search(path.read_text())
        assert not found, f"{path} holds {found and found.group()}"


@pytest.mark.parametrize("database", DATABASES)
def test_no_trace_of_the_template(generated: dict[str, Path], database: str) -> None:
    for path in text_files(generated[database]):
        content = path.read_text()
        if path.match(".github/workflows/*.yml"):
            content = re.sub(r"\$\{\{ [^{}]*(\{\d\}[^{}]*)* \}\}", "expression", content)
        content = re.sub(r'"\.jinja2?"', "suffix", content)  # of a file that a test may read
        for trace in ("{{", "{%", "{#", "cookiecutter", "jinja"):
            assert trace not in content.lower(), f"{path} holds {trace}"
        assert content.endswith("\n"), path
        assert not content.endswith("\n\n"), path
        assert not re.search(r"[ \t]\n", content), f"{path} has trailing blanks"


@pytest.mark.parametrize("database", DATABASES)
def test_nothing_of_this_machine(generated: dict[str, Path], database: str) -> None:
    """No path and no name of where it was generated, and no settings that are somebody's own."""
    here = [str(Path.home()), str(TEMPLATE.parent), platform.node()]
    for path in text_files(generated[database]):
        assert path.name != ".env"
        for trace in here:
            assert not re.search(rf"{re.escape(trace)}\b", path.read_text()), f"{path}: {trace}"


@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize("kind", ODD_ANSWERS)
def test_odd_answers(tmp_path: Path, kind: str, database: str) -> None:
    words = ODD_ANSWERS[kind]
    project = generate_odd(tmp_path, kind, database)

    metadata = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    assert metadata["name"] == "odd"
    assert metadata["description"] == words
    assert metadata["authors"] == [{"name": words}]

    (title,) = (
        keyword.value
        for node in ast.walk(ast.parse((project / "app" / "main.py").read_text()))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "title"
    )
    assert ast.literal_eval(title) == words

    heading, paragraph = rendered_text((project / "README.md").read_text())[:2]
    assert (heading, paragraph) == (words, words)

    for path in [*project.rglob("*.yml"), *project.rglob("*.yaml")]:
        assert yaml.safe_load(path.read_text()), path

    ruff, quietly = (sys.executable, "-m", "ruff"), ("--quiet", "--no-cache")
    everything = ("--config", "format.exclude=[]")
    subprocess.run([*ruff, "format", "--check", *quietly, *everything, project], check=True)
    subprocess.run([*ruff, "check", *quietly, project], check=True)


def rendered_text(markdown: str) -> list[str]:
    """What a reader sees of each heading and paragraph."""
    return [
        "".join(child.content for child in token.children or [])
        for token in MarkdownIt().parse(markdown)
        if token.type == "inline"
    ]


def test_output_is_the_same_every_time(tmp_path: Path) -> None:
    contents = []
    for number in (1, 2):
        output = tmp_path / str(number)
        output.mkdir()
        cookiecutter(output)
        contents.append(
            {
                str(path.relative_to(output)): (path.read_bytes(), path.stat().st_mode)
                for path in text_files(output)
            }
        )

    assert contents[0] == contents[1]


@pytest.mark.parametrize("database", DATABASES)
def test_compose_files_are_valid(generated: dict[str, Path], database: str) -> None:
    program = Path(sys.prefix) / "bin" / "check-jsonschema"
    schema = ("--builtin-schema", "vendor.compose-spec")

    files = ("compose.yaml", "compose.production.yaml")
    run(program, *schema, *files, cwd=generated[database])


@pytest.mark.parametrize("database", DATABASES)
def test_toml_is_valid(generated: dict[str, Path], database: str) -> None:
    run(Path(sys.prefix) / "bin" / "validate-pyproject", "pyproject.toml", cwd=generated[database])


@pytest.mark.parametrize("database", DATABASES)
def test_image_needs_no_rights(generated: dict[str, Path], database: str) -> None:
    dockerfile = (generated[database] / "Dockerfile").read_text()
    app = yaml.safe_load((generated[database] / "compose.yaml").read_text())["services"]["app"]

    run(Path(sys.prefix) / "bin" / "hadolint", "Dockerfile", cwd=generated[database])
    last_stage = dockerfile.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.*)$", last_stage, re.MULTILINE) == ["10001"]
    assert last_stage.index("\nUSER ") < last_stage.index("\nCMD ")
    assert app["read_only"] is True


EXAMPLE = """
import re
from pathlib import Path
from app.settings import Settings
example = Settings(_env_file=".env.example")
assert example == Settings(_env_file=None), "a default is not that of the settings"
named = set(re.findall(r"^(?:# )?([A-Z][A-Z0-9_]+)=", Path(".env.example").read_text(), re.M))
assert named == {name.upper() for name in Settings.model_fields}, named
"""


def test_env_example_has_every_setting_with_its_default(each_project: Project) -> None:
    each_project.run("python", "-c", EXAMPLE)
