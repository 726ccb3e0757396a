"""Keeps a private PostgreSQL server running for as long as somebody uses it.

    python keeper.py DIRECTORY BINARIES SOCKETS [--precious] [NAME=VALUE ...]

Starts the server and returns, leaving a keeper process in the background. Every process that uses the
server holds a shared lock on `DIRECTORY/users.lock`. The kernel releases a lock when its process ends,
however that happens, so when the keeper gets the exclusive lock, it is time to stop the server.

A damaged data directory is created anew, unless it is `--precious`. NAME=VALUE are server settings.
Needs only the standard library, and starts in 30 ms.
"""

import contextlib
import fcntl
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from typing import IO, Any, NoReturn

START_TIMEOUT = 30.0  # seconds; after a crash of the machine there may be much to recover
STOP_TIMEOUT = 10.0  # seconds
POLL = 0.02  # seconds

PID, PORT, SOCKETS, STATUS = 0, 3, 4, 7  # lines of postmaster.pid

# Upper and lower case for all alphabets, in every version and on every system. PostgreSQL 17 and newer have that built
# in; older versions need it from the system.
LOCALES = (
    ("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
    ("--locale=C.UTF-8",),
    (),
)


class StartError(Exception):
    pass


class Server:
    """A server that this process started, or took over because its keeper was killed."""

    def __init__(self, directory: Path, binaries: Path, sockets: Path, settings: list[str]) -> None:
        self.data = directory / "data"
        self.log = directory / "server.log"
        self.binaries = binaries
        self.sockets = sockets
        self.settings = settings
        self.process: subprocess.Popen[bytes] | None = None
        self.adopted: int | None = None
        # PostgreSQL refuses to run as root.
        self.run_as = _unprivileged_user() if os.geteuid() == 0 else None

    def adopt(self) -> bool:
        """Takes over a server that is already running. Returns whether there was one."""
        lines = self._pid_file()
        if len(lines) > STATUS and lines[STATUS] == "ready":
            # After a crash of the machine, the process id may belong to any other process.
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
                probe.connect(f"{lines[SOCKETS]}/.s.PGSQL.{lines[PORT]}")
                self.adopted = int(lines[PID])
        return self.adopted is not None

    def initialize(self) -> None:
        """Creates a data directory, which replaces an existing one. Raises `StartError` if `initdb` fails."""
        unfinished = self.data.with_name("data.unfinished")
        for earlier in (unfinished, self.data):
            shutil.rmtree(earlier, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._give_away(unfinished)
        command = ["initdb", "--pgdata", str(unfinished), "--username=postgres", "--auth=trust"]
        command += ["--encoding=UTF8", "--no-sync", "--no-instructions"]
        for locale in LOCALES:
            result = self._spawn([*command, *locale], stdout=PIPE, stderr=STDOUT)
            output = result.communicate()[0].decode(errors="replace")
            if result.returncode == 0:
                unfinished.rename(self.data)
                return
        shutil.rmtree(unfinished, ignore_errors=True)
        raise StartError(f"initdb has failed: {_reason(output)}")

    def start(self) -> None:
        """Starts the server, and returns when it accepts connections. Raises `StartError` if it does not."""
        self.sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.sockets.stat().st_uid not in (os.geteuid(), self.run_as and self.run_as.pw_uid):
            raise StartError(f"{self.sockets} belongs to another user")
        self._give_away(self.sockets)
        settings = [f"unix_socket_directories={self.sockets}", *self.settings]
        command = ["postgres", "-D", str(self.data), *(f"--{setting}" for setting in settings)]
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            with self.log.open("wb") as log:
                self.process = self._spawn(command, stdout=log, stderr=log)
            while self.process.poll() is None and time.monotonic() < deadline:
                lines = self._pid_file()
                if lines[STATUS:] == ["ready"] and lines[PID] == str(self.process.pid):
                    return
                time.sleep(0.005)
            # The processes of a server that was killed take a moment to notice that.
            if b"shared memory block" not in self.log.read_bytes():
                break
            time.sleep(POLL)
        self.stop()
        raise StartError(
            f"the server does not start: {_reason(self.log.read_text(errors='replace'))}"
        )

    def stop(self) -> None:
        """Ends the server and waits until it has ended."""
        pid = self.process.pid if self.process is not None else self.adopted
        if pid is None:
            return
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            deadline = time.monotonic() + STOP_TIMEOUT
            while self.is_running() and time.monotonic() < deadline:
                time.sleep(0.005)
            if not self.is_running():
                return

    def is_running(self) -> bool:
        if self.process is not None:
            return self.process.poll() is None
        if self.adopted is None or self._pid_file()[:1] != [str(self.adopted)]:
            return False
        try:
            os.kill(self.adopted, 0)
        except OSError:
            return False
        return True

    def is_usable(self) -> bool:
        # This file is removed by whatever finds that the data are damaged.
        return self.is_running() and (self.data / "PG_VERSION").exists()

    def _pid_file(self) -> list[str]:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []
        return [line.strip() for line in lines]

    def _spawn(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        if self.run_as is not None:
            options |= {"user": self.run_as.pw_uid, "group": self.run_as.pw_gid, "extra_groups": []}
        return subprocess.Popen(
            [str(self.binaries / command[0]), *command[1:]],
            cwd="/",
            stdin=DEVNULL,
            # Nothing of the caller's environment is passed on, above all not PGDATA or LC_ALL.
            env={"PATH": os.defpath},
            **options,
        )

    def _give_away(self, path: Path) -> None:
        if self.run_as is not None:
            os.chown(path, self.run_as.pw_uid, self.run_as.pw_gid)


def _unprivileged_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise StartError("PostgreSQL does not run as root, and there is no user `nobody` to run it as")


def _reason(text: str) -> str:
    """Returns the first error in the output, without timestamps and other prefixes, or else its last line."""
    for pattern in (r"(?:FATAL|PANIC): +(.*)", r"error: +(.*)", r"(.*\S)\s*\Z"):
        if found := re.search(pattern, text):
            return found[1]
    return "it said nothing"


def keep(directory: Path, server: Server, *, precious: bool, caller: IO[str]) -> NoReturn:
    with (
        (directory / "keeper.lock").open("w") as own,
        (directory / "users.lock").open("w") as users,
    ):
        fcntl.flock(own, fcntl.LOCK_EX)
        try:
            if not server.adopt():
                start(server, precious=precious)
            _say(caller, "ready")
            while server.is_usable():
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                time.sleep(POLL)
        except (StartError, OSError) as error:
            _say(caller, str(error))
            sys.exit(1)
        finally:
            server.stop()
    sys.exit()


def _say(caller: IO[str], message: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # the caller may be gone, or know already
        caller.write(message)
        caller.close()


def start(server: Server, *, precious: bool) -> None:
    exists = (server.data / "PG_VERSION").exists()
    # After a crash, what was not written with `fsync` may look right and be wrong.
    has_crashed = (server.data / "postmaster.pid").exists()
    if exists and (precious or not has_crashed):
        try:
            server.start()
        except StartError:
            if precious:
                raise
        else:
            return
    elif precious and server.data.exists():
        raise StartError(f"{server.data} is no data directory of PostgreSQL")
    server.initialize()
    server.start()


def main() -> None:
    directory, binaries, sockets = map(Path, sys.argv[1:4])
    settings = [argument for argument in sys.argv[4:] if "=" in argument]
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        with os.fdopen(reader) as pipe:
            message = pipe.read()
        if message != "ready":
            sys.exit(message or "the keeper of the server has died")
        return
    os.close(reader)
    os.setsid()  # Ctrl-C in the terminal must not reach the server
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    quiet = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(quiet, descriptor)
    with os.fdopen(writer, "w") as caller:
        keep(
            directory,
            Server(directory, binaries, sockets, settings),
            precious="--precious" in sys.argv,
            caller=caller,
        )


if __name__ == "__main__":
    main()
