"""Every router of the API, one line each."""

from fastapi import FastAPI

from app.products.routes import router as products
from app.users.routes import auth, users

ROUTERS = (
    auth,
    products,
    users,
)


def include_routers(app: FastAPI) -> None:
    # Each directly: a router within a router costs every request.
    for router in ROUTERS:
        app.include_router(router, prefix="/api/v1")
