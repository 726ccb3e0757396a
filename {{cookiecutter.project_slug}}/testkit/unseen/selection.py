"""A pytest plugin that lets testmon leave out a test only if it has passed since the last change unseen by testmon."""

import os
import sys
import time
from collections import defaultdict
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from testkit.fixtures import SETUP
from testkit.unseen.notes import Notes, file_of

FINGERPRINTS = """
    SELECT filename, method_checksums FROM file_fp
    WHERE id IN (SELECT fingerprint_id FROM test_execution_file_fp)
"""
OUTPUT = "testkit_shared"  # of workers
SHARED = pytest.StashKey["Shared"]()
BEGUN = pytest.StashKey[int]()


class Shared:
    """The functions that are executed for several tests at once: while modules are imported, and by wide fixtures.

    Only in runs in which testmon learns, which take twice their time anyway.
    """

    def __init__(self) -> None:
        self.codes: set[CodeType] = set()
        self.others: dict[str, set[int]] = defaultdict(set)
        """The lines that workers have reported, by file."""

    def note(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            self.codes.add(frame.f_code)

    @contextmanager
    def noting(self) -> Iterator[None]:
        before = sys.getprofile()
        sys.setprofile(self.note)
        try:
            yield
        finally:
            sys.setprofile(before)

    def lines(self, root: Path) -> dict[str, list[int]]:
        """Returns the lines of these functions for each file below the folder `root`."""
        found = {name: set(lines) for name, lines in self.others.items()}
        top = f"{root}{os.sep}"
        for code in self.codes:
            # Leaves out modules and classes, which are not functions.
            if code.co_flags & CO_OPTIMIZED and code.co_filename.startswith(top):
                name = code.co_filename.removeprefix(top).replace(os.sep, "/")
                lines = {line for _, _, line in code.co_lines() if line}
                found.setdefault(name, set()).update(lines)
        return {name: sorted(lines) for name, lines in found.items()}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any]
    ) -> Generator[None, object, object]:
        if fixturedef.scope == "function":
            return (yield)
        with self.noting():
            return (yield)

    def pytest_collection_finish(self) -> None:
        sys.setprofile(None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        sys.setprofile(None)
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output[OUTPUT] = self.lines(session.config.rootpath)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        for name, lines in getattr(node, "workeroutput", {}).get(OUTPUT, {}).items():
            self.others[name].update(lines)


class Outcomes:
    """Collects the outcomes of the tests, in the process where all reports arrive."""

    def __init__(self, config: Any, notes: Notes, again: set[str]) -> None:
        self.config = config
        self.notes = notes
        self.again = again
        self.passed: set[str] = set()
        self.failed: set[str] = set()
        self.skipped: set[str] = set()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter and self.notes.changed and any(i.nodeid in self.again for i in session.items):
            reporter.write_line(f"What has changed in {self.notes.changed} may affect every test.")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.add(report.nodeid)
        elif report.skipped and not hasattr(report, "wasxfail"):
            self.skipped.add(report.nodeid)
        elif report.when == "teardown":
            self.passed.add(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        notes = Notes(self.notes.path)
        if notes.changes != self.notes.changes:  # by a run that has begun later
            return
        notes.passed |= self.passed
        # Why a test is skipped may be anything, such as a variable of the environment.
        notes.passed -= self.failed | self.skipped
        notes.skipped = (notes.skipped - self.passed) | self.skipped
        root = self.config.rootpath
        if self.config.testmon_config.collect and notes.are_outdated(root):
            notes.passed.clear()
            notes.traced.clear()
        elif self.config.testmon_config.collect:
            notes.traced |= self.passed | self.failed
            shared: Shared = self.config.stash[SHARED]
            notes.learn(root, shared.lines(root), executed(self.config.testmon_data.db.con))
        notes.write()


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Starts noting executed functions if testmon learns, before anything of the project is imported."""
    config: Any = pluginmanager.get_plugin("pytestconfig")
    config.stash[BEGUN] = time.time_ns()
    if not config.known_args_namespace.testmon_nocollect:
        config.stash[SHARED] = shared = Shared()
        pluginmanager.register(shared)
        sys.setprofile(shared.note)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: Any) -> None:
    """Runs after testmon's own hook, which has made its selection."""
    testmon = config.testmon_config
    if not testmon.select and not testmon.collect:
        return
    if testmon.collect:
        trace_every_test(config)
    notes = Notes(notes_of(config.rootpath))
    is_worker = hasattr(config, "workerinput")
    if not is_worker:
        setup = config.stash.get(SETUP, None)
        migrations = setup.migrations if setup else None
        test_modules = config.getini("python_files")
        notes.compare(config.rootpath, migrations, test_modules, config.stash[BEGUN])
        notes.write()
    again = run_again(config, notes) if testmon.select else set()
    if not is_worker:
        again = {test for test in again if file_of(test) not in notes.changed_tests}
        config.pluginmanager.register(Outcomes(config, notes, again - notes.skipped))


def trace_every_test(config: pytest.Config) -> None:
    """Makes coverage note every test that executes a line. From Python 3.14 on, its default is to note only the first.

    That is its issue 2200. Its tracer that can follow SQLAlchemy into greenlets notes all of them, so that one is
    requested.
    """
    from testmon import testmon_core

    patch = pytest.MonkeyPatch()
    coverage = partial(testmon_core.Coverage, concurrency=["thread", "greenlet"])
    patch.setattr(testmon_core, "Coverage", coverage)
    config.add_cleanup(patch.undo)


def run_again(config: Any, notes: Notes) -> set[str]:
    """Takes the tests that have to run again from those that testmon leaves out. Returns them."""
    selection: Any = config.pluginmanager.get_plugin("TestmonSelect")
    left_out = set(selection.deselected_tests)
    again = left_out - notes.passed
    if config.testmon_config.collect:
        again |= left_out - notes.traced
    selection.deselected_tests = left_out - again
    files = set(map(file_of, again))
    selection.deselected_files = set(selection.deselected_files) - files
    return again


def notes_of(root: Path) -> Path:
    """Beside testmon's data."""
    return root / f"{os.environ.get('TESTMON_DATAFILE', '.testmondata')}-seen"


def executed(data: Any) -> dict[str, set[int]]:
    """Returns for each file the checksums of the functions for which testmon knows a test that executes them.

    `data` is the connection to testmon's database.
    """
    from testmon.process_code import blob_to_checksums

    found: dict[str, set[int]] = defaultdict(set)
    for name, checksums in data.execute(FINGERPRINTS):
        found[name].update(blob_to_checksums(checksums))
    return found
