"""Runs GitHub workflows on this machine: every step of every job, each job in a clone of its own.

Commands run as GitHub's runners run them. Actions are replaced by what they do here: a checkout by a
clone, artifacts and caches by folders, a service by a server of the tests. Expressions have the
syntax of GitHub as far as the workflows of this repository use it; another one is an error.
"""

import json
import re
import shutil
import sys
import warnings
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.commands import find_python, run

EXPRESSION = re.compile(r"\$\{\{ *(.*?) *\}\}", re.DOTALL)


@dataclass
class Job:
    """One run of a job, with one combination of its matrix."""

    name: str
    definition: dict[str, Any]
    matrix: dict[str, Any]
    total: int
    clone: Path


@dataclass
class Runner:
    """`repository` is cloned for every job; `services` have an URL for each service's image."""

    repository: Path
    folder: Path
    services: dict[str, str] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)
    """What a command prints that needs something which this machine cannot reach."""
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    outputs_of_commands: list[str] = field(default_factory=list)

    def run(self, workflow: str) -> None:
        """Runs all jobs of a file, each after those that it needs."""
        definition = yaml.safe_load((self.repository / workflow).read_text())
        waiting = dict(definition["jobs"])
        while waiting:
            name = next(name for name, job in waiting.items() if not waiting.keys() & needs(job))
            job = waiting.pop(name)
            assert "if" not in job, f"the condition of {name} would be ignored"
            context = self.context({}, 1, {})
            matrix = self.resolved(job.get("strategy", {}).get("matrix", {}), context)
            values = [self.resolved(value, context) for value in matrix.values()]
            combinations = [dict(zip(matrix, chosen, strict=True)) for chosen in product(*values)]
            for number, combination in enumerate(combinations):
                clone = self.folder / f"{name}-{number}"
                self.run_job(Job(name, job, combination, len(combinations), clone), definition)

    def run_job(self, job: Job, workflow: dict[str, Any]) -> None:
        job.clone.mkdir()
        steps: dict[str, Any] = {}
        context = self.context(job.matrix, job.total, steps)
        environment = self.resolved(
            {**workflow.get("env", {}), **job.definition.get("env", {})}, context
        )
        version = environment.get("UV_PYTHON")
        if version:
            python = find_python(version)
            if python is None and version in job.matrix.values():
                self.skip(f"{job.name}: Python {version} is not on this machine")
                return
            environment["UV_PYTHON"] = str(python or sys.executable)
        for service in job.definition.get("services", {}).values():
            image = service["image"].partition(":")[0]
            given = f"{image}ql://postgres:postgres@localhost:5432/postgres"
            environment = {
                name: self.services[image] if value == given else value
                for name, value in environment.items()
            }
        for step in job.definition["steps"]:
            condition = str(step.get("if", "always()")).removeprefix("${{").removesuffix("}}")
            if not evaluate(condition, context):
                continue
            if "uses" in step:
                self.use(step["uses"], self.resolved(step.get("with", {}), context), job)
            else:
                self.command(step, environment, context, job, steps)
        given_outputs = job.definition.get("outputs", {})
        self.outputs[job.name] = self.resolved(given_outputs, context)

    def skip(self, reason: str) -> None:
        warnings.warn(f"skipped: {reason}", stacklevel=2)  # pytest lists it at the end

    def command(
        self,
        step: dict[str, Any],
        environment: dict[str, str],
        context: dict[str, Any],
        job: Job,
        steps: dict[str, Any],
    ) -> None:
        command = step["run"]
        files = {
            name: self.folder / f"{job.clone.name}-{name.lower()}"
            for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")
        }
        for path in files.values():
            path.touch()
        variables = {name: str(value) for name, value in environment.items()}
        variables |= self.resolved(step.get("env", {}), context)
        variables |= {name: str(path) for name, path in files.items()}
        variables |= {"CI": "true", "GITHUB_ACTIONS": "true"}
        # As GitHub does, where no shell is named.
        shell = ("bash", "-e", "-c")
        command = self.resolved(command, context)
        result = run(*shell, command, cwd=job.clone, check=False, **variables)
        if result.returncode:
            sign = self.unreachable.get(command)
            if sign is None or sign not in result.stdout:
                pytest.fail(f"{job.name}: `{command}` has failed:\n{result.stdout}")
            self.skip(f"{job.name}: `{command}` cannot reach what it asks")
        self.outputs_of_commands.append(result.stdout)
        outputs = dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().split())
        if "id" in step:
            steps[step["id"]] = SimpleNamespace(outputs=SimpleNamespace(**outputs))

    def use(self, action: str, options: dict[str, Any], job: Job) -> None:
        name = action.partition("@")[0]
        artifacts, cache = self.folder / "artifacts", self.folder / "cache"
        match name:
            case "actions/checkout":
                depth = [] if options.get("fetch-depth") == 0 else ["--depth=1"]
                source = f"file://{self.repository}"
                run("git", "clone", "--quiet", *depth, source, job.clone, cwd=self.folder)
            case "astral-sh/setup-uv":
                pass  # `command` has it on the path
            case "actions/upload-artifact":
                upload(job.clone, options, artifacts / options["name"])
            case "actions/download-artifact":
                target = job.clone / options["path"]
                wanted = artifacts / options["name"] if "name" in options else artifacts
                shutil.copytree(wanted, target, dirs_exist_ok=True)
            case "actions/cache/restore":
                for saved in cache.glob(f"{options['restore-keys']}*"):
                    shutil.copytree(saved, job.clone / options["path"], dirs_exist_ok=True)
            case "actions/cache/save":
                shutil.copytree(job.clone / options["path"], cache / options["key"])
            case _:
                pytest.fail(f"There is nothing in place of {name} yet.")

    def context(self, matrix: dict[str, Any], total: int, steps: dict[str, Any]) -> dict[str, Any]:
        finished = {
            name: SimpleNamespace(outputs=SimpleNamespace(**outputs))
            for name, outputs in self.outputs.items()
        }
        return {
            "matrix": SimpleNamespace(**matrix),
            "needs": SimpleNamespace(**finished),
            "steps": Namespace(steps),
            "strategy": SimpleNamespace(job_total=total),
            "github": SimpleNamespace(
                ref="refs/heads/main", run_id="1", workflow="CI", event_name="push"
            ),
            "fromJSON": json.loads,
            "format": lambda text, *values: text.format(*values),
            "always": lambda: True,
        }

    def resolved(self, value: Any, context: dict[str, Any]) -> Any:
        """The value with its expressions replaced; a value that is one expression keeps its type."""
        if isinstance(value, dict):
            return {name: self.resolved(inner, context) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.resolved(inner, context) for inner in value]
        if not isinstance(value, str):
            return value
        if whole := EXPRESSION.fullmatch(value):
            return evaluate(whole[1], context)
        return EXPRESSION.sub(lambda match: str(evaluate(match[1], context)), value)


class Namespace:
    """The steps that have run so far."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Any:
        return self._values[name]


def evaluate(expression: str, context: dict[str, Any]) -> Any:
    python = expression.strip().replace("job-total", "job_total")
    python = python.replace("&&", " and ").replace("||", " or ")
    return eval(python, {"__builtins__": {}}, context)


def needs(job: dict[str, Any]) -> set[str]:
    named = job.get("needs", [])
    return {named} if isinstance(named, str) else set(named)


def upload(clone: Path, options: dict[str, Any], target: Path) -> None:
    """One folder with its content, or several paths below what they have in common."""
    assert not target.exists(), f"{target.name} is uploaded twice"
    target.mkdir(parents=True)
    paths = options["path"].split()
    for path in paths:
        source = clone / path
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.exists():
            place = target / (path if len(paths) > 1 else source.name)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)
