"""`python -m testkit doctor`."""

import re
import shutil

from tests.commands import Result
from tests.projects import Project


def doctor(project: Project) -> Result:
    return project.run("python", "-m", "testkit", "doctor", check=False)


def test_what_is_generated_is_well(copy_of_each: Project) -> None:
    first = doctor(copy_of_each)
    copy_of_each.pytest("tests/products")
    second = doctor(copy_of_each)

    assert first.returncode == second.returncode == 0
    assert re.search(
        r"Tests: \d{3}, of which \d{3} use the database; isolation `committed`", first.stdout
    )
    assert "Unsafe\n  nothing" in first.stdout
    assert "Nothing is known yet" in first.stdout
    assert "Nothing is known yet" not in second.stdout


def test_names_what_is_unsafe_and_slow(project: Project) -> None:
    project.edit("pyproject.toml", "--strict-markers --strict-config ", "")
    project.edit("pyproject.toml", " --disable-socket --allow-unix-socket", "")
    project.edit("pyproject.toml", 'asyncio_default_test_loop_scope = "session"\n', "")
    project.edit("pyproject.toml", "error::", "always::")
    project.edit(".gitignore", ".performance/", "")
    (project.path / "tests" / "test_costly.py").write_text(
        "import time\n\n"
        "from app.settings import Settings\n"
        "from app.users.passwords import get_password_helper\n\n\n"
        "def test_hashes():\n"
        "    settings = Settings(argon2_time_cost=2, argon2_memory_cost=19456)\n"
        "    for _ in range(3):\n"
        "        get_password_helper(settings).hash('password')\n"
        "    time.sleep(0.2)\n"
    )
    project.pytest("tests/test_costly.py", cold=True)

    result = doctor(project)

    assert result.returncode == 1
    for finding in (
        "add `--disable-socket --allow-unix-socket`",
        "add `--strict-markers`",
        'set `asyncio_default_test_loop_scope = "session"`',
        "to `filterwarnings`",
        "add `.performance/` to `.gitignore`",
        "3 passwords were hashed or verified at the cost of production",
        "tests/test_costly.py::test_hashes takes 0.",
    ):
        assert finding in result.stdout, result.stdout


def test_strict_implies_strict_markers(project: Project) -> None:
    project.edit("pyproject.toml", "--strict-markers --strict-config ", "")
    project.edit(
        "pyproject.toml", "[tool.pytest.ini_options]", "[tool.pytest.ini_options]\nstrict = true"
    )

    assert "Unsafe\n  nothing" in doctor(project).stdout


def test_without_a_binding(project: Project) -> None:
    (project.path / "tests" / "conftest.py").write_text('pytest_plugins = ["testkit.plugin"]\n')
    (project.path / "tests" / "test_one.py").write_text(
        "def test_one(worker_database):\n    pass\n"
    )

    said = doctor(project)
    run = project.pytest("tests/test_one.py", check=False)

    for output in (said.stdout, run.stdout):
        assert "call `use_database(config, SETUP)` of `testkit.fixtures`" in output
        assert "Traceback" not in output


def test_where_nothing_of_the_kit_is_loaded(project: Project) -> None:
    """As in a project that has installed it, and no more."""
    project.edit("pyproject.toml", "--strict-markers --strict-config ", "")
    shutil.rmtree(project.path / "tests")
    (project.path / "tests").mkdir()
    (project.path / "tests" / "test_one.py").write_text("def test_one():\n    pass\n")

    said = doctor(project).stdout

    assert "call `use_database(config, SETUP)` of `testkit.fixtures`" in said
    assert "Traceback" not in said
    assert "cannot be collected" not in said


def test_what_cannot_be_collected(project: Project) -> None:
    (project.path / "tests" / "test_broken.py").write_text("import nothing_of_this_name\n")

    result = doctor(project)

    assert result.returncode == 2
    assert "The tests cannot be collected" in result.stdout
    assert "nothing_of_this_name" in result.stdout
