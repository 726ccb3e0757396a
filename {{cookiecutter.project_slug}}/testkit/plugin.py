"""All of the test kit as one pytest plugin."""

import pytest

PLUGINS = [
    "testkit.garbage",
    "testkit.warm.workers",
    "testkit.performance.plugin",
    "testkit.markers",
    "testkit.hints",
    "testkit.tracebacks",
    "testkit.supervision",
    "testkit.originals",
    "testkit.steps",
    "testkit.databases.ahead",
    "testkit.fixtures",
    "testkit.unseen.plugin",  # before anything of the project is imported
]


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    # Not by `pytest_plugins`: for each of those, pytest looks through all packages (2 ms).
    for plugin in PLUGINS + modules_of_conftests(pluginmanager):
        pluginmanager.import_plugin(plugin)


def modules_of_conftests(pluginmanager: pytest.PytestPluginManager) -> list[str]:
    """What pytest would import next. One without a dot may be the name that a package gives its plugin."""
    wanted = [
        getattr(plugin, "pytest_plugins", ()) for _, plugin in pluginmanager.list_name_plugin()
    ]
    names = [name for names in wanted for name in ([names] if isinstance(names, str) else names)]
    return [name for name in names if "." in name]
