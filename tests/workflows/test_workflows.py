"""The workflows of a generated project and of the template: executed, and looked through."""

import re
import sys
from pathlib import Path

import pytest
import yaml

from tests.commands import ROOT, run
from tests.projects import Project
from tests.servers import TCPServer
from tests.workflows.runner import Runner

CI, WEEKLY = ".github/workflows/ci.yml", ".github/workflows/weekly.yml"
LEDGER = ".performance/ledger.jsonl"


@pytest.fixture
def runner(request: pytest.FixtureRequest, copy_of_each: Project, tmp_path: Path) -> Runner:
    machines = tmp_path / "machines"
    machines.mkdir()
    if copy_of_each.database == "sqlite":
        return Runner(copy_of_each.path, machines)
    server: TCPServer = request.getfixturevalue("tcp_server")
    return Runner(copy_of_each.path, machines, {"postgres": server.url()})


@pytest.mark.long
def test_ci(runner: Runner, copy_of_each: Project) -> None:
    runner.run(CI)

    output = "".join(runner.outputs_of_commands)
    tests = int(re.findall(r"2 shards, (\d+) tests, each of them once", output)[0])
    assert tests > 100
    assert re.search(r"^TOTAL .* 100%|Total coverage: 100", output, re.MULTILINE)
    assert (runner.folder / "merge-0-github_step_summary").read_text().startswith("### ")
    assert (runner.folder / "merge-0" / ".performance" / "report.html").exists()
    # The next run divides the tests by the ledger of this one.
    assert list((runner.folder / "cache").glob(f"ledger-*/{Path(LEDGER).name}"))
    for secret in (":secret@", "the-same-secret-in-every-test-run"):
        assert secret not in output

    assert_merge_refuses(copy_of_each, runner.folder / "artifacts")


@pytest.mark.long
def test_what_only_tests_have_is_not_for_the_application(copy_of_each: Project) -> None:
    (step,) = re.findall(r"run: (uv run --isolated .*)", copy_of_each.read(CI))
    module = copy_of_each.path / "app" / "work.py"
    module.write_text(f"{module.read_text()}\nfrom filelock import FileLock\n")

    done = run("bash", "-c", step, cwd=copy_of_each.path, check=False)

    assert done.returncode == 1
    assert "No module named 'filelock'" in done.stdout


def assert_merge_refuses(project: Project, artifacts: Path) -> None:
    """What the job `merge` says of a shard that is there twice, one that is missing, and a lost
    test."""
    merge = ("python", "-m", "testkit.performance", "merge", "--ledger", "merged.jsonl")
    first, second = (artifacts / f"shard-{number}" / LEDGER for number in (1, 2))

    twice = project.run(*merge, first, first, check=False)
    assert twice.returncode == 1
    assert "These are not all shards of one run" in twice.stdout
    assert "ran 2 times." in twice.stdout

    missing = project.run(*merge, first, check=False)
    assert missing.returncode == 1
    assert "ran in no shard." in missing.stdout

    lines = first.read_text().splitlines()
    first.write_text("\n".join(lines[:-1]) + "\n")
    lost = project.run(*merge, first, second, check=False)
    assert lost.returncode == 1
    assert lost.stdout.count("ran in no shard.") == 1

    assert not (project.path / "merged.jsonl").exists()
    nowhere = project.run(*merge, "nowhere.jsonl", check=False)
    assert nowhere.returncode == 2
    assert "There is no ledger nowhere.jsonl." in nowhere.stdout


def test_weekly(runner: Runner) -> None:
    runner.unreachable["make audit"] = "could not be audited"

    runner.run(WEEKLY)

    assert "not linked to its template" in runner.outputs_of_commands[0]
    assert len(runner.outputs_of_commands) == 2


def workflows(root: Path) -> list[Path]:
    return sorted((root / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(params=["sqlite", "postgresql", "template"])
def repository(request: pytest.FixtureRequest) -> Path:
    """One of those that have workflows."""
    if request.param == "template":
        return ROOT
    project: Project = request.getfixturevalue(f"{request.param}_project")
    return project.path


def test_have_the_form_of_workflows(repository: Path) -> None:
    program = Path(sys.prefix) / "bin" / "check-jsonschema"
    schema = ("--builtin-schema", "vendor.github-workflows")

    run(program, *schema, *workflows(repository), cwd=repository)


def test_are_safe(repository: Path) -> None:
    program = Path(sys.prefix) / "bin" / "zizmor"
    options = ("--offline", "--no-config")

    output = run(program, *options, *workflows(repository), cwd=repository).stdout

    assert "No findings to report" in output


def test_are_careful(repository: Path) -> None:
    for path in workflows(repository):
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] == {"contents": "read"}
        assert workflow["concurrency"]["cancel-in-progress"] is True
        for job in workflow["jobs"].values():
            assert job["timeout-minutes"]
            assert "permissions" not in job
            for step in job["steps"]:
                if "uses" in step:
                    assert re.fullmatch(r"[\w-]+(/[\w-]+){1,2}@[0-9a-f]{40}", step["uses"])
