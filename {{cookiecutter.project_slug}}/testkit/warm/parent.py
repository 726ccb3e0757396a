"""`python -m testkit.warm.parent`: holds the libraries and the test kit, and forks a child for every run.

It imports no other modules of the project, so nothing that is being worked on can be stale, and it ends when a
package, the test kit, the project's settings or Python itself has changed. It also ends, together with its runs,
when its standard input ends, which `watch` keeps open. It then restores the terminal of `--terminal=FILE`, unless
`watch` has said that it does so itself.
"""

import json
import os
import runpy
import select
import selectors
import signal
import socket
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from testkit.warm import libraries
from testkit.warm.child import become_worker, hold_interrupts, leave_at_once, take_over
from testkit.warm.protocol import PID_BYTES, STREAMS, address, circumstances, close, kill, receive

PATIENCE = 3.0  # seconds in which a run has to end when nobody waits for it any longer
LOOK_INTERVAL = 0.01  # seconds, while the tests are collected
LIFELINE = STREAMS[0]
TERMINAL = "--terminal="
ENVIRONMENT = dict(os.environ)
CIRCUMSTANCES = circumstances()

Terminal = tuple[int, list[Any]]


@dataclass
class Run:
    """A child, and the connection to the process that waits for it."""

    pid: int
    connection: socket.socket
    report: IO[str]  # where the child says which libraries it has needed
    deadline: float | None = None


class Parent:
    """Takes requests, and looks after the children."""

    def __init__(
        self,
        listener: socket.socket,
        path: str,
        terminal: Terminal | None,
        state: libraries.State,
        conftests: list[str],
    ) -> None:
        self.listener = listener
        self.path, self.inode = path, os.stat(path).st_ino
        self.runs: dict[int, Run] = {}
        self.is_stale = False
        self.known = set(libraries.imported())  # and later what cannot be imported
        self.terminal = terminal
        self.state = state
        self.conftests = conftests
        self.selector = selectors.DefaultSelector()
        self.wakeup, self.waker = os.pipe()
        os.set_blocking(self.waker, False)
        signal.set_wakeup_fd(self.waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for file in (LIFELINE, listener, self.wakeup):
            self.selector.register(file, selectors.EVENT_READ)

    def serve(self) -> dict[str, Any] | None:
        """Returns a request in the child that is to fulfil it, or `None` in the parent at its end.

        A stale parent waits for its runs but no longer listens: another one may do so at the same address.
        """
        while not self.is_stale or self.runs:
            deadlines = [run.deadline for run in self.runs.values() if run.deadline]
            timeout = max(0, min(deadlines) - time.monotonic()) if deadlines else None
            for key, _ in self.selector.select(timeout):
                if key.fileobj == LIFELINE:
                    self.retire()
                    self.end()
                    return None
                if key.fileobj is self.listener:
                    request = None if self.is_stale else self.answer(self.listener.accept()[0])
                    if request is not None:
                        return request
                elif key.fileobj == self.wakeup:
                    os.read(self.wakeup, 4096)
                    self.reap()
                else:
                    self.pass_on(key.data)
            for run in self.runs.values():
                if run.deadline and run.deadline < time.monotonic():
                    kill(run.pid, signal.SIGKILL)
        return None

    def answer(self, connection: socket.socket) -> dict[str, Any] | None:
        try:
            wanted, streams = receive(connection)
        except (OSError, ValueError):
            connection.close()
            return None
        request: dict[str, Any] = wanted
        if "run" in request:
            return self.lend(connection, request, streams)
        if libraries.changed(self.state) is not None:
            self.retire()
        is_the_same = request["circumstances"] == CIRCUMSTANCES
        is_the_same &= libraries.read_the_same(request["environment"], ENVIRONMENT)
        if self.is_stale or not is_the_same:
            say(connection, "cold", 0)
            close(connection.detach(), *streams)
            return None
        report = tempfile.TemporaryFile("w+")  # noqa: SIM115  # open as long as the run
        pid = self.fork(connection, streams)
        if pid == 0:
            return request | {"streams": streams, "report": report}
        run = Run(pid, connection, report)
        self.runs[pid] = run
        self.selector.register(connection, selectors.EVENT_READ, run)
        say(connection, "pid", pid)
        return None

    def retire(self) -> None:
        if not self.is_stale:
            self.is_stale = True
            self.selector.unregister(self.listener)
            self.listener.close()
            with suppress(FileNotFoundError):
                if os.stat(self.path).st_ino == self.inode:  # and not of another parent
                    os.unlink(self.path)

    def lend(
        self, connection: socket.socket, request: dict[str, Any], streams: list[int]
    ) -> dict[str, Any] | None:
        """Forks a worker for one of the runs, as `zygote` does, in the process group of that run."""
        is_the_same = libraries.read_the_same(request["environment"], os.environ)
        if request["run"] not in self.runs or not is_the_same:
            close(connection.detach(), *streams)
            return None
        pid = self.fork(connection, streams, request["run"])
        if pid == 0:
            return request | {"streams": streams}
        with connection, suppress(OSError):
            connection.sendall(pid.to_bytes(PID_BYTES))
        return None

    def fork(self, connection: socket.socket, streams: list[int], group: int = 0) -> int:
        pid = os.fork()
        if pid == 0:
            self.leave()
            connection.close()
        with suppress(OSError):  # both processes do it, as either may come first
            os.setpgid(pid, group)
        if pid != 0:
            close(*streams)
        return pid

    def leave(self) -> None:
        """Lets go, in a child, of what belongs to the parent."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.selector.close()  # only closed, because the parent uses it too
        self.listener.close()
        close(self.wakeup, self.waker, *([self.terminal[0]] if self.terminal else []))
        for run in self.runs.values():
            run.connection.close()
            run.report.close()

    def pass_on(self, run: Run) -> None:
        """Passes signals from the waiting process on to its run, or ends the run if that process has gone."""
        if run.pid not in self.runs:  # it has ended just now
            return
        try:
            numbers = run.connection.recv(64)
        except OSError:
            numbers = b""
        for number in numbers:
            kill(run.pid, number)
        if not numbers:
            self.selector.unregister(run.connection)
            kill(run.pid, signal.SIGTERM)
            run.deadline = time.monotonic() + PATIENCE

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid not in self.runs:  # a worker, which its run looks after
                continue
            run = self.runs.pop(pid)
            say(run.connection, "status", status)
            if run.deadline is None:
                self.selector.unregister(run.connection)
            run.connection.close()
            with run.report as report:
                report.seek(0)
                self.learn(report.read())

    def end(self) -> None:
        for pid in self.runs:
            kill(pid, signal.SIGKILL)
        give_back(self.terminal)

    def learn(self, needed: str) -> None:
        """Imports, for later runs, what a run has imported, unless it was killed or others are still running."""
        if not needed or self.runs or self.is_stale:
            return
        found = json.loads(needed)
        if not self.may_hold(found):
            self.retire()
            return
        names = {name: own for name, own in found["libraries"].items() if name not in self.known}
        if names:
            self.known.update(names)
            self.state = prepare(names, found["rewritten"], self.conftests) | self.state

    def may_hold(self, found: dict[str, Any]) -> bool:
        """Whether each `conftest.py` that is new here leaves the libraries alone: it might set variables that they
        read, or make one stand in for another. If so, notes them."""
        new = [file for file in found["conftests"] if file not in self.conftests]
        if new and not (
            libraries.read_the_same(found["environment"], os.environ)
            and all(name == own for name, own in found["libraries"].items())
        ):
            return False
        self.conftests += new
        self.state |= libraries.stamps(new, found["begun"])
        return True


def prepare(names: libraries.Names, rewritten: list[str], conftests: list[str]) -> libraries.State:
    """Imports these modules. Returns the files that this process now depends on, including each `conftest.py`, which
    may set something before it imports a library."""
    begun = time.time_ns()
    libraries.hold(names, rewritten, "testkit.warm.parent", sys.argv[2:], ENVIRONMENT)
    libraries.remember_packages()
    libraries.remember_fixtures()
    return libraries.state(begun, conftests)


def become(request: dict[str, Any]) -> None:
    """Does in a child what `python -m pytest` does. At the end, reports which libraries were needed."""
    begun, known = time.time_ns(), set(sys.modules)
    take_over(request, request["streams"])
    xdist = sys.modules.get("xdist.plugin")
    if xdist is not None:  # it keeps the parent's path for the workers
        xdist._sys_path[:] = sys.path
    sys.argv = ["pytest", *request["arguments"]]
    try:
        runpy.run_module("pytest", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code
    files = [libraries.attribute(module, "__file__") for module in list(sys.modules.values())]
    conftests = [file for file in files if os.path.basename(file) == "conftest.py"]
    with request["report"] as report:
        names = libraries.imported(known)
        found = {
            "libraries": names,
            "rewritten": libraries.rewritten(names),
            "environment": dict(os.environ),
            "conftests": [os.path.relpath(file, request["directory"]) for file in conftests],
            "begun": begun,
        }
        json.dump(found, report)
    leave_at_once(status)


def look_around(terminal: Terminal | None) -> dict[str, Any] | None:
    """Collects the tests in a child. Returns what the child reports at its end; `None` if nobody waits for it."""
    with tempfile.TemporaryFile("w+") as report, open(os.devnull, "r+b") as nothing:
        pid = os.fork()
        with suppress(OSError):
            os.setpgid(pid, 0)
        if pid == 0:
            become(
                {
                    "streams": [os.dup(nothing.fileno()) for _ in STREAMS],
                    "environment": dict(os.environ),
                    "directory": str(Path.cwd()),
                    "umask": 0o77,
                    "arguments": ["--collect-only"],
                    "report": report,
                    "is_deaf": True,
                }
            )
        # An import may never end.
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if select.select([LIFELINE], [], [], LOOK_INTERVAL)[0]:
                kill(pid, signal.SIGKILL)
                give_back(terminal)
                return None
        report.seek(0)
        nothing_found = {
            "libraries": {},
            "rewritten": [],
            "environment": ENVIRONMENT,
            "conftests": [],
        }
        found: dict[str, Any] = json.loads(report.read() or "null") or nothing_found
        return found


def say(connection: socket.socket, word: str, number: int) -> None:
    with suppress(OSError):  # nobody waits for it
        connection.sendall(f"{word} {number}\n".encode())


def terminal_as_it_is() -> Terminal | None:
    option = next((option for option in sys.argv if option.startswith(TERMINAL)), None)
    if option is None:
        return None
    import termios

    terminal = int(option.removeprefix(TERMINAL))
    return terminal, termios.tcgetattr(terminal)


def give_back(terminal: Terminal | None) -> None:
    """Restores the terminal when the standard input ends, unless the watcher has said that it does so itself."""
    if terminal and not os.read(LIFELINE, 1):
        import termios

        file, attributes = terminal
        termios.tcsetattr(file, termios.TCSADRAIN, attributes)


def main() -> None:
    if not hasattr(os, "fork"):
        sys.exit("Processes that are forked need Unix. Run pytest itself.")
    hold_interrupts()
    path = address()
    if path is None:
        sys.exit("The folder for sockets belongs to somebody else.")
    terminal = terminal_as_it_is()
    found = look_around(terminal)
    if found is None:
        return
    os.environ.clear()
    os.environ.update(found["environment"])
    state = prepare(found["libraries"], found["rewritten"], found["conftests"])
    with socket.socket(socket.AF_UNIX) as listener:
        Path(path).unlink(missing_ok=True)
        listener.bind(path)
        listener.listen()
        parent = Parent(listener, path, terminal, state, found["conftests"])
        print("ready", flush=True)
        request = parent.serve()
        if request is not None and "run" in request:
            become_worker(request, request["streams"])
        elif request is not None:
            become(request)


if __name__ == "__main__":
    main()
