"""The database: its schema, and example data."""

import asyncio
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.exc import DBAPIError

from app.cli.program import cli, fail, said_by, with_database
from app.database import sessionmaker
from app.engine import DRIVER_ERRORS, create_engine
from app.settings import load_settings

SHORTEST_ATTEMPT = 1.0  # seconds
ALEMBIC = Path(__file__).parents[2] / "alembic.ini"
MIGRATIONS = ALEMBIC.parent / "migrations" / "versions"
SEVERAL_HEADS = (
    "Several migrations follow the same one, as when two branches are merged. Join them with "
    "`uv run alembic merge heads -m merge`, then migrate again."
)


@cli.command()
def migrate(
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for the database to answer.")
    ] = 30,
) -> None:
    """Bring the database to the newest revision; several processes may do so at once.

    A database that is newer than this version is left alone, so that you can go back to this version.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.script.revision import MultipleHeads, ResolutionError
    from alembic.util import CommandError

    asyncio.run(wait_for_database(load_settings().database_url, wait))
    try:
        command.upgrade(Config(ALEMBIC), "head")
    except CommandError as error:
        if isinstance(error.__cause__, ResolutionError):
            typer.echo(f"{error}: the database is newer than this version.")
        elif isinstance(error.__cause__, MultipleHeads):
            fail(SEVERAL_HEADS)
        else:
            fail(str(error))
    except (DBAPIError, *DRIVER_ERRORS, ConnectionError) as error:
        lines = ["A migration was refused:", *refused_at(error)]
        fail("\n".join([*lines, f"The database says: {said_by(error)}"]))


def refused_at(error: Exception) -> Iterator[str]:
    """The line of the migration, and the statement it sent."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(MIGRATIONS)]
    for frame in ours[-1:]:
        place = Path(frame.filename).relative_to(MIGRATIONS.parent)
        yield f"  {place}:{frame.lineno}   {frame.line}"
    for line in (getattr(error, "statement", None) or "").strip().splitlines():
        yield f"  {line}"


async def wait_for_database(url: str, seconds: float) -> None:
    engine = create_engine(url)
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        try:
            async with asyncio.timeout(max(left, SHORTEST_ATTEMPT)), engine.connect():
                break
        except (DBAPIError, TimeoutError, *DRIVER_ERRORS, OSError) as error:
            await asyncio.sleep(0.2)
            if time.monotonic() >= deadline:
                said = said_by(error) or "silence"
                fail(f"The database has not answered for {seconds:g} s: {said}")
    await engine.dispose()


@cli.command()
@with_database
async def seed() -> None:
    """Add example data, all of it or none; existing data is left alone."""
    from app.examples import EXAMPLES

    if load_settings().environment == "production":
        fail("No example data is added in production.")
    async with sessionmaker() as session:
        for add_examples in EXAMPLES:
            await add_examples(session)
        await session.commit()
    typer.echo("The example data is in the database.")
