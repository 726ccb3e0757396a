"""`python -m testkit.databases.postgresql.keep`: keeps the tests' private server running between runs, with spare
databases, until its standard input ends. Each run then starts 0.3 s sooner."""

import signal
import sys
from contextlib import ExitStack, suppress

from testkit.databases.postgresql.server import server_for_tests
from testkit.databases.postgresql.spares import spare_databases


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for a test run
    with ExitStack() as kept:
        with suppress(Exception):  # the runs report what is wrong
            server = kept.enter_context(server_for_tests())
            kept.enter_context(spare_databases(server)).make_whenever_one_was_needed()
        sys.stdin.read()


if __name__ == "__main__":
    main()
