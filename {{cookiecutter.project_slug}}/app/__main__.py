"""The programs of this service: `python -m app worker`."""

import argparse
import asyncio

from app.jobs.worker import work
from app.main import create_app
from app.settings import load_settings


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m app")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("worker", help="run jobs until SIGTERM or Ctrl-C")
    parser.parse_args(arguments)
    # The service itself may have been told to leave jobs to others: to this program.
    settings = load_settings().model_copy(update={"jobs_in_process": True})
    asyncio.run(work(create_app(settings)))


if __name__ == "__main__":  # pragma: no cover
    main()
