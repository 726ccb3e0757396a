"""Spare clones of the template: as many as the runs in this directory have needed at a time.

A run takes one by renaming it, which takes 2 ms. Making one takes 50 to 200 ms, in which the server copies 300 files.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import asyncpg

from testkit.databases.postgresql.connect import BackgroundLoop, background_loop
from testkit.databases.postgresql.databases import Databases
from testkit.databases.postgresql.server import Server

MOST = os.cpu_count() or 1
REST = 0.1  # seconds in which the run that asked can end undisturbed
OUR_SPARES = """
    SELECT datname, shobj_description(oid, 'pg_database') FROM pg_database
    WHERE datname = ANY($1::text[])
"""


class SpareDatabases(Databases):
    def __init__(self, server: Server, loop: BackgroundLoop) -> None:
        super().__init__(server, loop, Path.cwd())
        self._needed: asyncio.Queue[str | None] = asyncio.Queue()

    async def _open(self) -> None:
        await super()._open()
        self._work = asyncio.ensure_future(self._make_what_is_needed())

    async def _close(self) -> None:
        self._needed.put_nowait(None)
        await self._work
        await super()._close()

    def make_whenever_one_was_needed(self) -> None:
        self._run(self._listen())

    async def _listen(self) -> None:
        await self._admin.add_listener(
            self.channel, lambda *notice: self._needed.put_nowait(notice[-1])
        )

    async def _make_what_is_needed(self) -> None:
        while (template := await self._needed.get()) is not None:
            await asyncio.sleep(REST)
            with suppress(asyncpg.PostgresError):  # the template may no longer exist, for example
                await self._sweep_leftovers()
                await self._keep_only(template)
                if len(self._spares) < MOST:
                    await self._make_spare(template)

    async def _keep_only(self, template: str) -> None:
        """Forgets the spares that were taken, and drops those of other templates."""
        there = dict(await self._admin.fetch(OUR_SPARES, self._spares))
        for name in [name for name in self._spares if there.get(name) != template]:
            if name in there:
                await self._drop(name)
            await self._unlock(name)
            self._spares.remove(name)


@contextmanager
def spare_databases(server: Server) -> Iterator[SpareDatabases]:
    with background_loop() as loop:
        databases = SpareDatabases(server, loop)
        databases.open()
        try:
            yield databases
        finally:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):  # it may be gone
                databases.close()
