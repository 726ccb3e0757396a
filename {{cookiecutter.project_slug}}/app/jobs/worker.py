"""Runs jobs: in the service itself, or in processes of their own, any number of them at once."""

import asyncio
import logging
import signal
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from fastapi import FastAPI
from sqlalchemy import delete, select, update

from app.database import sessionmaker, utc_now
from app.jobs.models import Job
from app.jobs.queue import JOBS, LISTENERS, Context

logger = logging.getLogger(__name__)

CONCURRENCY = 4  # jobs at once in one process
POLL_INTERVAL = 1.0  # seconds between looks for what other processes have queued
TIME_LIMIT = 20.0  # seconds for one try
LEASE = timedelta(seconds=25)  # a job of a process that has died waits as long
STOP_TIMEOUT = 2.0  # seconds for running jobs to end, when the service does
MAX_ATTEMPTS = 10  # over about nineteen hours
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
LONGEST_DELAY = timedelta(hours=6)


def delay(attempts: int) -> timedelta:
    """Until the next try: 5 s, 20 s, 80 s, and so on."""
    return min(timedelta(seconds=5 * 4 ** (attempts - 1)), LONGEST_DELAY)


async def claim() -> Job | None:
    """A job that is due, which nobody else will take for `LEASE`."""
    due = (
        select(Job.id)
        .where(Job.failed_at.is_(None), Job.run_at <= utc_now())
        .order_by(Job.run_at)
        .limit(1)
    )
    async with sessionmaker() as session:
        # A look needs no write lock, where there is only one.
        await session.connection(execution_options={"read_only": True})
        if await session.scalar(due) is None:
            return None
        await session.rollback()
        claimed: Job | None = await session.scalar(
            update(Job)
            .where(Job.id == due.with_for_update(skip_locked=True).scalar_subquery())
            .values(attempts=Job.attempts + 1, run_at=utc_now() + LEASE)
            .returning(Job)
        )
        await session.commit()
        return claimed


async def execute(app: FastAPI, job: Job) -> Exception | None:
    """Tries it once. Returns what went wrong."""
    try:
        async with asyncio.timeout(TIME_LIMIT):
            await JOBS[job.name](Context(app, job.id), **job.arguments)
    except Exception as error:
        await _postpone(app, job, error)
        return error
    async with sessionmaker() as session:
        await session.execute(delete(Job).where(Job.id == job.id))
        await session.commit()
    return None


async def _postpone(app: FastAPI, job: Job, error: Exception) -> None:
    has_failed = job.attempts >= MAX_ATTEMPTS
    now = utc_now()
    async with sessionmaker() as session:
        await session.execute(
            update(Job)
            .where(Job.id == job.id)
            .values(
                last_error="".join(traceback.format_exception_only(error)).strip(),
                run_at=now + delay(job.attempts),
                failed_at=now if has_failed else None,
            )
        )
        await session.commit()
    # What is wrong is in the row: it may hold an address, which a log must not.
    logger.warning("job %s has failed (%s, try %d)", job.name, type(error).__name__, job.attempts)
    if has_failed:
        app.state.report_error(error)


class Worker:
    """Runs jobs of this application until it is stopped."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self._has_news = asyncio.Event()
        self._is_stopping = False

    async def run(self) -> None:
        LISTENERS.add(self._has_news.set)
        try:
            await asyncio.gather(*(self._run() for _ in range(CONCURRENCY)))
        finally:
            LISTENERS.discard(self._has_news.set)

    def stop(self) -> None:
        """No further job is begun."""
        self._is_stopping = True
        self._has_news.set()

    async def _run(self) -> None:
        while not self._is_stopping:
            self._has_news.clear()
            try:
                job = await claim()
                if job is not None:
                    await execute(self.app, job)
                    continue
            except Exception as error:  # most likely the database is away
                logger.warning("jobs have to wait (%s)", type(error).__name__)
            await self._wait()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(POLL_INTERVAL):
                await self._has_news.wait()
        except TimeoutError:
            pass


async def work(app: FastAPI) -> None:
    """Runs jobs in a process of their own, until it is told to stop."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stopped.set)
    try:
        async with app.router.lifespan_context(app):
            await stopped.wait()
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)


@asynccontextmanager
async def running_worker(app: FastAPI) -> AsyncIterator[Worker]:
    """Runs jobs meanwhile. Those that take too long to end are left to another process."""
    worker = Worker(app)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await asyncio.wait([task], timeout=STOP_TIMEOUT)
        task.cancel()
        await asyncio.wait([task])
