"""What the ledger says about the suite, ready to be shown."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapreplace

from testkit.performance.budgets import Budgets
from testkit.performance.ledger import Ledger, LedgerError, Record, conditions_of, fastest

SHARDS = (2, 4, 8)


@dataclass(frozen=True)
class Share:
    """A part of a whole, in seconds."""

    name: str
    seconds: float
    remark: str = ""


@dataclass(frozen=True)
class Test:
    nodeid: str
    speed: str
    seconds: float
    """The least of the recent runs. Like `latest`, it leaves out fixtures that other tests share."""
    latest: float
    setup: float
    call: float
    teardown: float
    sql: float
    statements: int
    requests: int
    hashes: int
    memory: int
    outcome: str
    budget: float | None
    history: list[float]
    fixtures: dict[str, float]

    @property
    def is_over(self) -> bool:
        return self.budget is not None and self.seconds > self.budget


@dataclass(frozen=True)
class Repetition:
    """A statement that came up again and again within one request."""

    times: int
    statement: str
    place: str
    tests: list[str]


@dataclass(frozen=True)
class Overview:
    run: Record
    """The newest complete run, or the newest one if none is complete."""
    runs: list[Record]
    """The runs under the same conditions as `run`, whose times are comparable."""
    tests: list[Test]
    """Slowest first."""
    repetitions: list[Repetition]
    budgets: Budgets

    @property
    def phases(self) -> list[Share]:
        run = self.run
        others = max(run["call"] - run["sql"], 0.0)
        return [
            Share("set-up", run["setup"], "fixtures"),
            Share("SQL", run["sql"], f"{run['statements']:,} statements"),
            Share("call, without SQL", others, f"{run['requests']:,} requests"),
            Share("tear-down", run["teardown"]),
        ]

    @property
    def start_up(self) -> list[Share]:
        run = self.run
        imports = sorted(run["imports"].items(), key=lambda found: -found[1])
        slowest = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in imports[:5])
        return [
            Share("imports", sum(run["imports"].values()), slowest),
            Share("collection", run["collection"], "with what the tests import"),
            Share("database server and template", run["server"]),
            Share("workers", run["worker_start"], f"{run['workers']} of them"),
        ]

    @property
    def fixtures(self) -> list[tuple[str, str, int, float]]:
        """Name, scope, set-ups, seconds; costliest first."""
        found = [(name, *values) for name, values in self.run["fixtures"].items()]
        return sorted(found, key=lambda fixture: -fixture[3])

    @property
    def isolation(self) -> float:
        """The share of isolation in the time of all tests."""
        total: float = self.run["setup"] + self.run["call"] + self.run["teardown"]
        return float(self.run["isolation"]) / total if total else 0.0

    @property
    def over_budget(self) -> list[Test]:
        return [test for test in self.tests if test.is_over]

    @property
    def speeds(self) -> dict[str, int]:
        return dict(Counter(test.speed for test in self.tests))

    @property
    def shards(self) -> list[tuple[str, list[float]]]:
        """Pairs of a name and the seconds of each shard: first those of this run, then what others would take."""
        found = []
        if self.run.get("shards"):
            found.append(("this run", list(self.run["shards"].values())))
        return found + [(f"{count} shards", _planned(self.tests, count)) for count in SHARDS]


def overview_of(ledger: Ledger, budgets: Budgets) -> Overview:
    if not ledger.runs or not ledger.lines:
        raise LedgerError("Nothing is recorded yet: run the tests once, for example `make test`.")
    complete = [run for run in ledger.runs if run["complete"]]
    run = (complete or ledger.runs)[-1]
    alike = [other for other in ledger.runs if conditions_of(other) == conditions_of(run)]
    tests = [_test(record, budgets) for record in ledger.tests()]
    return Overview(
        run=run,
        runs=alike,
        tests=sorted(tests, key=lambda test: (-test.seconds, test.nodeid)),
        repetitions=list(_repetitions(ledger)),
        budgets=budgets,
    )


def _test(record: Record, budgets: Budgets) -> Test:
    last = record["last"]
    seconds = fastest(record)
    stated = [speed for speed in ("fast", "medium", "slow") if speed in record["markers"]]
    return Test(
        nodeid=record["test"],
        speed=stated[0] if stated else budgets.speed(seconds),
        seconds=seconds,
        latest=last["seconds"],
        **{name: last.get(name, 0.0) for name in ("setup", "call", "teardown", "sql")},
        **{name: last.get(name, 0) for name in ("statements", "requests", "hashes", "memory")},
        outcome=last["outcome"],
        budget=budgets.of_test(record),
        history=[result[1] for result in record["history"]],
        fixtures=last.get("fixtures", {}),
    )


def _repetitions(ledger: Ledger) -> Iterator[Repetition]:
    worst: dict[tuple[str, str], tuple[int, list[str]]] = {}
    for record in ledger.tests():
        for times, statement, place in record["last"].get("repeated", []):
            # A statement that comes up only twice is not a loop.
            if times > 2:
                earlier, tests = worst.get((statement, place), (0, []))
                worst[statement, place] = max(times, earlier), [*tests, record["test"]]
    for (statement, place), (times, tests) in sorted(worst.items(), key=lambda found: -found[1][0]):
        yield Repetition(times, statement, place, tests)


def _planned(tests: list[Test], count: int) -> list[float]:
    """Returns the seconds of each shard as pytest-split's "least duration" makes them: the longest test goes to the
    shortest shard."""
    shards = [0.0] * count
    for test in tests:
        heapreplace(shards, shards[0] + test.seconds)
    return sorted(shards)
