"""Measures what the README claims, and writes its table and its chart.

    make bench                      # about an hour
    uv run python -m benchmarks --rounds 3 --only isolation

A project for each database is generated and gets 20 more tables. Figures are medians over several rounds, in
which all cases take turns, so that a busy machine slows down all of them alike; runs that take
long (local-smoke, 10,000 tests and their shards) are single ones. What counts are the ratios within one run.
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
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import loop
from benchmarks.load import compare
from benchmarks.report import Row, markdown_line, markdown_table, write_report

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
    project: str = "sqlite"
    bare: bool = False


def isolation_cases(project: str, prefix: str) -> tuple[Case, ...]:
    tests = ("no_database", "rollback", "committed", "row_rollback", "row_committed")
    return tuple(
        Case(f"{prefix}{test}", f"test_isolation.py::test_{test}", project=project)
        for test in tests
    )


ISOLATION = (
    Case("bare", "bare.py", bare=True),
    *isolation_cases("sqlite", ""),
)
POSTGRESQL = (
    *isolation_cases("postgresql", ""),
    *isolation_cases("223 tables", "223 "),
)
# What the ways of isolating a test that others use should cost at least, in terms of `committed`.
PEERS = {
    "sqlite": {"create_and_drop": -100},
    "postgresql": {"create_and_drop": -100, "truncate": -10, "clone": -10},
}
SHARDS = 8
PARTS = (
    *("smoke", "startup", "hashing", "loop", "isolation", "postgresql", "requests"),
    *("ledger", "many", "workers", "shards", "load"),
)
AFTER_FIRST_COMMAND, WITH_TABLES = "startup", "isolation"
"""From these parts on, the projects are set up, and have tables and tests of the benchmark."""
REQUESTS = (
    Case("inline", "test_requests.py::test_two_requests"),
    Case("inline_rollback", "test_requests.py::test_two_requests_rolled_back"),
    Case("threaded", "test_requests.py::test_two_requests", options=("--db-driver=threaded",)),
    Case("without_database", "test_requests.py::test_two_requests_without_database"),
    Case("postgresql", "test_requests.py::test_two_requests", project="postgresql"),
    Case(
        "postgresql_rollback",
        "test_requests.py::test_two_requests_rolled_back",
        project="postgresql",
    ),
)


class Bench:
    def __init__(self, directory: Path, rounds: int) -> None:
        self.directory = directory
        self.rounds = rounds
        self.project = self.path("sqlite")
        self.python = self.project / ".venv" / "bin" / "python"

    def path(self, project: str) -> Path:
        return self.directory / project.replace(" ", "-") / "my-service"

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
        self.say("generating a project for each database")
        cookiecutter = Path(sys.prefix) / "bin" / "cookiecutter"
        for database in ("sqlite", "postgresql"):
            output = self.path(database).parent
            output.mkdir()
            answers = ("--no-input", "--output-dir", output, f"database={database}")
            self.command(cookiecutter, ROOT, *answers, cwd=ROOT)

    def add_tables_and_tests(self) -> None:
        for database in ("sqlite", "postgresql"):
            project = self.path(database)
            suite = project / "tests" / "benchmark"
            shutil.copytree(SUITE, suite)
            shutil.move(suite / "migration.py", project / "migrations/versions/bench.py")
        many = self.path("223 tables")
        shutil.copytree(self.path("postgresql"), many, symlinks=True)
        schema = many / "tests" / "benchmark" / "schema.py"
        schema.write_text(schema.read_text().replace("TABLES = 20", "TABLES = 220"))
        bare = self.directory / "bare"
        bare.mkdir()
        for name in ("bare.py", "conftest.py"):
            shutil.copy(SUITE / name, bare)
        (bare / "pytest.ini").write_text(
            "[pytest]\nasyncio_mode = auto\nasyncio_default_test_loop_scope = session\n"
            "asyncio_default_fixture_loop_scope = session\n"
        )

    def measure(self, case: Case, **environment: str) -> list[dict[str, float]]:
        """The figures of each process that ran tests."""
        results = self.directory / "results.jsonl"
        results.unlink(missing_ok=True)
        plain = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider", *case.options]
        if case.bare:
            plain += ["-p", "no:socket", "-p", "no:timeout", "-p", "no:xdist"]
        else:
            plain += ["-p", "no:cov"]
        project = self.path(case.project)
        self.command(
            *(project / ".venv" / "bin" / "python", "-m", "pytest", *plain),
            case.select if case.bare else f"tests/benchmark/{case.select}",
            cwd=self.directory / "bare" if case.bare else project,
            BENCHMARK=str(results),
            TESTKIT_TESTS=str(case.count),
            **environment,
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
        empty = ms["no_database"]
        rollback = ms["rollback"] - empty
        committed = ms["committed"] - empty
        return [
            Row("An empty async test, pytest and pytest-asyncio alone", ms["bare"], "ms"),
            Row("An empty async test in the generated project", empty, "ms"),
            *added("`session`, `committed`", committed, "the empty test", empty, 0.5),
            *added("`session`, `rollback`", rollback, "the empty test", empty),
            *added("a committed row, `committed`", ms["row_committed"] - empty, "", empty),
            *added("a committed row, `rollback`", ms["row_rollback"] - empty, "", empty),
            *self.comparison("sqlite"),
        ]

    def comparison(self, project: str) -> list[Row]:
        """What the generated project's own `make bench` finds, with the tables of the benchmark."""
        self.say(f"comparing ways of isolating a test, {project}")
        program = (
            "import json\n"
            "from testkit.performance.comparison.__main__ import STRATEGIES, compare\n"
            f"print(json.dumps([STRATEGIES, compare({self.rounds})]))"
        )
        output = subprocess.run(
            [self.path(project) / ".venv/bin/python", "-c", program],
            cwd=self.path(project),
            env=os.environ
            | {"PYTHONDONTWRITEBYTECODE": "", "PYTEST_ADDOPTS": "-p tests.benchmark.tables"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        strategies, seconds = json.loads(output)
        unit = seconds["committed"]
        return [
            Row(
                f"What {strategies[name][0]} adds to a test",
                value * 1000,
                "ms",
                value / unit,
                "`committed`",
                PEERS[project].get(name),
            )
            for name, value in seconds.items()
            if name not in ("no_database", "rollback", "committed")  # they have rows of their own
        ]

    def postgresql(self) -> list[Row]:
        ms = self.medians(POSTGRESQL)
        empty, many = ms["no_database"], ms["223 no_database"]
        rollback = ms["rollback"] - empty
        row = ms["row_committed"] - empty
        rows = [
            Row("An empty async test in the generated project", empty, "ms"),
            *added("`session`, `committed`", ms["committed"] - empty, "the empty test", empty, 0.5),
            *added("`session`, `rollback`", rollback, "the empty test", empty),
            *added("a committed row, `committed`", row, "", empty),
            *added("a committed row, `rollback`", ms["row_rollback"] - empty, "", empty),
        ]
        for name, limit in (("committed", 4), ("rollback", None)):
            cost = ms[f"223 {name}"] - many
            rows += added(f"`session`, `{name}`, 223 tables", cost, "the empty test", many, limit)
        for name in ("committed", "rollback"):
            cost = ms[f"223 row_{name}"] - many
            rows += added(f"a committed row, `{name}`, 223 tables", cost, "", many)
        rows += self.comparison("postgresql")
        return [row.on("PostgreSQL") for row in [*rows, *self.worker_start()]]

    def worker_start(self) -> list[Row]:
        """The first run ever, and one that finds its template and a server that is stopped."""
        project = self.path("postgresql")
        cold, warm = [], []
        for _ in range(self.rounds):
            # The user that root's servers run as has to reach it.
            with tempfile.TemporaryDirectory(prefix="fast-fastapi-", dir="/var/tmp") as folder:
                Path(folder).chmod(0o711)
                for figures in (cold, warm):
                    result = subprocess.run(
                        [
                            *(project / ".venv/bin/python", "tests/benchmark/startup.py"),
                            folder,
                        ],
                        cwd=project,
                        env=os.environ | {"PYTHONPATH": str(project)},
                        check=True,
                        capture_output=True,
                        text=True,
                    )
                    figures.append(float(result.stdout))
                    time.sleep(1)  # until the server has stopped
        return [
            Row("A worker database, the first run ever", statistics.median(cold), "s", limit=3),
            Row("A worker database after that", statistics.median(warm), "s", limit=0.5),
        ]

    def requests(self) -> list[Row]:
        ms = self.medians(REQUESTS)
        inline, nothing = ms["inline"], ms["without_database"]
        return [
            Row(
                "Two requests: a user creates a product, it is read",
                inline,
                "ms",
                inline / nothing,
                "no database",
                1.6,
            ),
            Row(
                "The same, `rollback`",
                ms["inline_rollback"],
                "ms",
                inline / ms["inline_rollback"],
                "`rollback`, for `committed`",
                1.05,
            ),
            Row(
                "The same on threaded aiosqlite",
                ms["threaded"],
                "ms",
                inline / ms["threaded"],
                "threaded, for the inline driver",
                0.7,
            ),
            Row("The same with no database at all", nothing, "ms"),
            Row(
                "The same on PostgreSQL",
                ms["postgresql"],
                "ms",
                ms["postgresql"] / inline,
                "SQLite",
                1.15,
            ),
            Row(
                "The same on PostgreSQL, `rollback`",
                ms["postgresql_rollback"],
                "ms",
                ms["postgresql"] / ms["postgresql_rollback"],
                "`rollback`, for `committed`",
                1.05,
            ),
        ]

    def loop(self) -> list[Row]:
        rows = []
        for database, name in (("sqlite", ""), ("postgresql", "PostgreSQL")):
            self.say(f"one test from a warm process, and forked workers, {database}")
            rows += [row.on(name) for row in loop.measure(self.path(database), self.rounds)]
        return rows

    def load(self) -> list[Row]:
        rows = []
        for database, name in (("sqlite", ""), ("postgresql", "PostgreSQL")):
            self.say(f"requests a second, {database}")
            rows += [row.on(name) for row in compare(self.path(database), database, self.rounds)]
        return rows

    def hashing(self) -> list[Row]:
        program = (
            "import os, statistics, timeit\n"
            "os.environ.update(ENVIRONMENT='test')\n"
            "from tests.fixtures.environment import FAST_HASHING\n"
            "from app.settings import Settings\n"
            "from app.users.passwords import get_password_helper\n"
            "def measure(settings, number):\n"
            "    helper = get_password_helper(settings)\n"
            "    hashed = helper.hash('password')\n"
            "    once = lambda: helper.verify_and_update('password', helper.hash('password'))\n"
            "    return statistics.median(timeit.repeat(once, number=number, repeat=5)) / number * 1000\n"
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
        sqlite = self.ten_thousand("sqlite")
        return [*sqlite, *(row.on("PostgreSQL") for row in self.ten_thousand("postgresql"))]

    def ten_thousand(self, project: str) -> list[Row]:
        """10,000 tests of two requests, in one process and as `make test` runs them."""
        rows, seconds = [], []
        case = Case("many", "test_requests.py::test_two_requests", 10_000, project=project)
        for name, options in (
            ("in one process", ()),
            ("as `make test` runs them", ("-n", "auto", "--dist", "worksteal")),
        ):
            self.say(f"10,000 tests {name}, {project}")
            start = time.perf_counter()
            figures = self.measure(replace(case, options=options))
            seconds.append(time.perf_counter() - start)
        ledger = self.path(project) / ".performance" / "ledger.jsonl"
        rows += [
            Row("10,000 such tests in one process", seconds[0], "s"),
            Row(
                "10,000 such tests as `make test` runs them",
                seconds[1],
                "s",
                seconds[0] / seconds[1],
                "as fast",
                -1.6,
            ),
            Row(
                "Growth of a worker's memory in that time",
                max(f["growth"] for f in figures if f["worker"]) / MIB,
                "MiB",
                limit=10,
            ),
            Row(
                "The peaks of pytest's processes, added up",
                sum(f["peak"] for f in figures) / MIB,
                "MiB",
                limit=500,
            ),
            Row("The ledger of them", ledger.stat().st_size / MIB, "MiB"),
        ]
        return rows

    def ledger(self) -> list[Row]:
        """What measuring costs: every other block of tests is measured."""
        results = self.directory / "ledger.jsonl"
        for _ in range(self.rounds):
            self.measure(
                Case("ledger", "test_requests.py::test_two_requests", 2000),
                LEDGER_IN_TURNS=str(results),
            )
        figures = [json.loads(line) for line in results.read_text().splitlines()]
        on, off = (statistics.median(f[name] for f in figures) for name in ("on", "off"))
        ratio = statistics.median(f["on"] / f["off"] for f in figures)
        return [
            Row("Two requests, not measured for the ledger", off * 1000, "ms"),
            Row("The same, measured", on * 1000, "ms", ratio, "not measured", 1.03),
        ]

    def workers(self) -> list[Row]:
        """What `-n auto` chooses, against the best of 0, 1 and 2 workers."""
        rows = []
        for count in (10, 100, 1_000, 10_000):
            self.say(f"{count:,} tests with 0, 1, 2 and auto workers")
            case = Case("workers", "test_requests.py::test_two_requests", count)
            seconds: dict[str, list[float]] = defaultdict(list)
            for number in range(1 if count > 1_000 else self.rounds):
                for workers in ("2", "0", "1", "auto"):
                    start = time.perf_counter()
                    # Tests of other numbers bear the same names, so each number has its ledger.
                    ledger = str(self.directory / f"{count}.jsonl")
                    options = ("-n", workers, "--dist", "worksteal", "--ledger", ledger)
                    self.measure(replace(case, options=options))
                    seconds[workers].append(time.perf_counter() - start)
                self.say(f"round {number + 1}: {dict(seconds)}")
            medians = {workers: statistics.median(values) for workers, values in seconds.items()}
            chosen = medians.pop("auto")
            best = min(medians, key=lambda workers: medians[workers])
            rows.append(
                Row(
                    f"{count:,} tests with `-n auto`",
                    chosen,
                    "s",
                    chosen / medians[best],
                    f"`-n {best}`, the best of 0, 1 and 2",
                    1.1,
                )
            )
        return rows

    def shards(self) -> list[Row]:
        """10,000 tests in eight shards at the same time, each a process with its own database."""
        self.say(f"10,000 tests in {SHARDS} shards")
        results = self.directory / "results.jsonl"
        python = self.path("sqlite") / ".venv" / "bin" / "python"
        plain = ("-q", "-p", "no:cov", "tests/benchmark/test_requests.py::test_two_requests")
        folder = self.directory / "shards"
        folder.mkdir()
        processes = []
        for shard in range(1, SHARDS + 1):
            shutil.copy(
                self.path("sqlite") / ".performance/ledger.jsonl", folder / f"{shard}.jsonl"
            )
            options = (f"--shard={shard}/{SHARDS}", "--ledger", str(folder / f"{shard}.jsonl"))
            processes.append(
                subprocess.Popen(
                    [python, "-m", "pytest", *plain, *options],
                    cwd=self.path("sqlite"),
                    env=os.environ
                    | {
                        "PYTHONDONTWRITEBYTECODE": "",
                        "BENCHMARK": str(results),
                        "TESTKIT_TESTS": "10000",
                    },
                    stdout=subprocess.DEVNULL,
                )
            )
        codes = [process.wait() for process in processes]
        if any(codes):
            sys.exit("A shard has failed.")
        files = sorted(str(path) for path in folder.glob("*.jsonl"))
        merged = folder / "all"
        self.command(
            python, "-m", "testkit.performance", "merge", "--ledger", merged, *files
        )  # fails when a test ran twice or never
        runs = [
            json.loads(line) for line in merged.read_text().splitlines()[1:] if '"run"' in line[:8]
        ]
        seconds = list(runs[-1]["shards"].values())
        mean = statistics.fmean(seconds)
        return [
            Row(
                f"10,000 such tests, the longest of {SHARDS} shards at the same time",
                max(seconds),
                "s",
                max(seconds) / mean,
                "the mean",
                1.1,
            )
        ]

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
        rows = []
        for database, name in (("sqlite", ""), ("postgresql", "PostgreSQL")):
            self.say(f"make local-smoke, twice, {database}")
            first, second = (
                self.command("make", "local-smoke", cwd=self.path(database)) for _ in range(2)
            )
            rows += [
                Row("`make local-smoke`, fresh, packages cached", first, "s", limit=20).on(name),
                Row("`make local-smoke` after that", second, "s", limit=6).on(name),
            ]
        return rows


def added(what: str, cost: float, to: str, base: float, limit: float | None = None) -> list[Row]:
    """What something adds to an empty test. A negative limit is for what should cost many times
    as much as `base`."""
    what, comma, isolation = what.partition(", `")
    name = f"What {what} adds to it{': `' if comma else ''}{isolation}"
    return [Row(name, cost, "ms", cost / base if to else None, to, limit)]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each case is run")
    parser.add_argument("--write", action="store_true", help="put table and chart into benchmarks/")
    parser.add_argument("--only", choices=PARTS, action="append", help="these parts and no others")
    arguments = parser.parse_args()

    chosen = set(arguments.only or PARTS)
    if "shards" in chosen:
        chosen.add("many")  # whose ledger they share out
    print(markdown_table([]), end="", flush=True)
    with tempfile.TemporaryDirectory(prefix="fast-fastapi-") as directory:
        bench = Bench(Path(directory), arguments.rounds)
        bench.generate()
        for part in PARTS:
            if part == AFTER_FIRST_COMMAND:
                for database in ("sqlite", "postgresql"):
                    bench.command("make", "setup", cwd=bench.path(database))
            if part == WITH_TABLES:
                bench.add_tables_and_tests()
            if part not in chosen:
                continue
            # After each part, so that one that fails loses nothing of the others.
            rows = getattr(bench, part)()
            print("".join(map(markdown_line, (row.cells() for row in rows))), end="", flush=True)
            if arguments.write:
                write_report(rows)


if __name__ == "__main__":
    main()
