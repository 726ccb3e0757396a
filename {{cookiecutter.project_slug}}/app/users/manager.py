"""What happens to accounts: who they belong to, and which tokens speak for them."""

import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any

import jwt
from fastapi import Depends, Request
from fastapi.security import OAuth2PasswordRequestForm
from fastapi_users import BaseUserManager, InvalidPasswordException, UUIDIDMixin
from fastapi_users.exceptions import (
    InvalidID,
    InvalidResetPasswordToken,
    InvalidVerifyToken,
    UserAlreadyVerified,
    UserInactive,
    UserNotExists,
)
from fastapi_users.jwt import decode_jwt, generate_jwt

from app.database import SessionDep
from app.settings import Settings, SettingsDep
from app.throttle import Throttled, ThrottleDep
from app.users import passwords
from app.users.models import User
from app.users.schemas import UserCreate, UserUpdate
from app.users.store import UserDatabase, deleted

HOW_TO_CHANGE = "To change it, send your present password as `current_password`."


class ChangedMeanwhileError(Exception):
    """What gave somebody the right to change an account is not so any more."""


class UserManager(UUIDIDMixin, BaseUserManager[User, uuid.UUID]):
    """No transaction is open while a password is hashed. So others may change the account meanwhile, and whatever is
    decided by it is looked at again before something is written, with the row locked."""

    user_db: UserDatabase

    def __init__(
        self, user_db: UserDatabase, settings: Settings, throttle: Throttled | None = None
    ) -> None:
        super().__init__(user_db, passwords.get_password_helper(settings))
        self.settings = settings
        self.throttle = throttle
        self._expected: dict[str, Any] = {}
        """What the account has to be like when it is changed."""
        secret = settings.secret_key.get_secret_value()
        self.reset_password_token_secret = secret
        self.verification_token_secret = secret

    async def hash(self, password: str) -> str:
        await self.user_db.session.commit()
        return await passwords.in_thread(self.password_helper.hash, password)

    async def authenticate(self, credentials: OAuth2PasswordRequestForm) -> User | None:
        """Takes as long for an unknown address as for a wrong password."""
        user = await self.user_db.get_by_email(credentials.username)
        password = credentials.password[: passwords.MAXIMUM_LENGTH + 1]
        if user is None:
            await self.hash(password)
            return None
        try:
            is_known = await self.is_password_of(user, password)
        except UserNotExists:
            return None
        if not is_known:
            return None
        await self.user_db.session.commit()
        return user

    async def is_password_of(self, user: User, password: str) -> bool:
        """If it is, the user's row is locked until the next commit."""
        while True:
            known = user.hashed_password
            await self.user_db.session.commit()
            verified, newer_hash = await passwords.in_thread(
                self.password_helper.verify_and_update, password, known
            )
            if not verified:
                return False
            await self.user_db.lock(user)
            if user.hashed_password == known:
                break
        if newer_hash is not None:
            await self.user_db.update(user, {"hashed_password": newer_hash})
        return True

    async def create(  # type: ignore[override]
        self, user_create: UserCreate, safe: bool = False, request: Request | None = None
    ) -> User:
        """Takes as long for an address that is taken: the index says so, after the hashing."""
        await self.validate_password(user_create.password, user_create)
        values = (
            user_create.create_update_dict() if safe else user_create.create_update_dict_superuser()
        )
        values["hashed_password"] = await self.hash(values.pop("password"))
        user = await self.user_db.create(values)
        await self.on_after_register(user, request)
        return user

    async def update(  # type: ignore[override]
        self,
        user_update: UserUpdate,
        user: User,
        safe: bool = False,
        request: Request | None = None,
    ) -> User:
        changed = user_update.model_fields_set
        self._expected = {}
        needs_proof = safe and (
            "password" in changed or ("email" in changed and user_update.email != user.email)
        )
        try:
            if needs_proof:
                await self.prove(user, user_update.current_password)
                self._expected = {"hashed_password": user.hashed_password}
            if "password" in changed and "email" in changed:
                passwords.check(user_update.password, user_update.email)
            return await super().update(user_update, user, safe, request)
        except ChangedMeanwhileError:
            raise InvalidPasswordException(HOW_TO_CHANGE) from None
        except UserNotExists as error:
            raise deleted() from error

    async def prove(self, user: User, password: str | None) -> None:
        """Raises `InvalidPasswordException`, or 429 for one guess too many."""
        if password is not None:
            if self.throttle is not None:
                await self.throttle.check("change", self.settings.throttle_login, user.email)
            if await self.is_password_of(user, password):
                return
        raise InvalidPasswordException(HOW_TO_CHANGE)

    async def _update(self, user: User, update_dict: dict[str, Any]) -> User:
        values = dict(update_dict)
        if "password" in values:
            password = values.pop("password")
            await self.validate_password(password, user)
            values["hashed_password"] = await self.hash(password)
        await self.user_db.lock(user)
        if any(getattr(user, name) != value for name, value in self._expected.items()):
            raise ChangedMeanwhileError
        if "hashed_password" in values:
            values["token_version"] = user.token_version + 1
        if values.get("email", user.email) != user.email:
            values.setdefault("is_verified", False)
        return await self.user_db.update(user, values)

    async def validate_password(self, password: str, user: UserCreate | User) -> None:  # type: ignore[override]
        passwords.check(password, user.email)

    async def log_out_everywhere(self, user: User) -> None:
        try:
            await self.user_db.lock(user)
        except UserNotExists as error:
            raise deleted() from error
        await self.user_db.update(user, {"token_version": user.token_version + 1})

    def reset_token(self, user: User) -> str:
        """For one new password, while the present one and the address stay."""
        claims = {
            "sub": str(user.id),
            "email": user.email,
            "version": user.token_version,
            "aud": self.reset_password_token_audience,
        }
        lifetime = self.reset_password_token_lifetime_seconds
        return generate_jwt(claims, self.reset_password_token_secret, lifetime)

    def verification_token(self, user: User) -> str:
        claims = {
            "sub": str(user.id),
            "email": user.email,
            "aud": self.verification_token_audience,
        }
        lifetime = self.verification_token_lifetime_seconds
        return generate_jwt(claims, self.verification_token_secret, lifetime)

    async def verify(self, token: str, request: Request | None = None) -> User:
        audience = [self.verification_token_audience]
        try:
            claims = decode_jwt(token, self.verification_token_secret, audience)
            user = await self.get(self.parse_id(claims["sub"]))
            await self.user_db.lock(user)
        except (jwt.PyJWTError, KeyError, InvalidID, UserNotExists) as error:
            raise InvalidVerifyToken from error
        if claims.get("email") != user.email:
            raise InvalidVerifyToken
        if user.is_verified:
            raise UserAlreadyVerified
        user = await self.user_db.update(user, {"is_verified": True})
        await self.on_after_verify(user, request)
        return user

    async def reset_password(
        self, token: str, password: str, request: Request | None = None
    ) -> User:
        audience = [self.reset_password_token_audience]
        try:
            claims = decode_jwt(token, self.reset_password_token_secret, audience)
            user = await self.get(self.parse_id(claims["sub"]))
        except (jwt.PyJWTError, KeyError, InvalidID, UserNotExists) as error:
            raise InvalidResetPasswordToken from error
        if (claims.get("email"), claims.get("version")) != (user.email, user.token_version):
            raise InvalidResetPasswordToken
        if not user.is_active:
            raise UserInactive
        self._expected = {"email": user.email, "token_version": user.token_version}
        try:
            user = await self._update(user, {"password": password})
        except (ChangedMeanwhileError, UserNotExists):
            raise InvalidResetPasswordToken from None
        finally:
            self._expected = {}
        await self.on_after_reset_password(user, request)
        return user


async def get_user_manager(
    session: SessionDep, settings: SettingsDep, throttle: ThrottleDep
) -> AsyncIterator[UserManager]:
    yield UserManager(UserDatabase(session, User), settings, throttle)


UserManagerDep = Annotated[UserManager, Depends(get_user_manager)]
