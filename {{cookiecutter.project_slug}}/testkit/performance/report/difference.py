"""Shows what changed between two ledgers, as Markdown short enough for a comment."""

import statistics
from collections.abc import Iterator

from testkit.performance.ledger import Ledger, LedgerError, fastest
from testkit.performance.report.text import seconds

TOLERANCE = 1.2
FLOOR = 0.02  # seconds
SHOWN = 10


def difference(before: Ledger, after: Ledger) -> Iterator[str]:
    """Yields lines of Markdown. The times in `before` are scaled to the machine of `after`. Raises `LedgerError` if a
    ledger holds no run."""
    if not before.runs or not after.runs:
        raise LedgerError("One of the ledgers holds no run: run the tests, then compare again.")
    scale = _calibration(after) / _calibration(before)
    old = {test["test"]: test for test in before.tests()}
    new = {test["test"]: test for test in after.tests()}
    common = old.keys() & new.keys()
    took = sum(fastest(old[nodeid]) for nodeid in common) * scale
    take = sum(fastest(new[nodeid]) for nodeid in common)
    yield f"### Tests: {len(new):,}, were {len(old):,}"
    yield ""
    yield (
        f"{len(common):,} are in both; they take {seconds(take)}, took {seconds(took)} "
        f"({take / took - 1:+.0%})."
        if took
        else "None is in both."
    )
    changes = []
    for nodeid in common:
        then, now = fastest(old[nodeid]) * scale, fastest(new[nodeid])
        statements = [test[nodeid]["last"].get("statements", 0) for test in (old, new)]
        is_slower = now > then * TOLERANCE + FLOOR or statements[1] > statements[0] * TOLERANCE
        is_faster = then > now * TOLERANCE + FLOOR or statements[0] > statements[1] * TOLERANCE
        if is_slower or is_faster:
            changes.append((now - then, nodeid, then, now, statements))
    if changes:
        yield from ("", "| test | before | after | SQL |", "| --- | ---: | ---: | ---: |")
        # Changed numbers of statements come first, because they are never a hiccup.
        changes.sort(key=lambda change: (change[4][0] == change[4][1], -abs(change[0])))
        for _, nodeid, then, now, (first, second) in changes[:SHOWN]:
            sql = f"{second}" if first == second else f"{first} → {second}"
            name = nodeid.replace("|", "\\|")
            yield f"| `{name}` | {seconds(then)} | {seconds(now)} | {sql} |"
        if len(changes) > SHOWN:
            yield from ("", f"and {len(changes) - SHOWN} more.")
    else:
        yield from ("", "None of them has changed.")
    added = sorted(new.keys() - old.keys(), key=lambda nodeid: -fastest(new[nodeid]))
    if added:
        total = sum(fastest(new[nodeid]) for nodeid in added)
        yield from ("", f"New: {len(added):,}, {seconds(total)}; the slowest is `{added[0]}`.")
    if removed := old.keys() - new.keys():
        yield from ("", f"Gone: {len(removed):,}.")


def _calibration(ledger: Ledger) -> float:
    return statistics.median(float(run["calibration"]) for run in ledger.runs[-5:])
