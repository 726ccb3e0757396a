"""The databases that the tests create on a server.

Their names begin with `testkit_`; nothing else is ever created, emptied or dropped. A process that needs a database
holds an advisory lock on its name. Except for templates, a database without a lock is a leftover, which the next run
drops.
"""

import asyncio
import hashlib
import os
import re
import secrets
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import URL, NullPool
from sqlalchemy.ext.asyncio import create_async_engine

from testkit.databases import DatabaseSetup
from testkit.databases.ahead import wait_for_what_is_made_ahead
from testkit.databases.postgresql.connect import (
    BackgroundLoop,
    background_loop,
    connect,
    open_connection,
)
from testkit.databases.postgresql.server import (
    OLDEST,
    THREE_WAYS,
    VARIABLE,
    Server,
    ServerError,
    server_for_tests,
)

PREFIX = "testkit_"
TEMPLATE_PREFIX = f"{PREFIX}template_"
TEMPLATE = re.compile(rf"{TEMPLATE_PREFIX}[0-9a-f_]+")
SPARE_PREFIX = f"{PREFIX}spare_"
LOCKS = 1_953_723_507  # the class of our advisory locks; any number, but always the same
BASELINE = Path(__file__).with_name("baseline.sql")

NO_SUPERUSER = (
    "The role `{role}` of the tests is not a superuser, so after each test the tables are emptied in "
    "the order of their foreign keys, with triggers switched off one by one, which is slower."
)
# $1 is `LOCKS`.
HOLDERS = """
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND classid = $1
      AND objid::bigint = hashtext({name})::bigint & 4294967295
"""
LEFTOVERS = f"""
    SELECT datname FROM pg_database
    WHERE starts_with(datname, $2) AND NOT starts_with(datname, $3)
      AND pg_has_role(datdba, 'MEMBER') AND NOT EXISTS ({HOLDERS.format(name="datname")})
"""
IS_LOCKED = f"SELECT EXISTS ({HOLDERS.format(name='$2')})"
DISCONNECT = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = $1 AND backend_type = 'client backend'
"""
TEMPLATES = """
    SELECT datname, shobj_description(oid, 'pg_database') AS migrations FROM pg_database
    WHERE starts_with(datname, $1) AND pg_has_role(datdba, 'MEMBER')
"""
SPARES = """
    SELECT datname FROM pg_database
    WHERE starts_with(datname, $1) AND shobj_description(oid, 'pg_database') = $2
"""


class Databases:
    """Creates, clones and drops databases, in a separate thread, whether or not the tests' event loop is running."""

    def __init__(self, server: Server, loop: BackgroundLoop, directory: Path) -> None:
        self.server = server
        self.channel = _spare_channel(directory)
        self._run = loop.run
        self._template_names: dict[DatabaseSetup, str] = {}
        self.has_warned = "PYTEST_XDIST_WORKER" in os.environ  # the controller has
        self._spares: list[str] = []  # made by this process
        self._taken: str | None = None  # a spare of another process
        self._is_left_over = False

    def open(self) -> None:
        self._run(self._open())

    async def _open(self) -> None:
        self._admin = await connect(self.server.url)
        row = await self._admin.fetchrow(
            "SELECT current_setting('server_version_num')::int, current_setting('server_version'), "
            "current_setting('fsync'), rolsuper, rolsuper OR rolcreatedb, rolname "
            "FROM pg_roles WHERE rolname = current_user"
        )
        assert row is not None
        number, self.version, fsync, self.is_superuser, may_create, self.role = row
        if number < OLDEST * 10_000:
            raise ServerError(f"{VARIABLE}: the server is PostgreSQL {self.version}, too old.")
        if not may_create:
            raise ServerError(
                f"{VARIABLE}: the role `{self.role}` may not create databases. As a superuser of that "
                f'server, run `ALTER ROLE "{self.role}" CREATEDB`, or name another role.'
            )
        # Copying files is twice as fast, unless the server waits until they are on disk.
        self._strategy = "FILE_COPY" if fsync == "off" else "WAL_LOG"
        await self._sweep_leftovers()

    def close(self) -> None:
        self._run(self._close())

    async def _close(self) -> None:
        for name in self._spares:
            await self._drop(name)
        if not self._is_left_over:
            await self._sweep_leftovers()  # those of a crashed worker
        await self._admin.close()

    def url(self, name: str) -> URL:
        return self.server.url.set(database=name)

    def prepare(self, setup: DatabaseSetup) -> None:
        """Makes the template, if it is not there yet."""
        self._run(self._template(setup))

    def template(self, setup: DatabaseSetup) -> str:
        """Returns the name of a template that was already prepared or cloned."""
        return self._template_names[setup]

    @contextmanager
    def new(self, setup: DatabaseSetup | None = None) -> Iterator[str]:
        """Yields the name of a new database: a clone of the template, or an empty database without `setup`."""
        worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
        name = f"{PREFIX}{worker}_{secrets.token_hex(4)}"
        self._run(self._lock(name))
        try:
            self._run(self._clone(setup, name) if setup else self._create(name, "template0"))
            yield name
        finally:
            self._run(self._give_back(setup, name))

    async def _give_back(self, setup: DatabaseSetup | None, name: str) -> None:
        # If another process made the spare and is still running, that process drops the database.
        self._is_left_over = bool(
            self._taken and await self._admin.fetchval(IS_LOCKED, LOCKS, self._taken)
        )
        if not self._is_left_over:
            await self._drop(name)
        await self._unlock(name)
        if setup in self._template_names:
            template = self._template_names[setup]
            await self._admin.execute("SELECT pg_notify($1, $2)", self.channel, template)

    def clone(self, setup: DatabaseSetup, name: str) -> None:
        """Replaces the database with a new clone, even if something is connected to it."""
        self._run(self._clone(setup, name))

    async def _clone(self, setup: DatabaseSetup, name: str) -> None:
        await self._drop(name)
        template = await self._template(setup)
        try:
            if not await self._take_spare(template, name):
                await self._create(name, template)
        except asyncpg.PostgresError as error:
            if isinstance(error, asyncpg.InsufficientResourcesError):
                raise
            # Something has damaged the template.
            await self._drop(template)
            await self._create(name, await self._template(setup))

    async def _take_spare(self, template: str, name: str) -> bool:
        """Gives this name to a spare clone. Returns whether there was one."""
        for (spare,) in await self._admin.fetch(SPARES, SPARE_PREFIX, template):
            with suppress(asyncpg.PostgresError):  # another run took it first
                await self._admin.execute(f"ALTER DATABASE {spare} RENAME TO {name}")
                if spare in self._spares:
                    self._spares.remove(spare)
                else:
                    self._taken = spare
                return True
        return False

    def make_spare(self, template: str) -> None:
        """Makes a spare clone, unless there is one already, made by another process."""
        self._run(self._make_spare_unless_there_is_one(template))

    async def _make_spare_unless_there_is_one(self, template: str) -> None:
        if not await self._admin.fetch(SPARES, SPARE_PREFIX, template):
            await self._make_spare(template)

    async def _make_spare(self, template: str) -> None:
        if not TEMPLATE.fullmatch(template):
            return
        name = f"{SPARE_PREFIX}{secrets.token_hex(4)}"
        await self._lock(name)
        self._spares.append(name)
        await self._create(name, template)
        await self._admin.execute(f"COMMENT ON DATABASE {name} IS '{template}'")

    async def _template(self, setup: DatabaseSetup) -> str:
        """Returns the name of the migrated template, which is made once for all workers and runs of this checkout."""
        if setup not in self._template_names:  # compiling all tables takes a while
            key = setup.template_key(self.version + BASELINE.read_text())
            checkout = hashlib.sha256(str(setup.home).encode()).hexdigest()[:8]
            self._template_names[setup] = f"{TEMPLATE_PREFIX}{checkout}_{key}"
        name = self._template_names[setup]
        prefix = name.rpartition("_")[0]
        async with self._locked(name):
            templates = await self._admin.fetch(TEMPLATES, TEMPLATE_PREFIX)
            there = {template["datname"]: template["migrations"] for template in templates}
            if name not in there:
                await self._make_template(setup, name)
                for other, migrations in there.items():
                    if other.startswith(prefix) or self._is_gone(migrations):
                        await self._sweep(other)
        return name

    def _is_gone(self, migrations: str | None) -> bool:
        is_local = self.server.directory is not None
        return is_local and migrations is not None and not Path(migrations).exists()

    async def _make_template(self, setup: DatabaseSetup, name: str) -> None:
        unfinished = f"{PREFIX}unfinished_{secrets.token_hex(4)}"
        async with self._locked(unfinished):
            try:
                await self._create(unfinished, "template0")
                url = self.url(unfinished)
                engine = create_async_engine(
                    url, poolclass=NullPool, connect_args={"async_creator_fn": open_connection}
                )
                async with engine.connect() as migrated:
                    await migrated.run_sync(setup.make_tables)
                    await migrated.commit()
                connection = await connect(url)
                await connection.execute(BASELINE.read_text())
                await connection.execute("SELECT testkit.save_baseline(0)")
                await connection.close()
                # This creates a file that the first connection to each clone would otherwise create, in 5 ms.
                await (await connect(url)).close()
                home = str(setup.home).replace("'", "''")
                await self._admin.execute(f"COMMENT ON DATABASE {unfinished} IS '{home}'")
                await self._admin.execute(f"ALTER DATABASE {unfinished} ALLOW_CONNECTIONS false")
                await self._admin.execute(f"ALTER DATABASE {unfinished} RENAME TO {name}")
            except BaseException:
                await self._drop(unfinished)
                raise

    async def _create(self, name: str, template: str) -> None:
        await self._admin.execute(
            f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY {self._strategy}"
        )

    async def _drop(self, name: str) -> None:
        assert name.startswith(PREFIX)
        # FORCE would do the same, but check again only after 100 ms.
        for _ in range(50):
            if not await self._admin.fetchval(DISCONNECT, name):
                break
            await asyncio.sleep(0.002)
        try:
            await self._admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        except asyncpg.InsufficientPrivilegeError:
            # Autovacuum is connected, and only a superuser may terminate it. Without FORCE, it is asked to leave.
            await self._admin.execute(f"DROP DATABASE IF EXISTS {name}")

    async def _sweep_leftovers(self) -> None:
        for (name,) in await self._admin.fetch(LEFTOVERS, LOCKS, PREFIX, TEMPLATE_PREFIX):
            await self._sweep(name)

    async def _sweep(self, name: str) -> None:
        with suppress(asyncpg.PostgresError):  # another run may be doing the same
            await self._drop(name)

    @asynccontextmanager
    async def _locked(self, name: str) -> AsyncIterator[None]:
        await self._lock(name)
        try:
            yield
        finally:
            await self._unlock(name)

    async def _lock(self, name: str) -> None:
        await self._admin.execute("SELECT pg_advisory_lock($1, hashtext($2))", LOCKS, name)

    async def _unlock(self, name: str) -> None:
        await self._admin.execute("SELECT pg_advisory_unlock($1, hashtext($2))", LOCKS, name)


def _spare_channel(directory: Path) -> str:
    """Returns the channel on which the runs in a directory announce, at their end, that they used a clone. `spares`
    listens to it."""
    found = directory.stat()
    return f"{PREFIX}{found.st_dev:x}_{found.st_ino:x}"


@contextmanager
def open_databases(config: pytest.Config) -> Iterator[Databases]:
    """Yields the databases of this process's server; contexts that overlap share them."""
    wait_for_what_is_made_ahead(config)
    with _shared_databases(config) as databases:
        if not (databases.is_superuser or databases.has_warned):
            databases.has_warned = True
            warnings.warn(NO_SUPERUSER.format(role=databases.role), stacklevel=2)
        yield databases


@contextmanager
def made_ahead(config: pytest.Config, template: str) -> Iterator[None]:
    """Holds a server, a connection to it, and a spare clone of this template until the end of the context.

    If the server was already running, it is probably kept running together with spares, so no clone is made.
    """
    with _shared_databases(config) as databases:
        if not databases.server.was_running:
            with suppress(asyncpg.PostgresError):  # the template may no longer exist, for example
                databases.make_spare(template)
        yield


@contextmanager
def _shared_databases(config: pytest.Config) -> Iterator[Databases]:
    shared = config.stash.setdefault(SHARED, _Shared())
    shared.users += 1
    try:
        if shared.users == 1:
            shared.databases = _open_databases(shared.resources, config.rootpath)
        yield shared.databases
    finally:
        shared.users -= 1
        if shared.users == 0:
            shared.resources.close()


class _Shared:
    databases: Databases

    def __init__(self) -> None:
        self.users = 0
        self.resources = ExitStack()


SHARED = pytest.StashKey[_Shared]()


def _open_databases(resources: ExitStack, directory: Path) -> Databases:
    loop = resources.enter_context(background_loop())
    for is_last in (False, True):
        attempt = ExitStack()
        server = attempt.enter_context(server_for_tests())
        databases = Databases(server, loop, directory)
        try:
            databases.open()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ServerError) as error:
            attempt.close()
            if server.directory is None or is_last:
                raise _explained(error, server) from None
            server.throw_away()
        else:
            attempt.callback(_close, databases)
            resources.push(attempt)
            break
    return databases


def _close(databases: Databases) -> None:
    with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):  # the server may be gone
        databases.close()


def _explained(error: Exception, server: Server) -> ServerError:
    if isinstance(error, ServerError):
        return error
    reason = str(error) or type(error).__name__
    if server.directory is not None:
        return ServerError(
            f"The private PostgreSQL server in {server.directory} cannot be used: {reason}. "
            f"Remove that folder to begin anew.\n{THREE_WAYS}"
        )
    return ServerError(
        f"{VARIABLE} is {server.url!r}, but connecting to it fails: {reason}. "
        f"Correct it, start that server, or unset the variable.\n{THREE_WAYS}"
    )
