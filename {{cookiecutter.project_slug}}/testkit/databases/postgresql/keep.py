"""`python -m testkit.databases.postgresql.keep`: keeps the private server of the tests running, from one
run to the next, until its standard input ends, and databases in reserve. Each run then begins 0.3 s sooner."""

import signal
import sys
from contextlib import suppress

from testkit.databases.postgresql.server import ServerError, server_for_tests


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for a run
    with suppress(ServerError), server_for_tests() as server:  # the runs say what is wrong
        # Now that the server runs, which others wait for.
        from testkit.databases.postgresql.spares import spare_databases

        with spare_databases(server):
            sys.stdin.read()


if __name__ == "__main__":
    main()
