"""`python -m testkit.warm.watch`: runs the tests that a change affects, as soon as a file is saved.

testmon knows which tests those are. The arguments are passed to pytest in every run. The keys are those of
other watch modes, Jest's and Vitest's; `?` shows them.
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of the imports

import glob
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path
from typing import NamedTuple

from testkit.warm.learner import LEARN, QUIET, Learner
from testkit.warm.own_parent import WarmParent

try:
    from testkit.warm.changes import DEBOUNCE, Changes
    from testkit.warm.terminal import QUIT, Terminal
except ImportError as error:
    if error.name == "watchfiles":
        sys.exit("Watching needs watchfiles: add it to the development dependencies.")
    if error.name in ("termios", "tty"):
        sys.exit("Watching needs Unix. `pytest --testmon` runs what is affected, once.")
    raise

KEYS = """\
  a      all tests                  t      tests whose name matches
  f      tests that failed          p      tests under a path
  Enter  the same again             q      quit

`t` and `p` hold for every run, also after a change, until you press `a`."""
PLUGIN = ("-p", "testkit.warm.watched")
FIRST = (*LEARN, "--remember")
# The tracer of testmon makes a run take twice as long, so the verdict comes from a run without it.
AFFECTED = ("--testmon", "--testmon-nocollect", "--remember")
AGAIN = ("--no-testmon", "--again")
ALL = ("--no-testmon",)
FAILED = ("--lf", "--lfnf=none", "--no-testmon")
# Exit statuses of pytest, whose own names would have to be imported.
USAGE_ERROR = 4
NO_TESTS = 5
VERDICTS = {0: "Passed", 2: "Interrupted", -signal.SIGINT: "Interrupted", NO_TESTS: "No tests ran"}
ABSENCES = {
    FIRST: "No test is affected",
    AFFECTED: "No test is affected",
    FAILED: "No test has failed",
}
PATIENCE = 5.0  # seconds
PULSE = 0.5  # seconds
MOST_AGAIN = 5  # runs in a row that change the same files
CLEAR = "\033[H\033[2J\033[3J"


class Choice(NamedTuple):
    """The subset of the given tests that was chosen with a key."""

    name: str = ""
    path: str = ""

    def __str__(self) -> str:
        if not any(self):
            return "all tests"
        path = f" under {self.path}" if self.path else ""
        name = f" matching {self.name!r}" if self.name else ""
        return f"tests{path}{name}"

    def arguments(self) -> list[str]:
        name = ["-k", self.name] if self.name else []
        path = [f"--only={self.path}"] if self.path else []
        return [*name, *path]


class Watcher:
    """The loop: waits for a key or a change, runs tests, and starts again."""

    def __init__(self, arguments: list[str], terminal: Terminal, parent: WarmParent) -> None:
        self.given = arguments
        self.choice = Choice()
        self.terminal = terminal
        self.parent = parent
        self.changes = Changes()
        self.last: tuple[str, ...] = AFFECTED
        self.ended = 0.0
        self.saved: list[str] = []
        self.again = 0
        self.learner = Learner()
        self.keys: dict[str, Callable[[], None]] = {
            "a": lambda: self.choose(Choice()),
            "f": lambda: self.run(FAILED, "tests that failed"),
            "\n": self.run_again,
            "t": self.ask_for_name,
            "p": self.ask_for_path,
            "?": lambda: print(KEYS),
        }

    def loop(self) -> None:
        self.terminal.take_keys()
        self.run(FIRST, "the first run")
        while True:
            quiet = QUIET if self.learner.process else None
            ready, _, _ = select.select([self.terminal.file, self.changes.reader], [], [], quiet)
            if not ready:
                self.learner.take_over()
            elif self.changes.reader in ready:
                self.run_affected(self.changes.take())
            elif (key := self.terminal.key()) == QUIT:
                return
            elif key in self.keys:
                self.keys[key]()

    def run_affected(self, saved: list[str]) -> None:
        """Runs the affected tests, unless the runs themselves keep saving these files, which would never end."""
        is_ours = time.perf_counter() - self.ended < 2 * DEBOUNCE / 1000
        self.again = self.again + 1 if is_ours and saved == self.saved else 0
        self.saved = saved
        if self.again < MOST_AGAIN:
            self.learner.stop()
            forget_bytecode(saved)
            self.run(AFFECTED, f"{shown(saved)} saved")
            self.learner.start([*PLUGIN, *self.given, *self.choice.arguments()])
        else:
            self.learner.stop()
            print(
                f"{shown(saved)} was saved during each of the last runs, by the tests or by you."
                " Waiting for another change, or for a key: `a` runs all tests."
            )

    def run(self, options: tuple[str, ...], cause: str, choice: Choice | None = None) -> None:
        """Runs tests and prints the verdict. A new choice is kept, unless pytest rejects it."""
        choice = self.choice if choice is None else choice
        self.last = options
        self.learner.stop()
        self.terminal.take_lines()
        print(f"{CLEAR}{time.strftime('%H:%M:%S')}  {cause}", flush=True)
        begun = time.perf_counter()
        status = self.parent.run(["-q", *PLUGIN, *options, *self.given, *choice.arguments()])
        self.ended = time.perf_counter()
        self.terminal.take_keys()
        if status != USAGE_ERROR:
            self.choice = choice
        only = f" Only {self.choice}." if any(self.choice) else ""
        print(
            f"{verdict(status, options)}, {self.ended - begun:.2f} s.{only} Keys: a f t p Enter q, ? for what they do."
        )

    def run_again(self) -> None:
        """Runs the same tests, not those that are affected now: none, unless something was saved."""
        self.run(AGAIN if self.last in (FIRST, AFFECTED) else self.last, "the same again")

    def choose(self, choice: Choice) -> None:
        self.run(ALL, str(choice), choice)

    def ask_for_name(self) -> None:
        name = self.terminal.ask("Names, as for pytest's -k")
        if name is not None:
            self.choose(self.choice._replace(name=name))

    def ask_for_path(self) -> None:
        path = self.terminal.ask("Path, as for pytest")
        if path is None:
            return
        # `Path.exists` has errors for names that no file can have.
        if os.path.exists(path.partition("::")[0] or "."):
            self.choose(self.choice._replace(path=path))
        else:
            print(f"There is no {path}.")


def end_with(parent: int, terminal: Terminal) -> None:
    """Ends this process with `make`, which started it: nobody else would notice that `make` was killed. And with the
    terminal: `make`, which is told when that is closed, only waits."""
    while os.getppid() == parent and not terminal.is_closed():
        time.sleep(PULSE)
    os.kill(os.getpid(), signal.SIGHUP)


def keep_server() -> subprocess.Popen[bytes] | None:
    """Keeps the tests' own server, if they can have one, running from one run to the next."""
    keeper = next((Path(__file__).parents[1] / "databases").glob("*/keep.py"), None)
    if keeper is None:
        return None
    return subprocess.Popen(
        [sys.executable, "-m", f"testkit.databases.{keeper.parent.name}.keep"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def end_server(server: subprocess.Popen[bytes]) -> None:
    try:
        server.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:  # it waits for a database server that does not answer
        server.kill()
        server.wait()


def forget_bytecode(saved: list[str]) -> None:
    """Has Python read these files again: it compares only seconds and sizes, so one that was saved twice within a
    second could be taken for what it was in between."""
    for place in map(Path, saved):
        if place.suffix == ".py":
            folder = Path(cache_from_source(str(place))).parent
            for compiled in folder.glob(f"{glob.escape(place.stem)}.*.pyc"):
                with suppress(OSError):
                    compiled.unlink()


def verdict(status: int, options: tuple[str, ...]) -> str:
    if status == NO_TESTS and options in ABSENCES:
        return ABSENCES[options]
    if status < 0 and status not in VERDICTS:
        return f"Ended by {signal.Signals(-status).name}"
    return VERDICTS.get(status, "Failed")


def shown(paths: list[str]) -> str:
    first, *others = paths or ["something"]
    return f"{first} and {len(others)} more" if others else first


def main() -> None:
    if not sys.stdin.isatty():
        sys.exit("Watching needs a terminal: it asks for keys. `pytest --testmon` runs once.")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # until there is something to end
    terminal = Terminal()
    parent = WarmParent(terminal.file)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(128 + signal.SIGTERM))
    threading.Thread(target=end_with, args=[os.getppid(), terminal], daemon=True).start()
    watcher = Watcher(sys.argv[1:], terminal, parent)
    server = None
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        server = keep_server()
        watcher.loop()
    except KeyboardInterrupt:
        print()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end is near
        watcher.learner.stop()
        parent.end()
        if server is not None:
            end_server(server)


if __name__ == "__main__":
    main()
