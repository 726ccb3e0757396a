"""What a run cost, combined from its processes or from its shards."""

import platform
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

from testkit.performance.ledger import Ledger, Record, new_run_id

SECONDS = ("setup", "call", "teardown", "isolation", "sql")
COUNTS = ("statements", "commits", "requests", "hashes")
WORST = ("memory", "growth", "collection", "server", "worker_start", "seconds")
DATABASE_FIXTURE = "testkit.fixtures:worker_database"

Fixtures = dict[str, list[Any]]


def run_of(
    records: Collection[Record], processes: list[Record], server: float, **values: Any
) -> Record:
    """Returns the record of a run in which `processes` ran the tests with these `records`."""
    fixtures = _added([process["fixtures"] for process in processes])
    databases = [process["fixtures"].get(DATABASE_FIXTURE) for process in processes]
    return {
        "run": new_run_id(),
        **values,
        "tests": len(records),
        "outcomes": dict(Counter(record["outcome"] for record in records)),
        "python": platform.python_version(),
        "calibration": min(process["calibration"] for process in processes),
        "collection": max(process["collection"] for process in processes),
        "imports": processes[0]["imports"],
        "server": round(server + max((found[2] for found in databases if found), default=0.0), 4),
        **{name: round(sum(r.get(name, 0.0) for r in records), 4) for name in SECONDS},
        **{name: sum(r.get(name, 0) for r in records) for name in COUNTS},
        "memory": max(process["memory"] for process in processes),
        "growth": max(process["growth"] for process in processes),
        "fixtures": fixtures,
        "elsewhere": processes[0]["elsewhere"],
    }


def run_of_shards(ledgers: list[Ledger]) -> Record:
    """The newest runs of these ledgers as one run."""
    runs = [ledger.runs[-1] for ledger in ledgers]
    outcomes: Counter[str] = Counter()
    for run in runs:
        outcomes.update(run["outcomes"])
    return runs[0] | {
        "complete": True,
        "tests": sum(run["tests"] for run in runs),
        "outcomes": dict(outcomes),
        **{name: max(run[name] for run in runs) for name in WORST},
        **{name: round(sum(run[name] for run in runs), 4) for name in SECONDS},
        **{name: sum(run[name] for run in runs) for name in COUNTS},
        "fixtures": _added([run["fixtures"] for run in runs]),
        "shard": None,
        "shards": {run["shard"]: run["seconds"] for run in runs},
        "elsewhere": [],
    }


def _added(all_fixtures: Iterable[Fixtures]) -> Fixtures:
    total: Fixtures = {}
    for fixtures in all_fixtures:
        for name, (scope, count, seconds) in fixtures.items():
            _, earlier_count, earlier_seconds = total.get(name, [scope, 0, 0.0])
            total[name] = [scope, earlier_count + count, round(earlier_seconds + seconds, 6)]
    return total
