"""The test kit as an installed pytest plugin, which is silent until a project binds it.

    [tool.pytest.ini_options]
    testkit = "tests.binding"

That module calls `use_database()`. It is imported before any `conftest.py`, so what it seals is sealed when
these import the application.
"""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("testkit", "the module that tells the test kit about this project", default="")


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    module = early_config.getini("testkit")
    if not module:
        return
    early_config.pluginmanager.import_plugin("testkit.plugin")
    try:
        early_config.pluginmanager.import_plugin(module)
    except ImportError as error:
        cause = error.__cause__ or error.__context__ or error
        raise pytest.UsageError(
            f"The setting `testkit` of pytest names `{module}`, which cannot be imported: {cause}. It is a "
            'module of this project; `pythonpath = ["."]` lets pytest find it.'
        ) from error
