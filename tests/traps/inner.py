"""Tests that are written into a generated project and run there, all of them in one run."""

import re
from dataclasses import dataclass, field
from textwrap import dedent
from xml.etree import ElementTree

from tests.commands import Result
from tests.projects import Project

MODULE = "tests/test_inner.py"


@dataclass
class Outcome:
    """What a test came to: `passed`, `failed` (in its call), `error` (elsewhere) or `skipped`."""

    kinds: list[str] = field(default_factory=list)
    text: str = ""

    def __str__(self) -> str:
        return f"{' and '.join(self.kinds) or 'passed'}\n{self.text}"

    @property
    def passed(self) -> bool:
        return not self.kinds


@dataclass
class Run:
    result: Result
    outcomes: dict[str, Outcome]

    @property
    def output(self) -> str:
        return self.result.stdout

    def __getitem__(self, name: str) -> Outcome:
        assert name in self.outcomes, f"{name} did not run\n{self.output}"
        return self.outcomes[name]

    def assert_passed(self, *names: str) -> None:
        assert self.outcomes, f"nothing ran\n{self.output}"
        for name in names or self.outcomes:
            assert self[name].passed, f"{name} {self[name]}"

    def assert_says(self, name: str, *patterns: str, kind: str = "failed") -> None:
        """The test went wrong in this way, and the report holds all these regular expressions."""
        outcome = self[name]
        assert kind in outcome.kinds, f"{name} {outcome}"
        for pattern in patterns:
            assert re.search(pattern, outcome.text), f"{name} does not say {pattern!r}: {outcome}"


def line_of(source: str, code: str) -> str:
    """`tests/test_inner.py:12`, where a module with this source holds this code, once."""
    (number,) = (n for n, line in enumerate(source.splitlines(), 1) if code in line)
    return f"{MODULE}:{number}"


def run_inner(
    project: Project, source: str, *options: str, module: str = MODULE, **environment: str
) -> Run:
    """Writes a module of tests and runs it, in the order in which the tests are written."""
    (project.path / module).parent.mkdir(parents=True, exist_ok=True)
    (project.path / module).write_text(dedent(source))
    return run_tests(project, module, *options, **environment)


def run_tests(project: Project, *options: str, **environment: str) -> Run:
    report = project.path / "junit.xml"
    report.unlink(missing_ok=True)
    result = project.pytest(
        *("-p", "no:randomly", "--no-ledger", f"--junitxml={report}", *options),
        check=False,
        **environment,
    )
    outcomes: dict[str, Outcome] = {}
    for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
        outcome = outcomes.setdefault(case.attrib["name"], Outcome())
        for found in case:
            if found.tag in ("failure", "error", "skipped"):
                kind = {"failure": "failed"}.get(found.tag, found.tag)
                outcome.kinds.append(kind)
                outcome.text += f"{found.attrib.get('message', '')}\n{found.text}\n"
    return Run(result, outcomes)
