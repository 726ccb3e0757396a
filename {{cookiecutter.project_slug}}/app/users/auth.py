"""Who is asking: bearer tokens (JWT), and the dependencies that require a user."""

import uuid
from typing import Annotated

import jwt
from fastapi import Depends, HTTPException, WebSocket
from fastapi_users import FastAPIUsers
from fastapi_users.authentication import AuthenticationBackend, BearerTransport, JWTStrategy
from fastapi_users.exceptions import InvalidID
from fastapi_users.jwt import decode_jwt, generate_jwt

from app.database import reading_session
from app.settings import Settings, SettingsDep
from app.users.manager import UserManager, get_user_manager
from app.users.models import User
from app.users.store import UserDatabase
from app.websockets import bearer_token
from app.work import note_user


class TokenStrategy(JWTStrategy[User, uuid.UUID]):
    """Tokens that end when the password changes: they carry the user's `token_version`."""

    async def write_token(self, user: User) -> str:
        claims = {"sub": str(user.id), "aud": self.token_audience, "version": user.token_version}
        return generate_jwt(claims, self.encode_key, self.lifetime_seconds, self.algorithm)

    async def read_token(self, token: str | None, user_manager) -> User | None:  # type: ignore[no-untyped-def]
        try:
            claims = decode_jwt(token or "", self.decode_key, self.token_audience, [self.algorithm])
            user: User | None = await user_manager.user_db.get(user_manager.parse_id(claims["sub"]))
        except (jwt.PyJWTError, KeyError, InvalidID):
            return None
        if user is None or user.token_version != claims.get("version"):
            return None
        note_user(user.id)
        return user


def create_jwt_strategy(settings: Settings) -> TokenStrategy:
    return TokenStrategy(
        secret=settings.secret_key.get_secret_value(),
        lifetime_seconds=settings.access_token_lifetime,
    )


async def get_jwt_strategy(settings: SettingsDep) -> TokenStrategy:
    return create_jwt_strategy(settings)


StrategyDep = Annotated[TokenStrategy, Depends(get_jwt_strategy)]

auth_backend = AuthenticationBackend(
    name="jwt",
    transport=BearerTransport(tokenUrl="api/v1/auth/login"),
    get_strategy=get_jwt_strategy,
)
fastapi_users = FastAPIUsers[User, uuid.UUID](get_user_manager, [auth_backend])

current_user = fastapi_users.current_user(active=True)
current_superuser = fastapi_users.current_user(active=True, superuser=True)

CurrentUser = Annotated[User, Depends(current_user)]
CurrentSuperuser = Annotated[User, Depends(current_superuser)]


async def websocket_user(socket: WebSocket, strategy: StrategyDep, settings: SettingsDep) -> User:
    """Who opens the WebSocket. Read in a session that ends at once: see `app.database.get_session`."""
    async with reading_session() as session:
        manager = UserManager(UserDatabase(session, User), settings)
        user = await strategy.read_token(bearer_token(socket), manager)
    if user is None or not user.is_active:
        raise HTTPException(401, "Only for logged-in users.")
    return user


WebSocketUser = Annotated[User, Depends(websocket_user)]
