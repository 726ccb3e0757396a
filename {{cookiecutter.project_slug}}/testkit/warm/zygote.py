"""`python -m testkit.warm.zygote FILE LIBRARIES [EXCLUDED ...]`: forks itself for each of xdist's workers.

It shares nothing with the process that started it but the environment, and has imported only libraries and the kit.
It ends when the other side of its socket, FILE, is closed.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from testkit.warm import libraries
from testkit.warm.child import become_worker, hold_interrupts
from testkit.warm.protocol import NOBODY, PID_BYTES, close, receive


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    hold_interrupts()
    # Whatever waits for a worker must see that it has gone, so no zombie may remain.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    known = json.loads(Path(sys.argv[2]).read_text())
    names, rewritten = known.get("libraries", {}), known.get("rewritten", [])
    libraries.hold(names, rewritten, "testkit.warm.zygote", sys.argv[3:], os.environ)
    while True:
        try:
            wanted, streams = receive(connection)
        except OSError:
            return
        request: dict[str, Any] = wanted
        if not libraries.read_the_same(request["environment"], os.environ):
            connection.sendall(NOBODY)
            return
        pid = os.fork()
        if pid == 0:
            connection.close()
            become_worker(request, streams)
        close(*streams)
        connection.sendall(pid.to_bytes(PID_BYTES))


if __name__ == "__main__":
    main()
