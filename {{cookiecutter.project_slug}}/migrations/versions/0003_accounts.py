"""accounts: one spelling of an address, tokens that can be ended"""

import sqlalchemy as sa
from alembic import context, op
from alembic.util import CommandError

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    counted = "SELECT count(*) - count(DISTINCT lower(email)) FROM users"
    # `alembic upgrade --sql` only writes.
    if not context.is_offline_mode() and (twice := op.get_bind().scalar(sa.text(counted))):
        raise CommandError(
            f"{twice} addresses of users differ from another one in upper and lower case only. "
            "Decide which accounts stay, and delete or rename the others; then migrate again."
        )
    op.execute("UPDATE users SET email = lower(email)")
    with op.batch_alter_table("users") as users:
        users.add_column(
            sa.Column("token_version", sa.Integer(), server_default="0", nullable=False)
        )
        users.create_check_constraint("email_normalised", "email = lower(email)")


def downgrade() -> None:
    with op.batch_alter_table("users") as users:
        users.drop_constraint(op.f("ck_users_email_normalised"), type_="check")
        users.drop_column("token_version")
