"""Two questions for whoever runs this service: is it alive, and can it work?"""

from fastapi import APIRouter
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.database import SessionDep
from app.errors import AppError, problem_responses

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live")
async def live() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/ready", responses=problem_responses(503))
async def ready(session: SessionDep) -> dict[str, str]:
    """The database answers too."""
    try:
        await session.execute(text("SELECT 1"))
    except (SQLAlchemyError, OSError) as error:
        raise AppError(503, "DATABASE_UNAVAILABLE", "The database does not answer.") from error
    return {"status": "ok"}
