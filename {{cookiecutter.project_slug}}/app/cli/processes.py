"""What runs until it is told to stop: the service, and workers."""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from dotenv import dotenv_values

from app.cli.program import cli, fail
from app.logs import logging_config
from app.settings import Settings, load_settings

# How long requests in flight may take; with the delay and the jobs, less than the 10 s after which containers are killed.
GRACE = 5  # seconds

APPLICATION = Path(__file__).parents[1]

# A rolling restart is given up when a new process takes longer to start; uvicorn's 5 s are not enough in a small
# container that serves meanwhile.
START_TIMEOUT = 60  # seconds

# What `serve` and uvicorn read from the environment.
VARIABLES = ("HOST", "PORT", "WEB_CONCURRENCY", "ROOT_PATH", "FORWARDED_ALLOW_IPS")


def read_env_file() -> None:
    """Takes `VARIABLES` from `.env` too, as the settings are."""
    file = Settings.model_config.get("env_file")
    with suppress(OSError, UnicodeDecodeError):  # which the settings complain about
        for name, value in dotenv_values(str(file)).items():
            if name in VARIABLES and value:
                os.environ.setdefault(name, value)


@cli.command()
def serve(
    host: Annotated[str, typer.Option(envvar="HOST")] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="PORT", min=0, max=65535)] = 8000,
    workers: Annotated[
        int, typer.Option(envvar="WEB_CONCURRENCY", min=1, help="Processes that share the port.")
    ] = 1,
    root_path: Annotated[
        str, typer.Option(envvar="ROOT_PATH", help="Path prefix that a proxy strips.")
    ] = "",
    reload: Annotated[bool, typer.Option("--reload", help="Restart on every change.")] = False,
) -> None:
    """Serve requests, and run jobs unless JOBS_IN_PROCESS=false.

    Behind a proxy, FORWARDED_ALLOW_IPS names the proxies to trust (127.0.0.1 and ::1 by default).
    """
    import uvicorn

    from app.cli.supervisor import notice_ends

    if root_path and not root_path.startswith("/"):
        fail("ROOT_PATH, or --root-path, must begin with `/`.")
    notice_ends()
    settings = load_settings()  # what is wrong with them is said once, not by every process
    if reload:
        os.environ["SHUTDOWN_DELAY"] = "0"
    # uvicorn re-raises at its end the signals it caught. PID 1, which has a handler for its start, must end as cleanly as
    # any other process.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    uvicorn.run(
        "app.main:create_app",
        factory=True,
        host=host,
        port=port,
        root_path=root_path.rstrip("/"),
        workers=workers,
        reload=reload,
        reload_dirs=str(APPLICATION) if reload else None,
        http="app.cli.protocol:PatientProtocol",
        ws="app.cli.protocol:DecisiveProtocol",
        ws_max_size=settings.max_body_size,
        timeout_graceful_shutdown=GRACE,
        timeout_worker_healthcheck=START_TIMEOUT,
        log_config=logging_config(settings),
        access_log=False,
    )


@cli.command()
def worker() -> None:
    """Run jobs; any number of workers may do so at once."""
    from app.jobs.worker import work
    from app.main import create_app

    # The service itself may have been told to leave jobs to this program.
    settings = load_settings().model_copy(update={"jobs_in_process": True})
    asyncio.run(work(create_app(settings)))
