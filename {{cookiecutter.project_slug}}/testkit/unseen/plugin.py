"""A pytest plugin that loads `selection` in runs with testmon. Other runs import nothing of it."""

from typing import Any

import pytest


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    config: Any = pluginmanager.get_plugin("pytestconfig")
    if getattr(config.known_args_namespace, "testmon", False):
        pluginmanager.import_plugin("testkit.unseen.selection")
