"""The ledger: what every test cost in its last runs, and what the runs themselves cost.

One file of JSON lines. The first line is `{"ledger": 1, "crc32": ...}`, the version of the format and
a checksum of what follows: the runs, oldest first, and the tests, one line each:

    {"run": "1763730000123-4567", "seconds": 12.3, "tests": 230, ...}
    {"test": "tests/users/test_users.py::test_x", "last": {...}, "history": [[run, seconds, outcome,
     statements], ...], "markers": ["fast"]}

All times are in seconds, all memory is in bytes. `RUN` and `TEST` explain the figures.
The file keeps `KEPT_RUNS` runs, `KEPT_RESULTS` results of each test, and only those tests whose last
run is still kept. It is replaced as a whole, under a lock: readers always see a consistent state, and if
two runs end at the same time, both are recorded.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

from filelock import FileLock

VERSION = 1
KEPT_RUNS = 50
KEPT_RESULTS = 10
RECENT = 5  # results that say how fast a test can be
TEST_LINE = '{"test": "'
DECODER = json.JSONDecoder()

Record = dict[str, Any]

RUN = {
    "run": "its id: milliseconds since 1970, and the process",
    "seconds": "from the start of collection to the last test's end",
    "complete": "whether the whole suite was run",
    "tests": "how many tests were run",
    "outcomes": "how many passed, failed, ...",
    "python": "version",
    "database": "what the tests ran on",
    "workers": "processes of xdist; 0 is none",
    "options": "what else was special: the isolation, the driver, coverage, slow tests left out",
    "calibration": "what a fixed piece of work took in this run",
    "collection": "the longest collection of a process that ran tests",
    "imports": "packages that took longest to import, each without what it imports from others",
    "server": "until the database server and the template were ready",
    "worker_start": "until the slowest worker had collected",
    "forked": "whether workers were forked, or started as new interpreters",
    "setup": "of all tests together, as are the next ones",
    "call": "",
    "teardown": "",
    "isolation": "to begin and to undo the isolation of tests",
    "sql": "in statements, as the application waits for them",
    "statements": "SQL statements, without savepoints",
    "commits": "of sessions",
    "requests": "sent through httpx2 or httpx",
    "hashes": "of passwords, at the cost of production",
    "memory": "resident, at its peak, of the largest process that ran tests",
    "growth": "of it by 50 passed tests or more, without 5 kB a test of pytest's own and the 5 % "
    "that grew most and least",
    "fixtures": "name -> [scope, how often it was set up, seconds]",
    "shard": "`2/5`, or null",
    "shards": "of a run that was put together from shards: how many seconds each has taken",
    "elsewhere": "of a shard: the tests that belong to the others",
}
TEST = {
    "seconds": "set-up, call and tear-down, without fixtures that other tests share",
    "cpu": "the same in processor time; more, where several threads work at once",
    **dict.fromkeys(("setup", "call", "teardown", "isolation", "sql"), "as in a run"),
    **dict.fromkeys(("statements", "commits", "requests", "hashes"), "as in a run"),
    "memory": "growth of the process's resident memory",
    "fixtures": "the costliest ones: name -> seconds",
    "lines": "with `--ledger-memory`: [bytes, place] that allocated most of what is still there",
    "repeated": "[times, statement, place] of statements that came up again within one request",
    "outcome": "`passed`, `failed`, `skipped`, `xfailed`, `xpassed`",
}


class LedgerError(Exception):
    """The file cannot be used; the message says why and what to do."""


class DamagedLedgerError(LedgerError):
    """The file is not a ledger, or no longer a valid one."""


@dataclass
class Ledger:
    """What the file holds. Tests are parsed when they are asked for."""

    runs: list[Record] = field(default_factory=list)
    lines: dict[str, str] = field(default_factory=dict)
    stamp: tuple[int, ...] | None = None
    """Identifies the file that it was read from; it changes when the file is replaced."""

    def __contains__(self, nodeid: str) -> bool:
        return nodeid in self.lines

    def test(self, nodeid: str) -> Record:
        record: Record = json.loads(self.lines[nodeid])
        return record

    def tests(self) -> Iterator[Record]:
        return map(json.loads, self.lines.values())

    def seconds(self) -> dict[str, float]:
        """Returns for each test the least seconds it took recently."""
        return {record["test"]: fastest(record) for record in self.tests()}

    def add(self, run: Record, records: dict[str, Record]) -> None:
        self.runs.append(run)
        for nodeid, record in records.items():
            history = self.test(nodeid)["history"] if nodeid in self.lines else []
            markers = record.pop("markers", [])
            latest = [run["run"], record["seconds"], record["outcome"], record.get("statements", 0)]
            self.lines[nodeid] = _dump(
                {
                    "test": nodeid,
                    "markers": markers,
                    "last": record,
                    "history": [*history, latest][-KEPT_RESULTS:],
                }
            )
        if run.get("complete"):
            self.lines = {nodeid: line for nodeid, line in self.lines.items() if nodeid in records}
        self.forget()

    def forget(self) -> None:
        """Removes the oldest runs if there are too many, and the tests that have not been run since.

        The first to go are runs that tell nothing any more: partial runs all of whose tests have been run again.
        So fifty runs of one test, as `make watch` makes in an hour, push nothing else out.
        """
        if len(self.runs) <= KEPT_RUNS:
            return
        latest = set(map(_latest, self.lines.values()))
        by_use = sorted(
            self.runs, key=lambda run: (run["run"] in latest, bool(run.get("complete")))
        )
        forgotten = {run["run"] for run in by_use[:-KEPT_RUNS]}
        self.runs = [run for run in self.runs if run["run"] not in forgotten]
        if forgotten & latest:
            self.lines = {
                nodeid: line
                for nodeid, line in self.lines.items()
                if _latest(line) not in forgotten
            }


def _latest(line: str) -> str:
    """Returns the last run of a test from the end of its line; parsing 10,000 lines would take ten times as long."""
    start = line.rfind("[") + len('["')
    return line[start : line.find('"', start)]


def conditions_of(run: Record) -> tuple[object, ...]:
    """What has to be equal, for the times of two runs to be comparable."""
    names = ("complete", "workers", "python", "database", "shard")
    return (*(run.get(name) for name in names), tuple(run.get("options", ())))


def fastest(test: Record) -> float:
    """Returns the least seconds that a test took in its recent passed runs, or in its last one if none passed."""
    passed: list[float] = [
        seconds for _, seconds, outcome, _ in test["history"] if outcome == "passed"
    ]
    return min(passed[-RECENT:], default=float(test["last"]["seconds"]))


def new_run_id() -> str:
    return f"{time.time_ns() // 1_000_000}-{os.getpid()}"


def read(path: Path) -> Ledger:
    """Returns the ledger in this file, or an empty one if there is no file. Raises `LedgerError` if it is unusable."""
    ledger = Ledger()
    try:
        with path.open("rb") as file:
            ledger.stamp = _stamp(os.fstat(file.fileno()))
            content = file.read()
        header, *lines = content.decode().split("\n")
    except FileNotFoundError:
        return ledger
    except UnicodeDecodeError as error:
        raise _damaged(path, "it is not text") from error
    except OSError as error:
        raise LedgerError(f"The ledger {path} cannot be read: {error.strerror}.") from error
    checksum = _read_header(path, header)
    # Saves parsing the tests: with 10,000 of them, that would take ten times as long, in every run.
    is_as_written = checksum == crc32(memoryview(content)[content.find(b"\n") + 1 :])
    if lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 2):
        try:
            if line.startswith(TEST_LINE):
                if not is_as_written:
                    _check_test(json.loads(line))
                ledger.lines[_nodeid(line)] = line
            else:
                run = json.loads(line)
                _ = run["run"], run["tests"]
                ledger.runs.append(run)
        except (ValueError, TypeError, LookupError) as error:
            raise _damaged(path, f"line {number} is no record") from error
    return ledger


def _nodeid(line: str) -> str:
    nodeid = line[len(TEST_LINE) : line.find('"', len(TEST_LINE))]
    if "\\" in nodeid:
        nodeid = DECODER.raw_decode(line, len(TEST_LINE) - 1)[0]
    return nodeid


def _check_test(test: Record) -> None:
    _ = [(float(seconds), outcome) for _, seconds, outcome, _ in test["history"]][-1]
    _ = float(test["last"]["seconds"]), test["last"]["outcome"], [*test["markers"]]


def _damaged(path: Path, reason: str) -> DamagedLedgerError:
    return DamagedLedgerError(
        f"The ledger {path} is damaged: {reason}. Remove it to begin a new one."
    )


def _read_header(path: Path, line: str) -> int | None:
    """Returns the checksum of what follows; a file that was not written here may lack one."""
    try:
        header = json.loads(line)
        version = header["ledger"]
        checksum: int | None = header.get("crc32")
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise _damaged(path, "its first line is not its version") from error
    if version != VERSION:
        raise LedgerError(
            f"The ledger {path} has version {version}, and this test kit knows version {VERSION}. "
            "Take over the newer test kit, or remove the file."
        )
    return checksum


def set_aside(path: Path) -> Path:
    """Moves a damaged file out of the way. Returns its new place."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(aside)
    return aside


def write(path: Path, ledger: Ledger) -> None:
    """Replaces the file."""
    lines = [*map(_dump, ledger.runs), *ledger.lines.values(), ""]
    records = "\n".join(lines).encode()
    header = _dump({"ledger": VERSION, "crc32": crc32(records)})
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    with unfinished.open("wb") as file:
        file.write(f"{header}\n".encode())
        file.write(records)
    unfinished.replace(path)


def record(
    path: Path, run: Record, records: dict[str, Record], known: Ledger | None = None
) -> tuple[Ledger, Path | None]:
    """Adds a run to the file. Returns its new content, and the new place of an earlier file that was damaged.

    `known` is what was read from the file before; it is reused, and changed, if the file is still the same.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = None
    with FileLock(path.with_suffix(".lock")):
        try:
            is_known = known is not None and known.stamp == _stamp_of(path)
            ledger = known if known and is_known else read(path)
        except DamagedLedgerError:
            aside = set_aside(path)
            ledger = Ledger()
        ledger.add(run, records)
        write(path, ledger)
    return ledger, aside


def _stamp_of(path: Path) -> tuple[int, ...] | None:
    return _stamp(path.stat()) if path.exists() else None


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_mtime_ns, status.st_size


def merge(ledgers: Iterable[Ledger]) -> Ledger:
    """Combines several ledgers into one, with all their runs and all results of each test, up to the usual limits."""
    merged = Ledger()
    runs: dict[str, Record] = {}
    for ledger in ledgers:
        runs |= {run["run"]: run for run in ledger.runs}
        for nodeid, line in ledger.lines.items():
            if nodeid in merged.lines and merged.lines[nodeid] != line:
                line = _dump(_merged(merged.test(nodeid), json.loads(line)))
            merged.lines[nodeid] = line
    merged.runs = sorted(runs.values(), key=lambda run: _age(run["run"]))
    merged.forget()
    return merged


def _merged(one: Record, other: Record) -> Record:
    results = {result[0]: result for result in [*one["history"], *other["history"]]}
    history = sorted(results.values(), key=lambda result: _age(result[0]))
    newest = max(one, other, key=lambda test: _age(test["history"][-1][0]))
    return newest | {"history": history[-KEPT_RESULTS:]}


def _age(run: str) -> tuple[int, ...]:
    return tuple(map(int, run.split("-")))


def _dump(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False)
