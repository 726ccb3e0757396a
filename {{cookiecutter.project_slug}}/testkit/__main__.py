"""`python -m testkit doctor`."""

import argparse
import sys

from testkit.doctor import examine


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m testkit")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="say what is bound, what is slow and what is unsafe here")
    parser.parse_args()
    return examine()


if __name__ == "__main__":
    sys.exit(main())
