"""Runs jobs, in the service itself or in separate processes, any number of them at once."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app.jobs.execution import claim, execute, measure
from app.jobs.queue import LISTENERS
from app.telemetry import is_wanted

logger = logging.getLogger(__name__)

CONCURRENCY = 4  # jobs at once in one process
POLL_INTERVAL = 1.0  # seconds; other processes may have queued jobs
MEASURE_INTERVAL = 10.0  # seconds
STOP_TIMEOUT = 2.0  # seconds for running jobs to end, when the service does
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Worker:
    """Runs jobs of this application until it is stopped."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self._has_news = asyncio.Event()
        self._stopping = asyncio.Event()
        self._complaint: type[Exception] | None = None

    async def run(self) -> None:
        LISTENERS.add(self._has_news.set)
        try:
            await asyncio.gather(*(self._run() for _ in range(CONCURRENCY)), self._measure())
        finally:
            LISTENERS.discard(self._has_news.set)

    def stop(self) -> None:
        """Begins no further job."""
        self._stopping.set()
        self._has_news.set()

    async def _run(self) -> None:
        while not self._stopping.is_set():
            self._has_news.clear()
            try:
                job = await claim()
                if job is not None:
                    await execute(self.app, job)
            except Exception as error:  # most likely the database is away
                if self._complaint is not type(error):  # else it was said before
                    logger.warning("jobs have to wait (%s)", type(error).__name__)
                self._complaint = type(error)
            else:
                self._complaint = None
                if job is not None:
                    continue
            await wait(self._has_news, POLL_INTERVAL)

    async def _measure(self) -> None:
        while is_wanted("METRICS") and not self._stopping.is_set():
            try:
                await measure()
            except Exception as error:
                logger.warning("jobs cannot be counted (%s)", type(error).__name__)
            await wait(self._stopping, MEASURE_INTERVAL)


async def wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


async def work(app: FastAPI) -> None:
    """Runs jobs in this process, until it is told to stop."""
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
    """Runs jobs meanwhile. Jobs that take too long at the end are left to another process."""
    worker = Worker(app)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await asyncio.wait([task], timeout=STOP_TIMEOUT)
        task.cancel()
        await asyncio.wait([task], timeout=STOP_TIMEOUT)
