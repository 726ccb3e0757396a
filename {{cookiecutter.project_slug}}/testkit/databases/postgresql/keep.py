"""`python -m testkit.databases.postgresql.keep`: keeps the private server of the tests running, from one
run to the next, until its standard input ends. Each run then begins 0.2 s sooner."""

import signal
import sys
from contextlib import suppress

from testkit.databases.postgresql.server import ServerError, server_for_tests


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for a run
    with suppress(ServerError), server_for_tests():  # the runs say what is wrong
        sys.stdin.read()


if __name__ == "__main__":
    main()
