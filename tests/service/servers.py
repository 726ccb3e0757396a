"""The generated service as a process, and what is around it, which can be made to fail."""

import asyncio
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from pathlib import Path
from typing import Any

import httpx2

from tests.commands import clean_environment, start
from tests.projects import Project
from tests.servers import free_port, wait_until

SECRET = "a-secret-of-these-tests-that-is-long-enough"
PASSWORD = "correct horse battery staple"
NO_LIMITS = {"THROTTLE_LOGIN": "", "THROTTLE_REGISTER": "", "THROTTLE_MAIL": ""}


class Service:
    """The service in production; its log is in `log`."""

    def __init__(self, project: Project, database_url: str, log: Path, **environment: str) -> None:
        self.project = project
        self.log = log
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "ENVIRONMENT": "production",
            "DATABASE_URL": database_url,
            "SECRET_KEY": SECRET,
            # Strong enough, and quick.
            "ARGON2_TIME_COST": "2",
            "ARGON2_MEMORY_COST": "19456",
            **NO_LIMITS,
            **environment,
        }
        self.client = httpx2.Client(base_url=self.url, trust_env=False, timeout=30)

    def run(self, *command: str) -> None:
        self.project.run(*command, **self.environment)

    def spawn(self, *arguments: str) -> subprocess.Popen[str]:
        with self.log.open("a") as log:
            return start(
                *(self.project.venv / "bin" / "python", "-m", *arguments),
                cwd=self.project.path,
                stdout=log,
                **self.environment,
            )

    def command(self, *arguments: str, text: str = "") -> str:
        """What a command of the service says, which has to succeed."""
        done = subprocess.run(
            [self.project.venv / "bin" / "python", "-m", "app", *arguments],
            cwd=self.project.path,
            env=clean_environment() | self.environment,
            input=text,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def entries(self) -> list[dict[str, Any]]:
        """The lines of the log, each of which has to be an object."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def start(self, *options: str) -> None:
        self.process = self.spawn("app", "serve", "--port", str(self.port), *options)
        wait_until(
            lambda: self.status("/health/live") == 200 or self.process.poll() is not None, 30
        )
        assert self.process.poll() is None, "it has ended at once"

    def status(self, path: str) -> int | None:
        try:
            return self.client.get(path).status_code
        except httpx2.TransportError:
            return None

    def stop(self) -> float:
        """Ends it as a process manager does. Returns how many seconds that took."""
        begun = time.monotonic()
        self.process.terminate()
        self.process.wait(30)
        return time.monotonic() - begun

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def register(self, email: str) -> httpx2.Response:
        account = {"email": email, "password": PASSWORD}
        return self.client.post("/api/v1/auth/register", json=account)

    def forgot_password(self, email: str) -> httpx2.Response:
        return self.client.post("/api/v1/auth/forgot-password", json={"email": email})

    def log_in(self, email: str) -> httpx2.Response:
        form = {"username": email, "password": PASSWORD}
        return self.client.post("/api/v1/auth/login", data=form)


@contextmanager
def running(
    project: Project, database_url: str, folder: Path, *, migrate: bool = True, **environment: str
) -> Iterator[Service]:
    service = Service(project, database_url, folder / "service.log", **environment)
    if migrate:
        service.run("alembic", "upgrade", "head")
    try:
        service.start()
        yield service
    except BaseException as error:
        error.add_note(service.log.read_text()[-5000:])
        raise
    finally:
        service.client.close()
        if service.process.poll() is None:
            service.kill()


class Background:
    """Servers in an event loop of a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)


class Door:
    """A TCP port in front of another one: open, closed, or frozen."""

    def __init__(self, background: Background, target: int) -> None:
        self.background = background
        self.target = target
        self.port = free_port()
        self._writers: set[asyncio.StreamWriter] = set()
        self.open()

    def open(self) -> None:
        self.background.call(self._open())

    def close(self) -> None:
        self.background.call(self._close())

    def freeze(self) -> None:
        self.background.loop.call_soon_threadsafe(self._may_pass.clear)

    def thaw(self) -> None:
        self.background.loop.call_soon_threadsafe(self._may_pass.set)

    async def _open(self) -> None:
        self._may_pass = asyncio.Event()
        self._may_pass.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _close(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._may_pass.wait()
        there = await asyncio.open_connection("127.0.0.1", self.target)
        self._writers |= {writer, there[1]}
        await asyncio.gather(self._pass(reader, there[1]), self._pass(there[0], writer))
        self._writers -= {writer, there[1]}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self._may_pass.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()


class MailServer:
    """Takes mails, unless it hangs or is away."""

    def __init__(self, background: Background, *, hangs: bool = False) -> None:
        self.background = background
        self.port = free_port()
        self.ids: list[str] = []
        self.recipients: list[str] = []
        self.conversations = 0
        self.hangs = hangs

    def open(self) -> None:
        self.background.call(asyncio.start_server(self._serve, "127.0.0.1", self.port))

    @property
    def environment(self) -> dict[str, str]:
        return {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(self.port)}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.conversations += 1
        if self.hangs:
            await asyncio.Event().wait()
        writer.write(b"220 localhost\r\n")
        while line := await reader.readline():
            command = line.split()[0].upper()
            writer.write({b"DATA": b"354 go on\r\n"}.get(command, b"250 ok\r\n"))
            if command == b"DATA":
                mail = message_from_bytes(await reader.readuntil(b"\r\n.\r\n"))
                self.ids.append(mail["Message-ID"])
                self.recipients.append(mail["To"])
                writer.write(b"250 taken\r\n")
        writer.close()


def memory(process: subprocess.Popen[str]) -> float:
    """The greatest that it has been, in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024
