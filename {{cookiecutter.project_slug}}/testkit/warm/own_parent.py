"""The parent that forks the runs of a watcher."""

import _socket
import os
import signal
import subprocess
import sys
from contextlib import closing, suppress

from testkit.warm.protocol import address, connect, request

PATIENCE = 5.0  # seconds
GOODBYE = b"q"  # the watcher restores the terminal itself


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
