"""What `watch` needs of its runs, a pytest plugin.

`--only=PATH` is for one of its keys: that path in place of those of the command line, whose options stay.
Which of the words are paths only pytest knows.
"""

from collections.abc import Generator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--only", metavar="PATH", help="run this, and not what else is named")


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    """Before xdist asks for the number of workers."""
    if config.option.only:
        config.args[:] = [config.option.only]
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Where testmon has left out every test, it says that all is well: then nothing has passed, either."""
    yield
    if session.exitstatus == pytest.ExitCode.OK and not session.testscollected:
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
