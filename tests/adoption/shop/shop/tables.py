from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Table(DeclarativeBase):
    pass


class Order(Table):
    __tablename__ = "orders"

    number: Mapped[int] = mapped_column(primary_key=True)
    article: Mapped[str] = mapped_column(unique=True)
