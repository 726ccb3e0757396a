"""The pytest plugin: options, and who listens to which process."""

import functools
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest

from testkit.performance import ledger as ledgers
from testkit.performance.budgets import INI, Budgets, are_enforced
from testkit.performance.imports import IMPORTS
from testkit.performance.ledger import Ledger, LedgerError, Record
from testkit.performance.recorder import ATTRIBUTE, WORKER_OUTPUT, Recorder

FOLDER = ".performance"
CONFIRMATIONS = 2  # more runs of a test that is over its budget for the first time
MOST_CONFIRMED = 100  # tests; so many are not a hiccup
SUMS = ("setup", "call", "teardown", "isolation", "sql")
COUNTS = ("statements", "commits", "requests", "hashes")

DATABASE = pytest.StashKey[str]()
"""What the tests run on, for the ledger."""
DATABASE_FIXTURE = "testkit.fixtures:worker_database"

BOOKKEEPER = pytest.StashKey["Bookkeeper"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("testkit", "the test kit")
    group.addoption("--no-ledger", action="store_true", help="measure nothing, record nothing")
    group.addoption(
        "--ledger",
        metavar="FILE",
        default=f"{FOLDER}/ledger.jsonl",
        help="the file that keeps what the tests have cost (default: %(default)s)",
    )
    for name, (default, description) in INI.items():
        parser.addini(name, description, default=default)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    budgets = Budgets.of(config)
    is_worker = hasattr(config, "workerinput")
    is_controller = bool(config.getoption("tx", None)) and not is_worker
    bookkeeper = Bookkeeper(config, budgets)
    config.stash[BOOKKEEPER] = bookkeeper
    if is_controller or config.getoption("no_ledger") or config.option.collectonly:
        IMPORTS.stop()
    else:
        bookkeeper.recorder = Recorder(IMPORTS)
        config.pluginmanager.register(bookkeeper.recorder, "testkit-recorder")
    if not is_worker and not config.option.collectonly:
        config.pluginmanager.register(bookkeeper, "testkit-bookkeeper")


def speed(config: pytest.Config, nodeid: str) -> str:
    """`fast`, `medium` or `slow`, for a test without such a marker."""
    return config.stash[BOOKKEEPER].speed(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    # Workers must agree on what `-m fast` selects, whatever is written to the ledger meanwhile.
    node.workerinput["testkit_speeds"] = node.config.stash[BOOKKEEPER].slower_than_fast


class Bookkeeper:
    """Works where all reports arrive: in the only process, or in the controller of xdist."""

    def __init__(self, config: pytest.Config, budgets: Budgets) -> None:
        self.config = config
        self.budgets = budgets
        self.path = config.rootpath / config.getoption("ledger")
        self.recorder: Recorder | None = None
        self.records: dict[str, Record] = {}
        self.workers: list[Record] = []
        self.remarks: list[str] = []
        self.excesses: list[str] = []
        self.worker_start = 0.0
        self.server = 0.0

    @functools.cached_property
    def ledger(self) -> Ledger:
        """What was known before this run."""
        if self.config.getoption("no_ledger"):
            return Ledger()
        try:
            return ledgers.read(self.path)
        except ledgers.DamagedLedgerError:
            return Ledger()  # it is set aside, with a remark, when this run is recorded
        except LedgerError as error:
            if are_enforced():
                raise pytest.UsageError(str(error)) from None
            self.remarks.append(f"{error} This run is not recorded.")
            return Ledger()

    @functools.cached_property
    def slower_than_fast(self) -> dict[str, str]:
        speeds = {nodeid: self.budgets.speed(s) for nodeid, s in self.ledger.seconds().items()}
        return {nodeid: speed for nodeid, speed in speeds.items() if speed != "fast"}

    def speed(self, nodeid: str) -> str:
        speeds = getattr(self.config, "workerinput", {}).get("testkit_speeds")
        if speeds is not None:
            return str(speeds.get(nodeid, "fast"))
        if nodeid not in self.ledger:
            return "fast"
        return self.budgets.speed(ledgers.fastest(self.ledger.test(nodeid)))

    def pytest_sessionstart(self) -> None:
        self.start = time.perf_counter()
        _ = self.ledger

    @pytest.hookimpl(wrapper=True, optionalhook=True)
    def pytest_xdist_setupnodes(self) -> Generator[None, object, object]:
        start = time.perf_counter()
        try:
            return (yield)
        finally:
            self.workers_start = time.perf_counter()
            self.server = self.workers_start - start

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self) -> None:
        self.worker_start = time.perf_counter() - self.workers_start

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        output = getattr(node, "workeroutput", {}).get(WORKER_OUTPUT)
        if output:
            self.workers.append(output)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        record = getattr(report, ATTRIBUTE, None)
        if record is not None:
            self.records[report.nodeid] = record

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.recorder is not None:
            self.workers.append(self.recorder.summary())
        if not self.records or not self.workers or self.remarks:
            return
        run = self._run(session)
        try:
            aside = ledgers.record(self.path, run, self.records)
            if aside is not None:
                self.remarks.append(
                    f"The ledger {self.path} was damaged. It is now {aside}, and a new one begins."
                )
            self._judge(run)
        except LedgerError as error:
            self.remarks.append(str(error))
        except OSError as error:
            self.remarks.append(
                f"The ledger {self.path} cannot be written: {error.strerror}. "
                "Choose another file with --ledger, or none with --no-ledger."
            )
        if self.excesses and are_enforced() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _run(self, session: pytest.Session) -> Record:
        records = self.records.values()
        fixtures: dict[str, list[Any]] = {}
        for worker in self.workers:
            for name, (scope, count, seconds) in worker["fixtures"].items():
                total = fixtures.setdefault(name, [scope, 0, 0.0])
                total[1] += count
                total[2] = round(total[2] + seconds, 6)
        database = [worker["fixtures"].get(DATABASE_FIXTURE) for worker in self.workers]
        return {
            "run": ledgers.new_run_id(),
            "seconds": round(time.perf_counter() - self.start, 3),
            "complete": self._is_complete(session),
            "tests": len(records),
            "outcomes": dict(Counter(record["outcome"] for record in records)),
            "python": platform.python_version(),
            "database": self.config.stash.get(DATABASE, ""),
            "workers": len(self.workers) if self.recorder is None else 0,
            "calibration": min(worker["calibration"] for worker in self.workers),
            "collection": max(worker["collection"] for worker in self.workers),
            "imports": self.workers[0]["imports"],
            "server": round(self.server + max((f[2] for f in database if f), default=0.0), 4),
            "worker_start": round(self.worker_start, 4),
            **{name: round(sum(r.get(name, 0.0) for r in records), 4) for name in SUMS},
            **{name: sum(r.get(name, 0) for r in records) for name in COUNTS},
            "memory": max(worker["memory"] for worker in self.workers),
            "growth": max(worker["growth"] for worker in self.workers),
            "fixtures": fixtures,
            "shard": None,
        }

    def _is_complete(self, session: pytest.Session) -> bool:
        option = self.config.option
        chosen = (option.markexpr, option.keyword, option.deselect, option.maxfail)
        lf = self.config.getoption("lf", False) or self.config.getoption("stepwise", False)
        from_ini = self.config.args_source is not pytest.Config.ArgsSource.ARGS
        finished = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        return from_ini and finished and not any(chosen) and not lf

    def _judge(self, run: Record) -> None:
        now = ledgers.read(self.path)
        over = self.budgets.exceeded_by(now, self.records)
        if over and are_enforced() and "TESTKIT_CONFIRMS" not in os.environ:
            self._confirm(over, now)
            over = self.budgets.exceeded_by(ledgers.read(self.path), over)
        self.excesses += over.values()
        if run["complete"]:
            alike = [r for r in now.runs if r["complete"] and r["workers"] == run["workers"]]
            self.excesses += self.budgets.exceeded_by_suite(alike[-ledgers.RECENT :])

    def _confirm(self, nodeids: dict[str, str], known: Ledger) -> None:
        """Runs tests again of which nothing but this run is known."""
        new = [nodeid for nodeid in nodeids if len(known.test(nodeid)["history"]) <= CONFIRMATIONS]
        for _ in range(CONFIRMATIONS if 0 < len(new) <= MOST_CONFIRMED else 0):
            subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "--ledger", str(self.path), *new],
                cwd=self.config.rootpath,
                env=os.environ | {"TESTKIT_CONFIRMS": "1"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
            )

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.excesses:
            fails = are_enforced()
            terminalreporter.section("over budget", red=fails, yellow=not fails)
            for excess in sorted(self.excesses):
                terminalreporter.line(excess)
            terminalreporter.line(
                "Make them faster, give them another marker, or change the budgets in "
                f"pyproject.toml{'' if fails else '. In CI, this fails the run'}."
            )
        for remark in self.remarks:
            terminalreporter.line(remark, yellow=True)
