"""`python -m testkit doctor` and `python -m testkit adopt`."""

import argparse
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m testkit")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="say what is bound, what is slow and what is unsafe here")
    adopting = commands.add_parser(
        "adopt", help="bind the kit to a project; shows what changes, and asks"
    )
    adopting.add_argument("--yes", action="store_true", help="do not ask")
    arguments = parser.parse_args()
    if arguments.command == "adopt":
        from testkit.adopt import adopt

        return adopt(Path.cwd(), yes=arguments.yes)
    from testkit.doctor import examine

    return examine()


if __name__ == "__main__":
    sys.exit(main())
