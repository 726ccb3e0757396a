"""Makes every example of a hypothesis test start from the same database, as every test does."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

import pytest

from testkit.eager import run
from testkit.faults import note_fault
from testkit.isolation import Isolation
from testkit.leftovers import Task
from testkit.resets import Restore, save_all


def has_examples(item: pytest.Item) -> bool:
    """Whether this is a hypothesis test."""
    return getattr(getattr(item, "obj", None), "is_hypothesis_test", False)


@contextmanager
def isolated_examples(item: Any, isolation: Isolation, earlier_tasks: set[Task]) -> Iterator[None]:
    """Undoes each example, back to what the fixtures arranged. Takes about 1 ms per example."""
    worker = isolation.worker
    _adapt_settings(item.obj)
    handle = item.obj.hypothesis
    inner = handle.inner_test
    bring_back: Restore | None = None

    async def begin() -> None:
        nonlocal bring_back
        if bring_back is None:
            await worker.push_baseline()
            bring_back = save_all()

    async def end() -> None:
        if leaks := await isolation.end(earlier_tasks):
            note_fault(f"An example of {item.nodeid} left open: {'; '.join(leaks)}")
        await worker.finish_cleaning()
        assert bring_back is not None
        bring_back()
        await isolation.begin()

    @wraps(inner)
    async def async_example(*args: Any, **kwargs: Any) -> None:
        await begin()
        try:
            await inner(*args, **kwargs)
        finally:
            await end()

    @wraps(inner)
    def example(*args: Any, **kwargs: Any) -> None:
        run(worker.loop, begin())
        try:
            inner(*args, **kwargs)
        finally:
            run(worker.loop, end())

    handle.inner_test = async_example if iscoroutinefunction(inner) else example
    try:
        yield
    finally:
        handle.inner_test = inner
        if bring_back is not None:
            run(worker.loop, isolation.end(earlier_tasks))
            run(worker.loop, worker.pop_baseline())
            run(worker.loop, isolation.begin())


def _adapt_settings(test: Any) -> None:
    """Allows function-scoped fixtures, and drops the default deadline.

    Sharing fixtures between examples is not a mistake here. The first example may be slower, as it may load what the
    others find loaded, so only a deadline that the test itself sets counts.
    """
    hypothesis = sys.modules["hypothesis"]
    settings = test._hypothesis_internal_use_settings
    check = hypothesis.HealthCheck.function_scoped_fixture
    stated = settings.deadline != hypothesis.settings.default.deadline
    function = getattr(test, "__func__", test)
    function._hypothesis_internal_use_settings = hypothesis.settings(
        settings,
        suppress_health_check=list({*settings.suppress_health_check, check}),
        deadline=settings.deadline if stated else None,
    )
