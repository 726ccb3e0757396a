from fastapi import APIRouter

from app.users.auth import auth_backend, fastapi_users
from app.users.schemas import UserCreate, UserRead, UserUpdate

router = APIRouter()

for auth_router in (
    fastapi_users.get_auth_router(auth_backend),
    fastapi_users.get_register_router(UserRead, UserCreate),
    fastapi_users.get_reset_password_router(),
    fastapi_users.get_verify_router(UserRead),
):
    router.include_router(auth_router, prefix="/auth", tags=["auth"])

router.include_router(
    fastapi_users.get_users_router(UserRead, UserUpdate), prefix="/users", tags=["users"]
)
