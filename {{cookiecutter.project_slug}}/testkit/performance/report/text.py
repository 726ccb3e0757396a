"""The overview for a terminal, and as Markdown for the job page of CI."""

from collections.abc import Iterator

from testkit.performance.ledger import Record
from testkit.performance.report.overview import Overview, Share

MIB = 1024 * 1024
SHOWN = 15
BAR = 24  # characters


def seconds(value: float) -> str:
    if value >= 1:
        return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"
    return f"{value * 1000:.3g} ms" if value >= 0.001 else f"{value * 1000:.2g} ms"


def mib(value: int) -> str:
    return f"{value / MIB:.1f} MiB"


def title(overview: Overview) -> str:
    run = overview.run
    outcomes = ", ".join(f"{number:,} {name}" for name, number in run["outcomes"].items())
    return f"{run['tests']:,} tests in {seconds(run['seconds'])} ({outcomes}), {conditions(run)}"


def conditions(run: Record) -> str:
    """Describes the conditions of a run. Only runs under the same conditions can be compared."""
    workers = f"{run['workers']} workers" if run["workers"] else "one process"
    whole = [] if run["complete"] else ["a part of the tests"]
    options = run.get("options", [])
    return ", ".join([*whole, workers, f"Python {run['python']}", run["database"], *options])


def table(overview: Overview) -> Iterator[str]:
    """Lines for a terminal."""
    yield title(overview)
    for heading, shares in (
        ("Where the time goes", overview.phases),
        ("Before the first test", overview.start_up),
    ):
        yield from ("", heading)
        yield from _bars(shares)
    yield f"  isolation is {overview.isolation:.1%} of the tests' time"
    yield from ("", f"Slowest of {len(overview.tests):,} tests")
    for test in overview.tests[:SHOWN]:
        over = f"  over its {test.budget:g} s" if test.is_over else ""
        yield f"  {seconds(test.seconds):>8}  {test.statements:>4} SQL  {test.nodeid}{over}"
    yield from ("", "Costliest fixtures")
    for name, scope, count, taken in overview.fixtures[:SHOWN]:
        yield f"  {seconds(taken):>8}  {count:>5} x {scope:<8} {name}"
    if overview.repetitions:
        yield from ("", "Statements that repeat within a request")
        for repetition in overview.repetitions[:SHOWN]:
            yield f"  {repetition.times:>4} x {repetition.place}: {repetition.statement[:100]}"
    run = overview.run
    yield ""
    yield (
        f"Memory: {mib(run['memory'])} at its peak, of which the tests added {mib(run['growth'])} steadily. "
        f"Password hashes at production cost: {run['hashes']}."
    )
    yield f"Over budget: {len(overview.over_budget) or 'none'}."


def _bars(shares: list[Share]) -> Iterator[str]:
    longest = max(share.seconds for share in shares) or 1.0
    for share in shares:
        bar = "█" * round(share.seconds / longest * BAR)
        yield f"  {share.name:<28} {seconds(share.seconds):>8}  {bar:<{BAR}} {share.remark}".rstrip()


def markdown(overview: Overview) -> Iterator[str]:
    """Lines of Markdown."""
    run = overview.run
    yield from (f"### {title(overview)}", "")
    yield from ("| where the time goes | |", "| --- | ---: |")
    for share in (*overview.phases, *overview.start_up):
        yield f"| {share.name} | {seconds(share.seconds)} |"
    yield f"| memory of a process, at its peak | {mib(run['memory'])} |"
    yield f"| isolation, of the tests' time | {overview.isolation:.1%} |"
    for test in overview.over_budget:
        yield from ("", f"**Over budget:** `{test.nodeid}` takes {seconds(test.seconds)}")
    yield from ("", "<details><summary>Slowest tests</summary>", "")
    yield from ("| test | seconds | SQL |", "| --- | ---: | ---: |")
    for test in overview.tests[:SHOWN]:
        name = test.nodeid.replace("|", "\\|")
        yield f"| `{name}` | {seconds(test.seconds)} | {test.statements} |"
    yield from ("", "</details>")
    if overview.repetitions:
        yield from ("", "<details><summary>Statements that repeat within a request</summary>", "")
        for repetition in overview.repetitions[:SHOWN]:
            yield f"- {repetition.times}x at `{repetition.place}`: `{repetition.statement}`"
        yield from ("", "</details>")
