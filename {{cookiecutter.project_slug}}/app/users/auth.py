"""Who is asking: bearer tokens (JWT), and the dependencies that require a user."""

import uuid
from typing import Annotated

from fastapi import Depends
from fastapi_users import FastAPIUsers
from fastapi_users.authentication import AuthenticationBackend, BearerTransport, JWTStrategy

from app.settings import Settings, SettingsDep
from app.users.manager import get_user_manager
from app.users.models import User


def create_jwt_strategy(settings: Settings) -> JWTStrategy[User, uuid.UUID]:
    return JWTStrategy(
        secret=settings.secret_key.get_secret_value(),
        lifetime_seconds=settings.access_token_lifetime,
    )


async def get_jwt_strategy(settings: SettingsDep) -> JWTStrategy[User, uuid.UUID]:
    return create_jwt_strategy(settings)


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
