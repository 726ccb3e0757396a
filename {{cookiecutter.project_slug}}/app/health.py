"""Two questions of an orchestrator: is this process alive, and can it work?"""

import asyncio
from functools import cache
from pathlib import Path

from fastapi import FastAPI, Request
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from app.database import reading_session
from app.engine import is_table_missing
from app.errors import AppError, problem_responses

READY_TIMEOUT = 1.5  # seconds
MIGRATIONS = Path(__file__).parents[1] / "migrations"


async def live() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


async def ready(request: Request) -> dict[str, str]:
    """The database answers and has been migrated, and the process is not shutting down."""
    if request.app.state.shutdown.is_set():
        raise AppError(503, "SHUTTING_DOWN", "This process is shutting down.")
    # Not `asyncio.timeout`: cancelling a query on a frozen server may take as long again.
    look = asyncio.create_task(_revision())
    done, _ = await asyncio.wait([look], timeout=READY_TIMEOUT)
    if not done:
        look.cancel()
        raise AppError(503, "DATABASE_TIMEOUT", "The database did not answer in time.")
    try:
        revision = look.result()
    except (SQLAlchemyError, OSError) as error:
        raise AppError(503, "DATABASE_UNAVAILABLE", "The database does not answer.") from error
    if revision is None or revision in outdated_revisions():
        raise AppError(503, "DATABASE_NOT_MIGRATED", "The database has to be migrated.")
    return {"status": "ok"}


async def _revision() -> str | None:
    """The revision of the schema; `None` if it was never migrated."""
    async with reading_session() as session:
        try:
            found = await session.execute(text("SELECT version_num FROM alembic_version"))
        except DBAPIError as error:
            if is_table_missing(error.orig):
                return None
            raise
        revision: str | None = found.scalar()
        return revision


@cache
def outdated_revisions() -> frozenset[str]:
    """All known ones but the newest. An unknown one is newer, as while the next version is deployed."""
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(MIGRATIONS))
    return frozenset(revision.revision for revision in script.walk_revisions()) - set(
        script.get_heads()
    )


def install_health(app: FastAPI) -> None:
    # Routes of the application itself: through a router, `live` would take a sixth longer.
    app.get("/health/live", tags=["health"])(live)
    app.get("/health/ready", tags=["health"], responses=problem_responses(503))(ready)
