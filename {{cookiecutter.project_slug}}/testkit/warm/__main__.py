"""`python -m testkit.warm`: pytest, with the same arguments, from a parent that is warm if there is one."""

import os
import sys


def main() -> None:
    arguments = sys.argv[1:]
    if hasattr(os, "fork"):
        from testkit.warm.protocol import address, connect, request

        path = address()
        connection = connect(path) if path else None
        if connection is not None:
            end(request(connection, arguments))
        os.execv(sys.executable, cold(arguments))  # noqa: S606
    import subprocess

    sys.exit(subprocess.call(cold(arguments)))


def cold(arguments: list[str]) -> list[str]:
    """The command that this process was started with, `-O` and the like too, for pytest."""
    *options, module = sys.orig_argv[1 : len(sys.orig_argv) - len(arguments)]
    module = f"{module.removesuffix('testkit.warm')}pytest"  # after `-m`, or after a blank
    return [sys.executable, *options, module, *arguments]


def end(status: int | None) -> None:
    """As pytest has ended: with its status, or by the signal that has ended it."""
    if status is None:
        return
    if status < 0:
        import signal

        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)  # there is nothing to tidy up, which would take a while


main()
