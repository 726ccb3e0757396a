"""Settings, read from the environment and from `.env`, checked before anything starts."""

import re
import ssl
from email.message import EmailMessage
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from fastapi import Depends
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import NoDecode, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError
from starlette.requests import HTTPConnection

from app.engine import EngineSettings{% if cookiecutter.database == "postgresql" %}, check_options{% endif %}

# Where containers find secrets: a file for each, named like the setting.
SECRETS = Path("/run/secrets") if Path("/run/secrets").is_dir() else None

# Refused in every environment where it would matter.
DEVELOPMENT_SECRET = "development-only-secret-never-use-it-elsewhere"  # noqa: S105
MINIMUM_SECRET_LENGTH = 32

DEVELOPMENT_DATABASE = "{{ cookiecutter.__database_url }}"
TEN_YEARS = 315_360_000  # seconds
IMPLICIT_TLS_PORT = 465
LOOPBACK = ("localhost", "127.0.0.1", "::1")
REDIS_TIMEOUT = 0.5  # seconds; after that, each process counts by itself

# The weakest Argon2id parameters that OWASP's Password Storage Cheat Sheet accepts.
MINIMUM_ARGON2_TIME_COST = 2
MINIMUM_ARGON2_MEMORY_COST = 19_456  # KiB


Part = TypeVar("Part")


def split(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


Listed = Annotated[list[Part], NoDecode, BeforeValidator(split)]
# An empty value counts as unset, as where a compose file has `${SMTP_USERNAME:-}`.
OrUnset = Annotated[Part | None, BeforeValidator(lambda value: None if value == "" else value)]


def check_database_url(url: str) -> str:
    # The message leaves out the value, which contains a password.
    driver = DEVELOPMENT_DATABASE.partition(":")[0]
    try:
        is_ours = make_url(url).drivername == driver
    except (ArgumentError, ValueError):
        is_ours = False
    if not is_ours:
        raise ValueError(f"it is not the URL of a database, which begins with {driver}://")
{%- if cookiecutter.database == "postgresql" %}
    check_options(make_url(url))
{%- endif %}
    return url


def redis_storage(url: str) -> Any:
    """Where attempts are counted. It connects when it is first used."""
    from limits.storage import storage_from_string  # 0.2 s

    timeouts = {"socket_timeout": REDIS_TIMEOUT, "socket_connect_timeout": REDIS_TIMEOUT}
    return storage_from_string(f"async+{url}", implementation="valkey", **timeouts)


def check_redis_url(url: str) -> str:
    if find_spec("valkey") is None:
        raise ValueError("the client is not installed; `uv sync --inexact --extra redis` does it")
    try:
        redis_storage(url)
    except Exception:  # of many kinds, some with the password
        raise ValueError(
            "it is not a URL like redis://:password@host:6379/0 (write / @ : in a password as %2F %40 %3A) "
            "or redis+sentinel://host:26379/name-of-the-service"
        ) from None
    return url


def check_host(host: str) -> str:
    host = host.lower()
    if not re.fullmatch(r"\*|(\*\.)?[a-z0-9._-]+|\[[0-9a-f:.]+\]", host):
        raise ValueError(f"`{host}` is not a host name such as api.example.com, *.example.com or *")
    return host


def check_origin(origin: str) -> str:
    """As browsers send it, without the slash that they show at its end."""
    if origin in ("*", "null", "file://"):
        return origin
    origin = origin.lower().rstrip("/")
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/@?#*\s]+", origin):
        raise ValueError(f"`{origin}` is not an origin such as https://app.example.com or *")
    return origin


def check_sender(sender: str) -> str:
    """An address, alone or with a name before it: `Shop <shop@example.com>`."""
    message = EmailMessage()
    try:
        message["From"] = sender
        (address,) = message["From"].addresses
    except ValueError:  # a line break, or not one address
        is_valid = False
    else:
        is_valid = bool(address.username and address.domain) and not message["From"].defects
    if not is_valid:
        raise ValueError(f"`{sender}` is not one address such as shop@example.com")
    return sender


def check_certificates(path: str) -> str:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:  # as those of `ssl` are
        raise ValueError(f"`{path}` cannot be read as certificates: {error}") from None
    return path


def check_service_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ValueError(f"`{url}` is not a URL such as https://api.example.com/v1")
    return url


DatabaseURL = Annotated[str, AfterValidator(check_database_url)]
RedisURL = Annotated[str, AfterValidator(check_redis_url)]
Host = Annotated[str, AfterValidator(check_host)]
Origin = Annotated[str, AfterValidator(check_origin)]
Certificates = Annotated[str, AfterValidator(check_certificates)]
Sender = Annotated[str, AfterValidator(check_sender)]
ServiceURL = Annotated[str, AfterValidator(check_service_url)]

# As the library `limits` writes it; empty is no limit.
Rate = Annotated[
    str,
    Field(
        pattern=r"^([0-9]+\s*(/|per)\s*([1-9][0-9]*\s*)?(second|minute|hour|day|month|year)s?)?$"
    ),
]


class Settings(EngineSettings):
    """One attribute per variable: `database_url` is read from `DATABASE_URL`."""

    model_config = SettingsConfigDict(env_file=".env", secrets_dir=SECRETS, extra="ignore")

    environment: Literal["development", "test", "staging", "production"] = "development"
    database_url: DatabaseURL = DEVELOPMENT_DATABASE
    secret_key: SecretStr = SecretStr(DEVELOPMENT_SECRET)
    access_token_lifetime: int = Field(default=3600, gt=0, le=TEN_YEARS, description="seconds")
    register_tells_taken: bool = Field(
        default=True, description="false: the owner of the address is told instead, by mail"
    )

    argon2_time_cost: int = Field(default=3, ge=1, le=1000)
    argon2_memory_cost: int = Field(default=65_536, ge=8, le=4_194_304, description="KiB")
    argon2_parallelism: int = Field(default=4, ge=1, le=128)

    smtp_host: str = Field(default="localhost", pattern=r"^\S+$")
    smtp_port: int = Field(default=1025, ge=1, le=65_535)
    smtp_username: OrUnset[str] = None
    smtp_password: OrUnset[SecretStr] = None
    smtp_starttls: bool = False
    smtp_tls: bool = Field(default=False, description="from the start, as always on port 465")
    smtp_ca_file: OrUnset[Certificates] = Field(
        default=None, description="for a certificate of your own"
    )
    email_from: Sender = "noreply@example.com"

    exchange_rates_url: ServiceURL = "https://api.frankfurter.dev/v1"

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: OrUnset[Literal["json", "text"]] = Field(
        default=None, description="unset: json in production, else text"
    )

    docs: OrUnset[bool] = Field(default=None, description="unset: everywhere but in production")
    cors_origins: Listed[Origin] = Field(default=[], description="separated by commas")
    allowed_hosts: Listed[Host] = Field(
        default=["*"], min_length=1, description="separated by commas"
    )
    redis_url: OrUnset[RedisURL] = Field(
        default=None, description="counts attempts for several processes"
    )
    throttle_login: Rate = "10/minute"
    throttle_register: Rate = "20/hour"
    throttle_mail: Rate = "5/hour"
    jobs_in_process: bool = Field(
        default=True, description="false where `python -m app worker` runs them"
    )
    shutdown_delay: float = Field(
        default=1, ge=0, le=3600, description="seconds for which a stopping process announces it"
    )
    max_body_size: int = Field(default=1_048_576, gt=0, description="bytes")

    @property
    def logs_json(self) -> bool:
        if self.log_format is None:
            return self.environment == "production"
        return self.log_format == "json"

    @property
    def has_docs(self) -> bool:
        return self.environment != "production" if self.docs is None else self.docs

    @property
    def is_development(self) -> bool:
        return self.environment in ("development", "test")

    @property
    def smtp_begins_encrypted(self) -> bool:
        return self.smtp_tls or self.smtp_port == IMPLICIT_TLS_PORT

    @model_validator(mode="after")
    def refuse_weak_secrets(self) -> Self:
        secret = self.secret_key.get_secret_value()
        if not secret:
            raise ValueError("SECRET_KEY is empty, and signs nothing")
        if self.is_development:
            return self
        if secret == DEVELOPMENT_SECRET or len(secret) < MINIMUM_SECRET_LENGTH:
            raise ValueError(
                f"SECRET_KEY is the development default or shorter than "
                f"{MINIMUM_SECRET_LENGTH} characters, which is refused in "
                f"{self.environment}; set it to the output of "
                '`python -c "import secrets; print(secrets.token_urlsafe(48))"`'
            )
        return self

    @model_validator(mode="after")
    def refuse_weak_password_hashing(self) -> Self:
        if self.environment == "test":
            return self
        for name, value, minimum in (
            ("ARGON2_TIME_COST", self.argon2_time_cost, MINIMUM_ARGON2_TIME_COST),
            ("ARGON2_MEMORY_COST", self.argon2_memory_cost, MINIMUM_ARGON2_MEMORY_COST),
        ):
            if value < minimum:
                raise ValueError(
                    f"{name} is {value}, too weak for passwords in {self.environment}; "
                    f"set it to {minimum} or more, or remove it"
                )
        return self

    @model_validator(mode="after")
    def refuse_mail_without_encryption(self) -> Self:
        if self.smtp_begins_encrypted and self.smtp_starttls:
            raise ValueError(
                "SMTP_STARTTLS is for a connection that begins without encryption; "
                f"remove it, or SMTP_TLS and port {IMPLICIT_TLS_PORT}"
            )
        is_encrypted = self.smtp_begins_encrypted or self.smtp_starttls
        is_near = self.smtp_host.lower().strip("[].") in LOOPBACK
        if self.smtp_username and not (is_encrypted or is_near or self.is_development):
            raise ValueError(
                "the password of SMTP_USERNAME would be sent unencrypted; set SMTP_STARTTLS (usual on port 587) or "
                f"SMTP_TLS to true, or SMTP_PORT to {IMPLICIT_TLS_PORT}"
            )
        return self


@cache
def load_settings() -> Settings:
    """The settings of this process. Wrong ones end it, with a message that says what is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            ": ".join([*(str(part).upper() for part in problem["loc"]), problem["msg"]])
            for problem in error.errors()
        ]
        raise SystemExit("The settings are not valid.\n  " + "\n  ".join(lines)) from None
    except UnicodeDecodeError:
        raise SystemExit("The settings cannot be read: `.env` or a secret is not UTF-8.") from None
    except OSError as error:
        raise SystemExit(f"The settings cannot be read: {error}") from None


async def get_settings(connection: HTTPConnection) -> Settings:
    """The settings that this application was created with."""
    settings: Settings = connection.app.state.settings
    return settings


SettingsDep = Annotated[Settings, Depends(get_settings)]
