"""Runs a command on the development database.

    python -m testkit.databases.postgresql COMMAND [ARGUMENT ...]

The command finds the database in DATABASE_URL, and in the variables of PostgreSQL's own programs
(PGHOST and so on). Where DATABASE_URL is set, in the environment or in `.env`, that database it is.
Otherwise it is one of a private server, which runs for as long as such commands do.
"""

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import asyncpg
from dotenv import dotenv_values
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from testkit.databases.postgresql.connect import connect
from testkit.databases.postgresql.server import (
    ServerError,
    find_installation,
    server_for_development,
)

VARIABLE = "DATABASE_URL"


@contextmanager
def development_database(project: Path) -> Iterator[URL]:
    """Yields the URL of the development database for the checkout in `project`."""
    given = os.environ.get(VARIABLE) or dotenv_values(project / ".env").get(VARIABLE)
    if given:
        yield make_url(given)
        return
    name: str = tomllib.loads((project / "pyproject.toml").read_text())["project"]["name"]
    checkout = hashlib.sha256(str(project).encode()).hexdigest()[:8]
    with server_for_development(f"{name}-{checkout}") as server:
        asyncio.run(_create(server.url, name))
        said = f"{VARIABLE} is not set: using a private server, with its data in {server.directory}"
        print(said, file=sys.stderr, flush=True)  # before the output of the command
        yield server.url.set(database=name)


async def _create(server: URL, name: str) -> None:
    connection = await connect(server)
    try:
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
            await connection.execute(f'CREATE DATABASE "{name}"')
    except asyncpg.DuplicateDatabaseError:  # by a command running at the same time
        pass
    finally:
        await connection.close()


def environment(url: URL) -> dict[str, str]:
    """Returns environment variables that point both SQLAlchemy and PostgreSQL's own programs to the database."""
    parts = {
        "PGHOST": url.host or url.query.get("host"),
        "PGPORT": url.port or url.query.get("port"),
        "PGUSER": url.username,
        "PGPASSWORD": url.password,
        "PGDATABASE": url.database,
    }
    variables = {name: str(value) for name, value in parts.items() if value}
    with suppress(ServerError):
        # After everything else, so that a `psql` installed on the machine comes first.
        variables["PATH"] = f"{os.environ['PATH']}{os.pathsep}{find_installation().binaries}"
    return variables | {VARIABLE: url.render_as_string(hide_password=False)}


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    try:
        with (
            development_database(Path.cwd()) as url,
            subprocess.Popen(sys.argv[1:], env=os.environ | environment(url)) as process,
        ):
            # Ctrl-C goes to the command too, and it is the command that decides what to do.
            signal.signal(signal.SIGINT, lambda *_: None)
            signal.signal(signal.SIGTERM, lambda *_: process.terminate())
            return process.wait()
    except ArgumentError:
        problem = f"{VARIABLE} is not a URL; write one like postgresql+asyncpg://user@host/database"
    except FileNotFoundError as error:
        problem = f"{sys.argv[1]} cannot be run: {error}"
    except ServerError as error:
        problem = str(error)
    print(problem, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
