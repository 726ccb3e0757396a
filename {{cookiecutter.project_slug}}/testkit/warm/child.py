"""What a forked child does first and last."""

import atexit
import importlib
import io
import os
import signal
import sys
import threading
import types
from contextlib import suppress
from typing import Any

from testkit.warm import libraries
from testkit.warm.protocol import STREAMS, Request, close


def hold_interrupts() -> None:
    """Blocks SIGINT, which is meant for the children. If it were ignored instead, one that arrives while a child starts
    would be lost; blocked, it stays pending."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def take_over(request: Request, streams: list[int]) -> None:
    """Takes on the streams, environment and directory of the requesting process, and drops the modules of a test kit
    that is not the one there."""
    for new, old in zip(streams, STREAMS, strict=True):
        os.dup2(new, old)
    close(*streams)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())
    for number in (signal.SIGTSTP, signal.SIGTTOU):  # which the watcher ignores
        signal.signal(number, signal.SIG_DFL)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN if request["is_deaf"] else signal.default_int_handler
    )
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    environment = request["environment"]
    assert isinstance(environment, dict)
    os.environ.clear()
    os.environ.update(environment)
    os.umask(int(str(request["umask"])))
    os.chdir(str(request["directory"]))
    sys.path[0] = str(request["directory"])
    if not libraries.is_kit_of(str(request["directory"])):
        for name in [name for name in sys.modules if name.partition(".")[0] == "testkit"]:
            del sys.modules[name]
    importlib.invalidate_caches()


def become_worker(request: Request, streams: list[int]) -> None:
    """Becomes an xdist worker: does what execnet makes a new interpreter do, which reads its program from its input."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    take_over(request, streams)
    sys.argv = ["-c"]
    sys.modules["__main__"] = module = types.ModuleType("__main__")
    with open(STREAMS[0], closefd=False) as program:
        line = program.readline()
    try:
        exec(eval(line), vars(module))  # noqa: S102, S307
    finally:
        leave_at_once(0)


def leave_at_once(status: Any) -> None:
    """Ends as `multiprocessing` does: tearing down 1,500 modules one by one would take 60 ms."""
    if isinstance(status, str):
        print(status, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
            stream.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))
