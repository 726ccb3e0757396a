"""How soon there is an answer: one test in a fork of a process that holds the libraries, and workers."""

import json
import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect

from benchmarks.report import Row

ONE_TEST = ("-q", "tests/users/test_factories.py")
ENVIRONMENT = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}
PAUSE = 3  # seconds from a verdict to the next change, in which testmon learns from the last one


def measure(project: Path, rounds: int) -> list[Row]:
    cold, warm = [], []
    with parent_of(project):
        for _ in range(2 * rounds + 1):
            cold.append(seconds(project, "pytest", *ONE_TEST)[0])
            warm.append(seconds(project, "testkit.warm", *ONE_TEST)[0])
    ratio = statistics.median(w / c for w, c in zip(warm[1:], cold[1:], strict=True))
    rows = [
        Row(
            "Two tests, `python -m testkit.warm`",
            statistics.median(warm[1:]),
            "s",
            ratio,
            "`python -m pytest`",
            0.28,
        ),
        Row(
            "From saving a new test to the verdict of `make watch`",
            statistics.median(after_saving(project, rounds)),
            "s",
            limit=0.4,
        ),
    ]
    ways = {
        "one": (),
        "spawn": ("-n", "2", "--workers=spawn"),
        "fork": ("-n", "2", "--workers=fork"),
    }
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    starts = []
    for _ in range(rounds + 1):
        for way, options in ways.items():
            taken[way].append(seconds(project, "pytest", "-q", "-m", "not slow", *options))
        starts.append(worker_start(project))
    rows.append(
        Row(
            "Two forked workers, until they have collected",
            statistics.median(starts[1:]),
            "s",
            limit=0.35,
        )
    )
    for index, what, limit in ((0, "time", 0.95), (1, "time of processors", 1.25)):
        wall = {way: [both[index] for both in runs[1:]] for way, runs in taken.items()}
        for to, name, bound in (("one", "one process", limit), ("spawn", "spawned workers", None)):
            ratio = statistics.median(a / b for a, b in zip(wall["fork"], wall[to], strict=True))
            value = statistics.median(wall["fork"])
            rows.append(
                Row(f"The shipped tests, `-n 2`, forked: {what}", value, "s", ratio, name, bound)
            )
    return rows


@contextmanager
def parent_of(project: Path) -> Iterator[None]:
    with subprocess.Popen(
        [project / ".venv" / "bin" / "python", "-m", "testkit.warm.parent"],
        cwd=project,
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout
        parent.stdout.readline()
        yield
        parent.communicate(b"q")


def after_saving(project: Path, rounds: int) -> list[float]:
    """Seconds, of all tests being watched in a terminal."""
    test = project / "tests" / "test_saved.py"
    found = []
    watch = pexpect.spawn(
        str(project / ".venv" / "bin" / "python"),
        ["-m", "testkit.warm.watch"],
        cwd=project,
        env=ENVIRONMENT,
        timeout=120,
    )
    watch.expect_exact("Keys: ")
    for number in range(rounds + 1):
        time.sleep(PAUSE)
        begun = time.perf_counter()
        test.write_text(f"def test_saved():\n    assert {number} >= 0\n")
        watch.expect_exact("1 passed")
        watch.expect_exact("Passed")
        found.append(time.perf_counter() - begun)
    watch.send("q")
    watch.expect(pexpect.EOF)
    test.unlink()
    return found[1:]


def worker_start(project: Path) -> float:
    """Seconds in the last run from when the controller could start them until they had collected."""
    lines = (project / ".performance" / "ledger.jsonl").read_text().splitlines()[1:]
    runs = [line for line in map(json.loads, lines) if "test" not in line]
    return float(runs[-1]["worker_start"])


def seconds(project: Path, module: str, *options: str) -> tuple[float, float]:
    """Of a run: by the clock, and of all processors."""
    python = project / ".venv" / "bin" / "python"
    begun, cpu = time.perf_counter(), busy()
    subprocess.run(
        [python, "-m", module, *options],
        cwd=project,
        env=ENVIRONMENT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - begun, busy() - cpu


def busy() -> float:
    """The seconds that all processors of this machine have worked. Other work counts too."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")
