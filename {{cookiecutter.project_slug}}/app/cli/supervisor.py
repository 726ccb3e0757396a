"""The processes of `serve --workers`."""

from uvicorn.supervisors import multiprocess


class NoticedProcess(multiprocess.Process):
    """A process whose end is noticed at once.

    uvicorn asks each of them whether it lives, over a pipe of which it keeps the other end: of one that has just died
    it would wait for an answer, for as long as a new one may take to start, and hear no signal meanwhile.
    """

    def start(self) -> None:
        super().start()
        self.child_conn.close()


def notice_ends() -> None:
    multiprocess.Process = NoticedProcess  # type: ignore[misc]
