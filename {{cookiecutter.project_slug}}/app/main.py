"""The application: everything is put together here, and nowhere else."""

import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI

from app import models  # noqa: F401  # every table, also those that no route uses
from app.api import include_routers
from app.database import install_database_errors, open_database
from app.errors import install_error_handlers
from app.health import install_health
from app.http import install_conventions
from app.jobs.worker import running_worker
from app.logs import configure_logging, install_logs
from app.openapi import install_openapi
from app.services import Services
from app.settings import Settings, load_settings
from app.shutdown import announcing_shutdown, install_shutdown
from app.telemetry import TracedClient, telemetry_config, trace_statements_if_wanted
from app.throttle import install_throttle
from app.websockets import install_websocket_conventions


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    if settings.environment != "test":
        configure_logging(settings)
    async with AsyncExitStack() as resources:
        await resources.enter_async_context(open_database(settings, settings.database_url))
        app.state.http_client = await resources.enter_async_context(TracedClient(timeout=5))
        resources.push_async_callback(app.state.services.close)
        resources.enter_context(announcing_shutdown(app))
        if settings.jobs_in_process:
            await resources.enter_async_context(running_worker(app))
        if settings.environment != "test":
            gc.freeze()  # what is loaded stays; to scan it again and again costs up to a tenth
        yield


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application; by default, its settings come from the environment and from `.env`."""
    settings = settings or load_settings()
    app = FastAPI(
        title={{ cookiecutter.__project_name_literal }},
        lifespan=lifespan,
        telemetry=telemetry_config(),
        openapi_url="/openapi.json" if settings.has_docs else None,
    )
    app.state.settings = settings
    app.state.services = Services(app)
    install_error_handlers(app)
    install_database_errors(app)
    install_websocket_conventions(app)
    install_conventions(app, settings)
    install_throttle(app)
    install_shutdown(app)
    install_openapi(app)
    install_logs(app)
    trace_statements_if_wanted()
    install_health(app)
    include_routers(app)
    return app
