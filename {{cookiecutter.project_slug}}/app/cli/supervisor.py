"""The processes of `serve --workers`."""

import multiprocessing
import os
import signal
import threading
from socket import socket

from uvicorn.supervisors import multiprocess


class NoticedProcess(multiprocess.Process):
    """A process whose end is noticed at once, and which notices the end of who has started it.

    uvicorn asks each of them whether it lives, over a pipe of which it keeps the other end: of one that has just died
    it would wait for an answer, for as long as a new one may take to start, and hear no signal meanwhile. And those whose
    parent was killed would go on, on a port that nobody else can have then.
    """

    def start(self) -> None:
        super().start()
        self.child_conn.close()

    def target(self, sockets: list[socket] | None = None) -> None:
        threading.Thread(target=end_with_parent, daemon=True).start()
        super().target(sockets)


def end_with_parent() -> None:
    multiprocessing.parent_process().join()  # type: ignore[union-attr]
    os.kill(os.getpid(), signal.SIGTERM)


def notice_ends() -> None:
    multiprocess.Process = NoticedProcess  # type: ignore[misc]
