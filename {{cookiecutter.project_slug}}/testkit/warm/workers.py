"""Workers of xdist that are forked, a pytest plugin: each is ready a second earlier.

Not from the controller, whose state they would have, but from a process that has imported the same
libraries and nothing else (`zygote`). It begins with that while the controller still looks for its plugins,
if the last run had workers too.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from testkit.warm import libraries
from testkit.warm.child import close
from testkit.warm.protocol import Request, ignores_interrupts, send

LIBRARIES = ".performance/libraries.json"
LOOK_INTERVAL = 0.005  # seconds, while a worker ends
ZYGOTE = pytest.StashKey["Zygote"]()
HAD_WORKERS = pytest.StashKey[bool]()


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
    # Options are not known yet; whoever is started in vain is ended again.
    is_refused = any("spawn" in argument for argument in config.invocation_params.args)
    if wanted and not is_refused and file.exists() and may_fork():
        config.stash[ZYGOTE] = Zygote(file)


def are_forked(config: pytest.Config) -> bool:
    return config.getoption("workers", "spawn") == "fork" and may_fork()


def may_fork() -> bool:
    """What measures processes from their start has to see one; and workers have no workers.

    macOS has libraries that do not survive a fork.
    """
    unsuited = {"COVERAGE_PROCESS_START", "PYTEST_XDIST_WORKER"}
    return sys.platform == "linux" and hasattr(os, "fork") and unsuited.isdisjoint(os.environ)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[Any]) -> None:
    """Before xdist starts its workers."""
    if not are_forked(config):
        return
    file = config.rootpath / LIBRARIES
    if ZYGOTE not in config.stash:
        if not note_libraries(file):
            return
        config.stash[ZYGOTE] = Zygote(file)
    config.stash[HAD_WORKERS] = True
    nodes: Any = config.pluginmanager.get_plugin("dsession")
    group = nodes.nodemanager.group
    group.makegateway = partial(make_gateway, group, group.makegateway, config.stash[ZYGOTE])


def pytest_unconfigure(config: pytest.Config) -> None:
    if ZYGOTE in config.stash:
        config.stash[ZYGOTE].end()
        file = config.rootpath / LIBRARIES
        if HAD_WORKERS in config.stash:
            note_libraries(file)
        else:  # nobody has needed it
            file.unlink(missing_ok=True)


def note_libraries(file: Path) -> bool:
    """Whether it could be written; a checkout may be read-only, and a disk full."""
    try:
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(libraries.imported()))
    except OSError:
        with suppress(OSError):  # half of it would be worse than nothing
            file.unlink(missing_ok=True)
        return False
    return True


def make_gateway(group: Any, start: Callable[[Any], Any], zygote: "Zygote", spec: Any) -> Any:
    """What `execnet.Group.makegateway` does, with a fork where it would start a program."""
    from execnet.gateway_bootstrap import bootstrap

    is_plain = spec.popen and not (spec.via or spec.python or spec.chdir or spec.nice or spec.env)
    io = zygote.fork(group.execmodel) if is_plain else None
    if io is None:
        return start(spec)
    gateway = bootstrap(io, spec)
    gateway.spec = spec
    group._register(gateway)
    return gateway


class Zygote:
    """The process that is forked."""

    def __init__(self, file: Path) -> None:
        self.connection, there = socket.socketpair()
        with there:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "testkit.warm.zygote", str(there.fileno()), str(file)],
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def fork(self, execmodel: Any) -> Any:
        """A child, as execnet speaks to it; `None` if there cannot be one."""
        from execnet.gateway_base import Popen2IO

        class Fork(Popen2IO):
            """Stands in for `execnet.gateway_io.Popen2IOMaster`."""

            def wait(self) -> None:
                """It is not a child of this process, so `os.waitpid` knows nothing of it."""
                while signal_to(pid, 0):
                    time.sleep(LOOK_INTERVAL)

            def kill(self) -> None:
                signal_to(pid, signal.SIGKILL)

        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        wanted: Request = {
            "environment": dict(os.environ),
            "directory": str(Path.cwd()),
            "is_deaf": ignores_interrupts(),
        }
        try:
            send(self.connection, wanted, (theirs_in, theirs_out, 2))
            answer = self.connection.recv(8)
        except OSError:
            answer = b""
        close(theirs_in, theirs_out)
        if not answer:
            close(ours_in, ours_out)
            return None
        pid = int.from_bytes(answer)
        return Fork(os.fdopen(ours_out, "wb"), os.fdopen(ours_in, "rb"), execmodel)

    def end(self) -> None:
        self.connection.close()
        self.process.wait()


def signal_to(pid: int, number: int) -> bool:
    """Whether there was a process to send it to."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
