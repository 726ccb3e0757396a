"""Commands that work on the ledger. The Makefile and the CI workflow run them."""

import argparse
import os
import sys
from pathlib import Path

import pytest
from _pytest.config.findpaths import locate_config

from testkit.performance import gate, ledger, shards
from testkit.performance.budgets import INI, Budgets
from testkit.performance.ledger import Ledger, LedgerError
from testkit.performance.report.difference import difference
from testkit.performance.report.overview import overview_of
from testkit.performance.report.page import page
from testkit.performance.report.text import markdown, table
from testkit.performance.runs import run_of_shards

FOLDER = Path(".performance")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m testkit.performance")
    commands = made.add_subparsers(dest="command", required=True)
    for name, description in (
        ("table", "print what the tests cost"),
        ("report", "write the page"),
        ("summary", "print Markdown for the job page of CI"),
    ):
        command = commands.add_parser(name, help=description)
        command.add_argument("--ledger", type=Path, default=FOLDER / "ledger.jsonl")
        if name == "report":
            command.add_argument("--output", type=Path, default=FOLDER / "report.html")
    command = commands.add_parser("diff", help="print what has changed between two ledgers")
    command.add_argument("before", type=Path)
    command.add_argument("after", type=Path)
    command = commands.add_parser("merge", help="put together the ledgers of all shards of one run")
    command.add_argument("shards", type=Path, nargs="+")
    command.add_argument("--ledger", type=Path, default=FOLDER / "ledger.jsonl")
    for name, description in (
        ("baseline", "measure the suite as it should be"),
        ("check", "measure it again, and fail when something has become slower"),
    ):
        command = commands.add_parser(name, help=description)
        command.add_argument("--baseline", type=Path, default=FOLDER / "baseline.json")
        command.add_argument("tests", nargs="*", help="arguments of pytest (default: all tests)")
    return made


def main() -> int:
    """0 when all is well, 1 when something has become slower or is missing, 2 for wrong input."""
    arguments = parser().parse_args()
    try:
        found = run(arguments)
        sys.stdout.flush()
        return int(found)
    except BrokenPipeError:  # the reader, `head` for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (LedgerError, gate.GateError, pytest.UsageError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"{error.filename} cannot be used: {error.strerror}.\n")
        return 2


def run(arguments: argparse.Namespace) -> bool:
    """Runs the command. Returns whether it found a problem."""
    match arguments.command:
        case "table":
            say(*table(overview_of(ledger.read(arguments.ledger), budgets())))
        case "summary":
            say(*markdown(overview_of(ledger.read(arguments.ledger), budgets())))
        case "report":
            html = page(overview_of(ledger.read(arguments.ledger), budgets()))
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(html, encoding="utf-8")
            say(f"Open {arguments.output.resolve().as_uri()}")
        case "diff":
            say(*difference(existing(arguments.before), existing(arguments.after)))
        case "merge":
            return merge(arguments.shards, arguments.ledger)
        case "baseline":
            say(gate.make_baseline(arguments.baseline, arguments.tests))
        case "check":
            found, line = gate.check(arguments.baseline, arguments.tests)
            say(*gate.summary(found, line))
            return bool(found)
    return False


def merge(paths: list[Path], output: Path) -> bool:
    ledgers = [existing(path) for path in paths]
    problems = shards.check(ledgers)
    if problems:
        say(*problems[:20], *([f"and {len(problems) - 20} more"] if len(problems) > 20 else []))
        return True
    merged = ledger.merge(ledgers)
    run_of_all = run_of_shards(ledgers)
    of_shards = {each.runs[-1]["run"] for each in ledgers}
    merged.runs = [each for each in merged.runs if each["run"] not in of_shards] + [run_of_all]
    output.parent.mkdir(parents=True, exist_ok=True)
    ledger.write(output, merged)
    say(f"{len(paths)} shards, {run_of_all['tests']:,} tests, each of them once: {output}")
    excesses = list(budgets().exceeded_by_suite([run_of_all]))
    say(*excesses)
    return bool(excesses)


def existing(path: Path) -> Ledger:
    if not path.exists():
        raise LedgerError(f"There is no ledger {path}.")
    return ledger.read(path)


def budgets() -> Budgets:
    """Returns the budgets of the project in the current folder."""
    *_, settings, _ = locate_config(Path.cwd(), [])
    return Budgets.of(lambda name: settings[name].value if name in settings else INI[name][0])


def say(*lines: str) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
