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

HOW_TO_CHANGE = (
    "To change your password or address, send your current password as `current_password`."
)
BAD_TOKEN = (jwt.PyJWTError, KeyError, InvalidID, UserNotExists)


class ChangedMeanwhileError(Exception):
    """What a change was based on no longer holds."""


class UserManager(UUIDIDMixin, BaseUserManager[User, uuid.UUID]):
    """No transaction is open while a password is hashed, so the account may change meanwhile; whatever a decision was
    based on is checked again, with the row locked, before anything is written."""

    user_db: UserDatabase

    def __init__(
        self, user_db: UserDatabase, settings: Settings, throttle: Throttled | None = None
    ) -> None:
        super().__init__(user_db, passwords.get_password_helper(settings))
        self.settings = settings
        self.throttle = throttle
        self._expected: dict[str, Any] = {}
        """Values that the account must still have when it is changed."""
        self._secret = settings.secret_key.get_secret_value()
        self.reset_password_token_secret = self.verification_token_secret = self._secret

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
        """If it is, the user's row is locked until the next commit, which renewing an old hash is."""
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
        """Takes as long for a taken address: only the index refuses it, after the hashing."""
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
                await self.user_db.session.commit()  # to count it may take a while
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
        """Good for one new password, while the password and the address are unchanged."""
        audience = self.reset_password_token_audience
        lifetime = self.reset_password_token_lifetime_seconds
        return self._token(user, audience, lifetime, version=user.token_version)

    def verification_token(self, user: User) -> str:
        audience = self.verification_token_audience
        lifetime = self.verification_token_lifetime_seconds
        return self._token(user, audience, lifetime)

    def _token(self, user: User, audience: str, lifetime: int, **more: Any) -> str:
        claims = {"sub": str(user.id), "email": user.email, "aud": audience, **more}
        return generate_jwt(claims, self._secret, lifetime)

    async def _named_by(self, token: str, audience: str) -> tuple[User, dict[str, Any]]:
        """The user, and the claims of the token; raises one of `BAD_TOKEN`."""
        claims = decode_jwt(token, self._secret, [audience])
        return await self.get(self.parse_id(claims["sub"])), claims

    async def verify(self, token: str, request: Request | None = None) -> User:
        try:
            user, claims = await self._named_by(token, self.verification_token_audience)
            await self.user_db.lock(user)
        except BAD_TOKEN as error:
            raise InvalidVerifyToken from error
        if claims.get("email") != user.email or not user.is_active:
            raise InvalidVerifyToken
        if user.is_verified:
            raise UserAlreadyVerified
        user = await self.user_db.update(user, {"is_verified": True})
        await self.on_after_verify(user, request)
        return user

    async def reset_password(
        self, token: str, password: str, request: Request | None = None
    ) -> User:
        try:
            user, claims = await self._named_by(token, self.reset_password_token_audience)
        except BAD_TOKEN as error:
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
