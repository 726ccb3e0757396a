from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic_extra_types.currency_code import Currency

CENT = Decimal("0.01")
ABSENT: Any = None  # a default is not validated, so null stays refused

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Sku = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]
Price = Annotated[
    Decimal,
    Field(gt=0, max_digits=12, decimal_places=2),
    AfterValidator(lambda price: price.quantize(CENT)),
]


class ProductCreate(BaseModel):
    name: Name
    sku: Sku
    price: Price
    currency: Currency


class ProductUpdate(BaseModel):
    """Only the fields that are sent are changed; none of them can be set to null."""

    name: Name = ABSENT
    sku: Sku = ABSENT
    price: Price = ABSENT
    currency: Currency = ABSENT


class ProductRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    sku: str
    price: Decimal
    currency: str
    created_at: datetime


class ProductPage(BaseModel):
    items: list[ProductRead]
    total: int
    limit: int
    offset: int


class ConvertedPrice(BaseModel):
    price: Decimal
    currency: str


class NameLanguage(BaseModel):
    language: str
