"""How soon there is an answer: one test in a fork of a process that holds the libraries, and workers."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import pexpect

from benchmarks.report import Row

ONE_TEST = ("-q", "tests/users/test_factories.py")
SHIPPED = ("-q", "-m", "not slow")
ENVIRONMENT = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}
PAUSE = 3  # seconds from a verdict to the next change, in which testmon learns from the last one


def measure(project: Path, rounds: int) -> list[Row]:
    with watching(project) as watch:
        cold, warm = [], []
        for _ in range(2 * rounds + 1):
            cold.append(seconds(project, "pytest", *ONE_TEST)[0])
            warm.append(seconds(project, "testkit.warm", *ONE_TEST)[0])
        ratio = statistics.median(w / c for w, c in zip(warm[1:], cold[1:], strict=True))
        median = statistics.median(warm[1:])
        name = "Two tests, `python -m testkit.warm`"
        rows = [Row(name, median, "s", ratio, "`python -m pytest`", 0.28)]
        rows.append(beside_many(project, rounds))
        name = "From saving a new test to the verdict of `make watch`"
        saved = after_saving(watch, project, rounds)
        rows.append(Row(name, statistics.median(saved), "s", limit=0.4))
        rows += workers(project, rounds, "testkit.warm")
    few, ready, starts = [], [], []
    for _ in range(rounds + 1):
        few.append(from_fork(project, "-q", "tests/users"))
        ready.append(from_fork(project, *SHIPPED))
        starts.append(worker_start(project))
    name = "A forked worker, from its fork until it has collected"
    rows += [
        Row(f"{name} `tests/users`", statistics.median(few[1:]), "s", limit=0.35),
        Row(f"{name} the shipped tests", statistics.median(ready[1:]), "s"),
    ]
    name = "Two of them, with the process that they are forked from"
    rows.append(Row(name, statistics.median(starts[1:]), "s"))
    return rows + workers(project, rounds, "pytest", spawn=("-n", "2", "--workers=spawn"))


def beside_many(project: Path, rounds: int) -> Row:
    """The same tests, where the ledger knows 10,000 others and as many runs as it keeps."""
    ledger = project / ".performance" / "many.jsonl"
    head, *lines = (project / ".performance" / "ledger.jsonl").read_text().splitlines()
    text = "\n".join([head, *copies(lines, "run", 50), *copies(lines, "test", 10_000)])
    few, many = [], []
    for _ in range(2 * rounds + 1):
        ledger.write_text(f"{text}\n")
        few.append(seconds(project, "testkit.warm", *ONE_TEST)[0])
        many.append(seconds(project, "testkit.warm", *ONE_TEST, "--ledger", str(ledger))[0])
    ratio = statistics.median(m / f for m, f in zip(many[1:], few[1:], strict=True))
    name = "The same, with 10,000 other tests in the ledger"
    return Row(name, statistics.median(many[1:]), "s", ratio, "without them")


def copies(lines: list[str], kind: str, count: int) -> list[str]:
    """So many lines of runs or of tests, each with a name of its own."""
    begin = f'{{"{kind}": "'
    found = [line for line in lines if line.startswith(begin)]
    named = zip(range(count), cycle(found), strict=False)
    return [line.replace(begin, f"{begin}{number}-", 1) for number, line in named]


def workers(project: Path, rounds: int, module: str, **others: tuple[str, ...]) -> list[Row]:
    """Two of them, beside one process and in `others` ways."""
    ways = {"one": (), "fork": ("-n", "2", "--workers=fork"), **others}
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(rounds + 1):
        for way, options in ways.items():
            taken[way].append(seconds(project, module, *SHIPPED, *options))
    rows = []
    names = {"one": "one process", "spawn": "spawned workers"}
    for index, what, limit in ((0, "time", 0.95), (1, "time of processors", 1.25)):
        of = {way: [both[index] for both in runs[1:]] for way, runs in taken.items()}
        name = f"The shipped tests, `python -m {module} -n 2`: {what}"
        for to in [way for way in ways if way != "fork"]:
            ratio = statistics.median(a / b for a, b in zip(of["fork"], of[to], strict=True))
            bound = limit if to == "one" else None
            rows.append(Row(name, statistics.median(of["fork"]), "s", ratio, names[to], bound))
    return rows


@contextmanager
def watching(project: Path) -> Iterator[pexpect.spawn]:
    """`make watch` in a terminal, from which single runs are forked, and which keeps the server."""
    watch = pexpect.spawn(
        str(project / ".venv" / "bin" / "python"),
        ["-m", "testkit.warm.watch"],
        cwd=project,
        env=ENVIRONMENT,
        timeout=600,
    )
    watch.expect_exact("Keys: ")
    time.sleep(PAUSE)
    yield watch
    watch.send("q")
    watch.expect(pexpect.EOF)
    watch.wait()


def after_saving(watch: pexpect.spawn, project: Path, rounds: int) -> list[float]:
    """Seconds, of all tests being watched."""
    test = project / "tests" / "test_saved.py"
    found = []
    for number in range(rounds + 1):
        time.sleep(PAUSE)
        begun = time.perf_counter()
        test.write_text(f"def test_saved():\n    assert {number} >= 0\n")
        watch.expect_exact("1 passed")
        watch.expect_exact("Passed")
        found.append(time.perf_counter() - begun)
    test.unlink()
    watch.expect_exact("Keys: ")
    time.sleep(PAUSE)
    return found[1:]


def from_fork(project: Path, *selection: str) -> float:
    """Seconds that a worker takes until it has collected, one beside another."""
    file = project / ".performance" / "ready.txt"
    file.unlink(missing_ok=True)
    options = ("-n", "2", "--workers=fork", "-p", "worker_ready")
    plugins = str(Path(__file__).with_name("plugins"))
    seconds(project, "pytest", *selection, *options, PYTHONPATH=plugins, READY=str(file))
    return statistics.median(map(float, file.read_text().split()))


def worker_start(project: Path) -> float:
    """Seconds in the last run from when the controller could start them until they had collected."""
    lines = (project / ".performance" / "ledger.jsonl").read_text().splitlines()[1:]
    runs = [line for line in map(json.loads, lines) if "test" not in line]
    return float(runs[-1]["worker_start"])


def seconds(project: Path, module: str, *options: str, **environment: str) -> tuple[float, float]:
    """Of a run: by the clock, and of all processors."""
    python = project / ".venv" / "bin" / "python"
    begun, cpu = time.perf_counter(), busy()
    done = subprocess.run(
        [python, "-m", module, *options],
        cwd=project,
        env=ENVIRONMENT | environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    taken = time.perf_counter() - begun, busy() - cpu
    if done.returncode:
        sys.exit(f"python -m {module} {' '.join(options)} has failed:\n{done.stdout[-4000:]}")
    return taken


def busy() -> float:
    """The seconds that all processors of this machine have worked. Other work counts too."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")
