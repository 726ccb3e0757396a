"""How often a test fails: `pytest -p testkit.performance.diagnosis.flaky --times 50`."""

from collections import Counter

import pytest

from testkit.performance.diagnosis.passes import run_passes

runs: Counter[str] = Counter()
failures: Counter[str] = Counter()
reasons: dict[str, Counter[str]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("testkit").addoption(
        "--times", type=int, default=50, help="how often to run each test (default: %(default)s)"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("times") < 1:
        raise pytest.UsageError("--times is the number of runs of each test: write 1 or more")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    run_passes(session, session.config.getoption("times"))
    return True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "setup":
        runs[report.nodeid] += 1
    if report.failed:
        failures[report.nodeid] += 1
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = str(crash.message if crash else report.longrepr).partition("\n")[0]
        reasons.setdefault(report.nodeid, Counter())[f"{report.when}: {reason}"] += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("flaky tests")
    for nodeid, number in failures.most_common():
        terminalreporter.write_line(f"{nodeid} failed {number} of {runs[nodeid]} times")
        for reason, times in reasons[nodeid].most_common():
            terminalreporter.write_line(f"  {times} x {reason}")
    if runs and not failures:
        times = max(runs.values())
        terminalreporter.write_line(f"none: {len(runs)} tests passed {times} times each")
