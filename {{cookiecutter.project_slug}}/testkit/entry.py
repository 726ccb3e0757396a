"""The test kit as an installed pytest plugin, which does nothing until a project binds it.

    [tool.pytest.ini_options]
    testkit = "tests/testkit_binding.py"

That module defines `SETUP`, a `DatabaseSetup`. It is imported before any `conftest.py`, so the settings that it seals
are sealed by the time a `conftest.py` imports the application. Without this option, no other part of the kit is
imported.
"""

import importlib.util
import sys
import traceback
from pathlib import Path

import pytest

MODULE = "testkit_binding"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("testkit", "the module that tells the test kit about this project", default="")


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    name = early_config.getini("testkit")
    if not name:
        return
    path = early_config.rootpath / name
    if not path.is_file():
        raise pytest.UsageError(
            f"The setting `testkit` of pytest names {name}, which does not exist."
        )
    early_config.pluginmanager.import_plugin("testkit.plugin")
    module = _load(path, early_config.rootpath)
    from testkit.databases import DatabaseSetup
    from testkit.fixtures import use_database

    setup = getattr(module, "SETUP", None)
    if not isinstance(setup, DatabaseSetup):
        raise pytest.UsageError(f"{name} defines no `SETUP`, which has to be a `DatabaseSetup`.")
    early_config.pluginmanager.register(module, MODULE)
    use_database(early_config, setup)


def _load(path: Path, root: Path) -> object:
    if str(root) not in sys.path:  # as for a `conftest.py`, which has not been imported yet
        sys.path.insert(0, str(root))
    spec = importlib.util.spec_from_file_location(MODULE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        from testkit.call_site import is_ours, relative

        frames = traceback.extract_tb(error.__traceback__)
        places = [f"{relative(f.filename)}:{f.lineno}" for f in frames if is_ours(f.filename)]
        if isinstance(error, SyntaxError) and error.filename:
            places.append(f"{relative(error.filename)}:{error.lineno}")
        what = f"{type(error).__name__}: {error}"
        raise pytest.UsageError(
            f"{relative(str(path))} cannot be imported. {what}, at {places[-1] if places else path}"
        ) from error
    return module
