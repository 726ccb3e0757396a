"""`python -m testkit.warm.watch`: runs the tests that a change affects, as soon as a file is saved.

testmon knows which tests those are. The arguments are passed to pytest in every run. The keys are those of
other watch modes, Jest's and Vitest's; `?` shows them.
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of the imports

import _socket
import atexit
import os
import queue
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

try:
    import termios
    import tty

    import watchfiles
except ImportError as error:
    MISSING = error.name
else:
    MISSING = None

from testkit.warm.protocol import address, connect, request
from testkit.warm.sources import is_in_sources, is_source, sources

KEYS = """\
  a      all tests                  t      tests whose name matches
  f      tests that failed          p      tests under a path
  Enter  the same again             q      quit

`t` and `p` hold for every run, also after a change, until you press `a`."""
PLUGIN = ("-p", "testkit.warm.watched")
# testmon needs a tracer to find out what a test depends on, which makes a run take twice as long. So the
# verdict comes from a run without it, and a run in the background learns what has changed.
LEARN = ("--testmon",)
FIRST = (*LEARN, "--remember")
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
KNOWN = ".testmondata"
LEARNT = ".testmondata-learning"
QUIET = 0.3  # seconds; changes are reported sooner than that
PATIENCE = 5.0  # seconds
PULSE = 0.5  # seconds
DEBOUNCE = 50  # ms; files saved within this time count as one change
MOST_AGAIN = 5  # runs in a row that change the same files
UNWATCHED = """\
Files cannot be watched: {}
On Linux, raise `fs.inotify.max_user_watches` and `fs.inotify.max_user_instances` with sysctl. Or set
WATCHFILES_FORCE_POLLING=1, which looks at all files again and again."""
CLEAR = "\033[H\033[2J\033[3J"
QUIT = "q"
GOODBYE = QUIT.encode()
ESCAPE = "\033"


class WarmParent:
    """The parent that forks the runs: another watcher's, or one of our own."""

    def __init__(self, terminal: int) -> None:
        self.terminal = terminal
        self.process: subprocess.Popen[bytes] | None = None
        self.former: list[subprocess.Popen[bytes]] = []

    def run(self, arguments: list[str]) -> int:
        """Returns the exit status."""
        try:
            status = self.run_forked(arguments)
        except KeyboardInterrupt:  # before there was a run
            self.end()
            return -signal.SIGINT
        return run_cold(arguments) if status is None else status

    def run_forked(self, arguments: list[str]) -> int | None:
        """Returns the exit status, or `None` if no run was possible. A parent that does not fit is replaced, once."""
        path = address()
        for _ in range(2):
            connection = path and (connect(path) or self.start(path))
            if not connection:
                break
            with closing(connection):
                status = request(connection, arguments)
            if status is not None:
                return status
            self.let_go()
        return None

    def start(self, path: str) -> _socket.socket | None:
        self.let_go()
        terminal = os.dup(self.terminal)
        option = f"--terminal={terminal}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "testkit.warm.parent", option],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            pass_fds=[terminal],
        )
        os.close(terminal)
        assert self.process.stdout
        self.process.stdout.readline()  # it is ready, or has ended
        return connect(path)

    def let_go(self) -> None:
        """Gives up our parent. It ends by itself after the runs that others have requested."""
        self.former = [each for each in self.former if each.poll() is None]
        if self.process is not None:
            self.former.append(self.process)
            self.process = None

    def end(self) -> None:
        self.let_go()
        for process in self.former:
            with suppress(BrokenPipeError, subprocess.TimeoutExpired):
                process.communicate(GOODBYE, timeout=PATIENCE)
            process.kill()
            process.wait()
        self.former.clear()


def run_cold(arguments: list[str]) -> int:
    with subprocess.Popen([sys.executable, "-m", "pytest", *arguments]) as process:
        while True:
            with suppress(KeyboardInterrupt):  # pytest gets it as well
                return process.wait()


class Terminal:
    """The terminal. It delivers single keys while nothing runs, and is in its original mode otherwise."""

    def __init__(self) -> None:
        self.file = sys.stdin.fileno()
        self.attributes = termios.tcgetattr(self.file)
        self.group = os.tcgetpgrp(self.file)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        # Nobody could resume it: the shell waits for make, which does not notice that it has stopped.
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)
        # Ctrl-C is meant for the run, not for make, which started this process.
        if os.getpgrp() != os.getpid():
            os.setpgid(0, 0)
        os.tcsetpgrp(self.file, os.getpid())
        atexit.register(self.give_back)

    def give_back(self) -> None:
        """Returns the terminal to the shell, unless the shell has taken it back already, as when `make` was killed."""
        with suppress(OSError, termios.error):  # it is closed, or `make` has ended
            if os.tcgetpgrp(self.file) == os.getpid():
                self.take_lines()
                os.tcsetpgrp(self.file, self.group)

    def key(self) -> str:
        """Returns the key pressed; `q` at the end of the input, or if the terminal belongs to the shell again."""
        try:
            typed = os.read(self.file, 1) or GOODBYE
        except OSError:
            typed = GOODBYE
        if typed == ESCAPE.encode():  # arrows and the like send letters after it
            termios.tcflush(self.file, termios.TCIFLUSH)
        return typed.decode("latin-1")  # other characters may arrive in parts

    def take_keys(self) -> None:
        tty.setcbreak(self.file, termios.TCSADRAIN)

    def take_lines(self) -> None:
        termios.tcsetattr(self.file, termios.TCSADRAIN, self.attributes)

    def ask(self, question: str) -> str | None:
        """A line; `None` if it was interrupted, or has Esc in it."""
        self.take_lines()
        try:
            line = input(f"{question} (empty: all, Ctrl-C: back): ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return None
        except UnicodeDecodeError:
            print("This cannot be read: it is written in another encoding than the terminal's.")
            return None
        else:
            return None if ESCAPE in line else line
        finally:
            self.take_keys()


class Changes:
    """The files that are saved, reported by a thread."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.paths: queue.SimpleQueue[set[str]] = queue.SimpleQueue()
        self.folders = folders_in(Path())
        self.error: OSError | None = None
        threading.Thread(target=self._watch, daemon=True).start()

    def _is_watched(self, change: "watchfiles.Change", path: str) -> bool:
        place = Path(os.path.relpath(path))
        if not is_in_sources(place):
            return False
        if is_source(place):
            self.folders.add(place.parent)
            return True
        # When a folder is moved, nothing is reported for its files.
        if change is watchfiles.Change.deleted:
            moved = {folder for folder in self.folders if folder.is_relative_to(place)}
            self.folders -= moved
        else:
            moved = folders_in(place) - self.folders
            self.folders |= moved
        return bool(moved)

    def _watch(self) -> None:
        try:
            for changes in watchfiles.watch(
                ".",
                watch_filter=self._is_watched,
                debounce=DEBOUNCE,
                step=10,
                raise_interrupt=False,
            ):
                self.paths.put({os.path.relpath(path) for _, path in changes})
                os.write(self.writer, b"!")
        except OSError as error:
            self.error = error
            os.write(self.writer, b"!")

    def take(self) -> list[str]:
        os.read(self.reader, 4096)
        if self.error:
            sys.exit(UNWATCHED.format(self.error))
        found: set[str] = set()
        while not self.paths.empty():
            found |= self.paths.get()
        return sorted(found)


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
        self.learner: subprocess.Popen[bytes] | None = None
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
            quiet = QUIET if self.learner else None
            ready, _, _ = select.select([self.terminal.file, self.changes.reader], [], [], quiet)
            if not ready:
                self.note_what_was_learnt()
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
            self.run(AFFECTED, f"{shown(saved)} saved")
            self.learn()
        else:
            self.stop_learning()
            print(
                f"{shown(saved)} was saved during each of the last runs, by the tests or by you."
                " Waiting for another change, or for a key: `a` runs all tests."
            )

    def run(self, options: tuple[str, ...], cause: str, choice: Choice | None = None) -> None:
        """Runs tests and prints the verdict. A new choice is kept, unless pytest rejects it."""
        choice = self.choice if choice is None else choice
        self.last = options
        self.stop_learning()
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

    def learn(self) -> None:
        """Runs the affected tests again in the background, to learn what they depend on now. If the disk is full, they
        count as affected until they can be learnt.

        It works on a copy of testmon's data: it may see a file that is saved after it began, and the tests of that
        file would then no longer count as affected when their turn comes.
        """
        try:
            copy(KNOWN, LEARNT)
        except OSError:
            self.stop_learning()
            return
        arguments = [*PLUGIN, *LEARN, *self.given, *self.choice.arguments()]
        self.learner = subprocess.Popen(
            [sys.executable, "-m", "testkit.warm", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"TESTMON_DATAFILE": LEARNT},
            start_new_session=True,
        )

    def note_what_was_learnt(self) -> None:
        """Takes over what the background run has learnt, if it has ended. Called once nothing was saved for a while."""
        if self.learner is not None and self.learner.poll() is not None:
            if Path(LEARNT).exists():
                with suppress(OSError):  # the disk is full
                    copy(LEARNT, KNOWN)
            self.stop_learning()

    def stop_learning(self) -> None:
        if self.learner is not None:
            self.learner.terminate()
            try:
                self.learner.wait(QUIET)
            except subprocess.TimeoutExpired:  # its parent will not wait for the run either
                self.learner.kill()
                self.learner.wait()
            self.learner = None
        for file in Path().glob(f"{LEARNT}*"):
            file.unlink(missing_ok=True)  # another watcher's

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


def end_with(parent: int) -> None:
    """Ends this process with `make`, which started it: nobody else would notice that `make` was killed."""
    while os.getppid() == parent:
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


def folders_in(place: Path) -> set[Path]:
    return {path.parent for path in sources(Path(), place)}


def copy(source: str, target: str) -> None:
    """Copies testmon's database, with its log and the notes beside it. No process may have it open.

    Leaves nothing of the target, so that all tests are affected, if it fails with `OSError`.
    """
    ends = ("", "-wal", "-seen", "-shm")
    for end in ends:
        Path(target + end).unlink(missing_ok=True)
    try:
        for end in ends[:-1]:
            if Path(source + end).exists():
                shutil.copyfile(source + end, target + end)
    except OSError:
        for end in ends:
            Path(target + end).unlink(missing_ok=True)
        raise


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
    if MISSING in ("termios", "tty"):
        sys.exit("Watching needs Unix. `pytest --testmon` runs what is affected, once.")
    if not sys.stdin.isatty():
        sys.exit("Watching needs a terminal: it asks for keys. `pytest --testmon` runs once.")
    if MISSING:
        sys.exit("Watching needs watchfiles: add it to the development dependencies.")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # until there is something to end
    terminal = Terminal()
    parent = WarmParent(terminal.file)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(128 + signal.SIGTERM))
    threading.Thread(target=end_with, args=[os.getppid()], daemon=True).start()
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
        watcher.stop_learning()
        parent.end()
        if server is not None:
            end_server(server)


if __name__ == "__main__":
    main()
