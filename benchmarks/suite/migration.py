"""the tables of the benchmark"""

import sqlalchemy as sa
from alembic import op
from app.database import NAMING_CONVENTION
from tests.benchmark.schema import add_tables

revision = "bench"
down_revision = "0004"


def upgrade() -> None:
    metadata = sa.MetaData(naming_convention=NAMING_CONVENTION)
    add_tables(metadata)
    metadata.create_all(op.get_bind())


def downgrade() -> None:
    raise NotImplementedError
