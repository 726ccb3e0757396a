"""Limits how many SQL statements a test may execute."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event

from testkit.call_site import call_site
from testkit.performance.counters import SAVEPOINTS

SHOWN = 20


@contextmanager
def recorded_statements() -> Iterator[list[str]]:
    """Yields a list that receives the statements of all engines as they are executed, each with the place it came
    from, without savepoints. Costs about 10 us per statement."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_args: Any) -> None:
        if not statement.startswith(SAVEPOINTS):
            statements.append(f"{' '.join(statement.split())}   [{call_site()}]")

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", note)


@contextmanager
def assert_queries(count: int | None = None, *, at_most: int | None = None) -> Iterator[list[str]]:
    """Fails and lists the SQL statements unless the block executes exactly `count`, or at most `at_most`, of them.

    with assert_queries(2):
        await client.get("/api/v1/products")
    with assert_queries(at_most=5):
        ...
    """
    if (count is None) == (at_most is None):
        raise TypeError("assert_queries() takes either a count or at_most")
    with recorded_statements() as statements:
        yield statements
    if count is not None and len(statements) != count:
        pytest.fail(_message(statements, f"exactly {count}"), pytrace=False)
    if at_most is not None and len(statements) > at_most:
        pytest.fail(_message(statements, f"at most {at_most}"), pytrace=False)


def _message(statements: list[str], expected: str) -> str:
    shown = [f"  {statement}" for statement in statements[:SHOWN]]
    if len(statements) > SHOWN:
        shown.append(f"  and {len(statements) - SHOWN} more")
    return "\n".join([f"{len(statements)} SQL statements, expected {expected}:", *shown])


def budget_of(item: pytest.Item) -> int | None:
    """Returns the number in the marker `query_budget`, if there is one. Raises `pytest.UsageError` if it is invalid."""
    marker = item.get_closest_marker("query_budget")
    if marker is None:
        return None
    match marker.args, marker.kwargs:
        case ((int(budget),), {}) if budget >= 0 and not marker.kwargs:
            return budget
    raise pytest.UsageError(
        f"{item.nodeid}: `query_budget` needs the number of SQL statements that the test may "
        "need, for example @pytest.mark.query_budget(5)"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        budget_of(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    budget = budget_of(item)
    if budget is None:
        return (yield)
    with assert_queries(at_most=budget):
        return (yield)
