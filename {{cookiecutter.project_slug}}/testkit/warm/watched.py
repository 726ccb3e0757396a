"""A pytest plugin for the runs that `watch` starts.

`--only=PATH` serves one of its keys: this path replaces those on the command line, whose options remain. Only
pytest knows which of the words are paths.
"""

from collections.abc import Generator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--only", metavar="PATH", help="run this, and not what else is named")


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    """Applies `--only`, before xdist asks for the number of workers."""
    if config.option.only:
        config.args[:] = [config.option.only]
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Corrects the exit status if testmon left out every test: it reports success, although no test has passed."""
    yield
    if session.exitstatus == pytest.ExitCode.OK and not session.testscollected:
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
