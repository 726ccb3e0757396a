"""The processes of `serve --workers`."""

import os
import signal
from socket import socket

from uvicorn.supervisors import multiprocess


class NoticedProcess(multiprocess.Process):
    """A process whose end is noticed at once, and which notices the end of who has started it.

    uvicorn asks each of them whether it lives, over a pipe of which both sides keep both ends. So of one that has just
    died it would wait for an answer, for as long as a new one may take to start, and hear no signal meanwhile. And
    those whose parent was killed would go on, on a port that nobody else can have then.
    """

    def start(self) -> None:
        super().start()
        self.child_conn.close()

    def target(self, sockets: list[socket] | None = None) -> None:
        self.parent_conn.close()
        super().target(sockets)

    def always_pong(self) -> None:
        try:
            super().always_pong()
        except (EOFError, OSError):
            os.kill(os.getpid(), signal.SIGTERM)


def notice_ends() -> None:
    multiprocess.Process = NoticedProcess  # type: ignore[misc]
