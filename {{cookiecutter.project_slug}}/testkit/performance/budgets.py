"""What a test, and the suite, may take. Set in `pyproject.toml`; `INI` lists the names."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from testkit.performance.ledger import Ledger, Record, fastest

MIB = 1024 * 1024
SPEEDS = ("fast", "medium", "slow")
INFERRED_SPEED = pytest.StashKey[str]()
"""The speed marker inferred for an item without one; it sets no budget."""
INI = {
    "budget_fast": ("0.1", "seconds that a test marked `fast` may take"),
    "budget_medium": ("2", "seconds that a test marked `medium` may take"),
    "budget_suite": ("0", "seconds that the whole suite may take; 0 is any time"),
    "budget_memory": ("500", "MiB that a process of tests may need; 0 is any amount"),
    "budget_growth": ("20", "MiB by which it may steadily grow from test to test; 0 is any"),
}


def are_enforced() -> bool:
    """Budgets fail a run in CI; elsewhere they warn."""
    return os.environ.get("CI", "").lower() in ("true", "1", "yes")


def skips_slow_tests() -> bool:
    return os.environ.get("SKIP_SLOW_TESTS", "").lower() == "true"


@dataclass(frozen=True)
class Budgets:
    fast: float
    medium: float
    suite: float
    memory: float
    growth: float

    @classmethod
    def of(cls, options: Callable[[str], Any]) -> "Budgets":
        """Returns the budgets of a project, read from its pytest `options`.

        Raises `pytest.UsageError` if they are impossible.
        """
        values = {name.removeprefix("budget_"): _number(name, options(name)) for name in INI}
        budgets = cls(**values)
        if not 0 < budgets.fast < budgets.medium:
            raise pytest.UsageError(
                f"budget_fast is {budgets.fast:g} and budget_medium is {budgets.medium:g}; in the "
                "pytest settings, write seconds greater than 0, the smaller number for budget_fast"
            )
        return budgets

    def speed(self, seconds: float) -> str:
        """The speed marker of a test that has none."""
        if seconds <= self.fast:
            return "fast"
        return "medium" if seconds <= self.medium else "slow"

    def of_test(self, test: Record) -> float | None:
        """Returns how many seconds a test of the ledger may take by its own markers, or `None` for any."""
        limits = {"fast": self.fast, "medium": self.medium}
        return min((limits[m] for m in test["markers"] if m in limits), default=None)

    def exceeded_by(self, ledger: Ledger, nodeids: Iterable[str]) -> dict[str, str]:
        """Returns a message for each of these tests that was over its budget in all recent runs."""
        found = {}
        for nodeid in nodeids:
            if nodeid in ledger:
                test = ledger.test(nodeid)
                seconds, limit = fastest(test), self.of_test(test)
                if limit is not None and seconds > limit and test["last"]["outcome"] == "passed":
                    found[nodeid] = f"{nodeid} took {seconds:.3g} s, and may take {limit:g} s"
        return found

    def exceeded_by_suite(self, runs: list[Record]) -> Iterator[str]:
        """Yields a message for each budget that the whole suite exceeded in all of its recent `runs`."""
        for name, limit, unit, what in (
            ("seconds", self.suite, 1, "The suite took {:.4g} s, and may take {:g} s"),
            ("memory", self.memory, MIB, "A process of tests needed {:.4g} MiB, and may need {:g}"),
            ("growth", self.growth, MIB, "A process of tests grew by {:.4g} MiB, and may by {:g}"),
        ):
            least = min(run[name] for run in runs) / unit
            if limit and least > limit:
                yield what.format(least, limit)


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1
    if not 0 <= number < float("inf"):
        raise pytest.UsageError(
            f"{name} is {value!r}; in the pytest settings, write a number, for the {INI[name][1]}"
        )
    return number
