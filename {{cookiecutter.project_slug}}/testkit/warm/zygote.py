"""`python -m testkit.warm.zygote FILE LIBRARIES`: is forked for each of xdist's workers.

It has nothing of the process that has started it but its environment, and nothing of the project. It ends
when the other side of its socket, FILE, does.
"""

import json
import os
import signal
import socket
import sys
import types
from pathlib import Path

from testkit.warm import libraries
from testkit.warm.child import close, leave_at_once, take_over
from testkit.warm.protocol import STREAMS, Request, receive


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    # Ctrl-C is for the workers; and whoever waits for one of them sees that it has gone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if libraries.import_all(json.loads(Path(sys.argv[2]).read_text())) is not None:
        return  # what has threads cannot be forked
    while True:
        try:
            request, streams = receive(connection)
        except OSError:
            return
        pid = os.fork()
        if pid == 0:
            connection.close()
            become_worker(request, streams)
        close(*streams)
        connection.sendall(pid.to_bytes(8))


def become_worker(request: Request, streams: list[int]) -> None:
    """In a child: what execnet has a new interpreter do, which reads its program from its input."""
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


if __name__ == "__main__":
    main()
