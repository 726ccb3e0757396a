"""Every router of the API, one line each."""

from fastapi import APIRouter

from app.products.routes import router as products
from app.users.routes import router as users

router = APIRouter(prefix="/api/v1")
router.include_router(users)
router.include_router(products)
