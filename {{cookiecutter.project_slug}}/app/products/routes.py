from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from pydantic_extra_types.currency_code import Currency

from app.errors import problem_responses
from app.products.models import Product
from app.products.repository import ProductRepositoryDep
from app.products.schemas import (
    CENT,
    ConvertedPrice,
    NameLanguage,
    ProductCreate,
    ProductPage,
    ProductRead,
    ProductUpdate,
)
from app.services.exchange_rates import ExchangeRatesDep
from app.services.language import LanguageDep
from app.users import CurrentSuperuser, CurrentUser

router = APIRouter(prefix="/products", tags=["products"])

LARGEST_ID = 2**31 - 1  # what the column can hold


async def get_product(
    product_id: Annotated[int, Path(ge=1, le=LARGEST_ID)], products: ProductRepositoryDep
) -> Product:
    return await products.get(product_id)


ProductDep = Annotated[Product, Depends(get_product)]


@router.post("", status_code=201, response_model=ProductRead, responses=problem_responses(401, 409))
async def create_product(
    values: ProductCreate, _user: CurrentUser, products: ProductRepositoryDep
) -> Product:
    return await products.create(values.model_dump())


@router.get("")
async def list_products(
    products: ProductRepositoryDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    offset: Annotated[int, Query(ge=0, le=LARGEST_ID)] = 0,
) -> ProductPage:
    items, total = await products.page(limit=limit, offset=offset)
    return ProductPage(
        items=[ProductRead.model_validate(item) for item in items],
        total=total,
        limit=limit,
        offset=offset,
    )


@router.get("/{product_id}", response_model=ProductRead, responses=problem_responses(404))
async def read_product(product: ProductDep) -> Product:
    return product


@router.patch(
    "/{product_id}", response_model=ProductRead, responses=problem_responses(401, 404, 409)
)
async def update_product(
    values: ProductUpdate,
    _user: CurrentUser,
    product: ProductDep,
    products: ProductRepositoryDep,
) -> Product:
    await products.update(product, values.model_dump(exclude_unset=True))
    return product


@router.delete("/{product_id}", status_code=204, responses=problem_responses(401, 403, 404))
async def delete_product(
    _superuser: CurrentSuperuser, product: ProductDep, products: ProductRepositoryDep
) -> None:
    await products.delete(product)


@router.get("/{product_id}/price", responses=problem_responses(404, 422, 503))
async def convert_price(
    product: ProductDep,
    currency: Currency,
    products: ProductRepositoryDep,
    exchange_rates: ExchangeRatesDep,
) -> ConvertedPrice:
    """The price in another currency, at the latest rate."""
    await products.release()
    rate = Decimal(1)
    if currency != product.currency:
        rate = await exchange_rates.rate(product.currency, currency)
    return ConvertedPrice(price=(product.price * rate).quantize(CENT), currency=currency)


@router.get("/{product_id}/language", responses=problem_responses(404, 503))
async def detect_language(
    product: ProductDep, products: ProductRepositoryDep, language: LanguageDep
) -> NameLanguage:
    """The language that the product's name is written in, as an ISO 639-1 code."""
    await products.release()
    return NameLanguage(language=await language.detect(product.name))
