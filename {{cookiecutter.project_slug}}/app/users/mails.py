"""The mails about accounts, as jobs: a request takes as long whether or not there is an account."""

from collections.abc import Coroutine
from html import escape
from typing import Any

from app.database import sessionmaker
from app.jobs import Context, job
from app.services.email import Email, get_email
from app.users.manager import UserManager
from app.users.models import User
from app.users.store import UserDatabase


@job
async def send_reset_token(context: Context, email: str) -> None:
    manager, user = await _find(context, email)
    if user is not None and user.is_active:
        text, token = "Your token to set a new password:", manager.reset_token(user)
        await _send(context, email, "Reset your password", text, token)
        await _tell(context, manager.on_after_forgot_password(user, token))


@job
async def send_verification_token(context: Context, email: str) -> None:
    manager, user = await _find(context, email)
    if user is not None and user.is_active and not user.is_verified:
        text, token = "Your token to verify this address:", manager.verification_token(user)
        await _send(context, email, "Verify your address", text, token)
        await _tell(context, manager.on_after_request_verify(user, token))


@job
async def tell_about_registration(context: Context, email: str) -> None:
    """Somebody has registered with an address that is taken, and was not told."""
    text = "Somebody has tried to open an account with this address, which already has one."
    await _send(context, email, "You already have an account", text)


async def _find(context: Context, email: str) -> tuple[UserManager, User | None]:
    # The session ends here: none is open while the mail server takes its time.
    async with sessionmaker() as session:
        manager = UserManager(UserDatabase(session, User), context.app.state.settings)
        return manager, await manager.user_db.get_by_email(email)


async def _tell(context: Context, hook: Coroutine[Any, Any, None]) -> None:
    """If it fails, the mail has been sent all the same."""
    try:
        await hook
    except Exception as error:
        context.app.state.report_error(error)


async def _send(context: Context, email: str, subject: str, text: str, token: str = "") -> None:
    mail = Email(
        to=email,
        subject=subject,
        body=f"{text}\n\n{token}".strip(),
        html=f"<p>{escape(text)}</p><p><code>{escape(token)}</code></p>",
        id=str(context.id),
    )
    await (await context.service(get_email)).send(mail)
