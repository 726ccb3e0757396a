"""E-mail through an SMTP server."""

import asyncio
import smtplib
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Annotated, Protocol

from fastapi import Depends, FastAPI

from app.services import provider
from app.settings import Settings


@dataclass(frozen=True)
class Email:
    to: str
    subject: str
    body: str


class EmailSender(Protocol):
    async def send(self, email: Email) -> None:
        """Hands the mail over to a server; raises `OSError` when none takes it."""


class SMTPEmailSender:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    async def send(self, email: Email) -> None:
        await asyncio.to_thread(self._send, email)

    def _send(self, email: Email) -> None:
        message = EmailMessage()
        message["From"] = self.settings.email_from
        message["To"] = email.to
        message["Subject"] = email.subject
        message.set_content(email.body)
        with smtplib.SMTP(self.settings.smtp_host, self.settings.smtp_port, timeout=10) as server:
            if self.settings.smtp_starttls:
                server.starttls()
            if self.settings.smtp_username and self.settings.smtp_password:
                server.login(
                    self.settings.smtp_username, self.settings.smtp_password.get_secret_value()
                )
            server.send_message(message)


@provider
async def get_email(app: FastAPI) -> EmailSender:
    return SMTPEmailSender(app.state.settings)


EmailDep = Annotated[EmailSender, Depends(get_email)]
