"""How accounts are stored."""

import uuid
from typing import Any

from fastapi_users.exceptions import UserAlreadyExists, UserNotExists
from fastapi_users_db_sqlalchemy import SQLAlchemyUserDatabase
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError, InvalidRequestError
from sqlalchemy.orm.exc import StaleDataError

from app.database import violates_unique
from app.errors import AppError
from app.users.models import User
from app.users.schemas import canonical_email


def deleted() -> AppError:
    return AppError(404, "USER_NOT_FOUND", "The user has just been deleted.")


class UserDatabase(SQLAlchemyUserDatabase[User, uuid.UUID]):
    """Distinguishes what can go wrong when a user is stored."""

    async def get_by_email(self, email: str) -> User | None:
        user: User | None = await self.session.scalar(
            select(User).where(User.__table__.c.email == canonical_email(email))
        )
        return user

    async def lock(self, user: User) -> None:
        """Reads it again, or raises `UserNotExists`; until the next commit, nobody else can change it."""
        try:
            await self.session.refresh(user, with_for_update=True)
        except InvalidRequestError as error:
            await self.session.rollback()
            raise UserNotExists from error

    async def create(self, create_dict: dict[str, Any]) -> User:
        try:
            return await super().create(create_dict)
        except IntegrityError as error:
            await self._roll_back(error)
            raise

    async def update(self, user: User, update_dict: dict[str, Any]) -> User:
        user_id = user.id
        try:
            return await super().update(user, update_dict)
        except IntegrityError as error:
            await self._roll_back(error)
            raise
        except (StaleDataError, InvalidRequestError) as error:  # before the commit, or just after
            await self.session.rollback()
            if await self.get(user_id) is not None:
                raise
            raise deleted() from error

    async def _roll_back(self, error: IntegrityError) -> None:
        """Raises `UserAlreadyExists` if the address is taken."""
        await self.session.rollback()
        if violates_unique(error, User.__table__.c.email):
            raise UserAlreadyExists from error
