"""Pytest plugin that restores, after each test, shared state that single tests change.

A fixture with a wider scope may change such state too, for as long as the fixture lives.
"""

from collections.abc import Generator
from functools import partial
from typing import Any

import pytest

from testkit.resets import Restore, keep_between_examples


class Original:
    """A dictionary or a list, in the attribute `name` of `owner`."""

    def __init__(self, owner: object, name: str) -> None:
        self.place = vars(owner)
        self.name = name
        self.note()

    def present(self) -> Any:
        return self.place[self.name].copy()

    def note(self) -> None:
        self.value: Any = self.place[self.name]
        self.content = self.present()

    def note_since(self, before: Any) -> None:
        """Updates the noted content only with what has changed since `before`."""
        now = self.present()
        if isinstance(now, dict):
            self.content = {k: v for k, v in self.content.items() if k in now or k not in before}
            changed = {k: v for k, v in now.items() if k not in before or before[k] is not v}
            self.content |= changed
        else:
            self.content = [one for one in self.content if one in now or one not in before]
            self.content += [one for one in now if one not in before]

    def save(self) -> Restore:
        """Returns a function that restores the present content."""
        value, content = self.place[self.name], self.present()
        return partial(self._bring_back, value, content)

    def restore(self) -> None:
        self._bring_back(self.value, self.content)

    def _bring_back(self, value: Any, content: Any) -> None:
        self.place[self.name] = value
        value.clear()
        add = value.update if isinstance(value, dict) else value.extend
        add(content)


_originals: list[Original] = []
_ending: set[Any] = set()
"""Fixtures that are about to undo their own changes."""


def keep_between_tests(owner: object, *names: str) -> None:
    """Restores these attributes, which are dictionaries or lists, after each test. Takes about 2 us for each."""
    for name in names:
        original = Original(owner, name)
        _originals.append(original)
        keep_between_examples(original.save)


def _restore() -> None:
    for original in _originals:
        original.restore()


def _begin_end(fixture: pytest.FixtureDef[Any]) -> None:
    _restore()
    _ending.add(fixture)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
    if fixturedef.scope == "function":
        return (yield)
    before = [(original, original.present()) for original in _originals]
    try:
        return (yield)
    finally:
        for original, content in before:
            original.note_since(content)
        fixturedef.addfinalizer(partial(_begin_end, fixturedef))  # runs before its own finalizers


def pytest_fixture_post_finalizer(fixturedef: pytest.FixtureDef[Any]) -> None:
    if fixturedef in _ending:
        _ending.discard(fixturedef)
        for original in _originals:
            original.note()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown() -> Generator[None, object, object]:
    try:
        return (yield)
    finally:
        _restore()
