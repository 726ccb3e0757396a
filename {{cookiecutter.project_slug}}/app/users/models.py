import uuid
from typing import TYPE_CHECKING

from fastapi_users_db_sqlalchemy import SQLAlchemyBaseUserTable
from sqlalchemy import CheckConstraint, Uuid
from sqlalchemy.orm import Mapped, mapped_column, validates

from app.database import Base


class User(SQLAlchemyBaseUserTable[uuid.UUID], Base):
    """An account: `email`, `hashed_password`, `is_active`, `is_superuser`, `is_verified`.

    Addresses are kept in lower case, so that one unique index finds them and keeps them apart.
    """

    __tablename__ = "users"
    __table_args__ = (CheckConstraint("email = lower(email)", name="email_normalised"),)

    if TYPE_CHECKING:
        id: uuid.UUID
    else:
        id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True, default=uuid.uuid4)
    token_version: Mapped[int] = mapped_column(default=0, server_default="0")
    """Tokens of an earlier version are not valid any more."""

    @validates("email")
    def normalise_email(self, _name: str, email: str) -> str:
        return normalise(email)


def normalise(email: str) -> str:
    return email.strip().lower()
