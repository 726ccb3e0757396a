"""Jobs, from the transaction that queues them to the last try."""

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import JSON, delete, literal_column, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import sessionmaker, utc_now
from app.jobs import Context, enqueue, enqueue_at, execution, job
from app.jobs import worker as worker_module
from app.jobs.execution import (
    LEASE,
    MAX_ATTEMPTS,
    UNKNOWN_FOR,
    JobFailedError,
    claim,
    delay,
    execute,
)
from app.jobs.models import Job
from app.jobs.queue import JOBS
from app.jobs.worker import Worker, running_worker, work
from app.main import create_app
from app.settings import Settings
from app.users.models import User
from app.work import CURRENT
from tests.fixtures.jobs import Jobs
from tests.fixtures.mock_services import MockServices

FORGOT = "/api/v1/auth/forgot-password"
done: list[tuple[Any, str]] = []


class Panic(BaseException):
    """Like the exception that libraries written in Rust raise."""


@job
async def note(context: Context, text: str) -> None:
    done.append((context.id, text))
    if text == "fails":
        raise OSError("no mail server")
    if text == "leaves":
        raise SystemExit(3)
    if text == "panics":
        raise Panic
    if text == "cancels itself":
        task = asyncio.current_task()
        assert task
        task.cancel()
        await asyncio.sleep(0)
    if text == "is cancelled":
        shared = asyncio.create_task(asyncio.sleep(100))
        shared.cancel()
        await shared
    if text == "hangs":
        await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    done.clear()
    yield
    JOBS.setdefault(f"{__name__}.note", note)


async def queue(session: AsyncSession, text: str = "hello") -> None:
    enqueue(session, note, text=text)
    await session.commit()


async def test_runs_after_the_response(
    client: httpx2.AsyncClient, user: User, mock_services: MockServices
) -> None:
    await client.post(FORGOT, json={"email": user.email})

    assert [mail.to for mail in mock_services.email.outbox] == [user.email]


async def test_is_held_back(
    client: httpx2.AsyncClient, user: User, mock_services: MockServices, jobs: Jobs
) -> None:
    await client.post(FORGOT, json={"email": user.email})
    (waiting,) = await jobs.waiting()
    assert waiting.arguments == {"email": user.email}
    assert mock_services.email.outbox == []

    await jobs.run()

    assert len(mock_services.email.outbox) == 1
    assert await jobs.waiting() == []


async def test_is_tried_again_with_the_same_id(
    client: httpx2.AsyncClient, user: User, mock_services: MockServices, jobs: Jobs
) -> None:
    await client.post(FORGOT, json={"email": user.email})
    jobs.fail(OSError("no mail server"))

    await jobs.run()

    (waiting,) = await jobs.waiting()
    assert (waiting.attempts, waiting.last_error) == (1, "OSError: no mail server")
    assert waiting.run_at <= utc_now() + timedelta(seconds=30)
    await jobs.run()
    assert mock_services.email.outbox == []  # it is not due
    await jobs.run_all()
    assert mock_services.email.outbox[0].id == str(waiting.id)


async def test_failure_fails_the_test(session: AsyncSession, jobs: Jobs) -> None:
    await queue(session, "fails")

    with pytest.raises(OSError, match="no mail server"):
        await jobs.run()


async def test_is_part_of_the_transaction(session: AsyncSession, jobs: Jobs) -> None:
    enqueue(session, note, text="never")
    await session.flush()
    await session.rollback()

    assert await jobs.waiting() == []


async def test_waits_for_its_moment(session: AsyncSession, jobs: Jobs) -> None:
    enqueue_at(session, utc_now() + timedelta(days=1), note, text="a reminder")
    await session.commit()

    await jobs.run()
    assert done == []

    await jobs.run_all()
    assert [text for _, text in done] == ["a reminder"]


async def test_is_announced_once(session: AsyncSession, jobs: Jobs) -> None:
    await queue(session)
    assert jobs.has_news
    jobs.has_news = False

    session.add(User(email="ada@example.com", hashed_password=""))
    await session.commit()

    assert not jobs.has_news


async def test_is_announced_when_it_is_there(session: AsyncSession, jobs: Jobs) -> None:
    """The end of a savepoint announces nothing."""
    enqueue(session, note, text="hello")
    async with session.begin_nested():
        session.add(User(email="ada@example.com", hashed_password=""))
    assert not jobs.has_news

    await session.commit()

    assert jobs.has_news


async def test_arguments_have_names(session: AsyncSession) -> None:
    with pytest.raises(TypeError, match="by name"):
        enqueue(session, note, "hello")


async def test_log_holds_no_address(
    session: AsyncSession, jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    await queue(session)
    jobs.fail(OSError("550 <ada@example.com> is unknown"))

    with caplog.at_level(logging.DEBUG, "app"):
        await jobs.run()

    assert "failed (OSError, attempt 1)" in caplog.text
    assert "ada@example.com" not in caplog.text


async def test_failure_is_logged_with_the_id_of_the_job(session: AsyncSession, jobs: Jobs) -> None:
    await queue(session)
    jobs.fail(OSError("no answer"))
    ids: list[str | None] = []

    def note_id(_record: logging.LogRecord) -> bool:
        ids.append(now.id if (now := CURRENT.get()) else None)
        return True

    logger = logging.getLogger("app.jobs.execution")
    logger.addFilter(note_id)
    try:
        await jobs.run()
    finally:
        logger.removeFilter(note_id)

    assert ids == [str((await session.scalars(select(Job.id))).one())]


async def test_is_given_up_and_kept(app: FastAPI, session: AsyncSession, jobs: Jobs) -> None:
    session.add(
        Job(name=f"{__name__}.note", arguments={"text": "fails"}, attempts=MAX_ATTEMPTS - 1)
    )
    await session.commit()
    claimed = await claim()
    assert claimed

    with pytest.raises(JobFailedError, match=str(claimed.id)):  # it is reported
        await execute(app, claimed)

    (kept,) = await jobs.waiting()
    assert kept.failed_at
    assert kept.last_error == "OSError: no mail server"
    assert await claim() is None


@pytest.mark.parametrize("text", ["is cancelled", "cancels itself", "leaves", "panics"])
async def test_that_ends_itself_has_failed(
    app: FastAPI, session: AsyncSession, jobs: Jobs, text: str
) -> None:
    """It ends neither the worker nor the server."""
    await queue(session, text)

    with pytest.raises(JobFailedError, match="It raised"):
        await jobs.run()

    (waiting,) = await jobs.waiting()
    assert "It raised" in (waiting.last_error or "")


async def test_that_kills_its_process_is_given_up(
    app: FastAPI, session: AsyncSession, jobs: Jobs
) -> None:
    session.add(Job(name=f"{__name__}.note", arguments={"text": "kills"}, attempts=30))
    await session.commit()
    claimed = await claim()
    assert claimed

    with pytest.raises(JobFailedError):  # it is reported
        await execute(app, claimed)

    assert done == []
    (kept,) = await jobs.waiting()
    assert kept.failed_at
    assert "died" in (kept.last_error or "")


async def test_arguments_that_nobody_can_read(
    app: FastAPI, session: AsyncSession, jobs: Jobs
) -> None:
    """They may be the result of a change by hand, and must not hold up other jobs."""
    unreadable = literal_column(f"'[{'1' * 5000}]'", JSON)  # more digits than Python reads
    session.add(Job(name=f"{__name__}.note", arguments={}, run_at=utc_now() - timedelta(days=1)))
    await session.flush()
    await session.execute(update(Job).values(arguments=unreadable))
    await session.commit()
    await queue(session)
    for _ in range(2):
        claimed = await claim()
        assert claimed
        await execute(app, claimed)

    assert [text for _, text in done] == ["hello"]
    kept = await session.scalar(select(Job.last_error))
    assert kept
    assert kept.startswith("ValueError")


async def test_that_was_deleted_is_not_run(app: FastAPI, session: AsyncSession) -> None:
    await queue(session)
    claimed = await claim()
    assert claimed
    await session.execute(delete(Job))
    await session.commit()

    assert await execute(app, claimed) is None
    assert done == []


async def test_long_error_is_cut(session: AsyncSession, jobs: Jobs) -> None:
    await queue(session)
    jobs.fail(OSError("x" * 100_000))

    await jobs.run()

    (waiting,) = await jobs.waiting()
    assert len(waiting.last_error or "") == 10_000


async def test_error_that_no_database_takes(session: AsyncSession, jobs: Jobs) -> None:
    await queue(session)
    jobs.fail(OSError("answer was \0\ud800"))

    await jobs.run()

    (waiting,) = await jobs.waiting()
    assert waiting.last_error == "OSError: answer was \\0\\ud800"


async def test_unknown_job_is_left_to_who_knows_it(session: AsyncSession, jobs: Jobs) -> None:
    """A newer version, which is just being deployed, knows it."""
    session.add(Job(name="of tomorrow", arguments={}))
    await session.commit()

    await jobs.run()

    (waiting,) = await jobs.waiting()
    assert waiting.attempts == 0


async def test_job_that_nobody_knows_fails(session: AsyncSession, jobs: Jobs) -> None:
    session.add(Job(name="of yesterday", arguments={}, run_at=utc_now() - UNKNOWN_FOR))
    await session.commit()

    with pytest.raises(KeyError):
        await jobs.run()

    (waiting,) = await jobs.waiting()
    assert waiting.last_error == "KeyError: 'of yesterday'"


async def test_only_jobs_are_queued(session: AsyncSession) -> None:
    async def no_job(context: Context) -> None: ...

    with pytest.raises(TypeError, match="@job"):
        enqueue(session, no_job)


async def test_row_of_a_job_that_is_done_goes_when_the_database_is_back(
    session: AsyncSession, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [OperationalError("DELETE", {}, Exception("gone"), connection_invalidated=True)] * 2

    def fail_at_first(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        return delete(*args)

    monkeypatch.setattr(execution, "RETRY_INTERVAL", 0)
    monkeypatch.setattr(execution, "delete", fail_at_first)
    await queue(session)

    await jobs.run()

    assert (len(done), failures, await jobs.waiting()) == (1, [], [])


async def test_job_that_may_run_once_more_is_named(
    session: AsyncSession,
    jobs: Jobs,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_args: Any) -> None:
        raise OperationalError("DELETE", {}, Exception("gone"), connection_invalidated=True)

    monkeypatch.setattr(execution, "LEASE", timedelta(0))
    monkeypatch.setattr(execution, "delete", fail)
    await queue(session)

    with pytest.raises(OperationalError):
        await jobs.run()

    assert f"job {__name__}.note is done, and may run once more" in caplog.text


async def test_job_that_takes_too_long_is_ended(
    app: FastAPI, session: AsyncSession, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "TIME_LIMIT", 0.01)
    await queue(session, "hangs")

    with pytest.raises(TimeoutError):
        await jobs.run()


def test_tries_are_further_and_further_apart() -> None:
    delays = [delay(attempts) for attempts in range(1, MAX_ATTEMPTS)]

    assert delays[0] == timedelta(seconds=5)
    assert delays == sorted(delays)
    assert delays[-1] == timedelta(hours=6)


@pytest.mark.committed
async def test_many_workers_share_jobs(session: AsyncSession, jobs: Jobs) -> None:
    for number in range(5):
        enqueue(session, note, text=str(number))
    await session.commit()

    claimed = await asyncio.gather(*(claim() for _ in range(8)))

    queued = {waiting.id: waiting.arguments["text"] for waiting in await jobs.waiting()}
    found = [queued[job.id] for job in claimed if job]
    assert sorted(found) == ["0", "1", "2", "3", "4"]


async def test_job_of_a_dead_process_is_taken_over(session: AsyncSession, jobs: Jobs) -> None:
    await queue(session)
    assert await claim()
    assert await claim() is None
    async with sessionmaker() as others:
        (row,) = await jobs.waiting()
        others.add(row)
        row.run_at -= LEASE  # time passes
        await others.commit()

    again = await claim()

    assert again
    assert again.attempts == 2


@pytest.mark.committed
class TestWorker:
    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(done) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def test_runs_what_is_queued(
        self, app: FastAPI, session: AsyncSession, jobs: Jobs
    ) -> None:
        await queue(session, "before")
        async with running_worker(app):
            await self.wait_for(1)
            await queue(session, "meanwhile")
            await self.wait_for(2)

        assert [text for _, text in done] == ["before", "meanwhile"]

    async def test_looks_for_what_others_have_queued(
        self, app: FastAPI, session: AsyncSession, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker_module, "POLL_INTERVAL", 0.01)
        async with running_worker(app):
            session.add(Job(name=f"{__name__}.note", arguments={"text": "elsewhere"}))
            await session.commit()
            await self.wait_for(1)

    async def test_waits_while_the_database_is_away(
        self,
        app: FastAPI,
        session: AsyncSession,
        jobs: Jobs,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        async def fail() -> None:
            raise OperationalError("SELECT", {}, Exception("gone"))

        monkeypatch.setattr(worker_module, "POLL_INTERVAL", 0.01)
        with monkeypatch.context() as patch:
            patch.setattr(worker_module, "claim", fail)
            worker = Worker(app)
            task = asyncio.create_task(worker.run())
            await asyncio.sleep(0.03)
        await queue(session)
        await self.wait_for(1)
        worker.stop()
        await task
        assert caplog.text.count("jobs have to wait") == 1

    async def test_counts_jobs_for_a_collector(
        self, app: FastAPI, session: AsyncSession, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        counted: dict[str, int] = {}
        is_done = asyncio.Event()

        class Gauge:
            def set(self, amount: int, attributes: dict[str, str]) -> None:
                counted[attributes["state"]] = amount
                if len(counted) == 2:
                    is_done.set()

        async def claim() -> None:
            pass

        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
        monkeypatch.setattr(execution, "jobs_kept", Gauge())
        monkeypatch.setattr(worker_module, "claim", claim)
        await queue(session)
        await queue(session, "hangs")
        async with running_worker(app):
            await is_done.wait()

        assert counted == {"waiting": 2, "given up": 0}

    async def test_stops_although_jobs_cannot_be_counted(
        self, app: FastAPI, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        again = asyncio.Event()
        tries: list[None] = []

        async def measure() -> None:
            tries.append(None)
            if len(tries) == 2:
                again.set()
            raise OSError

        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
        monkeypatch.setattr(worker_module, "MEASURE_INTERVAL", 0.001)
        monkeypatch.setattr(worker_module, "measure", measure)
        async with running_worker(app):
            await again.wait()

    async def test_stops_in_time_and_leaves_the_job(
        self, app: FastAPI, session: AsyncSession, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker_module, "STOP_TIMEOUT", 0.01)
        await queue(session, "hangs")
        async with running_worker(app):
            await self.wait_for(1)

        (waiting,) = await jobs.waiting()
        assert waiting.last_error is None


@pytest.mark.committed
@pytest.mark.network  # its engine is one as in production
async def test_program_works_until_it_is_told_to_stop(
    settings: Settings, session: AsyncSession, jobs: Jobs
) -> None:
    await queue(session)
    program = asyncio.create_task(
        work(create_app(settings.model_copy(update={"jobs_in_process": True})))
    )
    async with asyncio.timeout(5):
        while not done:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)
        await program
