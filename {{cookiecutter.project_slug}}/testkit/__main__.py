"""`python -m testkit doctor`."""

import argparse
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m testkit")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="report what is bound, what is slow and what is unsafe here")
    if find_spec("testkit.adopt"):  # missing from a project's own copy, which is bound already
        adopting = commands.add_parser(
            "adopt", help="bind the kit to a project; shows what changes, and asks"
        )
        adopting.add_argument("--yes", action="store_true", help="do not ask")
    arguments = parser.parse_args()
    if arguments.command == "adopt":
        code: int = import_module("testkit.adopt").adopt(Path.cwd(), yes=arguments.yes)
        return code
    from testkit.doctor import examine

    return examine()


if __name__ == "__main__":
    sys.exit(main())
