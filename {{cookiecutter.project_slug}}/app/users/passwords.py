"""Passwords: which are good enough, and how they are hashed without holding up anybody else."""

import asyncio
import os
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TypeVar

from fastapi_users import InvalidPasswordException
from fastapi_users.password import PasswordHelper
from pwdlib import PasswordHash
from pwdlib.exceptions import UnknownHashError
from pwdlib.hashers.argon2 import Argon2Hasher
from pwdlib.hashers.bcrypt import BcryptHasher

from app.settings import Settings

Result = TypeVar("Result")

MINIMUM_LENGTH = 8
MAXIMUM_LENGTH = 128
MINIMUM_DIFFERENT = 4  # characters
LONG_WITHOUT_LETTERS = 16  # characters; shorter ones are dates and telephone numbers
COMMON = Path(__file__).with_name("common_passwords.txt")


def _lower_priority() -> None:
    # On Linux, niceness belongs to a thread, and to those of Argon2, which it starts; elsewhere to the whole process.
    if sys.platform == "linux":  # pragma: no branch
        os.nice(10)


# As many at once as there are cores: a hash takes one of them, and a lot of memory. The event loop comes first. From
# Python 3.13 on, only the cores that this process may use count, or what `PYTHON_CPU_COUNT` says.
CORES = getattr(os, "process_cpu_count", os.cpu_count)()
EXECUTOR = ThreadPoolExecutor(CORES, thread_name_prefix="passwords", initializer=_lower_priority)


def check(password: str, email: str) -> None:
    """Raises `InvalidPasswordException` for passwords that attackers try first."""
    if re.search("[\ud800-\udfff]", password):
        raise InvalidPasswordException("The password contains an invalid character.")
    if len(password) < MINIMUM_LENGTH:
        raise InvalidPasswordException(
            f"A password must have at least {MINIMUM_LENGTH} characters."
        )
    if len(password) > MAXIMUM_LENGTH:
        raise InvalidPasswordException(f"A password must have at most {MAXIMUM_LENGTH} characters.")
    simple = password.casefold()
    if email and email.lower() in simple:
        raise InvalidPasswordException("A password must not contain the e-mail address.")
    word = re.sub(r"^[\W\d_]+|[\W\d_]+$", "", simple)  # "Password1!" is no better than "password"
    has_word = word or len(simple) >= LONG_WITHOUT_LETTERS
    is_common = {simple, word} & common_passwords()
    if len(set(simple)) < MINIMUM_DIFFERENT or not has_word or is_common:
        raise InvalidPasswordException("The password is too easy to guess.")


class Bcrypt(BcryptHasher):
    """For imported hashes. They were made from the first 72 bytes; current bcrypt refuses longer passwords."""

    def verify(self, password: str | bytes, hash: str | bytes) -> bool:  # noqa: A002
        raw = password.encode() if isinstance(password, str) else password
        return super().verify(raw[:72], hash)


class Helper(PasswordHelper):
    def verify_and_update(
        self, plain_password: str, hashed_password: str
    ) -> tuple[bool, str | None]:
        """No password fits a hash that cannot be read, such as `!` for accounts that must not log in."""
        try:
            return super().verify_and_update(plain_password, hashed_password)
        except (UnknownHashError, ValueError):
            self.hash(plain_password)  # takes as long
            return False, None


@cache
def common_passwords() -> frozenset[str]:
    return frozenset(COMMON.read_text().split())


def get_password_helper(settings: Settings) -> PasswordHelper:
    """Hashes with Argon2 at the cost that the settings name; verifies Argon2 and bcrypt."""
    return _password_helper(
        settings.argon2_time_cost, settings.argon2_memory_cost, settings.argon2_parallelism
    )


@cache
def _password_helper(time_cost: int, memory_cost: int, parallelism: int) -> PasswordHelper:
    argon2 = Argon2Hasher(time_cost=time_cost, memory_cost=memory_cost, parallelism=parallelism)
    return Helper(PasswordHash((argon2, Bcrypt())))


async def in_thread(function: Callable[..., Result], *args: str) -> Result:
    """Calls what takes 0.1 s of a core, while the event loop goes on."""
    return await asyncio.get_running_loop().run_in_executor(EXECUTOR, function, *args)
