"""Sync and async steps of pytest-bdd."""

from pytest_bdd import given, parsers, scenarios, then, when

scenarios("accounts.feature")


@given("an empty service", target_fixture="answers")
def empty_service():
    return []


@given(parsers.parse("an account for {email}"), target_fixture="account")
async def account(user_factory, email):
    return await user_factory(email=email)


@when(parsers.parse("{email} registers"))
async def register(client, answers, email):
    account = {"email": email, "password": "correct horse battery staple"}
    answers.append(await client.post("/api/v1/auth/register", json=account))


@then(parsers.parse("the answer is {status:d}"))
def answer(answers, status):
    assert answers[-1].status_code == status


@then("it cannot be")
async def cannot_be():
    raise AssertionError("it was run")
