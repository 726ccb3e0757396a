"""The commands of this service: `python -m app --help`.

Each module has the commands of one concern, and adds them to `cli`.
"""

from app.cli import accounts, database, processes, settings  # noqa: F401
from app.cli.processes import read_env_file
from app.cli.program import cli


def main() -> None:
    read_env_file()
    cli(prog_name="python -m app")
