"""Measures what the README claims, and writes its table and its chart.

    make bench                      # about ten minutes
    uv run python -m benchmarks --rounds 3 --only isolation

A project is generated and gets 20 more tables. Every figure is the median over several rounds, in
which all cases take turns, so that a busy machine slows down all of them alike; what counts are the
ratios within one run.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Row, write_report

ROOT = Path(__file__).parents[1]
SUITE = Path(__file__).parent / "suite"
UV = os.environ.get("UV") or shutil.which("uv") or "uv"
MIB = 1024 * 1024


@dataclass(frozen=True)
class Case:
    """Tests that are measured: `count` of those that `select` names."""

    name: str
    select: str
    count: int = 1000
    options: tuple[str, ...] = ()
    bare: bool = False


ISOLATION = (
    Case("bare", "bare.py", bare=True),
    Case("empty", "test_isolation.py::test_empty"),
    Case("rollback", "test_isolation.py::test_rollback"),
    Case("committed", "test_isolation.py::test_committed"),
    Case("create_and_drop", "test_peers.py::test_create_and_drop", count=30),
)
REQUESTS = (
    Case("inline", "test_requests.py::test_two_requests"),
    Case("inline_committed", "test_requests.py::test_two_committed_requests"),
    Case("threaded", "test_requests.py::test_two_requests", options=("--db-driver=threaded",)),
    Case("without_database", "test_requests.py::test_two_requests_without_database"),
)


class Bench:
    def __init__(self, directory: Path, rounds: int) -> None:
        self.directory = directory
        self.rounds = rounds
        self.project = directory / "my-service"
        self.python = self.project / ".venv" / "bin" / "python"

    def say(self, text: str) -> None:
        print(f"  {text}", file=sys.stderr, flush=True)

    def command(self, *command: str | Path, cwd: Path | None = None, **environment: str) -> float:
        """Runs a command; returns its seconds."""
        start = time.perf_counter()
        result = subprocess.run(
            [str(part) for part in command],
            cwd=cwd or self.project,
            env=os.environ | {"UV": UV, "PYTHONDONTWRITEBYTECODE": ""} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if result.returncode:
            sys.exit(f"{' '.join(map(str, command))} has failed:\n{result.stdout[-2000:]}")
        return time.perf_counter() - start

    def generate(self) -> None:
        self.say("generating a project")
        cookiecutter = Path(sys.prefix) / "bin" / "cookiecutter"
        self.command(*(cookiecutter, ROOT, "--no-input", "--output-dir", self.directory), cwd=ROOT)

    def add_tables_and_tests(self) -> None:
        suite = self.project / "tests" / "benchmark"
        shutil.copytree(SUITE, suite)
        shutil.move(suite / "migration.py", self.project / "migrations/versions/bench.py")
        bare = self.directory / "bare"
        bare.mkdir()
        shutil.move(suite / "bare.py", bare / "bare.py")
        shutil.copy(suite / "conftest.py", bare)
        (bare / "pytest.ini").write_text(
            "[pytest]\nasyncio_mode = auto\nasyncio_default_test_loop_scope = session\n"
            "asyncio_default_fixture_loop_scope = session\n"
        )

    def measure(self, case: Case) -> list[dict[str, float]]:
        """The figures of each process that ran tests."""
        results = self.directory / "results.jsonl"
        results.unlink(missing_ok=True)
        plain = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider", *case.options]
        if case.bare:
            plain += ["-p", "no:socket", "-p", "no:timeout", "-p", "no:xdist"]
        else:
            plain += ["-p", "no:cov"]
        self.command(
            *(self.python, "-m", "pytest", *plain),
            case.select if case.bare else f"tests/benchmark/{case.select}",
            cwd=self.directory / "bare" if case.bare else self.project,
            BENCHMARK=str(results),
            TESTS=str(case.count),
        )
        return [json.loads(line) for line in results.read_text().splitlines()]

    def medians(self, cases: tuple[Case, ...]) -> dict[str, float]:
        """Milliseconds a test of each case, in rounds that take turns."""
        seconds = defaultdict(list)
        for number in range(self.rounds):
            for case in cases:
                (figures,) = self.measure(case)
                seconds[case.name].append(figures["seconds"])
            self.say(f"round {number + 1} of {self.rounds}: {', '.join(seconds)}")
        return {name: statistics.median(values) * 1000 for name, values in seconds.items()}

    def isolation(self) -> list[Row]:
        ms = self.medians(ISOLATION)
        rollback = ms["rollback"] - ms["empty"]
        committed = ms["committed"] - ms["empty"]
        naive = ms["create_and_drop"] - ms["empty"]
        return [
            Row("An empty async test, pytest and pytest-asyncio alone", ms["bare"], "ms"),
            Row("An empty async test in the generated project", ms["empty"], "ms"),
            Row(
                "What `session` adds to it: `rollback`",
                rollback,
                "ms",
                rollback / ms["empty"],
                "the empty test",
                1.0,
            ),
            Row(
                "What `session` adds to it: `committed`",
                committed,
                "ms",
                committed / ms["empty"],
                "the empty test",
                1.0,
            ),
            Row(
                "What create_all and drop_all add to it, 22 tables",
                naive,
                "ms",
                naive / rollback,
                "`rollback`",
                -100,
            ),
        ]

    def requests(self) -> list[Row]:
        ms = self.medians(REQUESTS)
        inline = ms["inline"]
        return [
            Row(
                "Two requests: a user creates a product, it is read",
                inline,
                "ms",
                inline / ms["without_database"],
                "no database",
                1.6,
            ),
            Row(
                "The same, `committed`",
                ms["inline_committed"],
                "ms",
                ms["inline_committed"] / ms["without_database"],
                "no database",
            ),
            Row(
                "The same on threaded aiosqlite",
                ms["threaded"],
                "ms",
                inline / ms["threaded"],
                "threaded, for the inline driver",
                0.7,
            ),
            Row("The same with no database at all", ms["without_database"], "ms"),
        ]

    def hashing(self) -> list[Row]:
        program = (
            "import os, timeit\n"
            "os.environ.update(ENVIRONMENT='test')\n"
            "from tests.fixtures.environment import FAST_HASHING\n"
            "from app.settings import Settings\n"
            "from app.users.manager import get_password_helper\n"
            "def measure(settings, number):\n"
            "    helper = get_password_helper(settings)\n"
            "    hashed = helper.hash('password')\n"
            "    once = lambda: helper.verify_and_update('password', helper.hash('password'))\n"
            "    return min(timeit.repeat(once, number=number, repeat=5)) / number * 1000\n"
            "production = measure(Settings(), 1)\n"
            "os.environ.update(FAST_HASHING)\n"
            "print(measure(Settings(), 100), production)\n"
        )
        output = subprocess.run(
            [self.python, "-c", program],
            cwd=self.project,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        fast, production = map(float, output.split())
        return [
            Row(
                "Hashing a password and verifying it",
                fast,
                "ms",
                production / fast,
                "production",
                -1000,
            ),
        ]

    def many(self) -> list[Row]:
        """10,000 tests of two requests, on two workers."""
        rows = []
        case = Case("many", "test_requests.py::test_two_requests", 10_000)
        workers = ("-n", "2", "--dist", "worksteal")
        for name, options in (("in one process", ()), ("on two workers", workers)):
            self.say(f"10,000 tests {name}")
            start = time.perf_counter()
            figures = self.measure(Case(case.name, case.select, case.count, options))
            rows.append(
                Row(
                    f"10,000 such tests {name}",
                    time.perf_counter() - start,
                    "s",
                    limit=60 if options else None,
                )
            )
        rows += [
            Row(
                "Growth of a worker's memory in that time",
                max(f["growth"] for f in figures if f["worker"]) / MIB,
                "MiB",
                limit=10,
            ),
            Row(
                "Memory of all processes at their peak",
                sum(f["peak"] for f in figures) / MIB,
                "MiB",
                limit=500,
            ),
        ]
        return rows

    def startup(self) -> list[Row]:
        alone: list[float] = []
        imports: list[float] = []
        for _ in range(2 * self.rounds + 1):
            alone.append(
                self.command(self.python, "-m", "pytest", "-q", "tests/test_health.py::test_ready")
            )
            imports.append(self.command(self.python, "-c", "import pytest, app.main"))
        one, imported = statistics.median(alone[1:]), statistics.median(imports[1:])
        return [Row("One test alone", one, "s", one / imported, "`import pytest, app.main`", 1.3)]

    def smoke(self) -> list[Row]:
        self.say("make local-smoke, twice")
        first = self.command("make", "local-smoke")
        second = self.command("make", "local-smoke")
        return [
            Row("`make local-smoke` in a fresh project, packages cached", first, "s", limit=20),
            Row("`make local-smoke` after that", second, "s", limit=6),
        ]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each case is run")
    parser.add_argument("--write", action="store_true", help="put table and chart into the README")
    parts = ("smoke", "startup", "hashing", "isolation", "requests", "many")
    parser.add_argument("--only", choices=parts, action="append", help="these parts and no others")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="fast-fastapi-") as directory:
        bench = Bench(Path(directory), arguments.rounds)
        bench.generate()
        chosen = arguments.only or parts
        rows = bench.smoke() if "smoke" in chosen else []
        bench.command("make", "setup")
        if "startup" in chosen:
            rows += bench.startup()
        if "hashing" in chosen:
            rows += bench.hashing()
        bench.add_tables_and_tests()
        for part in ("isolation", "requests", "many"):
            if part in chosen:
                rows += getattr(bench, part)()
    write_report(rows, into_readme=arguments.write)


if __name__ == "__main__":
    main()
