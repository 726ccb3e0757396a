from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema
from pydantic_extra_types.currency_code import Currency

CENT = Decimal("0.01")
ABSENT: Any = None  # a default is not validated, so null stays refused

# At least one visible character, and no NUL, which databases refuse.
VISIBLE = r"^[^\x00]*[^\s\x00][^\x00]*$"

Name = Annotated[str, StringConstraints(strip_whitespace=True, pattern=VISIBLE, max_length=200)]
Sku = Annotated[str, StringConstraints(strip_whitespace=True, pattern=VISIBLE, max_length=64)]
Price = Annotated[
    Decimal,
    Field(gt=0, max_digits=12, decimal_places=2),
    AfterValidator(lambda price: price.quantize(CENT)),
    # A string is exact in every language; a number may be rounded on its way.
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "string",
                    "pattern": r"^(0*[1-9]\d{0,9}(\.\d{1,2})?|0*\.(0[1-9]|[1-9]\d?))$",
                },
                {"type": "number", "minimum": 0.01, "maximum": 9_999_999_999, "multipleOf": 0.01},
            ]
        },
        mode="validation",
    ),
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
