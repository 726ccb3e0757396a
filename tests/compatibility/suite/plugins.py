"""A small test with each library that people bring along."""

import asyncio
import itertools
from decimal import Decimal

import factory
import httpx2
import pytest
import respx
from app.products.models import Product
from app.users.models import User
from dirty_equals import IsDatetime, IsPositiveInt
from factory.alchemy import SQLAlchemyModelFactory
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot as inline_snapshot
from polyfactory.factories.sqlalchemy_factory import SQLAlchemyFactory
from sqlalchemy import func, select

twice = pytest.mark.parametrize("run", [1, 2])


async def count(session, model):
    return await session.scalar(select(func.count()).select_from(model))


# hypothesis


@given(name=st.text("abc", min_size=1, max_size=5))
async def test_hypothesis(session, name):
    assert await count(session, User) == 0
    session.add(User(email=f"{name}@example.com", hashed_password=""))
    await session.commit()


class TestArranged:
    """What fixtures have arranged is there for each example; what the last one has done is not."""

    @pytest.fixture(autouse=True)
    def arranged(self, mock_services, jobs):
        mock_services.exchange_rates.rates["EUR", "USD"] = Decimal("1.25")
        jobs.fail(OSError("no mail server"))

    @given(number=st.integers())
    async def test_fakes_and_jobs(self, app, client, user, mock_services, jobs, number):
        assert mock_services.exchange_rates.rates == {("EUR", "USD"): Decimal("1.25")}
        assert "example" not in app.dependency_overrides
        mock_services.exchange_rates.rates["EUR", "GBP"] = Decimal("0.75")
        app.dependency_overrides["example"] = None
        await client.post("/api/v1/auth/forgot-password", json={"email": user.email})
        assert len(await jobs.waiting()) == 1
        await jobs.run()
        assert mock_services.email.outbox == []


# respx


async def test_respx(respx_mock, client):
    respx_mock.get("https://rates.example.com/EUR").respond(json={"USD": 1.25})
    async with httpx2.AsyncClient() as outside:
        response = await outside.get("https://rates.example.com/EUR")
    assert response.json() == {"USD": 1.25}
    assert (await client.get("/health/live")).status_code == 200


@respx.mock
async def test_respx_as_a_decorator():
    respx.post("https://sms.example.com").mock(side_effect=httpx2.ConnectError)
    async with httpx2.AsyncClient() as outside:
        with pytest.raises(httpx2.ConnectError):
            await outside.post("https://sms.example.com")


# pytest-mock


async def test_mock(client, user, mock_services, mocker):
    send = mocker.patch.object(mock_services.email, "send", autospec=True)
    await client.post("/api/v1/auth/forgot-password", json={"email": user.email})
    assert send.await_args.args[0].to == user.email


# polyfactory


class PolyUserFactory(SQLAlchemyFactory[User]):
    __model__ = User
    is_active = True


@twice
async def test_polyfactory(session, client, run):
    PolyUserFactory.__async_session__ = session
    user = await PolyUserFactory.create_async(email="ada@example.com")
    await PolyUserFactory.create_batch_async(3)
    assert (await session.get(User, user.id)).email == "ada@example.com"
    assert await count(session, User) == 4


# factory_boy


class BoyUserFactory(SQLAlchemyModelFactory):
    class Meta:
        model = User
        sqlalchemy_session_persistence = "commit"

    email = factory.Sequence(lambda n: f"boy-{n}@example.com")
    hashed_password = ""


@twice
def test_factory_boy(sync_session, run):
    BoyUserFactory._meta.sqlalchemy_session = sync_session
    BoyUserFactory.create_batch(3)
    assert sync_session.query(User).count() == 3


class AsyncUserFactory(factory.Factory):
    """As its documentation has it for async: build, then store by one's own session."""

    class Meta:
        model = User

    email = factory.Sequence(lambda n: f"async-{n}@example.com")
    hashed_password = ""

    @classmethod
    def _create(cls, model, *args, session, **values):
        async def create():
            user = model(*args, **values)
            session.add(user)
            await session.commit()
            return user

        return create()


@twice
async def test_factory_boy_in_async_code(session, sync_session, run):
    BoyUserFactory._meta.sqlalchemy_session = sync_session
    BoyUserFactory()
    await AsyncUserFactory(session=session)
    assert await count(session, User) == 2


# syrupy, inline-snapshot, dirty-equals


async def test_syrupy(client, snapshot):
    assert (await client.get("/api/v1/users/me")).json() == snapshot


async def test_inline_snapshot(client):
    assert (await client.get("/health/live")).json() == inline_snapshot({"status": "ok"})


async def test_dirty_equals(superuser_client):
    product = {"name": "Tea", "sku": "T-1", "price": "3.50", "currency": "EUR"}
    created = await superuser_client.post("/api/v1/products", json=product)
    assert created.json() == product | {
        "id": IsPositiveInt,
        "created_at": IsDatetime(iso_string=True),
    }


# pytest-rerunfailures

tries = itertools.count(1)


@pytest.mark.flaky(reruns=2)
async def test_rerun(session):
    assert await count(session, Product) == 0  # each try starts from the baseline
    session.add(Product(name="Tea", sku="T-1", price=Decimal(1), currency="EUR"))
    await session.commit()
    assert next(tries) == 3


# pytest-repeat


@pytest.mark.repeat(3)
async def test_repeat(session):
    assert await count(session, Product) == 0
    session.add(Product(name="Tea", sku="T-1", price=Decimal(1), currency="EUR"))
    await session.commit()


# pytest-subtests, and pytest's own


async def test_subtests(client, subtests):
    for path in ("/health/live", "/health/ready"):
        with subtests.test(path=path):
            assert (await client.get(path)).status_code == 200


# pytest-benchmark


def test_benchmark(benchmark, sync_session):
    assert benchmark(lambda: sync_session.query(User).count()) == 0


# anyio's marker


@pytest.mark.anyio
async def test_anyio(client, session):
    assert (await client.get("/health/ready")).status_code == 200
    await asyncio.sleep(0)
