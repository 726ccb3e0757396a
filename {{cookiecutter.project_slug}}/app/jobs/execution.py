"""One attempt at a job: which process takes it, and what becomes of it."""

import asyncio
import logging
import traceback
import uuid
from datetime import datetime, timedelta
from typing import NamedTuple

from fastapi import FastAPI
from sqlalchemy import delete, func, or_, select, update

from app.database import is_away, reading_session, sessionmaker, utc_now
from app.jobs.models import Job
from app.jobs.queue import JOBS, Context
from app.telemetry import jobs_kept, jobs_tried, tracer
from app.work import working

logger = logging.getLogger(__name__)

TIME_LIMIT = 20.0  # seconds
LEASE = timedelta(seconds=25)  # a job of a process that has died waits as long
RETRY_INTERVAL = 0.5  # seconds
UNKNOWN_FOR = timedelta(hours=1)  # a deployment is over by then
MAX_ATTEMPTS = 10  # over about nineteen hours
LONGEST_DELAY = timedelta(hours=6)
LONGEST_ERROR = 10_000  # characters


class JobFailedError(Exception):
    """The last attempt at a job failed (its row stays, with `last_error`), or the job ended itself."""


class Claimed(NamedTuple):
    """What is needed of a job before its arguments are read, which may be impossible."""

    id: uuid.UUID
    name: str
    attempts: int
    run_at: datetime


def delay(attempts: int) -> timedelta:
    """Until the next attempt: 5 s, 20 s, 80 s, and so on."""
    return min(timedelta(seconds=5 * 4 ** min(attempts - 1, MAX_ATTEMPTS)), LONGEST_DELAY)


async def claim() -> Claimed | None:
    """A job that is due, which no other process will take for `LEASE`.

    Unknown jobs are left to the version that queued them while a deployment replaces it; a job that no version knows
    fails eventually.
    """
    now = utc_now()
    is_known = or_(Job.name.in_(JOBS), Job.run_at <= now - UNKNOWN_FOR)
    due = (
        select(Job.id)
        .where(Job.failed_at.is_(None), Job.run_at <= now, is_known)
        .order_by(Job.run_at)
        .limit(1)
    )
    # Looks without the lock of a writer. The rollback ends the transaction that only reads; the next one may write.
    async with reading_session() as session:
        if await session.scalar(due) is None:
            return None
        await session.rollback()
        claimed = await session.execute(
            update(Job)
            .where(Job.id == due.with_for_update(skip_locked=True).scalar_subquery())
            .values(attempts=Job.attempts + 1, run_at=utc_now() + LEASE)
            .returning(Job.id, Job.name, Job.attempts, Job.run_at)
        )
        row = claimed.one_or_none()
        await session.commit()
        return None if row is None else Claimed(*row)


async def execute(app: FastAPI, job: Claimed) -> Exception | None:
    """Makes one attempt. Returns what went wrong."""
    with working(str(job.id)):
        try:
            await _try(app, job)
        except Exception as error:
            await _postpone(app, job, error)
            return error
        jobs_tried.add(1, {"job": job.name, "outcome": "done"})
        await _delete(job)
        return None


async def _delete(job: Claimed) -> None:
    """Keeps trying while the database is unavailable, until the lease ends and another process may run the job again."""
    while True:
        try:
            async with sessionmaker() as session:
                await session.execute(delete(Job).where(Job.id == job.id))
                await session.commit()
                return
        except Exception as error:
            if not is_away(error) or utc_now() >= job.run_at:
                logger.warning("job %s is done, and may run once more", job.name)
                raise
            await asyncio.sleep(RETRY_INTERVAL)


async def _try(app: FastAPI, job: Claimed) -> None:
    if job.attempts > MAX_ATTEMPTS:
        raise JobFailedError("Every process that tried it died.")
    runner = asyncio.current_task()
    try:
        # In a task of its own: a job that cancels itself must not end the worker.
        await asyncio.create_task(_call(app, job))
    except asyncio.CancelledError as error:
        if runner is not None and runner.cancelling():
            raise  # the process ends, and another one takes the job
        raise JobFailedError("It raised CancelledError.") from error


async def _call(app: FastAPI, job: Claimed) -> None:
    try:
        with tracer.start_as_current_span(job.name):
            async with asyncio.timeout(TIME_LIMIT):
                async with reading_session() as session:
                    arguments = select(Job.arguments).where(Job.id == job.id)
                    row = (await session.execute(arguments)).one_or_none()
                if row is not None:  # else somebody has deleted it
                    await JOBS[job.name](Context(app, job.id), **row.arguments)
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as error:  # it would end the worker
        raise JobFailedError(f"It raised {type(error).__name__}.") from error


async def _postpone(app: FastAPI, job: Claimed, error: Exception) -> None:
    has_failed = job.attempts >= MAX_ATTEMPTS
    now = utc_now()
    async with sessionmaker() as session:
        await session.execute(
            update(Job)
            .where(Job.id == job.id)
            .values(
                last_error=storable("".join(traceback.format_exception_only(error)).strip()),
                run_at=now + delay(job.attempts),
                failed_at=now if has_failed else None,
            )
        )
        await session.commit()
    outcome = "given up" if has_failed else "postponed"
    jobs_tried.add(1, {"job": job.name, "outcome": outcome})
    # The message is in the row: it may contain an address, which a log must not.
    logger.warning("job %s failed (%s, attempt %d)", job.name, type(error).__name__, job.attempts)
    if has_failed:
        app.state.report_error(
            JobFailedError(f"{job.name} failed {job.attempts} times; see the row {job.id}")
        )


def storable(text: str) -> str:
    """Text that every database accepts; an error may quote anything that a client sent."""
    return text[:LONGEST_ERROR].encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


async def measure() -> None:
    """Tells the collector how many jobs there are."""
    failed = func.count(Job.failed_at)
    async with reading_session() as session:
        waiting, given_up = (await session.execute(select(func.count() - failed, failed))).one()
    jobs_kept.set(waiting, {"state": "waiting"})
    jobs_kept.set(given_up, {"state": "given up"})
