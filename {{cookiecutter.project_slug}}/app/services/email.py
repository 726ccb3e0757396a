"""E-mail through an SMTP server."""

from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from typing import Annotated, Protocol

from fastapi import Depends, FastAPI

from app.database import utc_now
from app.services import provider
from app.settings import Settings
from app.telemetry import mails_sent

TIMEOUT = 10  # seconds


@dataclass(frozen=True)
class Email:
    """`body` is plain text. Mails with the same `id` are one mail, sent again."""

    to: str
    subject: str
    body: str
    html: str | None = None
    id: str | None = None


class EmailSender(Protocol):
    async def send(self, email: Email) -> None:
        """Hands the mail over to a server; raises `OSError` when none takes it."""


class SMTPEmailSender:
    """Verifies the server's certificate wherever a connection is encrypted."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    async def send(self, email: Email) -> None:
        import aiosmtplib  # 0.1 s

        settings = self.settings
        password = settings.smtp_password
        try:
            await aiosmtplib.send(
                self.message(email),
                hostname=settings.smtp_host,
                port=settings.smtp_port,
                use_tls=settings.smtp_begins_encrypted,
                start_tls=settings.smtp_starttls,
                cert_bundle=settings.smtp_ca_file,
                username=settings.smtp_username,
                password=password.get_secret_value() if password else None,
                timeout=TIMEOUT,
            )
        except aiosmtplib.SMTPException as error:
            raise OSError(f"the mail server does not take the mail: {error}") from error
        mails_sent.add(1)

    def message(self, email: Email) -> EmailMessage:
        sender = self.settings.email_from
        domain = sender.rpartition("@")[2].rstrip(">")
        message = EmailMessage()
        message["From"] = sender
        message["To"] = Address(addr_spec=email.to)
        message["Subject"] = email.subject
        message["Date"] = format_datetime(utc_now())
        message["Message-ID"] = f"<{email.id}@{domain}>" if email.id else make_msgid(domain=domain)
        message["Auto-Submitted"] = "auto-generated"  # nobody's holiday answers it
        message.set_content(email.body)
        if email.html is not None:
            message.add_alternative(email.html, subtype="html")
        return message


@provider
async def get_email(app: FastAPI) -> EmailSender:
    return SMTPEmailSender(app.state.settings)


EmailDep = Annotated[EmailSender, Depends(get_email)]
