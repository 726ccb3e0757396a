"""`python -m app`: the commands of this service."""

import os
import signal
import sys
from types import FrameType


def stop(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)  # what a shell says of a process that a signal has ended


# PID 1, in a container, receives only signals it has a handler for, and the imports take a second.
if os.getpid() == 1:
    signal.signal(signal.SIGTERM, stop)

from app.cli import main  # noqa: E402

if __name__ == "__main__":  # pragma: no branch
    main()
