"""The real client, against a server that is as short as SMTP allows."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.services.email import Email, EmailSender, SMTPEmailSender
from app.settings import Settings

pytestmark = pytest.mark.network

EMAIL = Email(to="ada@example.com", subject="Grüße", body="Hello")
REPLIES = {
    b"EHLO": b"250-localhost\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n",
    b"AUTH": b"235 welcome\r\n",
    b"STARTTLS": b"454 not today\r\n",
    b"DATA": b"354 go on\r\n",
    b"QUIT": b"221 goodbye\r\n",
}


class SMTPServer:
    port: int

    def __init__(self) -> None:
        self.commands: list[bytes] = []
        self.message = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 localhost\r\n")
        while line := await reader.readline():
            self.commands.append(line.strip())
            command = line.split()[0].upper()
            writer.write(REPLIES.get(command, b"250 ok\r\n"))
            if command == b"DATA":
                self.message = await reader.readuntil(b"\r\n.\r\n")
                writer.write(b"250 taken\r\n")
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[SMTPServer]:
    smtp = SMTPServer()
    async with await asyncio.start_server(smtp.serve, "127.0.0.1") as server:
        smtp.port = server.sockets[0].getsockname()[1]
        yield smtp


def sender(server: SMTPServer, **settings: object) -> EmailSender:
    return SMTPEmailSender(
        Settings(smtp_host="127.0.0.1", smtp_port=server.port, **settings)  # type: ignore[arg-type]
    )


async def test_hands_the_mail_over(server: SMTPServer) -> None:
    await sender(server).send(EMAIL)

    assert b"To: ada@example.com" in server.message
    assert b"Subject: =?utf-8?" in server.message
    assert server.message.rstrip(b".\r\n").endswith(b"Hello")


async def test_logs_in_where_it_has_to(server: SMTPServer) -> None:
    await sender(server, smtp_username="me", smtp_password="secret").send(EMAIL)

    assert server.commands[1].startswith(b"AUTH PLAIN")


async def test_sends_nothing_without_the_encryption_it_wants(server: SMTPServer) -> None:
    with pytest.raises(OSError, match="454"):
        await sender(server, smtp_starttls=True).send(EMAIL)

    assert server.message == b""


async def test_says_that_no_server_answers(server: SMTPServer) -> None:
    server.port = 1

    with pytest.raises(ConnectionRefusedError):
        await sender(server).send(EMAIL)
