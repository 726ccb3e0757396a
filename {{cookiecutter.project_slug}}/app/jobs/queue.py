"""Which jobs there are, and how one is queued."""

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, TypeVar

from fastapi import FastAPI
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from app.database import utc_now
from app.jobs.models import Job
from app.services import Provider, service

Arguments = ParamSpec("Arguments")
Client = TypeVar("Client")


@dataclass(frozen=True)
class Context:
    """What a job is given besides its arguments. `id` is the same in every attempt."""

    app: FastAPI
    id: uuid.UUID

    async def service(self, provider: Provider[Client]) -> Client:
        return await service(self.app, provider)


QUEUED = "queued jobs"
"""In the `info` of a session: whether its transaction has queued jobs."""

JOBS: dict[str, Callable[..., Awaitable[None]]] = {}
LISTENERS: set[Callable[[], None]] = set()
"""Called when this process has queued jobs; other processes look now and then."""

Function = Callable[Concatenate[Context, Arguments], Awaitable[None]]


def name_of(function: Callable[..., Any]) -> str:
    """The name in the rows of this job."""
    return f"{function.__module__}.{function.__qualname__}"


def job(function: Function[Arguments]) -> Function[Arguments]:
    """Decorates `async def name(context, **arguments)`. The arguments are stored as JSON: no secrets.

    The job may run twice, if its process or the database dies at the wrong moment; it should cope with that.
    """
    JOBS[name_of(function)] = function
    return function


def enqueue(
    session: AsyncSession,
    function: Function[Arguments],
    *args: Arguments.args,
    **arguments: Arguments.kwargs,
) -> None:
    """Queues a job in the session's transaction. It runs soon after the commit."""
    enqueue_at(session, utc_now(), function, *args, **arguments)


def enqueue_at(
    session: AsyncSession,
    moment: datetime,
    function: Function[Arguments],
    *args: Arguments.args,
    **arguments: Arguments.kwargs,
) -> None:
    """The same, for a job that must not run before this moment."""
    if args:
        raise TypeError("Pass the arguments of a job by name: `enqueue(session, job, name=...)`.")
    name = name_of(function)
    if name not in JOBS:
        raise TypeError(f"{name} is not a job: write `@job` before it.")
    session.add(Job(name=name, arguments=arguments, run_at=moment))
    if QUEUED not in session.info:
        event.listen(session.sync_session, "after_commit", _notify)
    session.info[QUEUED] = True


def _notify(session: Session) -> None:
    # It is called at the end of a savepoint as well.
    if session.info[QUEUED] and not session.in_nested_transaction():
        session.info[QUEUED] = False
        for listener in LISTENERS:
            listener()
