"""All of the test kit as one pytest plugin."""

import pytest

PLUGINS = [
    "testkit.garbage",
    "testkit.warm.workers",
    "testkit.performance.plugin",
    "testkit.markers",
    "testkit.hints",
    "testkit.supervision",
    "testkit.steps",
    "testkit.fixtures",
]


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    # Not by `pytest_plugins`: for each of those, pytest looks through all packages (2 ms).
    for plugin in PLUGINS:
        pluginmanager.import_plugin(plugin)
