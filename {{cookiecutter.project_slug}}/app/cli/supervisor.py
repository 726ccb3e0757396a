"""The processes of `serve --workers`."""

import multiprocessing
import os
import signal
import threading
from socket import socket

from uvicorn.supervisors import multiprocess


class NoticedProcess(multiprocess.Process):
    """A process whose death is noticed at once, and which notices the death of its parent.

    uvicorn pings each process over a pipe whose far end it keeps open itself, so it would wait for the answer of a dead
    one as long as a new one may take to start, deaf to signals. Children of a killed parent would live on and hold the
    port.
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
