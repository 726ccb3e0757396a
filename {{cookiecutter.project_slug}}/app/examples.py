"""Example data of every domain, one line each, for `python -m app seed`."""

from app.products.examples import add_examples as products
from app.users.examples import add_examples as users

EXAMPLES = [
    products,
    users,
]
