from sqlalchemy.ext.asyncio import AsyncSession

from app.settings import load_settings
from app.users.models import User
from app.users.passwords import get_password_helper
from app.users.store import UserDatabase

EMAIL = "ada@example.com"
PASSWORD = "correct horse battery staple"  # noqa: S105


async def add_examples(session: AsyncSession) -> None:
    """Somebody to log in as."""
    if await UserDatabase(session, User).get_by_email(EMAIL) is None:
        hashed = get_password_helper(load_settings()).hash(PASSWORD)
        session.add(User(email=EMAIL, hashed_password=hashed, is_verified=True))
