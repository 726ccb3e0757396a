"""the tables of the benchmark"""

import sqlalchemy as sa
from alembic import op
from tests.benchmark.schema import add_tables

revision = "bench"
down_revision = "0004"


def upgrade() -> None:
    metadata = sa.MetaData()
    add_tables(metadata)
    metadata.create_all(op.get_bind())


def downgrade() -> None:
    raise NotImplementedError
