"""Shows the SQL of a test with its query plans: `pytest -p testkit.performance.diagnosis.explain`.

Each statement is explained before it is executed, by the database in use and with the test's own rows.
The plans are therefore those of a small database: look for tables that are scanned, not for costs.
"""

from collections.abc import Generator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from testkit.call_site import call_site
from testkit.clock import clock
from testkit.databases import explain_command
from testkit.performance.counters import SAVEPOINTS

EXPLAINABLE = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "VALUES")

lines: list[str] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    from testkit.fixtures import SETUP  # late, because pytest must be the first to import it

    lines.append(item.nodeid)
    explain = partial(_explain, explain_command(item.config.stash[SETUP]))
    event.listen(Engine, "before_cursor_execute", explain)
    event.listen(Engine, "after_cursor_execute", _note_time)
    try:
        return (yield)
    finally:
        event.remove(Engine, "before_cursor_execute", explain)
        event.remove(Engine, "after_cursor_execute", _note_time)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("SQL and query plans")
    for line in lines:
        terminalreporter.write_line(line)


def _explain(
    command: str,
    connection: Connection,
    _cursor: Any,
    statement: str,
    parameters: Any,
    context: Any,
    many: bool,
) -> None:
    if statement.startswith(SAVEPOINTS):
        return
    lines.append(f"\n  {call_site()}")
    lines.extend(f"    {line}" for line in statement.splitlines())
    if statement.lstrip().upper().startswith(EXPLAINABLE):
        # Of several rows, explains the first; but their values may also come as one flat list for one statement.
        is_nested = many and parameters and isinstance(parameters[0], tuple | list | dict)
        values = parameters[0] if is_nested else parameters
        lines.extend(
            f"      {step}" for step in _plan(connection, f"{command} {statement}", values)
        )
    if context is not None:
        context.testkit_explain_start = clock()


def _note_time(
    _connection: Any, _cursor: Any, _statement: str, _parameters: Any, context: Any, _many: bool
) -> None:
    if hasattr(context, "testkit_explain_start"):
        lines.append(f"      {(clock() - context.testkit_explain_start) * 1000:.2f} ms")


def _plan(connection: Connection, statement: str, parameters: Any) -> list[str]:
    # Uses the driver's cursor: through SQLAlchemy, this would count as a statement of the test.
    cursor: Any = connection.connection.cursor()
    refused = connection.dialect.loaded_dbapi.Error

    def try_to(command: str) -> None:
        with suppress(refused):  # where there is no transaction, for example
            cursor.execute(f"{command} testkit_plan")

    try_to("SAVEPOINT")  # else, after a failure, some databases refuse the statement itself as well
    try:
        cursor.execute(statement, parameters)
        return [str(row[-1]) for row in cursor.fetchall()]
    except refused as error:
        try_to("ROLLBACK TO")
        return [f"no plan: {error}"]
    finally:
        try_to("RELEASE")
        cursor.close()
