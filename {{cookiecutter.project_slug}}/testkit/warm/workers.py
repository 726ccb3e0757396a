"""A pytest plugin that forks xdist's workers, so that each is ready a second earlier.

They are forked not from the controller, whose state they would inherit, but from a process that has imported
the same libraries and nothing else: from `parent`, if it forked this run as well, or from one of our own
(`zygote`). If the last run had workers too, the zygote begins its imports while the controller still looks for
its plugins.
"""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from testkit.warm import libraries
from testkit.warm.protocol import (
    NOBODY,
    PID_BYTES,
    Request,
    address,
    close,
    connect,
    send,
    this_process,
)

LIBRARIES = ".performance/imported.json"
LOOK_INTERVAL = 0.005  # seconds, while a worker ends
SOURCE = pytest.StashKey["Parent | Zygote"]()
HAD_WORKERS = pytest.StashKey[bool]()
CREDENTIALS = struct.Struct("3i")  # process id, user id and group id of a peer


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    group = parser.getgroup("testkit", "the test kit")
    group.addoption(
        "--workers",
        choices=["fork", "spawn"],
        default="fork",
        help="how the workers of -n start: forked from a process that has imported the libraries (the "
        "default, on Linux), or as new interpreters",
    )
    config: Any = pluginmanager.get_plugin("pytestconfig")
    file = config.rootpath / LIBRARIES
    wanted = getattr(config.known_args_namespace, "numprocesses", None)
    # The options are not known yet; a process that is started in vain is ended again.
    is_refused = any("spawn" in argument for argument in config.invocation_params.args)
    if wanted and not is_refused and may_fork():
        source = parent_of_this_run() or (Zygote(file) if file.exists() else None)
        if source is not None:
            config.stash[SOURCE] = source


def are_forked(config: pytest.Config) -> bool:
    return config.getoption("workers", "spawn") == "fork" and may_fork()


def may_fork() -> bool:
    """Whether workers may be forked in this process. Coverage that measures processes from their start has to see them
    start, and workers have no workers of their own. On macOS, some libraries do not survive a fork.
    """
    unsuited = {"COVERAGE_PROCESS_START", "PYTEST_XDIST_WORKER"}
    return sys.platform == "linux" and hasattr(os, "fork") and unsuited.isdisjoint(os.environ)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[Any]) -> None:
    """Replaces the way in which xdist starts its workers, before it does."""
    if not are_forked(config):
        return
    file = config.rootpath / LIBRARIES
    if SOURCE not in config.stash:
        if not note_libraries(file):
            return
        config.stash[SOURCE] = Zygote(file)
    config.stash[HAD_WORKERS] = True
    nodes: Any = config.pluginmanager.get_plugin("dsession")
    group = nodes.nodemanager.group
    group.makegateway = partial(make_gateway, group, group.makegateway, config.stash[SOURCE])


def pytest_unconfigure(config: pytest.Config) -> None:
    source = config.stash.get(SOURCE, None)
    if isinstance(source, Zygote):
        source.end()
        file = config.rootpath / LIBRARIES
        if HAD_WORKERS in config.stash:
            note_libraries(file)
        else:  # no worker was needed
            file.unlink(missing_ok=True)


def note_libraries(file: Path) -> bool:
    """Writes the names of the imported libraries. Returns whether that worked: a checkout may be read-only, or a disk
    full."""
    try:
        file.parent.mkdir(exist_ok=True)
        names = libraries.imported()
        known = {"libraries": names, "rewritten": libraries.rewritten(names)}
        file.write_text(json.dumps(known))
    except OSError:
        with suppress(OSError):  # half of it would be worse than nothing
            file.unlink(missing_ok=True)
        return False
    return True


def make_gateway(
    group: Any, start: Callable[[Any], Any], source: "Parent | Zygote", spec: Any
) -> Any:
    """Does what `execnet.Group.makegateway` does, but forks if possible, instead of starting a program."""
    from execnet.gateway_bootstrap import bootstrap

    is_plain = spec.popen and not (spec.via or spec.python or spec.chdir or spec.nice or spec.env)
    io = fork(source, group.execmodel) if is_plain else None
    if io is None:
        return start(spec)
    gateway = bootstrap(io, spec)
    gateway.spec = spec
    group._register(gateway)
    return gateway


def fork(source: "Parent | Zygote", execmodel: Any) -> Any:
    """Forks a worker. Returns the object through which execnet talks to it, or `None` if there cannot be one."""
    from execnet.gateway_base import Popen2IO

    class Fork(Popen2IO):
        """Stands in for `execnet.gateway_io.Popen2IOMaster`."""

        def wait(self) -> None:
            """Waits until the worker has ended. As it is not a child of this process, `os.waitpid` does not know it."""
            while signal_to(pid, 0):
                time.sleep(LOOK_INTERVAL)

        def kill(self) -> None:
            signal_to(pid, signal.SIGKILL)

    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    try:
        answer = source.ask(this_process(), (theirs_in, theirs_out, 2))
    except OSError:
        answer = b""
    close(theirs_in, theirs_out)
    if answer in (b"", NOBODY):
        close(ours_in, ours_out)
        return None
    pid = int.from_bytes(answer)
    return Fork(os.fdopen(ours_out, "wb"), os.fdopen(ours_in, "rb"), execmodel)


class Zygote:
    """A process started by this run, from which its workers are forked."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.begin()

    def begin(self) -> None:
        self.connection, there = socket.socketpair()
        with there:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "testkit.warm.zygote", str(there.fileno()), str(self.file)],
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def ask(self, wanted: Request, streams: tuple[int, int, int]) -> bytes:
        send(self.connection, wanted, streams)
        answer = self.connection.recv(PID_BYTES)
        if answer != NOBODY:
            return answer
        # The zygote began before the project set a variable that a library reads.
        self.end()
        self.begin()
        send(self.connection, wanted, streams)
        return self.connection.recv(PID_BYTES)

    def end(self) -> None:
        self.connection.close()
        self.process.wait()


class Parent:
    """The process that this run was forked from, which has all of the libraries."""

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, wanted: Request, streams: tuple[int, int, int]) -> bytes:
        connection = connect(self.address)
        if connection is None:
            return b""
        with closing(connection):
            send(connection, wanted | {"run": os.getpid()}, streams)
            return connection.recv(PID_BYTES)


def parent_of_this_run() -> Parent | None:
    """Returns the parent that listens for runs of this directory, if it forked this one."""
    path = address()
    connection = connect(path) if path else None
    if path is None or connection is None:
        return None
    with closing(connection):
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    return Parent(path) if CREDENTIALS.unpack(peer)[0] == os.getppid() else None


def signal_to(pid: int, number: int) -> bool:
    """Sends a signal. Returns whether the process exists."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
