import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

import app.settings
from app.cli.settings import shown
from app.settings import DEVELOPMENT_SECRET, Settings, load_settings
from tests.fixtures.database import ROOT

GOOD_SECRET = SecretStr("a-secret-of-production-that-is-long-enough")
STRONG_HASHING = {"argon2_time_cost": 3, "argon2_memory_cost": 65_536}


@pytest.mark.parametrize("environment", ["staging", "production"])
@pytest.mark.parametrize("secret", [DEVELOPMENT_SECRET, "short", ""])
def test_weak_secrets_are_refused(environment: str, secret: str) -> None:
    with pytest.raises(ValidationError, match="SECRET_KEY"):
        Settings(environment=environment, secret_key=SecretStr(secret), **STRONG_HASHING)  # type: ignore[arg-type]


@pytest.mark.parametrize("environment", ["development", "staging", "production"])
@pytest.mark.parametrize(("name", "value"), [("argon2_time_cost", 1), ("argon2_memory_cost", 8)])
def test_weak_hashing_is_refused(environment: str, name: str, value: int) -> None:
    values = STRONG_HASHING | {name: value}

    with pytest.raises(ValidationError, match=name.upper()):
        Settings(environment=environment, secret_key=GOOD_SECRET, **values)  # type: ignore[arg-type]


def test_production_settings_are_accepted() -> None:
    Settings(environment="production", secret_key=GOOD_SECRET, **STRONG_HASHING)  # type: ignore[arg-type]


def test_wrong_settings_end_the_process_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_PORT", "twenty-five")
    load_settings.cache_clear()

    with pytest.raises(SystemExit, match=r"SMTP_PORT: Input should be a valid integer"):
        load_settings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DATABASE_URL", "no url"),
        ("DATABASE_URL", "mysql://ada:pa55word@db/service"),
        ("DATABASE_URL", "://ada:pa55word@db:port/service"),
        ("REDIS_URL", "localhost:6379"),
        ("REDIS_URL", "redis://:pa55word/x@127.0.0.1:6379/0"),
        ("REDIS_URL", "redis+ftp://:pa55word@127.0.0.1:6379"),
        ("REDIS_URL", "redis+sentinel://:pa55word@h1:26379"),
        ("ACCESS_TOKEN_LIFETIME", "99999999999999"),
        ("REDIS_URL", "redis://:pa55word@cache"),
        ("ALLOWED_HOSTS", "*.a.*"),
        ("ALLOWED_HOSTS", ""),
        ("ALLOWED_HOSTS", "example.com:8000"),
        ("CORS_ORIGINS", "https://*.example.com"),
        ("ALLOWED_HOSTS", "api.example.com,*example.com"),
        ("CORS_ORIGINS", "localhost:3000"),
        ("CORS_ORIGINS", "https://app.example.com/page"),
        ("SECRET_KEY", ""),
        ("THROTTLE_LOGIN", "\u0663/minute"),
        ("THROTTLE_LOGIN", "10/0 minute"),
        ("SHUTDOWN_DELAY", "inf"),
        ("SMTP_HOST", ""),
        ("SMTP_HOST", "mail.example.com 587"),
        ("SMTP_CA_FILE", "/nowhere.pem"),
        ("SMTP_CA_FILE", __file__),
        ("EMAIL_FROM", ""),
        ("EMAIL_FROM", "nobody"),
        ("EMAIL_FROM", "Shop <shop>"),
        ("EMAIL_FROM", "shop@my.com <shop@example.com>"),
        ("EMAIL_FROM", "shop@example.com, eve@example.com"),
        ("EMAIL_FROM", "shop@example.com\nBcc: eve@example.com"),
        ("EXCHANGE_RATES_URL", "api.example.com"),
        ("EXCHANGE_RATES_URL", "https://"),
        ("EXCHANGE_RATES_URL", "https://api.example.com:99999"),
        ("SMTP_PORT", "99999"),
        ("ARGON2_MEMORY_COST", "99999999999"),
        ("ARGON2_PARALLELISM", "1000000000"),
    ],
)
def test_what_would_fail_later_is_refused_without_its_value(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    load_settings.cache_clear()

    with pytest.raises(SystemExit, match=variable) as refused:
        load_settings()

    assert "pa55word" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    ["redis://:x@127.0.0.1:6379/0", "rediss://h:6379", "redis+sentinel://h1:26379,h2:26379/name"],
)
def test_addresses_of_redis(settings: Settings, url: str) -> None:
    assert Settings(redis_url=url).redis_url == url


def test_redis_needs_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.settings, "find_spec", lambda _name: None)

    with pytest.raises(ValidationError, match="uv sync --inexact --extra redis"):
        Settings(redis_url="redis://127.0.0.1")


def test_what_is_empty_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SMTP_USERNAME", "SMTP_PASSWORD", "REDIS_URL", "DOCS", "LOG_FORMAT"):
        monkeypatch.setenv(variable, "")

    settings = Settings()

    assert (settings.smtp_username, settings.smtp_password) == (None, None)
    assert settings.redis_url is None
    assert settings.has_docs
    assert not settings.logs_json


MAIL_SERVER = {"smtp_host": "mail.example.com", "smtp_username": "api", "smtp_port": 587}


@pytest.mark.parametrize("port", [{"smtp_port": 465}, {"smtp_tls": True}])
def test_encryption_begins_once(port: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="SMTP_STARTTLS"):
        Settings(smtp_starttls=True, **port)


def test_mail_server_gets_no_password_in_clear() -> None:
    values: dict[str, Any] = {"environment": "production", "secret_key": GOOD_SECRET}
    values |= STRONG_HASHING | MAIL_SERVER
    with pytest.raises(ValidationError, match="SMTP_USERNAME"):
        Settings(**values)

    for different in (
        {"smtp_port": 465},
        {"smtp_starttls": True},
        {"smtp_tls": True},
        {"smtp_host": "Localhost."},
        {"smtp_host": "[::1]"},
        {"smtp_username": None},
        {"environment": "development"},
    ):
        Settings(**values | different)


def test_origins_are_those_of_browsers() -> None:
    typed = ["http://localhost:3000/", "https://App.example.com", "http://[::1]:80", "null", "*"]
    sent = ["http://localhost:3000", "https://app.example.com", "http://[::1]:80", "null", "*"]

    assert Settings(cors_origins=typed).cors_origins == sent
    assert Settings(allowed_hosts=["API.example.com"]).allowed_hosts == ["api.example.com"]


def test_file_in_another_encoding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("SMTP_USERNAME=J\xf6rg".encode("latin-1"))
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    load_settings.cache_clear()

    with pytest.raises(SystemExit, match="UTF-8"):
        load_settings()


def test_file_of_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Settings:
        raise PermissionError(13, "Permission denied", ".env")

    monkeypatch.setattr(app.settings, "Settings", refuse)
    load_settings.cache_clear()

    with pytest.raises(SystemExit, match=r"cannot be read.*\.env"):
        load_settings()


def test_settings_of_the_process_are_read_once() -> None:
    load_settings.cache_clear()

    assert load_settings() is load_settings()


def test_guide_has_every_setting_with_its_default() -> None:
    guide = (ROOT / "docs" / "operating.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z][A-Z0-9_]+)` \| (.*?) ?\|", guide, re.MULTILINE))

    assert rows.keys() == {name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        # The default of a secret, or of the database, is not for production.
        if name != "database_url" and not isinstance(field.default, SecretStr):
            default = "" if field.is_required() else shown(field.default)
            assert rows[name.upper()] == (f"`{default}`" if default else "")
