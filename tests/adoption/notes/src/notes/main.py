from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException
from sqlalchemy.exc import IntegrityError
from sqlmodel import SQLModel, select
from sqlmodel.ext.asyncio.session import AsyncSession

from notes.database import engine, get_session
from notes.models import Note
from notes.settings import get_settings


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(SQLModel.metadata.create_all)
    yield
    await engine.dispose()


async def check_key(x_api_key: Annotated[str, Header()] = "") -> None:
    if x_api_key != get_settings().api_key.get_secret_value():
        raise HTTPException(401, "The key is wrong.")


app = FastAPI(title="Notes", lifespan=lifespan, dependencies=[Depends(check_key)])
Session = Annotated[AsyncSession, Depends(get_session)]


@app.post("/notes", status_code=201)
async def create_note(note: Note, session: Session) -> Note:
    session.add(note)
    try:
        await session.commit()
    except IntegrityError:
        raise HTTPException(409, "There is a note of this title.") from None
    return note


@app.get("/notes")
async def list_notes(session: Session) -> list[Note]:
    notes = await session.exec(select(Note).order_by(Note.title).limit(get_settings().page_size))
    return list(notes)


@app.delete("/notes/{note_id}", status_code=204)
async def delete_note(note_id: int, session: Session) -> None:
    note = await session.get(Note, note_id)
    if note is None:
        raise HTTPException(404, "There is no such note.")
    await session.delete(note)
    await session.commit()
