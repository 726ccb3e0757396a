"""Reports what is bound, what is slow and what is unsafe in a project, with remedies.

The tests are collected but not run; what is slow is read from the ledger.
"""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from testkit.call_site import relative
from testkit.databases import DatabaseSetup, TemplateError, describe_database, prepare
from testkit.environment import VARIABLES, settings_of_project
from testkit.fixtures import SETUP, UNBOUND
from testkit.performance.budgets import Budgets
from testkit.performance.ledger import Ledger, LedgerError, fastest, read
from testkit.warm.libraries import imported, leave_as_they_are

SHOWN = 3  # how many slow tests are named
MANY = 20  # one test in this many may hash a password at production's cost
COSTLY_IMPORT = 0.3  # seconds
# Packages that the tests of every project need.
NEEDED = {"fastapi", "pydantic", "pytest", "sqlalchemy", "starlette"}
COSTLY_FIXTURE = 0.05  # as a share of the time of all tests
STRICT = {
    "disable_socket": "Nothing keeps tests from the network: add `--disable-socket --allow-unix-socket` of "
    "pytest-socket to `addopts`.",
    "strict_markers": "A marker that is misspelt marks nothing: add `--strict-markers` to `addopts`.",
}
WRITTEN = {".performance/": "The ledger", ".testmondata*": "What the watch mode knows"}
LOOPS = ("asyncio_default_fixture_loop_scope", "asyncio_default_test_loop_scope")


@dataclass
class Examination:
    """A pytest plugin that looks at what has been collected."""

    bound: list[str] = field(default_factory=list)
    unsafe: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        config = session.config
        setup = config.stash.get(SETUP, None)
        if setup is None:  # then the kit's settings do not exist either
            self.unsafe.append(UNBOUND)
            return
        self.bound += self._bindings(config, setup, session.items)
        self.unsafe += self._dangers(config, session.items)
        self.slow += self._costs(config)

    def _bindings(
        self, config: pytest.Config, setup: DatabaseSetup, items: list[pytest.Item]
    ) -> Iterator[str]:
        yield f"Database: {describe_database(setup)}"
        self.unsafe += _template_problems(setup, config)
        migrations = relative(str(setup.migrations)) if setup.migrations else "none"
        yield f"Migrations: {migrations}, {_count(len(setup.metadata.tables), 'table')} in the models"
        users = sum("database_isolation" in getattr(item, "fixturenames", ()) for item in items)
        isolation = config.getini("db_isolation")
        yield f"Tests: {len(items):,}, of which {users:,} use the database; isolation `{isolation}`"
        if VARIABLES:
            yield f"Settings: {len(VARIABLES)} variables are sealed"

    def _dangers(self, config: pytest.Config, items: list[pytest.Item]) -> Iterator[str]:
        if not VARIABLES and any(settings_of_project()):
            yield (
                "Settings may come from a shell or a `.env`: call `seal(Settings, values)` of "
                "`testkit.environment` before anything reads them."
            )
        for option, remedy in STRICT.items():
            is_implied = option == "strict_markers" and _ini(config, "strict")
            if not config.getoption(option, False) and not _ini(config, option) and not is_implied:
                yield remedy
        errors = [line for line in config.getini("filterwarnings") if line.startswith("error")]
        if "error" not in errors and not any("UnraisableException" in line for line in errors):
            yield (
                "Exceptions in threads and in clean-ups are only warnings: add "
                "`error::pytest.PytestUnraisableExceptionWarning` and "
                "`error::pytest.PytestUnhandledThreadExceptionWarning` to `filterwarnings`."
            )
        for name in LOOPS:
            if _ini(config, name) != "session":
                yield (
                    f'Tests and their fixtures run in different event loops: set `{name} = "session"`.'
                )
        names = {name for item in items for name in getattr(item, "fixturenames", ())}
        if "event_loop" in names:
            yield "A fixture `event_loop` of your own is in the way of pytest-asyncio: remove it."
        ignored = config.rootpath / ".gitignore"
        listed = ignored.read_text() if ignored.exists() else ""
        for name, what in WRITTEN.items():
            if name.rstrip("/*") not in listed:
                yield f"{what} would be committed: add `{name}` to `.gitignore`."

    def _costs(self, config: pytest.Config) -> Iterator[str]:
        try:
            ledger = read(config.rootpath / config.getoption("ledger"))
        except LedgerError as error:
            yield str(error)
            return
        if not ledger.runs:
            yield "Nothing is known yet: run the tests once, and ask again."
            return
        budgets = Budgets.of(config.getini)
        run = ledger.runs[-1]
        if run["hashes"] > run["tests"] / MANY:
            yield (
                f"{run['hashes']:,} passwords were hashed or verified at the cost of production: lower the cost in "
                "the settings of the tests."
            )
        yield from _slow_tests(ledger, budgets)
        everything = run["setup"] + run["call"] + run["teardown"]
        for name, (scope, times, seconds) in run["fixtures"].items():
            if scope == "function" and seconds > COSTLY_FIXTURE * everything and seconds > 1:
                yield (
                    f"The fixture `{name.partition(':')[2]}` was set up {times:,} times, {seconds:.1f} s in all: "
                    "give it a wider scope, or make it cheaper."
                )
        for package, seconds in run["imports"].items():
            if seconds > COSTLY_IMPORT and package not in NEEDED:
                yield (
                    f"Every run imports `{package}` for {seconds:.1f} s: import it where it is used, if few tests do."
                )


def _slow_tests(ledger: Ledger, budgets: Budgets) -> Iterator[str]:
    taken = sorted(((fastest(test), str(test["test"])) for test in ledger.tests()), reverse=True)
    slow = [(seconds, name) for seconds, name in taken if budgets.speed(seconds) != "fast"]
    for seconds, name in slow[:SHOWN]:
        yield (
            f"{name} takes {seconds:.2f} s: `pytest -p testkit.performance.diagnosis.profile` with its name "
            "says what for."
        )
    if len(slow) > SHOWN:
        yield f"{len(slow) - SHOWN:,} more are not fast: `python -m testkit.performance table` lists them."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _template_problems(setup: DatabaseSetup, config: pytest.Config) -> Iterator[str]:
    """Yields the reason why no test could start, if there is one."""
    try:
        with prepare(setup, config):
            pass
    except TemplateError as error:
        yield str(error).replace("\n", "\n  ")
    except pytest.UsageError as error:
        yield str(error)


def _ini(config: pytest.Config, name: str) -> object:
    try:
        return config.getini(name)
    except ValueError:
        return None


def examine() -> int:
    """Prints the findings. Returns 0 if nothing is unsafe, 1 otherwise, and 2 if the tests cannot be collected."""
    found = Examination()
    said = io.StringIO()
    leave_as_they_are(imported())  # what this command imported before pytest started
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = pytest.main(["--collect-only", "-q", "--no-header", "-p", "no:randomly"], [found])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        print(f"The tests cannot be collected:\n\n{said.getvalue().strip()}")
        return 2
    for title, findings in (
        ("Bound", found.bound),
        ("Unsafe", found.unsafe or ["nothing"]),
        ("Slow", found.slow or ["nothing"]),
    ):
        print(f"{title}")
        print("\n".join(f"  {finding}" for finding in findings))
    return int(bool(found.unsafe))
