"""The overview as one HTML file that needs nothing else."""

import json
import re
import time
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from urllib.parse import quote

from testkit.performance.report.overview import Overview, Share, Test
from testkit.performance.report.text import conditions, mib, seconds, title

PAGE = Path(__file__).with_name("page.html")
SHOWN_FIXTURES = 25
SHOWN_REPETITIONS = 50
SHOWN_MEMORY = 15


def page(overview: Overview) -> str:
    """Returns the HTML of the page, which grows by about 250 bytes per test."""
    html = PAGE.read_text(encoding="utf-8")
    sections = {
        "title": escape(title(overview)),
        "figures": "".join(_figures(overview)),
        "phases": _stack("Where the time of the tests goes", overview.phases),
        "start-up": _stack("What comes before the first test", overview.start_up),
        "trend": _trend(overview),
        "fixtures": "".join(_fixtures(overview)),
        "repetitions": "".join(_repetitions(overview)),
        "memory": "".join(_memory(overview)),
        "budgets": "".join(_budgets(overview)),
        "shards": "".join(_shards(overview)),
        "data": _data(overview.tests),
    }
    for name, content in sections.items():
        html = html.replace(f"<!-- {name} -->", content)
    return html


def _data(tests: list[Test]) -> str:
    rows = [
        [
            test.nodeid,
            test.speed,
            round(test.seconds * 1000, 3),
            round(test.setup * 1000, 2),
            round(test.call * 1000, 2),
            round(test.teardown * 1000, 2),
            test.statements,
            test.requests,
            round(test.memory / 1024),
            test.outcome,
            int(test.is_over),
            [round(value * 1000, 2) for value in test.history],
        ]
        for test in tests
    ]
    # Nothing in the data may end the element that contains it.
    return json.dumps(rows, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def _figures(overview: Overview) -> Iterator[str]:
    run = overview.run
    for name, value in (
        ("tests", f"{run['tests']:,}"),
        ("whole run", seconds(run["seconds"])),
        ("isolation", f"{overview.isolation:.1%}"),
        ("SQL statements", f"{run['statements']:,}"),
        ("production hashes", f"{run['hashes']:,}"),
        ("peak memory", mib(run["memory"])),
        ("over budget", f"{len(overview.over_budget):,}"),
    ):
        yield f"<div><dt>{name}</dt><dd>{value}</dd></div>"


def _stack(name: str, shares: list[Share]) -> str:
    """One bar, in as many parts as there are shares, and a list that says the same in words."""
    total = sum(share.seconds for share in shares) or 1.0
    parts, items, x = [], [], 0.0
    for number, share in enumerate(shares):
        width = share.seconds / total * 1000
        parts.append(
            f'<rect class="part part-{number}" x="{x:.1f}" width="{width:.1f}" height="28"/>'
        )
        x += width
        remark = f" <small>{escape(share.remark)}</small>" if share.remark else ""
        items.append(
            f'<li><span class="key part-{number}"></span>{escape(share.name)} '
            f"<b>{seconds(share.seconds)}</b> {share.seconds / total:.0%}{remark}</li>"
        )
    return (
        f'<svg class="stack" viewBox="0 0 1000 28" preserveAspectRatio="none" role="img" '
        f'aria-label="{name}">{"".join(parts)}</svg><ul class="legend">{"".join(items)}</ul>'
    )


def _trend(overview: Overview) -> str:
    """Returns a bar for the seconds of each comparable run, the oldest first."""
    runs = overview.runs
    kind = escape(conditions(overview.run))
    if len(runs) < 2:
        return f"<p>One run like this so far ({kind}). The trend begins with the next one.</p>"
    longest = max(run["seconds"] for run in runs)
    step = 1000 / len(runs)
    bars = []
    for number, run in enumerate(runs):
        height = max(run["seconds"] / longest * 120, 1)
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(int(run["run"].split("-")[0]) / 1000))
        bars.append(
            f'<rect class="bar" x="{number * step + 1:.1f}" y="{120 - height:.1f}" '
            f'width="{min(step - 2, 60):.1f}" height="{height:.1f}">'
            f"<title>{when} UTC: {seconds(run['seconds'])}, {run['tests']:,} tests</title></rect>"
        )
    first, last = runs[0], runs[-1]
    words = f"{len(runs)} runs, from {seconds(first['seconds'])} to {seconds(last['seconds'])}"
    words += f" ({kind})"
    return (
        f'<svg class="trend" viewBox="0 0 1000 120" preserveAspectRatio="none" role="img" '
        f'aria-label="{words}">{"".join(bars)}</svg><p>{words}; the longest {seconds(longest)}.</p>'
    )


def _row(cells: Iterable[str]) -> str:
    first, *others = cells
    return f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>'


def _fixtures(overview: Overview) -> Iterator[str]:
    for name, scope, count, taken in overview.fixtures[:SHOWN_FIXTURES]:
        each = seconds(taken / count) if count else ""
        yield _row([escape(name), scope, f"{count:,}", each, seconds(taken)])


def _repetitions(overview: Overview) -> Iterator[str]:
    if not overview.repetitions:
        yield _row(["None.", "", "", ""])
    for repetition in overview.repetitions[:SHOWN_REPETITIONS]:
        link = _link(repetition.tests[0])
        more = len(repetition.tests) - 1
        yield _row(
            [
                f"<code>{escape(repetition.statement)}</code>",
                escape(repetition.place),
                f"{repetition.times:,}",
                f"{link}{f' and {more:,} more' if more else ''}",
            ]
        )


def _memory(overview: Overview) -> Iterator[str]:
    grown = sorted(overview.tests, key=lambda test: -test.memory)
    for test in grown[:SHOWN_MEMORY]:
        if test.memory > 0:
            yield _row([_link(test.nodeid), mib(test.memory)])


def _budgets(overview: Overview) -> Iterator[str]:
    limits = {"fast": overview.budgets.fast, "medium": overview.budgets.medium, "slow": None}
    for speed, limit in limits.items():
        tests = [test for test in overview.tests if test.speed == speed]
        over = [test for test in tests if test.is_over]
        slowest = _link(tests[0].nodeid) + f" {seconds(tests[0].seconds)}" if tests else ""
        yield _row(
            [
                speed,
                f"{limit:g} s" if limit else "any",
                f"{len(tests):,}",
                seconds(sum(test.seconds for test in tests)),
                f"{len(over):,}",
                slowest,
            ]
        )


def _shards(overview: Overview) -> Iterator[str]:
    for name, parts in overview.shards:
        mean = sum(parts) / len(parts) or 1.0
        yield _row([name, seconds(mean), seconds(max(parts)), f"{max(parts) / mean:.2f}"])


def _link(nodeid: str) -> str:
    # A long name may break between its parts, and nowhere else.
    name = re.sub(r"(/|::|_)", r"\1<wbr>", escape(nodeid))
    return f'<a href="#test={quote(nodeid, safe="")}">{name}</a>'
