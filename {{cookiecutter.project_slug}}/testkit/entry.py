"""The test kit as an installed pytest plugin, which is silent until a project binds it.

    [tool.pytest.ini_options]
    testkit = "tests/testkit_binding.py"

That module calls `use_database()` in its `pytest_configure`. It is imported before any `conftest.py`, so what
it seals is sealed when these import the application.
"""

import importlib.util
import sys
import traceback
from pathlib import Path

import pytest

from testkit.call_site import is_ours, relative

MODULE = "testkit_binding"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("testkit", "the module that tells the test kit about this project", default="")


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    name = early_config.getini("testkit")
    if not name:
        return
    path = early_config.rootpath / name
    if not path.is_file():
        raise pytest.UsageError(f"The setting `testkit` of pytest names {name}, which is no file.")
    early_config.pluginmanager.import_plugin("testkit.plugin")
    early_config.pluginmanager.register(_load(path, early_config.rootpath), MODULE)


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
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f"{relative(f.filename)}:{f.lineno}" for f in frames if is_ours(f.filename)]
        raise pytest.UsageError(
            f"{relative(str(path))} cannot be imported. At {ours[-1] if ours else 'its beginning'}: "
            f"{type(error).__name__}: {error}"
        ) from error
    return module
