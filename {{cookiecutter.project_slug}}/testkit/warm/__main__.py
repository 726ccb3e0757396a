"""`python -m testkit.warm`: runs pytest with the same arguments, forked from a warm parent if there is one."""

import os
import sys


def main() -> None:
    arguments = sys.argv[1:]
    if hasattr(os, "fork"):
        from testkit.warm.protocol import address, connect, request

        path = address()
        # The parent needs three streams, and the connection would take the place of one that is closed.
        is_complete = None not in (sys.stdin, sys.stdout, sys.stderr)
        connection = connect(path) if path and is_complete else None
        if connection is not None:
            end(request(connection, arguments))
        os.execv(sys.executable, cold(arguments))  # noqa: S606
    import subprocess

    sys.exit(subprocess.call(cold(arguments)))


def cold(arguments: list[str]) -> list[str]:
    """Returns the command that starts pytest the way this process was started, with options such as `-O`."""
    *options, module = sys.orig_argv[1 : len(sys.orig_argv) - len(arguments)]
    module = f"{module.removesuffix('testkit.warm')}pytest"  # `-m` may be part of the same word
    return [sys.executable, *options, module, *arguments]


def end(status: int | None) -> None:
    """Ends as pytest ended: with its status, or by the signal that ended it. Returns if pytest has not run."""
    if status is None:
        return
    if status < 0:
        import signal

        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)  # a regular exit would take a while, and there is nothing to clean up


main()
