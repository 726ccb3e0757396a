"""`--only=PATH`, a pytest plugin: that path in place of those of the command line, whose options stay.

For a key of `watch`. Which of the words are paths only pytest knows.
"""

from collections.abc import Generator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--only", metavar="PATH", help="run this, and not what else is named")


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    """Before xdist asks for the number of workers."""
    config.args[:] = [config.option.only]
    return (yield)
