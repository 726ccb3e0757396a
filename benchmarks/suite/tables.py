"""A plugin of pytest: the tables of the benchmark belong to the models, too."""

from app.database import Base
from tests.benchmark.schema import add_tables

if "bench_0" not in Base.metadata.tables:
    add_tables(Base.metadata)
