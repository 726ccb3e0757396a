"""Accounts, from the first superuser on."""

import sys
from typing import Annotated

import typer
from fastapi_users import InvalidPasswordException
from fastapi_users.exceptions import UserAlreadyExists
from sqlalchemy import select
from sqlalchemy.exc import InvalidRequestError

from app.cli.program import cli, fail, with_database
from app.database import reading_session, sessionmaker
from app.errors import AppError
from app.settings import load_settings
from app.users.manager import UserManager
from app.users.models import User
from app.users.schemas import UserCreate, UserUpdate
from app.users.store import UserDatabase

users = typer.Typer(help="List and change accounts.", invoke_without_command=True)
cli.add_typer(users, name="users")

EmailArgument = Annotated[str, typer.Argument(help="The e-mail address of the account.")]


@cli.command()
@with_database
async def create_superuser(email: EmailArgument) -> None:
    """Create a superuser, or make an existing account one.

    The password is asked for, or read from standard input. An existing account keeps its own, unless its address was
    never verified: somebody else may have registered it.
    """
    async with sessionmaker() as session:
        manager = UserManager(UserDatabase(session, User), load_settings())
        user = await manager.user_db.get_by_email(email)
        if user is not None and user.is_superuser and user.is_active:
            typer.echo(f"{user.email} is already a superuser.")
            return
        if user is not None and user.is_verified:
            await manager.user_db.update(user, {"is_superuser": True, "is_active": True})
            typer.echo(f"{user.email} is now a superuser; the password is unchanged.")
            return
        await session.commit()  # nothing is locked while somebody types
        rights = {"is_superuser": True, "is_active": True, "is_verified": True}
        try:
            if user is None:
                # A wrong address is refused before anybody types a password.
                account = UserCreate(email=email, password="", **rights)
                account.password = read_password()
                user = await manager.create(account)
            else:
                change = UserUpdate(password=read_password(), **rights)
                await session.refresh(user)
                if user.is_verified:
                    fail(f"{email} has just been verified. Try again.")
                await manager.update(change, user)
        except InvalidPasswordException as error:
            fail(str(error.reason))
        except UserAlreadyExists:
            fail(f"Somebody has just opened an account for {email}. Try again.")
        except (AppError, InvalidRequestError):
            fail(f"The account of {email} has just been deleted. Try again.")
        typer.echo(f"{user.email} is now a superuser, with this password.")


def read_password() -> str:
    if sys.stdin is None:  # it was closed
        fail("There is no standard input, and no password on it.")
    if sys.stdin.isatty():
        password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
        return password
    # Files from elsewhere begin with a mark of their encoding, and end lines in their own way.
    line = sys.stdin.readline().removeprefix("\ufeff").rstrip("\r\n")
    return line or fail("There is no password on standard input.")


@users.callback()
def list_by_default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_users()


@users.command("list")
@with_database
async def list_users() -> None:
    """List all accounts, one per line, with anything unusual about them."""
    async with reading_session() as session:
        for user in await session.scalars(select(User).order_by(User.__table__.c.email)):
            show(user)


def show(user: User) -> None:
    marks = {
        "superuser": user.is_superuser,
        "inactive": not user.is_active,
        "unverified": not user.is_verified,
    }
    typer.echo("  ".join([user.email, *(mark for mark, holds in marks.items() if holds)]))


async def change(email: str, name: str, value: bool) -> None:
    async with sessionmaker() as session:
        store = UserDatabase(session, User)
        user = await store.get_by_email(email)
        if user is None:
            fail(f"There is no account for {email}.")
        show(await store.update(user, {name: value}))


@users.command()
@with_database
async def activate(email: EmailArgument) -> None:
    """Let somebody in again."""
    await change(email, "is_active", True)


@users.command()
@with_database
async def deactivate(email: EmailArgument) -> None:
    """Lock somebody out; existing tokens stop working too."""
    await change(email, "is_active", False)


@users.command()
@with_database
async def promote(email: EmailArgument) -> None:
    """Make somebody a superuser."""
    await change(email, "is_superuser", True)


@users.command()
@with_database
async def demote(email: EmailArgument) -> None:
    """Make a superuser an ordinary user."""
    await change(email, "is_superuser", False)
