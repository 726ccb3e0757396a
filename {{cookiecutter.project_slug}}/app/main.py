"""The application: everything is put together here, and nowhere else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
from fastapi import FastAPI

from app import api, health, models  # noqa: F401  # every table, also those that no route uses
from app.database import sessionmaker
from app.engine import create_engine, engine_options
from app.errors import install_error_handlers
from app.services import Services
from app.settings import Settings, load_settings


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    engine = create_engine(settings.database_url, **engine_options(settings))
    sessionmaker.configure(bind=engine)
    async with httpx2.AsyncClient(timeout=5) as app.state.http_client:
        yield
    await engine.dispose()


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application; without `settings`, they come from the environment and from `.env`."""
    app = FastAPI(
        title={{ cookiecutter.__project_name_literal }},
        lifespan=lifespan,
    )
    app.state.settings = settings or load_settings()
    app.state.services = Services(app)
    install_error_handlers(app)
    app.include_router(health.router)
    app.include_router(api.router)
    return app
