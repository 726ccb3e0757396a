import uuid
from typing import Annotated, Any

from email_validator import EmailNotValidError, validate_email
from fastapi_users import schemas
from pydantic import AfterValidator, Field

from app.users.models import normalise
from app.users.passwords import MAXIMUM_LENGTH, MINIMUM_LENGTH

LONGEST_EMAIL = 320
ABSENT: Any = None  # a default is not validated, so null stays refused


def to_ascii(email: str) -> str:
    """The address as every mail server takes it: an international domain in its ASCII form."""
    check_length(email)  # before it is parsed, which takes minutes for a very long one
    try:
        found = validate_email(email.strip(), check_deliverability=False, test_environment=True)
    except EmailNotValidError as error:
        raise ValueError(f"value is not a valid email address: {error}") from None
    if found.ascii_email is None:
        raise ValueError("the part before the @ has letters that not every mail server takes")
    check_length(found.ascii_email)
    return normalise(found.ascii_email)


def check_length(email: str) -> None:
    if len(email) > LONGEST_EMAIL:
        raise ValueError(f"an address has at most {LONGEST_EMAIL} characters")


def canonical_email(email: str) -> str:
    """The address as it is kept, however it was typed; empty for one that cannot be kept."""
    try:
        return to_ascii(email)
    except ValueError:
        # Of whoever was let in by other rules. No database can look for the others.
        return normalise(email) if len(email) <= LONGEST_EMAIL and email.isprintable() else ""


Email = Annotated[
    str,
    AfterValidator(to_ascii),
    Field(json_schema_extra={"format": "email", "maxLength": LONGEST_EMAIL}),
]
Password = Annotated[
    str,
    # What is wrong with a password is said by `passwords.check`, with a code of its own.
    Field(
        json_schema_extra={
            "format": "password",
            "minLength": MINIMUM_LENGTH,
            "maxLength": MAXIMUM_LENGTH,
        }
    ),
]
Token = Annotated[str, Field(max_length=2000)]


class UserRead(schemas.BaseUser[uuid.UUID]):
    email: str  # as it is kept


class UserCreate(schemas.BaseUserCreate):
    """What a superuser alone may decide is ignored when somebody registers."""

    email: Email
    password: Password
    is_active: bool = True
    is_superuser: bool = False
    is_verified: bool = False

    def create_update_dict(self) -> dict[str, Any]:
        return dict(super().create_update_dict())  # type: ignore[no-untyped-call]

    def create_update_dict_superuser(self) -> dict[str, Any]:
        return dict(super().create_update_dict_superuser())  # type: ignore[no-untyped-call]


class UserUpdate(schemas.BaseUserUpdate):
    """Only the fields that are sent are changed; none of them can be set to null.

    Users who change their own address or password must send `current_password`.
    """

    password: Password = ABSENT
    email: Email = ABSENT
    is_active: bool = ABSENT
    is_superuser: bool = ABSENT
    is_verified: bool = ABSENT
    current_password: Annotated[str, Field(max_length=1000, exclude=True)] = ABSENT
