import sqlalchemy as sa
from alembic import op

revision = "first"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "orders",
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("article", sa.String(), nullable=False, unique=True),
    )


def downgrade() -> None:
    op.drop_table("orders")
