"""The whole test kit as one pytest plugin."""

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
    "testkit.unseen.plugin",  # before any module of the project is imported
]


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    # Not through `pytest_plugins`: for each name there, pytest searches all installed packages (2 ms).
    for plugin in PLUGINS + modules_of_conftests(pluginmanager):
        pluginmanager.import_plugin(plugin)


def modules_of_conftests(pluginmanager: pytest.PytestPluginManager) -> list[str]:
    """Returns the plugin modules that pytest would import next.

    Names without a dot are left out, as they may be names that packages give to their plugins.
    """
    wanted = [
        getattr(plugin, "pytest_plugins", ()) for _, plugin in pluginmanager.list_name_plugin()
    ]
    names = [name for names in wanted for name in ([names] if isinstance(names, str) else names)]
    return [name for name in names if "." in name]
