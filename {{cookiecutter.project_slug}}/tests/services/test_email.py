"""The real client, against a server that is as short as SMTP allows."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.requests import HTTPConnection

from app.services import PROVIDERS
from app.services.email import Email, EmailSender, SMTPEmailSender, get_email
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


async def test_provider_makes_the_real_client(request_to_app: HTTPConnection) -> None:
    assert PROVIDERS["email"] is get_email
    assert isinstance(await get_email(request_to_app), SMTPEmailSender)


async def test_hands_the_mail_over(server: SMTPServer) -> None:
    await sender(server).send(EMAIL)

    assert b"To: ada@example.com" in server.message
    assert b"\r\nDate: " in server.message
    assert b"\r\nMessage-ID: <" in server.message
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

    with pytest.raises(OSError, match="does not take"):
        await sender(server).send(EMAIL)


async def test_same_mail_has_the_same_id_and_two_forms(server: SMTPServer) -> None:
    mail = replace(EMAIL, id="0815", html="<p>Hello</p>")

    await sender(server, email_from="Shop <shop@example.com>").send(mail)

    assert b"Message-ID: <0815@example.com>" in server.message
    assert b"text/plain" in server.message
    assert b"text/html" in server.message


@pytest.mark.parametrize("field", ["to", "subject"])
async def test_nobody_adds_a_header(server: SMTPServer, field: str) -> None:
    injected = replace(EMAIL, **{field: "ada@example.com\r\nBcc: eve@example.com"})

    with pytest.raises(ValueError, match=r"(?i)linefeed|newline|CR|invalid"):
        await sender(server).send(injected)

    assert server.commands == []


def make_certificate(folder: Path) -> Path:
    """A file with a key and its certificate for 127.0.0.1, good for an hour."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a server of the tests")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


class TestTLS:
    """The certificate is made here, so no authority vouches for it."""

    @pytest.fixture
    def certificate(self, tmp_path: Path) -> Path:
        return make_certificate(tmp_path)

    @pytest.fixture
    async def tls_server(self, certificate: Path) -> AsyncIterator[SMTPServer]:
        smtp = SMTPServer()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        async with await asyncio.start_server(smtp.serve, "127.0.0.1", ssl=context) as server:
            smtp.port = server.sockets[0].getsockname()[1]
            yield smtp

    async def test_is_spoken_from_the_start(
        self, tls_server: SMTPServer, certificate: Path
    ) -> None:
        await sender(tls_server, smtp_tls=True, smtp_ca_file=str(certificate)).send(EMAIL)

        assert tls_server.message

    async def test_refuses_a_certificate_that_nobody_vouches_for(
        self, tls_server: SMTPServer
    ) -> None:
        with pytest.raises(OSError, match="certificate"):
            await sender(tls_server, smtp_tls=True).send(EMAIL)

        assert tls_server.message == b""
