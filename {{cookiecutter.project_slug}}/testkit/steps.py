"""Pytest plugin that allows `async def` steps in pytest-bdd; it does nothing without pytest-bdd.

pytest-bdd only calls a step and uses its result, so an async step would never run.
"""

import asyncio
from collections.abc import Callable
from importlib import import_module
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import Any

import pytest

from testkit.supervision import set_up_once


def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.has_plugin("pytest-bdd"):
        return
    # Not a plain import: the function `pytest_bdd.scenario` hides the module of the same name.
    module = import_module("pytest_bdd.scenario")
    call: Callable[..., Any] | None = getattr(module, "call_fixture_func", None)
    if call is None:  # another version; an async step fails there, as it was never awaited
        return

    def call_step(
        fixturefunc: Callable[..., Any], request: pytest.FixtureRequest, kwargs: dict[str, Any]
    ) -> Any:
        if isasyncgenfunction(fixturefunc):
            pytest.fail(
                f"The step `{fixturefunc.__name__}` is async and yields: put that into a fixture."
            )
        if iscoroutinefunction(fixturefunc):
            loop: asyncio.AbstractEventLoop = set_up_once(request, "session_loop")
            return loop.run_until_complete(fixturefunc(**kwargs))
        return call(fixturefunc=fixturefunc, request=request, kwargs=kwargs)

    patch = pytest.MonkeyPatch()
    patch.setattr(module, "call_fixture_func", call_step)
    config.add_cleanup(patch.undo)
