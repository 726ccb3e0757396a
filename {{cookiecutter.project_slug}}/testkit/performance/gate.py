"""Compares the suite with a baseline: has anything become slower?

Times are medians of several runs, in one process and one order, in units of a calibration that is
measured in each run: a slower or busier machine makes both longer. When something seems slower, all tests
are run again, and it counts only if the fastest of these runs is slower as well. (All of them, because the
first test to use something often pays for the others.) Numbers of SQL statements and set-ups need no such
care.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from testkit.performance import ledger as ledgers
from testkit.performance.bookkeeper import MEASURING
from testkit.performance.ledger import Ledger, Record

VERSION = 1
BASELINE_RUNS = 5
CHECK_RUNS = 3
CONFIRMING_RUNS = 3
TOLERANCE = 1.2
FLOOR = 0.01  # seconds by which a test may become slower in any case
SHARED_FLOOR = 0.1  # the same for a fixture that several tests share
PHASES = ("setup", "call", "teardown")
SCOPES = ("function", "class", "module", "package", "session")
MOST_SHOWN = 20


class GateError(Exception):
    """The comparison is not possible; the message says why and what to do."""


@dataclass
class Sample:
    """Several runs of the same tests."""

    ledgers: list[Ledger]

    def __post_init__(self) -> None:
        self.tests: dict[str, list[Record]] = {}
        """For each test, one record per run, with times in units of the calibration."""
        for ledger in self.ledgers:
            calibration = ledger.runs[-1]["calibration"]
            for test in ledger.tests():
                last = test["last"]
                # The threads of a test may find fewer processors free than they did before.
                last["seconds"] = max(last["seconds"], last["cpu"])
                last["units"] = {name: last[name] / calibration for name in ("seconds", *PHASES)}
                self.tests.setdefault(test["test"], []).append(last)
        calibrations = [float(ledger.runs[-1]["calibration"]) for ledger in self.ledgers]
        self.calibration = statistics.median(calibrations)

    def median(self, nodeid: str, name: str) -> float:
        values = [float(record["units"][name]) for record in self.tests[nodeid]]
        return statistics.median(values)

    def fastest(self, nodeid: str) -> float:
        return min(float(record["units"]["seconds"]) for record in self.tests[nodeid])

    def statements(self, nodeid: str) -> list[int]:
        return [record.get("statements", 0) for record in self.tests[nodeid]]

    def fixtures(self) -> dict[str, tuple[str, int, float]]:
        """Returns for each fixture its scope, its lowest number of set-ups, and its least units of time."""
        found: dict[str, tuple[str, int, float]] = {}
        for ledger in self.ledgers:
            run = ledger.runs[-1]
            for name, (scope, count, seconds) in run["fixtures"].items():
                units = seconds / run["calibration"]
                _, least_count, least = found.get(name, (scope, count, units))
                found[name] = scope, min(count, least_count), min(units, least)
        return found


def measure(runs: int, arguments: Sequence[str]) -> Sample:
    """Runs the tests `runs` times, each time in one process. Raises `GateError` if they fail."""
    found = []
    with tempfile.TemporaryDirectory(prefix="testkit-") as directory:
        for number in range(runs):
            path = Path(directory) / f"{number}.jsonl"
            command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:randomly"]
            result = subprocess.run(
                [*command, "--ledger", str(path), *arguments],
                env=os.environ | {MEASURING: "1"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
            if result.returncode:
                end = "\n".join((result.stdout + result.stderr).splitlines()[-20:])
                raise GateError(f"The tests have to pass before they are compared.\n\n{end}")
            found.append(ledgers.read(path))
    return Sample(found)


def make_baseline(path: Path, arguments: Sequence[str]) -> str:
    """Measures the suite and stores the result. Returns what to tell the user."""
    sample = measure(BASELINE_RUNS, arguments)
    run = sample.ledgers[-1].runs[-1]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(
        json.dumps(
            {
                "baseline": VERSION,
                "python": run["python"],
                "database": run["database"],
                "arguments": list(arguments),
                "runs": [
                    {"run": ledger.runs[-1], "tests": list(ledger.tests())}
                    for ledger in sample.ledgers
                ],
            }
        ),
        encoding="utf-8",
    )
    unfinished.replace(path)
    return f"The baseline of {run['tests']} tests is in {path}: {BASELINE_RUNS} runs."


def read_baseline(path: Path) -> tuple[Sample, Record]:
    again = "Make one with `make perf-baseline`, on a tree that is as fast as it should be."
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        version = stored["baseline"]
    except FileNotFoundError:
        raise GateError(f"There is no baseline in {path}. {again}") from None
    except OSError as error:
        raise GateError(f"The baseline {path} cannot be read: {error.strerror}.") from None
    except (ValueError, TypeError, KeyError):
        raise GateError(f"The baseline {path} is damaged. {again}") from None
    if version != VERSION:
        raise GateError(
            f"The baseline {path} has version {version}, and this test kit knows {VERSION}. {again}"
        )
    try:
        sample = Sample(
            [
                Ledger([run["run"]], {test["test"]: json.dumps(test) for test in run["tests"]})
                for run in stored["runs"]
            ]
        )
        made_on = stored["python"].rsplit(".", 1)[0], stored["database"]
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError):
        raise GateError(f"The baseline {path} is damaged. {again}") from None
    here = platform.python_version().rsplit(".", 1)[0]
    if made_on[0] != here:
        raise GateError(
            f"The baseline {path} was made on Python {made_on[0]}, and this is {here}. {again}"
        )
    return sample, stored


def check(path: Path, arguments: Sequence[str]) -> tuple[list[str], str]:
    """Returns a paragraph for each thing that became slower, and a line about the comparison as a whole."""
    base, stored = read_baseline(path)
    arguments = arguments or stored["arguments"]
    now = measure(CHECK_RUNS, arguments)
    database = now.ledgers[-1].runs[-1]["database"]
    if database != stored["database"]:
        raise GateError(
            f"The baseline {path} was made on {stored['database']}, and these tests run on "
            f"{database}. Make one with `make perf-baseline`."
        )
    common = [nodeid for nodeid in now.tests if nodeid in base.tests]
    if not common:
        raise GateError(
            "None of these tests is in the baseline. Make one with `make perf-baseline`."
        )
    slower = [
        nodeid for nodeid in common if _is_slower(base, now, nodeid, now.median(nodeid, "seconds"))
    ]
    is_whole = len(common) == len(base.tests) == len(now.tests)
    if slower or any(_slower_fixtures(base, now, is_whole=is_whole)):
        again = measure(CONFIRMING_RUNS, arguments)
        slower = [
            nodeid for nodeid in slower if _is_slower(base, again, nodeid, again.fastest(nodeid))
        ]
        now.tests |= {nodeid: again.tests[nodeid] for nodeid in slower}
        now.ledgers += again.ledgers
    more = [nodeid for nodeid in common if _needs_more_statements(base, now, nodeid)]
    # The fixtures first, as they explain why many tests became slower.
    found = list(_slower_fixtures(base, now, is_whole=is_whole))
    found += [_explain(base, now, nodeid) for nodeid in dict.fromkeys([*slower, *more])]
    new = len(now.tests) - len(common)
    line = (
        f"{len(common)} tests compared, {CHECK_RUNS} runs; a fixed piece of work takes "
        f"{now.calibration / base.calibration:.2f}x as long as it did for the baseline"
    )
    if new:
        line += f"; {new} tests are new and not in the baseline"
    return found, f"{line}."


def _is_slower(base: Sample, now: Sample, nodeid: str, units: float) -> bool:
    limit = base.median(nodeid, "seconds") * TOLERANCE + FLOOR / base.calibration
    return units > limit


def _needs_more_statements(base: Sample, now: Sample, nodeid: str) -> bool:
    return bool(min(now.statements(nodeid)) > max(base.statements(nodeid)) * TOLERANCE)


def _explain(base: Sample, now: Sample, nodeid: str) -> str:
    scale = base.calibration

    def seconds(sample: Sample, name: str) -> float:
        return sample.median(nodeid, name) * scale

    phase = max(PHASES, key=lambda name: seconds(now, name) - seconds(base, name))
    gained = seconds(now, phase) - seconds(base, phase)
    total = f"{seconds(now, 'seconds'):.3f} s, was {seconds(base, 'seconds'):.3f} s"
    lines = [f"{nodeid}: {total}, {gained:+.3f} s in its {phase}"]
    before, after = base.tests[nodeid][-1], now.tests[nodeid][-1]
    for name, what in (
        ("statements", "SQL statements"),
        ("hashes", "password hashes at production cost"),
        ("requests", "requests"),
    ):
        if after.get(name, 0) > before.get(name, 0):
            lines.append(f"  {after[name]} {what}, up from {before.get(name, 0)}")
    for times, statement, place in after.get("repeated", []):
        if [times, statement, place] not in before.get("repeated", []):
            lines.append(f"  {times} times in one request, at {place}: {statement}")
    if after.get("sql", 0) - before.get("sql", 0) > gained / 2 > 0:
        lines.append(f"  SQL takes {after['sql']:.3f} s, was {before.get('sql', 0):.3f} s")
    earlier = before.get("fixtures", {})
    for name, taken in after.get("fixtures", {}).items():
        if taken - earlier.get(name, 0) > FLOOR:
            lines.append(f"  fixture {name} takes {taken:.3f} s, was {earlier.get(name, 0):.3f} s")
    if len(lines) == 1:
        lines.append("  neither SQL nor a fixture: it is code of the test, or what it calls")
    return "\n".join(lines)


def _slower_fixtures(base: Sample, now: Sample, *, is_whole: bool) -> Iterator[str]:
    before, after = base.fixtures(), now.fixtures()
    for name in before.keys() & after.keys():
        scope, count, units = after[name]
        earlier_scope, earlier_count, earlier_units = before[name]
        taken, took = units * base.calibration, earlier_units * base.calibration
        seconds = f"{taken:.3f} s in all, was {took:.3f} s"
        if SCOPES.index(scope) < SCOPES.index(earlier_scope) and count > earlier_count:
            yield (
                f"fixture {name}: {seconds}\n"
                f"  set up {count} times, up from {earlier_count}: its scope is {scope}, was {earlier_scope}"
            )
        elif is_whole and scope != "function" and taken > took * TOLERANCE + SHARED_FLOOR:
            yield f"fixture {name}: {seconds}"


def summary(found: list[str], line: str) -> Iterator[str]:
    """What to print."""
    for paragraph in found[:MOST_SHOWN]:
        yield paragraph
        yield ""
    if len(found) > MOST_SHOWN:
        yield f"and {len(found) - MOST_SHOWN} more\n"
    verdict = f"{len(found)} became slower." if found else "Nothing became slower."
    yield f"{verdict} {line}"
