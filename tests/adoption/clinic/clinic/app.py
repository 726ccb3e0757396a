from typing import Annotated

import bcrypt
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from clinic import config, reports
from clinic.db import get_db_session
from clinic.models import Patient

Database = Annotated[AsyncSession, Depends(get_db_session)]


class NewPatient(BaseModel):
    name: str
    password: str


def create_app() -> FastAPI:
    app = FastAPI(title="Clinic")

    @app.post("/patients", status_code=201)
    async def register(new: NewPatient, db: Database) -> int:
        salt = bcrypt.gensalt(config.BCRYPT_ROUNDS)
        hashed = bcrypt.hashpw(new.password.encode(), salt).decode()
        patient = Patient(name=new.name, password=hashed)
        db.add(patient)
        try:
            await db.commit()
        except IntegrityError:
            raise HTTPException(409, "This patient is known.") from None
        await db.refresh(patient)
        return patient.id

    @app.get("/patients")
    async def names(db: Database) -> list[str]:
        return list(await db.scalars(select(Patient.name).order_by(Patient.name)))

    @app.get("/report")
    def report() -> int:
        return reports.count_patients()

    return app


app = create_app()
