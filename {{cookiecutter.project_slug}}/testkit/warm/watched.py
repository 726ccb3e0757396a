"""A pytest plugin for the runs that `watch` starts.

`--only=PATH` serves one of its keys: this path replaces those on the command line, whose options remain. Only
pytest knows which of the words are paths. `--again` serves another one: it runs what the last run with `--remember`
that had any tests has run.
"""

from collections.abc import Generator

import pytest

REMEMBERED = "testkit/watched"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--only", metavar="PATH", help="run this, and not what else is named")
    parser.addoption("--remember", action="store_true", help="remember which tests are run")
    parser.addoption("--again", action="store_true", help="run those that were remembered")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sees what testmon, `-k` and the like have left."""
    cache = getattr(config, "cache", None)
    if cache is not None and config.option.remember and items:
        cache.set(REMEMBERED, [item.nodeid for item in items])
    elif cache is not None and config.option.again:
        remembered = set(cache.get(REMEMBERED, ()))
        config.hook.pytest_deselected(items=[i for i in items if i.nodeid not in remembered])
        items[:] = [item for item in items if item.nodeid in remembered]


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    """Applies `--only`, before xdist asks for the number of workers."""
    if config.option.only:
        config.args[:] = [config.option.only]
    return (yield)


class Stopped:
    """Tells the end that pytest makes of a run, when a file cannot be collected for example, from Ctrl-C: they have
    the same exit status."""

    is_failure = False

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """pytest, and xdist, have exceptions of their own, which are `KeyboardInterrupt`s as well."""
        kind = excinfo.type
        self.is_failure = issubclass(kind, KeyboardInterrupt) and kind is not KeyboardInterrupt

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        yield
        if self.is_failure and session.exitstatus == pytest.ExitCode.INTERRUPTED:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Stopped())


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Corrects the exit status if testmon left out every test: it reports success, although no test has passed."""
    yield
    if session.exitstatus == pytest.ExitCode.OK and not session.testscollected:
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
