"""Runs the strategies and shows how much time each of them adds to an empty test.

python -m testkit.performance.comparison --rounds 3
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from html import escape
from pathlib import Path

from testkit.performance import ledger
from testkit.performance.bookkeeper import MEASURING

STRATEGIES = {
    "no_database": ("no database", 500),
    "committed": ("`committed`", 500),
    "rollback": ("`rollback`", 500),
    "rollback_without_savepoints": ("rollback without savepoints", 500),
    "new_engine": ("a new engine for each test", 50),
    "clone": ("a clone of the template for each test", 50),
    "truncate": ("emptying all tables after each test", 50),
    "create_and_drop": ("create_all and drop_all for each test", 50),
}
BASE = "no_database"
UNIT = "committed"
FILE = Path(__file__).with_name("strategies.py")


def measure(strategy: str, directory: Path) -> float:
    """Seconds of one test, the median of many."""
    path = directory / "ledger.jsonl"
    path.unlink(missing_ok=True)
    # The first tests also fill caches; what counts is the cost of the fixtures in later ones.
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "tests.conftest"]
    result = subprocess.run(
        [*command, "-p", "no:randomly", "--ledger", str(path), f"{FILE}::test_{strategy}"],
        env=os.environ | {"TESTKIT_TESTS": str(STRATEGIES[strategy][1]), MEASURING: "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if result.returncode:
        sys.exit(f"The strategy {strategy} does not work here:\n{result.stdout[-2000:]}")
    taken = [float(test["last"]["seconds"]) for test in ledger.read(path).tests()]
    return statistics.median(taken)


def compare(rounds: int) -> dict[str, float]:
    """Returns the seconds that each strategy adds to an empty test. The strategies take turns, so that a busy machine
    slows them all down alike."""
    seconds: dict[str, list[float]] = {strategy: [] for strategy in STRATEGIES}
    with tempfile.TemporaryDirectory(prefix="testkit-") as directory:
        for _ in range(rounds):
            for strategy in STRATEGIES:
                seconds[strategy].append(measure(strategy, Path(directory)))
    medians = {strategy: statistics.median(values) for strategy, values in seconds.items()}
    return {strategy: max(value - medians[BASE], 0.0) for strategy, value in medians.items()}


def table(added: dict[str, float]) -> Iterator[str]:
    """Lines of Markdown."""
    yield from ("| isolation | adds to a test | ratio |", "| --- | ---: | ---: |")
    for strategy, seconds in added.items():
        if strategy != BASE:
            # On a busy machine, the unit may be smaller than the difference between two runs.
            ratio = f"{seconds / added[UNIT]:.3g}x" if added[UNIT] else "not to be measured"
            yield f"| {STRATEGIES[strategy][0]} | {seconds * 1000:.2f} ms | {ratio} |"


def chart(added: dict[str, float]) -> str:
    """Returns an SVG of horizontal bars, proportional to the times and readable on light and dark pages."""
    rows = [(STRATEGIES[name][0].replace("`", ""), s) for name, s in added.items() if name != BASE]
    width, bar, left = 800, 34, 330
    longest = max(seconds for _, seconds in rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bar * len(rows) + 16}" '
        'font-family="system-ui, sans-serif" font-size="14" role="img">',
        "<title>What isolating one test costs</title>",
    ]
    for index, (name, seconds) in enumerate(rows):
        y = 8 + index * bar
        length = max(2, seconds / longest * (width - left - 100))
        parts += [
            f'<text x="{left - 10}" y="{y + 20}" text-anchor="end" fill="#888">{escape(name)}</text>',
            f'<rect x="{left}" y="{y + 6}" width="{length:.1f}" height="20" rx="3" fill="#009485"/>',
            f'<text x="{left + length + 8:.1f}" y="{y + 20}" fill="#888">{seconds * 1000:.3g} ms</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m testkit.performance.comparison")
    parser.add_argument("--rounds", type=int, default=3, help="how often (default: %(default)s)")
    parser.add_argument("--chart", type=Path, default=Path(".performance/isolation.svg"))
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds is how often each strategy is measured: write 1 or more")
    added = compare(arguments.rounds)
    for line in table(added):
        sys.stdout.write(f"{line}\n")
    arguments.chart.parent.mkdir(parents=True, exist_ok=True)
    arguments.chart.write_text(chart(added))
    sys.stdout.write(f"\nAs bars: {arguments.chart}\n")


if __name__ == "__main__":
    main()
