"""Accounts. Routes that send a mail only queue it, so that none takes longer for a known address."""

import uuid
from typing import Annotated, NoReturn

from fastapi import APIRouter, Body, Depends, Request, Response
from fastapi.security import OAuth2PasswordRequestForm
from fastapi_users import InvalidPasswordException
from fastapi_users.authentication.transport.bearer import BearerResponse
from fastapi_users.exceptions import (
    InvalidResetPasswordToken,
    InvalidVerifyToken,
    UserAlreadyExists,
    UserAlreadyVerified,
    UserInactive,
)

from app.database import SessionDep
from app.errors import AppError, problem_responses
from app.jobs import enqueue
from app.settings import SettingsDep
from app.throttle import ThrottleDep
from app.users.auth import CurrentUser, StrategyDep, fastapi_users
from app.users.mails import send_reset_token, send_verification_token, tell_about_registration
from app.users.manager import UserManagerDep
from app.users.models import User
from app.users.schemas import (
    Email,
    Password,
    Token,
    UserCreate,
    UserRead,
    UserUpdate,
    canonical_email,
)

auth = APIRouter(prefix="/auth", tags=["auth"])
users = APIRouter(prefix="/users", tags=["users"])

EmbeddedEmail = Annotated[Email, Body(embed=True)]


@auth.post("/login", responses=problem_responses(400, 429))
async def login(
    request: Request,
    response: Response,
    credentials: Annotated[OAuth2PasswordRequestForm, Depends()],
    manager: UserManagerDep,
    strategy: StrategyDep,
    settings: SettingsDep,
    throttle: ThrottleDep,
) -> BearerResponse:
    """A token for an address and a password."""
    await throttle.check("login", settings.throttle_login, canonical_email(credentials.username))
    user = await manager.authenticate(credentials)
    if user is None or not user.is_active:
        raise AppError(400, "LOGIN_BAD_CREDENTIALS", "The address or the password is wrong.")
    token = await strategy.write_token(user)
    answer = BearerResponse(access_token=token, token_type="bearer")  # noqa: S106
    await manager.on_after_login(user, request, response)
    return answer


@auth.post("/logout", status_code=204, responses=problem_responses(401))
async def logout(_user: CurrentUser) -> None:
    """Does nothing but answer: the client forgets its token, which stays valid until it expires."""


@auth.post("/logout-everywhere", status_code=204, responses=problem_responses(401))
async def logout_everywhere(user: CurrentUser, manager: UserManagerDep) -> None:
    """Invalidates all tokens of this user, including this one."""
    await manager.log_out_everywhere(user)


@auth.post("/register", status_code=201, responses=problem_responses(400, 429))
async def register(
    request: Request,
    account: UserCreate,
    manager: UserManagerDep,
    session: SessionDep,
    settings: SettingsDep,
    throttle: ThrottleDep,
) -> UserRead:
    await throttle.check("register", settings.throttle_register, account.email)
    try:
        return UserRead.model_validate(await manager.create(account, safe=True, request=request))
    except InvalidPasswordException as error:
        refuse_password("REGISTER_INVALID_PASSWORD", error)
    except UserAlreadyExists as error:
        if settings.register_tells_taken:
            raise AppError(
                400, "REGISTER_USER_ALREADY_EXISTS", "There is an account with this address."
            ) from error
        enqueue(session, tell_about_registration, email=account.email)
        await session.commit()
        # What the owner of a new account would be shown.
        return UserRead.model_validate({"id": uuid.uuid4(), **account.create_update_dict()})


@auth.post("/forgot-password", status_code=202, responses=problem_responses(429))
async def forgot_password(
    email: EmbeddedEmail, session: SessionDep, settings: SettingsDep, throttle: ThrottleDep
) -> None:
    """Sends a token to set a new password, if there is such an account."""
    await throttle.check("mail", settings.throttle_mail, email)
    enqueue(session, send_reset_token, email=email)
    await session.commit()


@auth.post("/reset-password", responses=problem_responses(400))
async def reset_password(
    request: Request,
    token: Annotated[Token, Body()],
    password: Annotated[Password, Body()],
    manager: UserManagerDep,
) -> None:
    """Sets a new password and ends all sessions."""
    try:
        await manager.reset_password(token, password, request)
    except InvalidPasswordException as error:
        refuse_password("RESET_PASSWORD_INVALID_PASSWORD", error)
    except (InvalidResetPasswordToken, UserInactive) as error:
        raise AppError(
            400,
            "RESET_PASSWORD_BAD_TOKEN",
            "The token is invalid, has been used, or has expired.",
        ) from error


@auth.post("/request-verify-token", status_code=202, responses=problem_responses(429))
async def request_verify_token(
    email: EmbeddedEmail, session: SessionDep, settings: SettingsDep, throttle: ThrottleDep
) -> None:
    """Sends a token to verify the address, if there is such an account."""
    await throttle.check("mail", settings.throttle_mail, email)
    enqueue(session, send_verification_token, email=email)
    await session.commit()


@auth.post("/verify", response_model=UserRead, responses=problem_responses(400, 429))
async def verify(
    request: Request,
    token: Annotated[Token, Body(embed=True)],
    manager: UserManagerDep,
    settings: SettingsDep,
    throttle: ThrottleDep,
) -> User:
    await throttle.check("verify", settings.throttle_login, token)
    try:
        return await manager.verify(token, request)
    except InvalidVerifyToken as error:
        raise AppError(
            400, "VERIFY_USER_BAD_TOKEN", "The token is invalid or has expired."
        ) from error
    except UserAlreadyVerified as error:
        raise AppError(
            400, "VERIFY_USER_ALREADY_VERIFIED", "The address is already verified."
        ) from error


def refuse_password(code: str, error: InvalidPasswordException) -> NoReturn:
    raise AppError(400, code, str(error.reason)) from error


users.include_router(
    fastapi_users.get_users_router(UserRead, UserUpdate), responses=problem_responses(429)
)
