"""Twenty tables beside the project's own: as many as a service of middle size has."""

import sqlalchemy as sa

TABLES = 20


def add_tables(metadata: sa.MetaData) -> None:
    for number in range(TABLES):
        columns: list[sa.schema.SchemaItem] = [
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("name", sa.String(100), nullable=False, unique=True),
            sa.Column("description", sa.Text),
            sa.Column("amount", sa.Numeric(12, 2), nullable=False),
            sa.Column("created_at", sa.DateTime(timezone=True), index=True),
        ]
        if number:
            columns.append(
                sa.Column("parent_id", sa.ForeignKey(f"bench_{number - 1}.id"), index=True)
            )
        sa.Table(f"bench_{number}", metadata, *columns)
