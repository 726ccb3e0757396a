"""Parts of the suite for several machines. `tests/workflows` runs them as CI does."""

import shutil

import pytest

from tests.performance.conftest import INNER, LEDGER, ledger_of, write_tests
from tests.projects import Project

UNEVEN = """
    import time

    import pytest


    @pytest.mark.parametrize("number", range(40))
    def test_uneven(number):
        time.sleep(number / 400)
"""

HICCUPS = """
    import time
    from pathlib import Path

    import pytest


    @pytest.mark.fast
    @pytest.mark.parametrize("number", range(2))
    def test_hiccup(number):
        mark = Path(f"was-here-{number}")
        if not mark.exists():
            mark.touch()
            time.sleep(0.3)
"""


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "-1/3", "1/0", ""])
def test_shard_out_of_range_is_refused(lean: Project, shard: str) -> None:
    for options in ((), ("-n", "2")):
        result = lean.pytest(f"--shard={shard}", *options, check=False)

        assert result.returncode == 4
        assert f"The shard {shard!r} does not exist: write K/N" in result.stdout
        assert "Traceback" not in result.stdout


def test_shards_take_equally_long(lean: Project) -> None:
    write_tests(lean, UNEVEN)
    lean.pytest(INNER)

    seconds = []
    for shard in range(1, 5):
        # Not all of them in one process, and in random order, as usual.
        options = ("-n", "2") if shard % 2 else ()
        ledger = f"{shard}.jsonl"
        shutil.copy(lean.path / LEDGER, lean.path / ledger)
        lean.pytest(INNER, f"--shard={shard}/4", "--ledger", ledger, *options)
        seconds.append(ledger_of(lean, ledger).runs[-1]["call"])

    # The parts are equal within 1 %; the rest is what a busy machine may add.
    assert max(seconds) <= 1.25 * sum(seconds) / 4
    command = ("-m", "testkit.performance", "merge", "--ledger", "all.jsonl")
    result = lean.run("python", *command, *(f"{shard}.jsonl" for shard in range(1, 5)))
    assert "4 shards, 40 tests, each of them once" in result.stdout
    merged = ledger_of(lean, "all.jsonl").runs[-1]
    assert merged["shards"].keys() == {"1/4", "2/4", "3/4", "4/4"}
    assert merged["complete"] is True
    assert merged["outcomes"] == {"passed": 40}


def test_shards_with_a_hiccup_fit_together(lean: Project) -> None:
    """A test that seems too slow is run again, which is no run of the shard."""
    write_tests(lean, HICCUPS)
    for shard in (1, 2):
        options = (f"--shard={shard}/2", f"--ledger={shard}.jsonl")
        assert "over budget" not in lean.pytest(INNER, *options, CI="true").stdout

    command = ("-m", "testkit.performance", "merge", "--ledger", "all.jsonl")
    result = lean.run("python", *command, "1.jsonl", "2.jsonl")

    assert "2 shards, 2 tests, each of them once" in result.stdout
