"""Parts of the suite for several machines, as the generated CI runs them."""

import os
import shutil
from pathlib import Path

import pytest
import yaml

from tests.conftest import UV, Project, copy_of, run
from tests.performance.conftest import INNER, LEDGER, ledger_of, write_tests

UNEVEN = """
    import time

    import pytest


    @pytest.mark.parametrize("number", range(40))
    def test_uneven(number):
        time.sleep(number / 400)
"""


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "-1/3", "1/0", ""])
def test_shard_out_of_range_is_refused(project: Project, shard: str) -> None:
    for options in ((), ("-n", "2")):
        result = project.pytest(f"--shard={shard}", *options, check=False)

        assert result.returncode == 4
        assert f"The shard {shard!r} does not exist: write K/N" in result.stdout
        assert "Traceback" not in result.stdout


def test_shards_take_equally_long(project: Project) -> None:
    write_tests(project, UNEVEN)
    project.pytest(INNER)

    seconds = []
    for shard in range(1, 5):
        # Not all of them in one process, and in random order, as usual.
        options = ("-n", "2") if shard % 2 else ()
        ledger = f"{shard}.jsonl"
        shutil.copy(project.path / LEDGER, project.path / ledger)
        project.pytest(INNER, f"--shard={shard}/4", "--ledger", ledger, *options)
        seconds.append(ledger_of(project, ledger).runs[-1]["call"])

    # The parts are equal within 1 %; the rest is what a busy machine may add.
    assert max(seconds) <= 1.25 * sum(seconds) / 4
    command = ("-m", "testkit.performance", "merge", "--ledger", "all.jsonl")
    result = project.run("python", *command, *(f"{shard}.jsonl" for shard in range(1, 5)))
    assert "4 shards, 40 tests, each of them once" in result.stdout
    merged = ledger_of(project, "all.jsonl").runs[-1]
    assert merged["shards"].keys() == {"1/4", "2/4", "3/4", "4/4"}
    assert merged["complete"] is True
    assert merged["outcomes"] == {"passed": 40}


def steps_of(project: Project, job: str) -> list[str]:
    workflow = yaml.safe_load(project.read(".github/workflows/ci.yml"))
    return [step["run"] for step in workflow["jobs"][job]["steps"] if "run" in step]


def run_steps(project: Project, job: str, **environment: str) -> str:
    """What the steps of a job print; they have to succeed."""
    environment |= {"UV": UV, "CI": "true", "GITHUB_STEP_SUMMARY": str(project.path / "summary.md")}
    environment["PATH"] = f"{Path(UV).parent}{os.pathsep}{os.environ['PATH']}"
    return "".join(
        run("bash", "-euo", "pipefail", "-c", step, cwd=project.path, **environment).stdout
        for step in steps_of(project, job)
    )


@pytest.fixture
def after_shards(each_project: Project, tmp_path: Path) -> Project:
    """The machine of the job `merge`, with what both shards have uploaded."""
    merging = copy_of(each_project, tmp_path / "merge")
    (merging.path / ".venv").symlink_to(each_project.venv)
    for shard in ("1", "2"):
        machine = copy_of(each_project, tmp_path / shard)
        (machine.path / ".venv").symlink_to(each_project.venv)
        (machine.path / ".venv" / "installed").touch()
        run_steps(machine, "shard", SHARD=f"{shard}/2")
        artifact = merging.path / "artifacts" / f"shard-{shard}"
        artifact.mkdir(parents=True)
        shutil.copytree(machine.path / ".performance", artifact / ".performance")
        shutil.copy(machine.path / ".coverage", artifact)
    return merging


def test_workflow_merges_coverage_and_ledgers(after_shards: Project) -> None:
    output = run_steps(after_shards, "merge")

    assert "tests, each of them once" in output
    assert "Total coverage: 100.00%" in output or "TOTAL" in output
    assert "100%" in output or "100.00%" in output
    assert (after_shards.path / "summary.md").read_text().startswith("### ")
    assert (after_shards.path / ".performance" / "report.html").exists()
    merged = ledger_of(after_shards)
    assert merged.runs[-1]["tests"] == len(merged.tests)

    # A shard that is there twice, one that is missing, and one with a test too few.
    command = ("python", "-m", "testkit.performance", "merge", "--ledger", "x.jsonl")
    ledgers = [f"artifacts/shard-{shard}/{LEDGER}" for shard in ("1", "2")]
    twice = after_shards.run(*command, ledgers[0], ledgers[0], check=False)
    assert twice.returncode == 1
    assert "These are not all shards of one run" in twice.stdout
    assert "ran 2 times." in twice.stdout
    missing = after_shards.run(*command, ledgers[0], check=False)
    assert missing.returncode == 1
    assert "ran in no shard." in missing.stdout
    path = after_shards.path / ledgers[0]
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")
    lost = after_shards.run(*command, *ledgers, check=False)
    assert lost.returncode == 1
    assert lost.stdout.count("ran in no shard.") == 1
    assert not (after_shards.path / "x.jsonl").exists()
    nowhere = after_shards.run(*command, "nowhere.jsonl", check=False)
    assert nowhere.returncode == 2
    assert "There is no ledger nowhere.jsonl." in nowhere.stdout
