import pytest
from fastapi.testclient import TestClient


def register(client: TestClient, name: str) -> int:
    return client.post("/patients", json={"name": name, "password": "sesame"}).status_code


def test_there_is_nobody(client: TestClient) -> None:
    assert client.get("/patients").json() == []


@pytest.mark.parametrize("name", ["Ada", "Grace", "Hedy"])
def test_patients_register_once(client: TestClient, name: str) -> None:
    assert register(client, name) == 201
    assert register(client, name) == 409
    assert client.get("/patients").json() == [name]


def test_the_report_counts_them(client: TestClient) -> None:
    register(client, "Ada")
    register(client, "Grace")

    assert client.get("/report").json() == 2
