"""Made by a cron job, and by hand; there is nothing async about them."""

from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import Session

from clinic import config
from clinic.models import Patient

report_engine = create_engine(config.DATABASE_URL.replace("+asyncpg", "+psycopg"))


def count_patients() -> int:
    with Session(report_engine) as session:
        return session.scalar(select(func.count()).select_from(Patient)) or 0
