"""Learns in the background which tests a change affects, while a watcher already has its verdict."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

LEARN = ("--testmon",)
KNOWN = ".testmondata"
LEARNT = ".testmondata-learning"
QUIET = 0.3  # seconds; changes are reported sooner than that


class Learner:
    """A run under the tracer of testmon, and the data that it works on.

    The data is a copy: the run may see a file that is saved after it began, and the tests of that file would then no
    longer count as affected when their turn comes. If the disk is full, tests count as affected until they can be
    learnt.
    """

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, arguments: list[str]) -> None:
        """Runs the affected tests again, with these arguments of pytest."""
        try:
            copy(KNOWN, LEARNT)
        except OSError:
            self.stop()
            return
        self.process = subprocess.Popen(
            [sys.executable, "-m", "testkit.warm", *LEARN, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"TESTMON_DATAFILE": LEARNT},
            start_new_session=True,
        )

    def take_over(self) -> None:
        """Takes over what the run has learnt, if it has ended. To be called once nothing was saved for a while."""
        if self.process is not None and self.process.poll() is not None:
            if Path(LEARNT).exists():
                with suppress(OSError):
                    copy(LEARNT, KNOWN)
            self.stop()

    def stop(self) -> None:
        """Ends the run, and forgets what it has not handed over."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(QUIET)
            except subprocess.TimeoutExpired:  # its parent will not wait for the run either
                self.process.kill()
                self.process.wait()
            self.process = None
        for file in Path().glob(f"{LEARNT}*"):
            file.unlink(missing_ok=True)  # another watcher's


def copy(source: str, target: str) -> None:
    """Copies testmon's database, with its log and the notes beside it. No process may have it open.

    Leaves nothing of the target, so that all tests are affected, if it fails with `OSError`.
    """
    ends = ("", "-wal", "-seen", "-shm")
    for end in ends:
        Path(target + end).unlink(missing_ok=True)
    try:
        for end in ends[:-1]:
            if Path(source + end).exists():
                shutil.copyfile(source + end, target + end)
    except OSError:
        for end in ends:
            Path(target + end).unlink(missing_ok=True)
        raise
