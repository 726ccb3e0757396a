"""Hashing is real in tests, only cheap; these tests show where the two meet."""

import re

import httpx2
import pytest
from pwdlib.hashers.bcrypt import BcryptHasher

from app.settings import Settings
from app.users.models import User
from app.users.passwords import get_password_helper
from tests.fixtures.factories import UserFactory
from tests.fixtures.fast_auth import PASSWORD

# Made once by an earlier run with the parameters of tests, and kept: a hash does not depend on
# the process that makes it.
HASH_OF_ANOTHER_RUN = (
    "$argon2id$v=19$m=8,t=1,p=1$MHbCd8byXCZkZcKmq9ld3Q$UluwDOihYM/T2yey+Llfr4f995vVbNeAJUe01dcsqqs"
)


@pytest.fixture(scope="session")
def production() -> Settings:
    values = Settings.model_fields
    return Settings(
        environment="production",
        secret_key="a-secret-of-production-that-is-long-enough",
        argon2_time_cost=values["argon2_time_cost"].default,
        argon2_memory_cost=values["argon2_memory_cost"].default,
        argon2_parallelism=values["argon2_parallelism"].default,
    )


async def can_log_in(client: httpx2.AsyncClient, user: User) -> bool:
    response = await client.post(
        "/api/v1/auth/login", data={"username": user.email, "password": PASSWORD}
    )
    return response.status_code == 200


async def test_hash_of_another_run_verifies(
    client: httpx2.AsyncClient, user_factory: UserFactory
) -> None:
    user = await user_factory(hashed_password=HASH_OF_ANOTHER_RUN)

    assert await can_log_in(client, user)


async def test_production_argon2_works_from_end_to_end(
    client: httpx2.AsyncClient, user_factory: UserFactory, production: Settings
) -> None:
    hashed = get_password_helper(production).hash(PASSWORD)
    assert re.match(r"\$argon2id\$v=19\$m=65536,t=3,p=4\$", hashed)

    assert await can_log_in(client, await user_factory(hashed_password=hashed))


@pytest.mark.parametrize("hashed", ["!", "", "$argon2id$v=19$m=8,t=1,p=1$x", "$2b$12$x"])
async def test_hash_that_cannot_be_read_is_no_password(
    client: httpx2.AsyncClient, user_factory: UserFactory, hashed: str
) -> None:
    assert not await can_log_in(client, await user_factory(hashed_password=hashed))


async def test_bcrypt_hash_verifies_and_is_replaced(
    client: httpx2.AsyncClient, user_factory: UserFactory
) -> None:
    user = await user_factory(hashed_password=BcryptHasher(rounds=4).hash(PASSWORD))

    assert await can_log_in(client, user)
    assert await can_log_in(client, user)


def test_wrong_password_does_not_verify() -> None:
    helper = get_password_helper(Settings())

    assert helper.verify_and_update("wrong", helper.hash(PASSWORD)) == (False, None)


def test_tests_hash_cheaply() -> None:
    assert "m=8,t=1,p=1" in get_password_helper(Settings()).hash(PASSWORD)
