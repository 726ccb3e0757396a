"""What happens to accounts: hashing, the rules for passwords, the mails about them."""

import uuid
from collections.abc import AsyncIterator
from functools import cache
from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, Request
from fastapi_users import BaseUserManager, InvalidPasswordException, UUIDIDMixin
from fastapi_users.exceptions import UserAlreadyExists
from fastapi_users.password import PasswordHelper
from fastapi_users_db_sqlalchemy import SQLAlchemyUserDatabase
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from pwdlib.hashers.bcrypt import BcryptHasher
from sqlalchemy.exc import IntegrityError

from app.database import SessionDep
from app.services.email import Email, EmailDep, EmailSender
from app.settings import Settings, SettingsDep
from app.users.models import User
from app.users.schemas import UserCreate

MINIMUM_PASSWORD_LENGTH = 8


class UserDatabase(SQLAlchemyUserDatabase[User, uuid.UUID]):
    """Takes an address that somebody else has registered in the meantime for what it is."""

    async def create(self, create_dict: dict[str, Any]) -> User:
        try:
            return await super().create(create_dict)
        except IntegrityError as error:
            await self.session.rollback()
            raise UserAlreadyExists from error

    async def update(self, user: User, update_dict: dict[str, Any]) -> User:
        try:
            return await super().update(user, update_dict)
        except IntegrityError as error:
            await self.session.rollback()
            raise UserAlreadyExists from error


class UserManager(UUIDIDMixin, BaseUserManager[User, uuid.UUID]):
    def __init__(
        self,
        user_db: UserDatabase,
        settings: Settings,
        email: EmailSender,
        background: BackgroundTasks,
    ) -> None:
        super().__init__(user_db, get_password_helper(settings))
        secret = settings.secret_key.get_secret_value()
        self.reset_password_token_secret = secret
        self.verification_token_secret = secret
        self.email = email
        self.background = background

    async def validate_password(self, password: str, user: UserCreate | User) -> None:  # type: ignore[override]
        if len(password) < MINIMUM_PASSWORD_LENGTH:
            raise InvalidPasswordException(
                f"A password has at least {MINIMUM_PASSWORD_LENGTH} characters."
            )
        if user.email.lower() in password.lower():
            raise InvalidPasswordException("A password does not contain the e-mail address.")

    async def on_after_forgot_password(
        self, user: User, token: str, request: Request | None = None
    ) -> None:
        self._send(user, "Reset your password", f"Your token to set a new password:\n\n{token}")

    async def on_after_request_verify(
        self, user: User, token: str, request: Request | None = None
    ) -> None:
        self._send(user, "Verify your address", f"Your token to verify this address:\n\n{token}")

    def _send(self, user: User, subject: str, body: str) -> None:
        # After the response, so that its time does not tell which addresses have an account.
        self.background.add_task(self.email.send, Email(user.email, subject, body))


def get_password_helper(settings: Settings) -> PasswordHelper:
    """Hashes with Argon2 at the cost that the settings name; verifies Argon2 and bcrypt."""
    return _password_helper(
        settings.argon2_time_cost, settings.argon2_memory_cost, settings.argon2_parallelism
    )


@cache
def _password_helper(time_cost: int, memory_cost: int, parallelism: int) -> PasswordHelper:
    argon2 = Argon2Hasher(time_cost=time_cost, memory_cost=memory_cost, parallelism=parallelism)
    return PasswordHelper(PasswordHash((argon2, BcryptHasher())))


async def get_user_manager(
    session: SessionDep,
    settings: SettingsDep,
    email: EmailDep,
    background: BackgroundTasks,
) -> AsyncIterator[UserManager]:
    yield UserManager(UserDatabase(session, User), settings, email, background)


UserManagerDep = Annotated[UserManager, Depends(get_user_manager)]
