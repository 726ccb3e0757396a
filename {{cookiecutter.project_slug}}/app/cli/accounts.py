"""Accounts, from the first superuser on."""

import sys
from typing import Annotated

import typer
from fastapi_users import InvalidPasswordException
from fastapi_users.exceptions import UserAlreadyExists
from sqlalchemy import select

from app.cli.program import cli, fail, with_database
from app.database import reading_session, sessionmaker
from app.settings import load_settings
from app.users.manager import UserManager
from app.users.models import User
from app.users.schemas import UserCreate
from app.users.store import UserDatabase

users = typer.Typer(help="List and change accounts.", invoke_without_command=True)
cli.add_typer(users, name="users")

EmailArgument = Annotated[str, typer.Argument(help="The e-mail address of the account.")]


@cli.command()
@with_database
async def create_superuser(email: EmailArgument) -> None:
    """Make an account that may do everything, or an account one that may.

    The password is asked for, or read from standard input. That of an account that is there stays.
    """
    async with sessionmaker() as session:
        manager = UserManager(UserDatabase(session, User), load_settings())
        user = await manager.user_db.get_by_email(email)
        if user is None:
            await session.commit()  # nothing is locked while somebody types
            account = UserCreate(
                email=email, password=read_password(), is_superuser=True, is_verified=True
            )
            try:
                await manager.create(account)
            except InvalidPasswordException as error:
                fail(str(error.reason))
            except UserAlreadyExists:
                fail(f"Somebody has just opened an account for {email}. Try again.")
            typer.echo(f"{account.email} is a superuser now.")
        elif user.is_superuser and user.is_active:
            typer.echo(f"{user.email} is a superuser already.")
        else:
            await manager.user_db.update(user, {"is_superuser": True, "is_active": True})
            typer.echo(f"{user.email} is a superuser now, with the password of before.")


def read_password() -> str:
    if sys.stdin.isatty():
        password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
        return password
    return sys.stdin.readline().rstrip("\n") or fail("There is no password on standard input.")


@users.callback()
def list_by_default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_users()


@users.command("list")
@with_database
async def list_users() -> None:
    """Show all accounts: a line each, with what is special about them."""
    async with reading_session() as session:
        for user in await session.scalars(select(User).order_by(User.__table__.c.email)):
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
        await store.update(user, {name: value})


@users.command()
@with_database
async def activate(email: EmailArgument) -> None:
    """Let somebody in again."""
    await change(email, "is_active", True)


@users.command()
@with_database
async def deactivate(email: EmailArgument) -> None:
    """Let somebody in no more, also with a token."""
    await change(email, "is_active", False)


@users.command()
@with_database
async def promote(email: EmailArgument) -> None:
    """Make somebody a superuser."""
    await change(email, "is_superuser", True)


@users.command()
@with_database
async def demote(email: EmailArgument) -> None:
    """Make a superuser a user like any other."""
    await change(email, "is_superuser", False)
