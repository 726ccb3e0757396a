"""Combines what all processes of a run report, writes it to the ledger, and checks it against the budgets."""

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from testkit.performance import ledger as ledgers
from testkit.performance.budgets import Budgets, are_enforced, skips_slow_tests
from testkit.performance.ledger import Ledger, LedgerError, Record
from testkit.performance.recorder import ATTRIBUTE, WORKER_OUTPUT, Recorder
from testkit.performance.runs import run_of
from testkit.warm.workers import are_forked

CONFIRMATIONS = 2  # extra runs of a test that is over its budget and has little history
MOST_CONFIRMED = 100  # tests; more than that are no hiccup
MEASURING = "TESTKIT_MEASURES"  # in the environment of runs that their caller judges
SPEEDS = "testkit_speeds"  # in the input of workers
# Options that may leave out some tests.
LEAVE_OUT = (
    *("markexpr", "keyword", "deselect", "ignore", "ignore_glob", "maxfail", "shard"),
    *("lf", "stepwise", "testmon", "testmon_forceselect", "tmnet"),
)

DATABASE = pytest.StashKey[str]()
"""The database that the tests run on."""
BOOKKEEPER = pytest.StashKey["Bookkeeper"]()


def bookkeeper_of(config: pytest.Config) -> "Bookkeeper":
    if BOOKKEEPER not in config.stash:
        config.stash[BOOKKEEPER] = Bookkeeper(config)
    return config.stash[BOOKKEEPER]


class Bookkeeper:
    """Works where all reports arrive: in the only process, or in the controller of xdist."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.budgets = Budgets.of(config.getini)
        self.path = config.rootpath / config.getoption("ledger")
        self.arguments = [*config.args]
        self.recorder: Recorder | None = None
        self.records: dict[str, str] = {}
        """The record of each test, as JSON, which takes a quarter of the memory."""
        self.workers: list[Record] = []
        self.remarks: list[str] = []
        self.excesses: list[str] = []
        self.worker_start = 0.0
        self.server = 0.0
        self.is_partial = False

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
        speeds = getattr(self.config, "workerinput", {}).get(SPEEDS)
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
        # Removed from the report, as pytest keeps all reports.
        record = vars(report).pop(ATTRIBUTE, None)
        if record is not None:
            self.records[report.nodeid] = json.dumps(record)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.recorder is not None:
            self.workers.append(self.recorder.summary())
        if not self.records or not self.workers or self.remarks:
            return
        records = {nodeid: json.loads(record) for nodeid, record in self.records.items()}
        run = self._run(session, list(records.values()))
        try:
            now, aside = ledgers.record(self.path, run, records, self.ledger)
            if aside is not None:
                self.remarks.append(
                    f"The ledger {self.path} was damaged. It is now {aside}, and a new one begins."
                )
            if MEASURING not in os.environ:
                self._judge(run, now)
        except LedgerError as error:
            self.remarks.append(str(error))
        except OSError as error:
            self.remarks.append(
                f"The ledger {self.path} cannot be written: {error.strerror}. "
                "Choose another file with --ledger=FILE, or none with --no-ledger."
            )
        if self.excesses and are_enforced() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _run(self, session: pytest.Session, records: list[Record]) -> Record:
        return run_of(
            records,
            self.workers,
            seconds=round(time.perf_counter() - self.start, 3),
            complete=self._is_complete(session),
            database=self.config.stash.get(DATABASE, ""),
            workers=len(self.workers) if self.recorder is None else 0,
            options=self._options(),
            server=self.server,
            worker_start=round(self.worker_start, 4),
            forked=self.recorder is None and are_forked(self.config),
            shard=self.config.getoption("shard", None),
        )

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self.is_partial = self.is_partial or bool(items)

    def _is_complete(self, session: pytest.Session) -> bool:
        """Whether all tests ran. The run is partial if some tests were left out, for whatever reason."""
        from_ini = self.config.args_source is not pytest.Config.ArgsSource.ARGS
        are_same = self.config.args == self.arguments  # a plugin may choose others
        finished = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        options = (self.config.getoption(name, None) for name in LEAVE_OUT)
        return from_ini and are_same and finished and not self.is_partial and not any(options)

    def _options(self) -> list[str]:
        try:
            isolation = self.config.getini("db_isolation")
        except ValueError:  # the part of the test kit that defines it is not in use
            isolation = ""
        found = {
            f"`{isolation}`": bool(isolation),
            "threaded driver": self.config.getoption("db_driver", "") == "threaded",
            "coverage": bool(self.config.getoption("cov_source", None)),
            "without slow tests": skips_slow_tests(),
        }
        return [name for name, is_so in found.items() if is_so]

    def _judge(self, run: Record, now: Ledger) -> None:
        over = self.budgets.exceeded_by(now, self.records)
        if over and are_enforced():
            over = self.budgets.exceeded_by(self._confirmed(over, now), over)
        self.excesses += over.values()
        if run["complete"]:
            alike = [r for r in now.runs if ledgers.conditions_of(r) == ledgers.conditions_of(run)]
            self.excesses += self.budgets.exceeded_by_suite(alike[-ledgers.RECENT :])

    def _confirmed(self, nodeids: dict[str, str], known: Ledger) -> Ledger:
        """Runs tests again that have too few results to tell whether they are slow. Returns what is known then.

        It is kept in a copy of the ledger, whose last run remains this one: shards are put together by it.
        """
        new = [nodeid for nodeid in nodeids if len(known.test(nodeid)["history"]) <= CONFIRMATIONS]
        if not 0 < len(new) <= MOST_CONFIRMED:
            return known
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, self.path.name)
            ledgers.write(copy, known)
            for _ in range(CONFIRMATIONS):
                subprocess.run(
                    [sys.executable, "-m", "pytest", "-q", "--ledger", str(copy), *new],
                    cwd=self.config.rootpath,
                    env=os.environ | {MEASURING: "1"},
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                )
            return ledgers.read(copy)

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
